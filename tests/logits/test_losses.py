"""The size-weighted cross-entropy on upsampled logits: against float64, against torch, and its edges."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import fastia
from fastia.kernels.cpu import logits as cpu_loss
from fastia.ops import logits as ops_loss
from fastia.options import LossOptions
from fastia.reference import logits as reference_loss

ops = torch.ops.fastia
loss_of = fastia.size_weighted_cross_entropy


def random_problem(
    seed: int = 0,
    shape: tuple[int, ...] = (2, 5, 6, 7),
    size: tuple[int, int] = (19, 23),
    dtype: torch.dtype = torch.float32,
    spread: float = 3.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, a target with ignored pixels (255), and weights of 0..5, some 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(shape, generator=generator, dtype=torch.float64) * spread).to(dtype)
    target = torch.randint(0, shape[1], (shape[0], *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    weights = (torch.rand(target.shape, generator=generator) * 6 - 1).clamp(min=0)
    return logits, target, weights.double() if dtype == torch.float64 else weights


def gradient_of(loss: torch.Tensor, logits: torch.Tensor, upstream: torch.Tensor | None = None) -> torch.Tensor:
    return torch.autograd.grad(loss, logits, upstream)[0]


def relative_error(value: torch.Tensor, expected: np.ndarray) -> float:
    """The largest error, in units of the largest expected value."""
    value = value.detach().double().cpu().numpy()
    return float(np.abs(value - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30))


def random_configuration(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `random_problem` and of the loss."""
    classes = int(rng.choice([2, 3, 5, 16, 21, 33, 40]))
    shape = (int(rng.integers(1, 3)), classes, *(int(n) for n in rng.integers(1, 9, 2)))
    scale = [rng.uniform(0.4, 1), 1, 2, 4, rng.uniform(1, 9)][rng.integers(5)]
    size = tuple(max(1, round(n * scale) + int(rng.integers(2))) for n in shape[2:])
    if rng.integers(5) == 0:
        size = shape[2:]
    dtype = [torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16][rng.integers(5)]
    problem = {
        "shape": shape,
        "size": size,
        "dtype": dtype,
        "spread": float(rng.choice([0.3, 3, 12])),
        "seed": int(rng.integers(2**31)),
    }
    options: dict[str, Any] = {
        "align_corners": bool(rng.integers(2)),
        "normalize": str(rng.choice(["weights", "valid", "pixels"])),
        "reduction": str(rng.choice(["mean", "sum", "none"])),
        "label_smoothing": float(rng.choice([0, 0.1, 1])),
        "resize": "target" if rng.integers(4) == 0 else "logits",
        "ignore_index": 255,
    }
    if rng.integers(2):
        options["class_weight"] = torch.tensor(rng.uniform(0, 2, classes), dtype=torch.float32)
    return problem, options


def check_error_against_eager(
    problem: dict[str, Any], options: dict[str, Any], rng: np.random.Generator, device: str = "cpu"
) -> None:
    """Loss and gradient are as exact as those of torch; the upstream gradient is random, of each pixel if any."""
    logits, target, weights = (tensor.to(device) for tensor in random_problem(**problem))
    options = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    logits.requires_grad_()
    size = logits.shape[2:] if options["resize"] == "target" else target.shape[1:]
    shape = (len(target), *size) if options["reduction"] == "none" else ()
    arithmetic = torch.float64 if logits.dtype == torch.float64 else torch.float32
    upstream = torch.tensor(rng.standard_normal(shape), dtype=arithmetic, device=device)
    arrays = {
        name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value for name, value in options.items()
    }
    expected, slope = reference_loss.size_weighted_cross_entropy_and_gradient(
        logits.detach().double().cpu().numpy(),
        target.cpu().numpy(),
        weights.cpu().numpy(),
        upstream=upstream.cpu().numpy(),
        **arrays,
    )
    loss = loss_of(logits, target, weights, **options)
    assert loss.dtype == arithmetic
    gradient = gradient_of(loss, logits, upstream)
    assert gradient.dtype == logits.dtype

    resized, nearest = target, weights
    peer = {name: value for name, value in options.items() if name != "resize"}
    if options["resize"] == "target":
        resized, nearest = (
            torch.from_numpy(reference_loss.nearest(a.cpu().numpy(), size)).to(device) for a in (target, weights)
        )
    if arithmetic == torch.float64 and "class_weight" in peer:
        peer["class_weight"] = peer["class_weight"].double()
    eager = reference_loss.composite(logits.to(arithmetic), resized, nearest, **peer)
    if not bool(eager.isfinite().all()):
        return  # nothing to average
    eager_gradient = gradient_of(eager, logits, upstream)
    context = f"{problem} {options}"
    # The worst of the 2,000 below is 6.7e-7 beyond eager: two classes, label smoothing 1, where equal terms cancel.
    allowed = 1e-12 if arithmetic == torch.float64 else 1e-6
    assert relative_error(loss, expected) <= relative_error(eager, expected) + allowed, context
    assert relative_error(gradient, slope) <= relative_error(eager_gradient, slope) + allowed, context


