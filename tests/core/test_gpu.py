"""The operations on masks that are CUDA tensors, on a GPU, against the reference.

FASTIA_GPU_SEEDS is the number of generated batches.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import generators
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import fastia
from fastia import functional, reference
from fastia.functional.overlaps import instance_overlaps
from fastia.kernels.cuda import masks as cuda_masks
from fastia.kernels.cuda import overlaps as cuda_overlaps
from fastia.kernels.cuda import plan_masks, plan_overlaps
from fastia.kernels.cuda.plan import Tuning

SEEDS = int(os.environ.get("FASTIA_GPU_SEEDS", "1500"))
PARTS = 4
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

if torch.cuda.is_available():
    pytest.importorskip("cupy", reason="needs CuPy")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(masks: np.ndarray) -> torch.Tensor:
    """The same ids in a layout of the same kind: strides that are negative here are not there."""
    masks = masks[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in masks.strides)]
    order = np.argsort([-stride for stride in masks.strides], kind="stable")
    dense = torch.from_numpy(np.array(masks.transpose(order), order="C")).cuda()
    return dense.permute(*np.argsort(order).tolist())


def ids_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def small_strips(rng: np.random.Generator) -> Tuning:
    """Borders of strips and chunks in small masks, and strips that overflow shared memory."""
    words = int(rng.integers(1, 20))
    return Tuning(
        block=int(rng.choice((32, 64, 128, 256))),
        strips=1,
        strip_words=(words, words),
        run_capacity=int(rng.choice((1, 8, 40, 2720))),
        scratch_bytes=int(rng.choice((1, 20000, 2**29))),
        wide=bool(rng.random() < 0.3),
    )


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tuning], None]:
    """Sets how masks are cut, which no result depends on."""

    def set_tuning(tuning: Tuning) -> None:
        for module, plans, names in (
            (cuda_masks, plan_masks, ("label", "components", "weights")),
            (cuda_overlaps, plan_overlaps, ("instance_iou", "update")),
        ):
            for name in names:
                planned = getattr(plans, name)
                monkeypatch.setattr(module, f"_plan_{name}", lambda *a, planned=planned: planned(*a, tuning=tuning))

    return set_tuning


def check(masks: np.ndarray, options: dict[str, Any], seed: int) -> None:
    """label, components and weights of generated masks equal the reference, bit for bit."""
    tensor = on_gpu(masks)
    masks = ids_of(tensor)
    width = None if seed % 2 else seed % 7
    expected = reference.components(masks, **options, max_components=width)
    assert_array_equal(ids_of(fastia.label(tensor, **options)), expected.labels)
    for field, values in zip(fastia.components(tensor, **options, max_components=width), expected, strict=True):
        assert_array_equal(ids_of(field), values)

    dtype, normalizer = list(DTYPES)[seed % 4], ("class", "foreground")[seed // 4 % 2]
    tau = (1.0, 1.5, 5.0, 7.3, 1e6, float("inf"))[seed % 6]
    weights = fastia.weights(tensor, **options, tau=tau, normalizer=normalizer, dtype=DTYPES[dtype])
    values = reference.weights(masks, **options, tau=tau, normalizer=normalizer, dtype=dtype)
    assert_array_equal(ids_of(weights.double()), values.astype(np.float64))


@pytest.mark.parametrize("part", range(PARTS))
def test_masks_equal_the_reference(tuned, part):
    for seed in range(part, SEEDS, PARTS):
        if seed % 3:
            tuned(small_strips(np.random.default_rng(seed)))
        else:
            tuned(Tuning())
        check(*generators.masks(seed), seed)


def test_wide_masks_equal_the_reference():
    for seed in range(SEEDS // 50):
        check(*generators.masks(seed, largest=700), seed)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_nasty_masks_equal_the_reference(tuned, connectivity):
    options = {"connectivity": connectivity, "background": 0, "ignore_index": 255}
    for seed, masks in enumerate(generators.nasty().values()):
        for _ in range(2):
            check(masks, options, seed)
            tuned(small_strips(np.random.default_rng(seed)))


def check_scene(seed: int, protocol: str, largest: int = 40) -> None:
    """Records, confusion matrix and the metric's sums of a generated scene equal the reference, bit for bit.

    Beyond `largest` of 40 the CPU's kernels stand in for the reference, which would take minutes for some scenes.
    """
    oracle = reference if largest <= 40 else functional
    scene = generators.scene(seed, largest)
    tensors = [None if array is None else on_gpu(array) for array in scene[:3]]
    arrays = [None if tensor is None else ids_of(tensor) for tensor in tensors]
    options = scene.options | {"protocol": protocol}
    limits = {"max_instances": None if seed % 2 else seed % 7, "max_unmatched": None if seed % 3 else seed % 5}
    if options["num_classes"] is None:
        del options["num_classes"]
        found = tuple(fastia.instance_iou(*tensors, **options, **limits))
        expected = tuple(oracle.instance_iou(*arrays, **options, **limits))
    else:
        records, confusion = instance_overlaps(*tensors, **options, **limits)
        expected_records, expected_confusion = oracle.instance_overlaps(*arrays, **options, **limits)
        found, expected = (*records, confusion), (*expected_records, expected_confusion)
        metrics = [fastia.InstanceAwareIoU(**options).to(device) for device in ("cuda", "cpu")]
        for metric, maps in zip(metrics, (tensors, arrays), strict=True):
            metric.update(*maps)
            metric.update(*maps)
        assert torch.equal(metrics[0].tally.cpu(), metrics[1].tally)
        assert torch.equal(metrics[0].confusion.cpu(), metrics[1].confusion)
    for field, values in zip(found, expected, strict=True):
        assert_array_equal(ids_of(field), values, strict=True)


@pytest.mark.parametrize("protocol", ["exact", "wacv2024"])
@pytest.mark.parametrize("part", range(PARTS))
def test_scenes_equal_the_reference(tuned, part, protocol):
    for seed in range(part, SEEDS // 3, PARTS):
        tuned(small_strips(np.random.default_rng(seed)) if seed % 3 else Tuning())
        check_scene(seed, protocol, 700 if seed % 50 == 0 else 40)


@pytest.mark.parametrize("protocol", ["exact", "wacv2024"])
def test_large_scenes_equal_the_cpu(tuned, protocol):
    target = large_masks()
    preds = target.roll((3, 5), (1, 2))
    for instances in (None, target.int() * 40 + torch.arange(2048, device="cuda", dtype=torch.int32) // 60):
        host = [None if array is None else array.cpu() for array in (preds, target, instances)]
        expected = fastia.instance_iou(*host, protocol=protocol)
        for tuning in (Tuning(), Tuning(scratch_bytes=2**26)):
            tuned(tuning)
            found = fastia.instance_iou(preds, target, instances, protocol=protocol)
            for field, values in zip(found, expected, strict=True):
                assert torch.equal(field.cpu().nan_to_num(-1), values.nan_to_num(-1))


def large_masks() -> torch.Tensor:
    """[8, 1024, 2048] of everything at once."""
    rng = np.random.default_rng(0)
    patterns = (generators.spiral, generators.comb, generators.giant, generators.white, generators.blobs)
    images = [pattern(rng, 1024, 2048, 5) for pattern in (*patterns, generators.diagonals, generators.rings)]
    return torch.from_numpy(np.array([*images, np.ones_like(images[0])], np.uint8)).cuda()


def test_large_masks_equal_the_cpu(tuned):
    masks = large_masks()
    for tuning in (Tuning(), Tuning(scratch_bytes=2**26), Tuning(wide=True)):
        tuned(tuning)
        assert torch.equal(fastia.label(masks).cpu(), fastia.label(masks.cpu()))
        assert torch.equal(fastia.weights(masks, tau=1e9).cpu(), fastia.weights(masks.cpu(), tau=1e9))
        for field, expected in zip(fastia.components(masks), fastia.components(masks.cpu()), strict=True):
            assert torch.equal(field.cpu(), expected)


def test_strides_of_slices_and_repeats():
    masks = large_masks()[:, :300, :400]
    for view in (
        masks[:, ::2, 1::3],
        masks.transpose(1, 2),
        masks[:1].expand(3, -1, -1),
        masks[:, :1].expand_as(masks),
    ):
        assert torch.equal(fastia.label(view).cpu(), fastia.label(view.cpu()))


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
def test_empty_batches(shape):
    masks = torch.zeros(shape, dtype=torch.uint8, device="cuda")
    assert fastia.label(masks, validate=True).shape == fastia.weights(masks).shape == shape
    assert fastia.components(masks).class_id.shape == (shape[0], 0)
    assert fastia.components(masks, max_components=2).class_id.eq(-1).all()


def test_validate_names_an_id_that_is_not_allowed():
    masks = torch.tensor([[1, 0, 70000]], device="cuda")
    assert fastia.label(masks).tolist() == [[1, 0, 0]]
    for operation in (fastia.label, fastia.components, fastia.weights):
        with pytest.raises(ValueError, match="masks holds the id 70000, but ids must lie in"):
            operation(masks, validate=True)


@contextlib.contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def several(masks: torch.Tensor) -> list[torch.Tensor]:
    records = fastia.instance_iou(masks.flip(1), masks, max_instances=50, max_unmatched=50)
    records = [field.nan_to_num(-1) for field in records]
    return [fastia.label(masks), fastia.weights(masks), *fastia.components(masks, max_components=50), *records]


def test_nothing_waits_for_the_device():
    masks = torch.ones(2, 50, 50, dtype=torch.uint8, device="cuda")
    logits = torch.zeros(2, 3, 9, 9, device="cuda", requires_grad=True)
    metrics = [fastia.InstanceAwareIoU(3, protocol=protocol).cuda() for protocol in ("exact", "wacv2024")]
    with no_synchronisation():  # a copy from the host would wait, too
        several(masks)
        fastia.size_weighted_cross_entropy(logits, masks).backward()
        for metric in metrics:
            metric.update(masks, masks)
            metric.update(logits.detach(), masks, masks)


def test_captured_in_a_cuda_graph():
    masks = large_masks()
    expected = several(masks)
    static = torch.zeros_like(masks)
    several(static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = several(static)
    for _ in range(2):
        static.copy_(masks)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
        static.zero_()
        graph.replay()
        assert not result[0].any()


def test_updates_of_the_metric_replayed_from_a_cuda_graph_add_up():
    masks = large_masks()
    metric, replayed = (fastia.InstanceAwareIoU(5).cuda() for _ in range(2))
    for _ in range(3):
        metric.update(masks.flip(1), masks)
    preds = masks.flip(1)
    replayed.update(preds, masks)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.update(preds, masks)
    graph.replay()
    graph.replay()
    assert torch.equal(metric.tally, replayed.tally)
    assert torch.equal(metric.confusion, replayed.confusion)


def test_metric_reset_in_inference_mode_goes_on_outside():
    masks = large_masks()[:2]
    metric, expected = fastia.InstanceAwareIoU(5).cuda(), fastia.InstanceAwareIoU(5)
    with torch.inference_mode():
        metric.reset()
        metric.update(masks, masks)
    metric.update(masks.flip(1), masks)
    expected.update(masks.cpu(), masks.cpu())
    expected.update(masks.flip(1).cpu(), masks.cpu())
    for name, value in expected.compute().items():
        torch.testing.assert_close(metric.compute()[name].cpu(), value, rtol=0, atol=0, equal_nan=True)


def test_streams_and_threads():
    masks = [large_masks()[i : i + 2].clone() for i in range(4)]
    expected = [several(mask) for mask in masks]
    torch.cuda.synchronize()
    wrong = []

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(10):
                result = several(masks[number])
                if not all(torch.equal(a, b) for a, b in zip(result, expected[number], strict=True)):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one():
    masks = large_masks()
    for device in ("cuda:1", "cuda:0"):
        result = several(masks.to(device))
        assert {field.device for field in result} == {torch.device(device)}
        assert torch.equal(result[0].cpu(), fastia.label(masks.cpu()))
    assert torch.cuda.current_device() == 0


def test_cupy_arrays_give_cupy_arrays():
    import cupy

    masks = ids_of(large_masks())[:, ::-3, ::-2]
    for dtype in (np.uint8, np.uint16, np.int64):
        array = cupy.asarray(masks.astype(dtype))[:, ::-1]
        for name in ("label", "weights"):
            result = getattr(fastia, name)(array)
            assert isinstance(result, cupy.ndarray)
            assert_array_equal(cupy.asnumpy(result), getattr(fastia, name)(cupy.asnumpy(array)))
    assert isinstance(fastia.components(cupy.asarray(masks)).bbox, cupy.ndarray)
    array, metric = cupy.asarray(masks), fastia.InstanceAwareIoU(5).cuda()
    metric.update(array, array)
    assert isinstance(fastia.instance_iou(array, array).iou, cupy.ndarray)
    assert metric.compute()["ia_miou"].item() == 1


def test_opcheck():
    masks = torch.randint(0, 4, (2, 14, 9), dtype=torch.uint8).cuda()[:, ::2]
    ops = torch.ops.fastia
    for operation, options in (
        (ops.label.default, (8, 0, 255, False)),
        (ops.components.default, (4, None, -1, None, False)),
        (ops.components.default, (8, 0, None, 5, False)),
        (ops.weights.default, (5.0, 8, 0, 255, "class", torch.bfloat16, False)),
    ):
        torch.library.opcheck(operation, (masks, *options))
    options = ("exact", 0, 255, 255, 4)
    torch.library.opcheck(ops.instance_iou.default, (masks, masks, masks, *options, None, None, False, None))
    torch.library.opcheck(ops.instance_iou.default, (masks, masks, None, *options, 5, 5, False, None))
    sums = torch.zeros(3, 4, 4, dtype=torch.int64).cuda(), torch.zeros(4, 5, dtype=torch.int64).cuda()
    torch.library.opcheck(ops.add_instances.default, (masks, masks, None, *options[:4], False, *sums))


def test_compiled_loss_equals_the_eager_one():
    logits = torch.randn(2, 5, 9, 9, device="cuda")
    target = large_masks()[:2, :65, :65].contiguous()
    compiled = torch.compile(fastia.size_weighted_cross_entropy, fullgraph=True)
    torch.testing.assert_close(compiled(logits, target), fastia.size_weighted_cross_entropy(logits, target))


def test_an_image_of_more_than_32_bits_of_pixels():
    if torch.cuda.mem_get_info()[0] < 60e9:
        pytest.skip("needs 60 GB of free memory")
    masks = torch.zeros(2**16, 2**15 + 1, dtype=torch.uint8, device="cuda")
    masks[:, 0] = masks[:, -1] = masks[-1] = 1
    labels = fastia.label(masks)
    assert labels[[0, 0, -1], [0, -1, 5]].tolist() == [1, 1, 1]
    assert labels.count_nonzero() == 2 * 2**16 + 2**15 - 1


def test_a_batch_of_more_than_32_bits_of_pixels():
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of free memory")
    masks = torch.ones(1, 1, 1, dtype=torch.uint8, device="cuda").expand(1100, 2048, 1024)
    assert fastia.label(masks)[[0, 600, -1], [0, -1, -1], [0, 0, -1]].tolist() == [1, 1, 1]
