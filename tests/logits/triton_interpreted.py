"""The Triton kernels run on the CPU by Triton's interpreter; `test_triton.py` starts this with TRITON_INTERPRET=1."""

import os

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton", reason="needs Triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

import triton
import triton.language as tl
from test_losses import check_error_against_eager, random_configuration
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

from fastia.kernels.triton import interpolation, pixel_losses, walk
from fastia.kernels.triton import logits as kernels
from fastia.ops import logits as ops_loss
from fastia.options import LossOptions

IDS = (torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64)


@pytest.fixture(autouse=True)
def _poisoned_outputs():
    """Fresh tensors hold NaN or the largest integer, so that a value that no kernel wrote shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(2).isnan().all()
    assert torch.empty(2).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _fast_interpreter(monkeypatch):
    """Triton's interpreter patches `tl` at every call of a device function; the kernel's own call has done it."""
    call = InterpretedFunction.__call__

    def call_patched(self, *args, **kwargs):
        if self.fn.__globals__ in (vars(walk), vars(interpolation), vars(pixel_losses)):
            return self.rewrite()(*args, **kwargs)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "__call__", call_patched)


@pytest.fixture(autouse=True)
def _bfloat16_rounds_to_nearest(monkeypatch):
    """As a GPU's conversion does; the interpreter truncates."""
    truncate = InterpreterBuilder.create_fp_trunc

    def round_to_nearest(self, source, dtype):
        if dtype.scalar != tl.bfloat16 or source.dtype.scalar != tl.float32:
            return truncate(self, source, dtype)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16)
        return TensorHandle(rounded.numpy().view(np.uint16), tl.bfloat16)

    monkeypatch.setattr(InterpreterBuilder, "create_fp_trunc", round_to_nearest)


def cross_entropy(*tensors, label_smoothing, **options):
    return kernels.upsample_loss(*tensors, LossOptions("cross_entropy", (label_smoothing,), **options))


def cross_entropy_backward(*tensors, label_smoothing, **options):
    return kernels.upsample_loss_backward(*tensors, LossOptions("cross_entropy", (label_smoothing,), **options))