@pytest.mark.parametrize("part", range(8))
def test_error_is_no_larger_than_that_of_eager_torch(part: int) -> None:
    """250 random configurations."""
    rng = np.random.default_rng(part)
    for _ in range(250):
        check_error_against_eager(*random_configuration(rng), rng)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("size", [(9, 11), (3, 2), (4, 3)])
def test_gradcheck(size: tuple[int, int], reduction: str, smoothing: float) -> None:
    logits, target, weights = random_problem(shape=(2, 3, 4, 3), size=size, dtype=torch.float64, spread=1)
    class_weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    for options in ({"align_corners": True}, {"class_weight": class_weight, "normalize": "valid"}):
        torch.autograd.gradcheck(
            lambda z, options=options: loss_of(
                z, target, weights, reduction=reduction, label_smoothing=smoothing, **options
            ),
            logits.requires_grad_(),
        )


def test_two_by_two_worked_by_hand() -> None:
    # Class 1 has 1 + 2 pixels in two components of the 1 x 5 row, so their weights are 3 / 1 and 3 / 2; background 1.
    # Logits 0 for class 0, ln 3 for class 1: p = 1/4, 3/4 everywhere, ce = ln 4 on background and ln 4/3 on class 1.
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1] = math.log(3)
    logits.requires_grad_()
    target = torch.tensor([[[1, 0, 0, 1, 1], [255] * 5]])
    none = loss_of(logits, target, reduction="none")
    on_background, on_class = math.log(4), math.log(4 / 3)
    expected = [3 * on_class, on_background, on_background, 1.5 * on_class, 1.5 * on_class]
    torch.testing.assert_close(none, torch.tensor([[expected, [0.0] * 5]]))
    loss = loss_of(logits, target)
    assert loss.item() == pytest.approx(sum(expected) / (3 + 1 + 1 + 1.5 + 1.5))
    # Column i of 5 lies at 0.4 * i - 0.3 of 2, so the right logits have shares 0, 0.1, 0.5, 0.9, 1; row 0 of 2 is the
    # logits' own. dce/dz_1 is 3/4 on background and -1/4 on class 1.
    right = (0.1 * 0.75 + 0.5 * 0.75 - 1.5 * 0.25 * (0.9 + 1)) / 8
    left = (-3 * 0.25 + 0.9 * 0.75 + 0.5 * 0.75 - 1.5 * 0.25 * 0.1) / 8
    gradient = torch.tensor([[[[-left, -right], [0, 0]], [[left, right], [0, 0]]]])
    torch.testing.assert_close(gradient_of(loss, logits), gradient)


@pytest.mark.parametrize("resize", ["logits", "target"])
@pytest.mark.parametrize("normalizer", ["class", "foreground"])
def test_weights_are_computed_from_the_target(resize: str, normalizer: str) -> None:
    logits, target, _ = random_problem()
    options = {"resize": resize, "tau": 3.0, "connectivity": 4, "normalizer": normalizer, "background": 1}
    expected = reference_loss.size_weighted_cross_entropy(logits.numpy(), target.numpy(), **options)
    assert loss_of(logits, target, **options).item() == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("class_weight", "normalize"), [(None, "valid"), ([0.5, 2, 1, 1, 0], "weights")])
def test_tau_1_is_the_cross_entropy_of_torch(class_weight: list[float] | None, normalize: str) -> None:
    logits, target, _ = random_problem()
    weight = None if class_weight is None else torch.tensor(class_weight)
    upsampled = F.interpolate(logits, size=target.shape[1:], mode="bilinear")
    expected = F.cross_entropy(upsampled, target, weight, ignore_index=255, label_smoothing=0.1)
    criterion = fastia.SizeWeightedCrossEntropy(
        tau=1, class_weight=weight, normalize=normalize, label_smoothing=0.1, ignore_index=255
    )
    torch.testing.assert_close(criterion(logits, target), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("normalize", ["weights", "valid", "pixels"])
def test_nothing_to_average_gives_loss_and_gradient_0(reduction: str, normalize: str) -> None:
    logits, target, _ = random_problem()
    logits.requires_grad_()
    loss = loss_of(logits, torch.full_like(target, 255), reduction=reduction, normalize=normalize)
    assert not loss.any()
    assert not gradient_of(loss.sum(), logits).any()


def test_gradient_is_0_exactly_where_every_covering_pixel_is_ignored() -> None:
    logits, target, weights = random_problem(shape=(1, 21, 8, 40), size=(64, 320))
    logits.requires_grad_()
    target[:, :40], target[:, :, 100:200] = 255, 255
    gradient = gradient_of(loss_of(logits, target, weights, label_smoothing=0.1), logits)
    covered = gradient.abs().sum(1)[0] > 0
    expected = torch.ones(8, 40, dtype=torch.bool)
    expected[:4], expected[:, 13:24] = False, False  # pixels 40.. reach row 4, ..99 column 12, 200.. column 24
    assert torch.equal(covered, expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])
@pytest.mark.parametrize("ignore_index", [None, 1, -1])
def test_every_dtype_of_target(dtype: torch.dtype, ignore_index: int | None) -> None:
    logits, target, weights = random_problem(shape=(2, 2, 5, 4))
    target = target.clamp(max=1)
    for resize in ("logits", "target"):
        options = {"ignore_index": ignore_index, "resize": resize}
        expected = loss_of(logits, target, weights, **options)
        transposed = target.to(dtype).mT.contiguous().mT
        torch.testing.assert_close(loss_of(logits, transposed, weights, **options), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(19, 23), (6, 7)])
def test_strides_of_logits_make_no_difference(size: tuple[int, int]) -> None:
    logits, target, weights = random_problem(size=size)
    layouts = [
        logits.to(memory_format=torch.channels_last),
        logits.mT.contiguous().mT,
        torch.stack([logits, logits], -1)[..., 0],
    ]
    plain = logits.clone().requires_grad_()
    expected = loss_of(plain, target, weights)
    slope = gradient_of(expected, plain)
    for layout in layouts:
        layout = layout.detach().requires_grad_()
        assert not layout.is_contiguous()
        loss = loss_of(layout, target, weights)
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)
        torch.testing.assert_close(gradient_of(loss, layout), slope, rtol=0, atol=0)
        argmax = fastia.upsample_argmax(layout.detach(), size)
        assert torch.equal(argmax, fastia.upsample_argmax(logits, size))


@pytest.mark.parametrize("shape", [(1, 21, 33, 9), (3, 5, 2, 40), (2, 7, 40, 20)])
def test_threads_make_no_difference(shape: tuple[int, ...]) -> None:
    logits, target, weights = random_problem(shape=shape, size=(61, 50))
    options = LossOptions("cross_entropy", (0.1,), ignore_index=255)
    one = cpu_loss.upsample_loss(logits, target, weights, None, options, threads=1)
    grad = torch.rand(target.shape, generator=torch.Generator().manual_seed(1))
    slope = cpu_loss.upsample_loss_backward(grad, logits, target, weights, None, one[1], options, threads=1)
    for threads in (2, 3, 7, 50):
        many = cpu_loss.upsample_loss(logits, target, weights, None, options, threads=threads)
        assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))
        assert torch.equal(
            slope,
            cpu_loss.upsample_loss_backward(grad, logits, target, weights, None, one[1], options, threads=threads),
        )


def test_unknown_pixel_loss_is_named() -> None:
    with pytest.raises(NotImplementedError, match="the CPU kernels have no pixel loss hinge"):
        cpu_loss.upsample_loss(*GOOD, None, LossOptions("hinge", ()))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_one_class_has_loss_and_gradient_0(label_smoothing: float) -> None:
    logits, target, weights = random_problem(shape=(2, 1, 6, 7))
    logits.requires_grad_()
    loss = loss_of(logits, target, weights, label_smoothing=label_smoothing, class_weight=torch.tensor([0.7]))
    assert loss.item() == 0
    assert not gradient_of(loss, logits).any()