def strided(tensor: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The same values with other strides."""
    kind = rng.integers(4)
    if kind == 0:
        return tensor.contiguous()
    if kind == 1:  # channels_last for logits, columns first for maps
        order = [0, *range(2, tensor.ndim), 1]
        return tensor.permute(order).contiguous().permute(np.argsort(order).tolist())
    padded = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), 7)
    view = padded[..., 1::2] if kind == 2 else padded[..., : tensor.shape[-1]]
    return view.copy_(tensor)


def eager(logits, target, weights, class_weight, grad, dtype, *, label_smoothing, ignore_index, align_corners):
    """Loss, gradient and upsampled logits of torch, computed in `dtype`."""
    logits = logits.detach().to(dtype).contiguous().requires_grad_()
    up = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=align_corners)
    if tuple(target.shape[1:]) == tuple(logits.shape[2:]):
        up = logits
    ids = target.long()
    ids = torch.where((ids < 0) | (ids >= logits.shape[1]) | (weights < 0), -100, ids)
    ids = torch.where(ids == (-100 if ignore_index is None else ignore_index), -100, ids)
    ce = F.cross_entropy(
        up,
        ids,
        None if class_weight is None else class_weight.to(dtype),
        label_smoothing=label_smoothing,
        reduction="none",
    )
    loss = torch.where(ids >= 0, ce * weights.to(dtype), 0)
    (gradient,) = torch.autograd.grad(loss, logits, grad.to(dtype))
    return loss.detach().double(), gradient.double(), up.detach(), ids


def worst(value: torch.Tensor, exact: torch.Tensor) -> float:
    return (value.double() - exact).abs().max().item()


def check(logits, target, weights, class_weight, grad, **options):
    """Error no larger than that of eager in the same dtype, plus 1e-6 of the largest value."""
    exact_loss, exact_gradient, _, ids = eager(
        logits, target, ones(weights, target), class_weight, grad, torch.float64, **options
    )
    eager_loss, eager_gradient, *_ = eager(
        logits, target, ones(weights, target), class_weight, grad, logits.dtype, **options
    )
    loss, lse, sums = cross_entropy(logits, target, weights, class_weight, **options)
    gradient = cross_entropy_backward(grad, logits, target, weights, class_weight, lse, **options)
    assert loss.dtype == torch.float32
    assert lse.dtype == sums.dtype == torch.float64
    assert gradient.dtype == logits.dtype
    assert worst(loss, exact_loss) <= worst(eager_loss, exact_loss) + 1e-6 * exact_loss.abs().max().item()
    assert worst(gradient, exact_gradient) <= (
        worst(eager_gradient, exact_gradient) + 1e-6 * exact_gradient.abs().max().item()
    )
    assert (loss[ids < 0] == 0).all()
    label_weight = 1.0 if class_weight is None else class_weight.double()[ids.clamp(min=0)]
    denominator = torch.where(ids >= 0, ones(weights, target).double() * label_weight, 0).sum()
    expected = torch.stack([exact_loss.sum(), denominator, (ids >= 0).sum().double()])
    torch.testing.assert_close(sums, expected, rtol=2e-6, atol=1e-9)
    return loss, gradient


def ones(weights, target):
    return torch.ones(target.shape) if weights is None else weights


@triton.jit
def squared(nll, scale, _):
    return scale * nll * nll


@triton.jit
def squared_backward(nll, scale, _):
    return 2 * scale * nll


@pytest.mark.parametrize("size", [(11, 13), (4, 5)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_pixel_loss_may_be_any_function_of_the_likelihood(monkeypatch, size, align_corners):
    """The cross-entropy is linear in it, so that its derivative does not read the logits again."""
    loss = pixel_losses.PixelLoss(squared, squared_backward, lambda parameters, num_classes: 0.0, True)
    monkeypatch.setitem(pixel_losses.PIXEL_LOSSES, "squared", loss)
    torch.manual_seed(0)
    logits = torch.randn(2, 9, 4, 5).requires_grad_()
    target, weights, class_weight = torch.randint(0, 9, (2, *size)), torch.rand(2, *size), torch.rand(9)
    target[:, 1:3] = 255
    options = LossOptions("squared", (0.7,), align_corners=align_corners)
    value, lse, _ = kernels.upsample_loss(logits.detach(), target, weights, class_weight, options)
    grad = torch.randn(target.shape)
    gradient = kernels.upsample_loss_backward(grad, logits.detach(), target, weights, class_weight, lse, options)
    up = F.interpolate(logits.double(), size, mode="bilinear", align_corners=align_corners)
    nll = F.cross_entropy(up, target, ignore_index=255, reduction="none")
    expected = weights * class_weight[target.where(target < 9, 0)] * 0.7 * nll.square()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(expected, logits, grad.double())
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-6)


def test_unknown_pixel_loss_is_named():
    with pytest.raises(NotImplementedError, match="the Triton kernels have no pixel loss hinge"):
        kernels.upsample_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3), None, None, LossOptions("hinge", ()))


CONFIGURATIONS = int(os.environ.get("FASTIA_TRITON_CONFIGURATIONS", "40"))  # 0.4 s each


@pytest.mark.parametrize("part", range(2))
def test_operation_errs_no_more_than_eager_torch(part, monkeypatch):
    """The rule of `test_losses.py`, on images that the interpreter gets through, in fewer and larger programs."""
    monkeypatch.setattr(ops_loss, "_kernels", lambda logits: kernels)
    monkeypatch.setattr(kernels, "PIXELS", 512)
    monkeypatch.setattr(kernels, "BACKWARD_PROGRAMS", 1)
    if part:
        monkeypatch.setattr(kernels, "class_block", lambda num_classes: 64 if num_classes > 8 else 8)
        monkeypatch.setattr(kernels, "CELLS", {8: 16, 64: 8})
    rng = np.random.default_rng(part)
    for _ in range(CONFIGURATIONS // 2):
        problem, options = random_configuration(rng)
        if problem["dtype"] == torch.float64:
            problem["dtype"] = torch.float32
        batch, classes, *size = problem["shape"]
        problem["shape"] = (batch, classes, *(min(side, 5) for side in size))
        problem["size"] = tuple(min(side, 12) for side in problem["size"])
        check_error_against_eager(problem, options, rng)


@pytest.mark.parametrize("seed", range(6))
def test_loss_and_gradient_err_no_more_than_eager(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    b, h, w = rng.integers(1, 3), *rng.integers(1, 7, 2).tolist()
    c = int(rng.choice([2, 3, 4, 5, 8, 9, 21, 25, 40]))
    height, width = (h, w) if seed % 8 == 0 else rng.integers(1, 13, 2).tolist()
    dtype = (torch.float32, torch.float16, torch.bfloat16)[seed % 3]
    logits = strided((torch.randn(b, c, h, w) * rng.choice([0.1, 3, 30])).to(dtype), rng)
    ids = torch.from_numpy(rng.integers(0, c, (b, height, width)))
    ids[torch.from_numpy(rng.random(ids.shape) < rng.choice([0, 0.3, 0.95]))] = ignore_index = int(rng.choice([255, 0]))
    target = strided(ids.to(IDS[seed % 5]), rng)
    weights = None if rng.random() < 0.3 else strided(torch.rand(b, height, width) * 5, rng)
    class_weight = torch.rand(c) * 2 if rng.random() < 0.5 else None
    grad = torch.randn(b, height, width) if rng.random() < 0.7 else torch.randn(())
    check(
        logits,
        target,
        weights,
        class_weight,
        grad.expand(b, height, width) if rng.random() < 0.5 else strided(grad.expand(b, height, width), rng),
        label_smoothing=float(rng.choice([0, 0.1, 1])),
        ignore_index=ignore_index,
        align_corners=bool(rng.integers(2)),
    )


@pytest.mark.parametrize("seed", range(10))
def test_argmax_is_that_of_the_upsampled_logits(seed):
    rng = np.random.default_rng(seed)
    b, h, w, height, width = rng.integers(1, 12, 5).tolist()
    c = (2, 3, 9, 40, 257)[seed % 5]
    if c == 257:
        b = h = w = height = width = 2
    # Eighths and few of them: ties abound, and the interpolation by powers of two is exact.
    logits = torch.from_numpy(rng.integers(0, 4, (b, c, h, w)) / 8).to((torch.float32, torch.bfloat16)[seed % 2])
    align_corners = bool(rng.integers(2))
    if seed % 2:
        height, width, align_corners = 2 * h, 4 * w, False
    result = kernels.upsample_argmax(strided(logits, rng), (height, width), align_corners=align_corners)
    up = F.interpolate(logits.double(), (int(height), int(width)), mode="bilinear", align_corners=align_corners)
    assert result.dtype == (torch.uint8 if c <= 256 else torch.int32)
    if seed % 2:
        assert torch.equal(result.long(), up.argmax(1))
    else:  # other scales round: what was chosen is the maximum to float32
        assert ((up.amax(1) - up.gather(1, result.long()[:, None])[:, 0]) <= 1e-6).all()


def test_argmax_of_nan_and_infinity_is_torch_s():
    logits = torch.randn(1, 6, 4, 4)
    logits[0, 2, 1, 1] = float("inf")
    logits[0, 4, 1, 1] = logits[0, 5, 1, 1] = logits[0, 3, 2, 2] = float("nan")
    logits[0, :, 3, 3] = float("-inf")
    for size in ((4, 4), (7, 9)):
        up = logits if size == (4, 4) else F.interpolate(logits, size, mode="bilinear")
        assert torch.equal(kernels.upsample_argmax(logits, size, align_corners=False).long(), up.argmax(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("size", [(4, 4), (7, 9)])
def test_nan_and_infinity_propagate_as_in_eager(value, size):
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 4, 4)
    logits[0, 1, 1, 2] = value
    target = torch.randint(0, 5, (1, *size))
    target[:, 3:] = 255
    options = {"label_smoothing": 0.1, "ignore_index": 255, "align_corners": False}
    grad = torch.ones(target.shape)
    expected, _, _, _ids = eager(logits, target, torch.ones(target.shape), None, grad, torch.float32, **options)
    loss, lse, _ = cross_entropy(logits, target, None, None, **options)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    gradient = cross_entropy_backward(grad, logits, target, None, None, lse, **options)
    clean = cross_entropy_backward(grad, torch.zeros_like(logits), target, None, None, lse * 0, **options)
    # A pixel of low resolution whose outputs are all ignored has none of it.
    assert (gradient.isfinite() | (clean != 0)).all()


def test_large_and_far_apart_logits_neither_overflow_nor_vanish():
    logits = torch.zeros(1, 40, 2, 2)
    logits[0, 0] = 3e4
    logits[0, 30, 0] = -3e4
    logits[0, :20, 1, 1] = float("-inf")
    target = torch.full((1, 3, 3), 30)
    _loss, lse, _ = cross_entropy(
        logits, target, None, None, label_smoothing=0.0, ignore_index=None, align_corners=True
    )
    up = F.interpolate(logits.double(), (3, 3), mode="bilinear", align_corners=True)
    torch.testing.assert_close(lse, up.logsumexp(1), rtol=2e-7, atol=0, equal_nan=True)


def test_a_shift_of_all_logits_costs_no_digits():
    torch.manual_seed(0)
    logits = torch.randn(1, 21, 3, 3).mul(64).round() / 64  # so that the shift rounds nothing
    target = torch.randint(0, 21, (1, 3, 3))
    options = {"label_smoothing": 0.3, "ignore_index": None, "align_corners": False}
    results = []
    for shifted in (logits, logits + 512):
        loss, lse, _ = cross_entropy(shifted, target, None, None, **options)
        grad = torch.ones(())
        gradient = cross_entropy_backward(grad, shifted, target, None, None, lse, **options)
        results.append((loss, gradient))
    torch.testing.assert_close(results[1], results[0], rtol=2e-6, atol=1e-7)


def test_gradient_is_exactly_zero_where_all_covering_pixels_are_ignored():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 6)
    target = torch.full((2, 24, 24), 255, dtype=torch.uint8)
    target[0, :4, :4] = 1
    options = {"label_smoothing": 0.1, "ignore_index": 255, "align_corners": False}
    loss, lse, sums = cross_entropy(logits, target, None, None, **options)
    gradient = cross_entropy_backward(torch.ones(()), logits, target, None, None, lse, **options)
    assert (gradient[0, :, :2, :2] != 0).all()
    gradient[0, :, :2, :2] = 0
    assert not gradient.any()
    assert sums[2] == 16

    target[:] = 255
    loss, lse, sums = cross_entropy(logits, target, None, None, **options)
    gradient = cross_entropy_backward(torch.ones(()), logits, target, None, None, lse, **options)
    assert not loss.any()
    assert not sums.any()
    assert not gradient.any()


def test_ids_outside_the_classes_and_negative_weights_are_ignored():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 3, 3)
    target = torch.tensor([[[0, 1, 2, 3], [-1, -100, 2**40, 2**32 + 1], [1, 1, 2, 2], [0, 0, 0, 0]]])
    weights = torch.rand(1, 4, 4)
    weights[0, 2, 1] = -1
    check(
        logits,
        target,
        weights,
        torch.rand(3),
        torch.randn(1, 4, 4),
        label_smoothing=0.2,
        ignore_index=None,
        align_corners=False,
    )


def test_results_do_not_depend_on_strips_or_index_width(monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 7, 5)
    target = torch.randint(0, 3, (1, 12, 9))
    options = {"label_smoothing": 0.1, "ignore_index": 255, "align_corners": False}

    def results():
        loss, lse, sums = cross_entropy(logits, target, None, None, **options)
        grad = torch.linspace(-1, 1, target.numel()).reshape(target.shape)
        gradient = cross_entropy_backward(grad, logits, target, None, None, lse, **options)
        return loss, lse, sums, gradient, kernels.upsample_argmax(logits, (12, 9), align_corners=False)

    expected = results()
    monkeypatch.setattr(kernels, "BACKWARD_PROGRAMS", 1)
    monkeypatch.setattr(kernels, "_is_wide", lambda *_: True)
    assert all(torch.equal(a, b) for a, b in zip(results(), expected, strict=True))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 4, 4)])
def test_nothing_to_average_gives_zeros(shape):
    logits = torch.randn(shape)
    target = torch.zeros((shape[0], 0, 5), dtype=torch.uint8)
    options = {"label_smoothing": 0.0, "ignore_index": None, "align_corners": False}
    loss, lse, sums = cross_entropy(logits, target, None, None, **options)
    assert loss.shape == lse.shape == target.shape
    assert not sums.any()
    gradient = cross_entropy_backward(torch.ones(()), logits, target, None, None, lse, **options)
    assert gradient.shape == logits.shape
    assert not gradient.any()
    assert kernels.upsample_argmax(logits, (0, 5), align_corners=False).shape == target.shape


@triton.jit
def axis_kernel(first, shares, in_size: tl.int32, out_size: tl.int32, ALIGN_CORNERS: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK).to(tl.int64)
    first_of_cell = interpolation.first_output(index, in_size, out_size, ALIGN_CORNERS)
    tl.store(first + index, first_of_cell, mask=index <= in_size)
    before, _after, share = interpolation._source(index, in_size, out_size, ALIGN_CORNERS)
    tl.store(shares + index, before + share.to(tl.float64), mask=index < out_size)


@pytest.mark.parametrize("align_corners", [False, True])
def test_positions_are_exact_and_cells_partition_the_outputs(align_corners):
    rng = np.random.default_rng(0)
    pairs = [(1, 1), (1, 9), (9, 1), (65, 513), (3, 10_003), (49_157, 98_317), (70_001, 70_000), (99_991, 7)]
    for of, to in [*rng.integers(1, 40, (40, 2)).tolist(), *pairs]:
        index = np.arange(to, dtype=np.int64)
        part, whole = (2 * index + 1) * of - to, 2 * to
        if align_corners:
            part, whole = index * (of - 1), max(to - 1, 1)
        part = np.maximum(part, 0)
        first, position = torch.empty(of + 1, dtype=torch.int64), torch.empty(to, dtype=torch.float64)
        block = triton.next_power_of_2(max(of + 1, to))
        axis_kernel[(1,)](first, position, of, to, align_corners, block)
        assert np.array_equal(first, np.searchsorted(np.minimum(part // whole, of - 1), np.arange(of + 1))), (of, to)
        np.testing.assert_allclose(position, part / whole, rtol=0, atol=1.2e-7)