def test_inputs_are_not_written_to() -> None:
    problem = random_problem(size=(6, 7))
    copies = [tensor.clone() for tensor in problem]
    logits = problem[0].requires_grad_()
    loss_of(*problem).backward()
    assert all(torch.equal(a, b) for a, b in zip(problem, copies, strict=True))
    assert logits.grad is not None


def test_large_logits_lose_no_digits() -> None:
    # The gradient of confident pixels depends on differences of logits alone, not on their size.
    logits, target, weights = random_problem(shape=(1, 5, 6, 7), size=(6, 7), spread=2)
    logits = (logits * 64).round() / 64  # so that the shift below rounds nothing
    shifted, plain = (logits + 512).requires_grad_(), logits.clone().requires_grad_()
    expected = gradient_of(loss_of(plain, target, weights), plain)
    torch.testing.assert_close(gradient_of(loss_of(shifted, target, weights), shifted), expected, rtol=2e-6, atol=1e-9)


def test_rows_of_logits_that_disagree_lose_no_digits() -> None:
    logits = torch.zeros(1, 3, 2, 1)
    logits[0, :, :, 0] = torch.tensor([[900.0, -900.0], [-900.0, 900.0], [0.0, 0.0]])
    target = torch.zeros(1, 33, 1, dtype=torch.uint8)
    expected = reference_loss.size_weighted_cross_entropy(logits.numpy(), target.numpy(), reduction="none")
    loss = loss_of(logits, target, reduction="none")
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [(6, 7), (19, 22)])  # no pixel exactly on a column, which torch may place beside it
def test_non_finite_logits_reach_the_pixels_that_they_reach_in_torch(bad: float, size: tuple[int, int]) -> None:
    logits, target, weights = random_problem(size=size)
    target = target % 5
    logits[0, 2, 3, 4] = bad
    logits.requires_grad_()
    loss = loss_of(logits, target, weights + 1, reduction="none")
    eager = reference_loss.composite(logits, target, weights + 1, reduction="none")
    clear = torch.ones(target.shape, dtype=torch.bool)
    if bad == -math.inf and size == (6, 7):
        clear[0, 3, 4] = False  # without interpolation -inf is a class that is ruled out; eager multiplies it by 0
    assert torch.equal(loss.isfinite()[clear], eager.isfinite()[clear])
    assert torch.equal(loss.isnan()[clear], eager.isnan()[clear])
    gradient = gradient_of(loss, logits, torch.ones_like(loss))
    assert not gradient[1].isnan().any()
    assert bool(gradient[0, :, 3, 4].isnan().any()) == bool(loss.isnan().any())


def test_infinite_logits_without_finite_ones_end() -> None:
    for value in (math.inf, -math.inf, math.nan):
        loss = loss_of(torch.full((1, 3, 2, 2), value), torch.zeros(1, 9, 9, dtype=torch.uint8))
        assert loss.isnan()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 4, 4), (2, 3, 0, 4)])
def test_empty_batches_and_images(shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    target = torch.zeros(shape[0], 0 if shape[0] else 5, 7, dtype=torch.uint8)
    loss = loss_of(logits, target)
    assert loss.item() == 0
    assert not gradient_of(loss, logits).any()
    assert fastia.upsample_argmax(logits, target.shape[1:]).shape == target.shape


def test_one_pixel_images() -> None:
    logits = torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[[1]], [[2]]])
    for align_corners in (False, True):
        expected = F.cross_entropy(logits, target)
        torch.testing.assert_close(loss_of(logits, target, tau=1, align_corners=align_corners), expected)


GOOD = random_problem(shape=(2, 3, 4, 4), size=(8, 8))
BAD_INPUT = [
    ({"logits": GOOD[0].int()}, TypeError, "logits must be of dtype .*, got torch.int32"),
    ({"logits": GOOD[0].numpy()}, TypeError, "logits must be a torch tensor, got numpy.ndarray"),
    ({"logits": GOOD[0][0]}, ValueError, r"logits must be \[B, C, h, w\], got shape \(3, 4, 4\)"),
    ({"logits": GOOD[0][:1]}, ValueError, r"same batch size, got shapes \(1, 3, 4, 4\) and \(2, 8, 8\)"),
    ({"logits": GOOD[0][:, :, :0]}, ValueError, r"logits must not be empty, got shape \(2, 3, 0, 4\)"),
    ({"target": GOOD[1].to("meta")}, NotImplementedError, "target is on meta"),
    ({"target": GOOD[1][0]}, ValueError, r"target must be \[B, H, W\], got shape \(8, 8\)"),
    ({"target": GOOD[1][:, None]}, ValueError, r"squeeze it, target.squeeze\(1\)"),
    ({"target": GOOD[1].float()}, TypeError, "target must be of dtype"),
    ({"target": GOOD[1].clamp(max=3)}, ValueError, r"target holds the id 3, but ids must lie in 0..2"),
    ({"target": (GOOD[1] % 3) - 1}, ValueError, "target holds the id -1"),
    ({"target": GOOD[1].clamp(max=3).to(torch.uint8)}, ValueError, "target holds the id 3"),
    ({"target": GOOD[1], "ignore_index": None}, ValueError, "target holds the id 255"),
    ({"weights": GOOD[2] - 1}, ValueError, "weights must not be negative, got -"),
    ({"weights": GOOD[2].clone().requires_grad_()}, ValueError, r"pass weights.detach\(\)"),
    ({"weights": GOOD[2][:, :4]}, ValueError, r"weights must have shape \(2, 8, 8\), got \(2, 4, 8\)"),
    ({"weights": GOOD[2].int()}, TypeError, "weights must be of a floating dtype, got torch.int32"),
    ({"class_weight": torch.ones(4)}, ValueError, r"class_weight must have shape \(3,\), got \(4,\)"),
    ({"class_weight": torch.ones(3, requires_grad=True)}, ValueError, "class_weight must not require gradients"),
    ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be in 0..1, got 1.5"),
    ({"tau": 0.5}, ValueError, "tau must be at least 1, got 0.5"),
    ({"resize": "both"}, ValueError, "resize must be 'logits' or 'target', got 'both'"),
    ({"normalize": "mean"}, ValueError, "normalize must be"),
    ({"reduction": "avg"}, ValueError, "reduction must be"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD_INPUT)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"logits": GOOD[0], "target": GOOD[1], "weights": GOOD[2], **change}
    with pytest.raises(error, match=message):
        loss_of(**arguments)


def test_functional_has_the_loss_too() -> None:
    assert fastia.functional.size_weighted_cross_entropy is loss_of


def test_module_names_an_unknown_option() -> None:
    with pytest.raises(TypeError, match="gamma is no option of SizeWeightedCrossEntropy"):
        fastia.SizeWeightedCrossEntropy(gamma=2)


def test_second_derivative_is_an_error() -> None:
    logits, target, weights = random_problem()
    logits.requires_grad_()
    slope = torch.autograd.grad(loss_of(logits, target, weights), logits, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="no second derivative"):
        slope.sum().backward()


@pytest.mark.parametrize("shape", [(2, 1, 5, 4), (2, 21, 9, 7), (1, 300, 5, 6)])
@pytest.mark.parametrize("size", [(40, 31), (9, 7), (3, 4), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_argmax_is_that_of_upsampled_logits(shape: tuple[int, ...], size: tuple[int, int], dtype: torch.dtype) -> None:
    logits = random_problem(shape=shape, dtype=dtype)[0]
    for align_corners in (False, True):
        ids = fastia.upsample_argmax(logits, size, align_corners=align_corners)
        assert ids.dtype == (torch.uint8 if shape[1] <= 256 else torch.int32)
        z = F.interpolate(logits.double(), size, mode="bilinear", align_corners=align_corners)
        chosen = z.gather(1, ids.long()[:, None])[:, 0]
        assert bool((z.amax(1) - chosen <= 1e-5).all())  # rounding may swap classes that are this close


def test_argmax_gives_ties_to_the_lowest_class_and_takes_nan_for_the_largest() -> None:
    logits = torch.zeros(1, 4, 1, 3)
    logits[0, 2:, 0, 1], logits[0, 3, 0, 2], logits[0, 1, 0, 2] = 1, math.nan, math.nan
    assert fastia.upsample_argmax(logits, (1, 3)).tolist() == [[[0, 2, 1]]]


def test_argmax_names_a_bad_size() -> None:
    with pytest.raises(ValueError, match=r"size must be \(H, W\), got \(3,\)"):
        fastia.upsample_argmax(GOOD[0], (3,))


@pytest.mark.parametrize("level", ["avx2", "sse2", "scalar"])
def test_lesser_instruction_sets_give_the_same_to_rounding(level: str, tmp_path: Any) -> None:
    logits, target, weights = random_problem(shape=(2, 21, 9, 7), size=(40, 31))
    program = (
        "import sys, torch, fastia; logits, target, weights, path = torch.load(sys.argv[1]); logits.requires_grad_();"
        "loss = fastia.size_weighted_cross_entropy(logits, target, weights, label_smoothing=0.1); loss.backward();"
        "torch.save((loss.detach(), logits.grad, fastia.upsample_argmax(logits.detach(), (40, 31))), path)"
    )
    torch.save((logits, target, weights, str(tmp_path / "result")), tmp_path / "problem")
    environment = {**os.environ, "FASTIA_CPU": level}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "problem")], env=environment, check=True)
    loss, gradient, ids = torch.load(tmp_path / "result")
    logits.requires_grad_()
    expected = loss_of(logits, target, weights, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, gradient_of(expected, logits), rtol=1e-5, atol=1e-8)
    assert (ids != fastia.upsample_argmax(logits.detach(), (40, 31))).float().mean() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
def test_opcheck(dtype: torch.dtype, weighted: bool) -> None:
    logits, target, weights = random_problem(dtype=dtype, spread=1)
    logits.requires_grad_()
    arguments = (logits, target, weights if weighted else None, torch.rand(5) if weighted else None, 0.1, 255, False)
    # the derivative of lse is 0, for no operation hands it out
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops.upsample_cross_entropy.default, arguments, test_utils=tests)
    lse = ops.upsample_cross_entropy(*arguments)[1]
    backward = (torch.ones(()), logits.detach(), *arguments[1:4], lse.detach(), *arguments[4:])
    torch.library.opcheck(ops.upsample_cross_entropy_backward.default, backward, test_utils=tests)
    torch.library.opcheck(ops.upsample_argmax.default, (logits.detach(), 9, 8, True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_loss_equals_eager(backend: str, reduction: str) -> None:
    torch._dynamo.reset()

    def training_step(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return loss_of(x * 2, target, reduction=reduction, label_smoothing=0.1, resize="logits")

    compiled = torch.compile(training_step, fullgraph=True, backend=backend, dynamic=True)
    for seed, shape in enumerate([(2, 5, 6, 7), (3, 4, 5, 9)]):
        x, target, _ = random_problem(seed, shape)
        x.requires_grad_()
        loss, expected = compiled(x, target), training_step(x, target)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(gradient_of(loss.sum(), x), gradient_of(expected.sum(), x), rtol=1e-6, atol=1e-8)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_takes_half_logits_and_returns_float32(dtype: torch.dtype) -> None:
    convolution = torch.nn.Conv2d(3, 4, 1)
    image, target = torch.rand(2, 3, 6, 5), torch.randint(0, 4, (2, 20, 19))
    criterion = fastia.SizeWeightedCrossEntropy()
    with torch.autocast("cpu", dtype):
        logits = convolution(image)
        loss = criterion(logits, target)
        compared = criterion(logits.float(), target)
    assert logits.dtype == dtype
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, compared, rtol=0, atol=0)
    loss.backward()
    assert convolution.weight.grad is not None


def test_cuda_tensors_are_refused_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("fastia.kernels.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(fastia.kernels, "triton", raising=False)
    logits = SimpleNamespace(device=torch.device("cuda", 0))
    with pytest.raises(ModuleNotFoundError, match="logits are on cuda:0, where this operation needs Triton"):
        ops_loss._kernels(logits)


@torch.no_grad()
def test_cuda_tensors_pass_the_checks() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(2, 5, 8, 8, device="cuda", dtype=torch.bfloat16)
        target = torch.empty(2, 32, 32, device="cuda", dtype=torch.uint8)
        weights = torch.empty(2, 32, 32, device="cuda")
        loss = loss_of(logits, target, weights, reduction="none")
        assert (loss.device.type, loss.dtype, loss.shape) == ("cuda", torch.float32, (2, 32, 32))
        assert fastia.upsample_argmax(logits, (32, 32)).shape == (2, 32, 32)
        assert loss_of(logits, target, reduction="none").device.type == "cuda"
        with pytest.raises(TypeError, match=r"float16, bfloat16, float32 on a GPU, got torch\.float64"):
            loss_of(logits.double(), target, weights)
        with pytest.raises(ValueError, match="logits and target must be on the same device, got cuda:0 and cpu"):
            loss_of(logits, torch.empty(2, 32, 32, dtype=torch.uint8), weights)
