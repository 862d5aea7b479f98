"""Kinds, shapes, dtypes and errors of the public operations; that their numbers are right is tested on the kernels."""

import re

import numpy as np
import pytest
import torch

import fastia
from fastia import reference
from fastia.functional import instance_overlaps

MASK_DTYPES = ("bool", "uint8", "int16", "uint16", "int32", "int64")


def scene(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> tuple[np.ndarray, ...]:
    """Predictions, target and instances of blocks of 4 x 4 pixels, with some ignored ones."""
    rng = np.random.default_rng(seed)
    blocks = (*shape[:-2], -(-shape[-2] // 4), -(-shape[-1] // 4))

    def blow_up(ids: np.ndarray) -> np.ndarray:
        return ids.repeat(4, -2).repeat(4, -1)[..., : shape[-2], : shape[-1]]

    preds = blow_up(rng.integers(0, 3, blocks)).astype(dtype)
    target = blow_up(rng.integers(0, 3, blocks)).astype(dtype)
    instances = blow_up(rng.integers(0, 9, blocks)).astype(np.int32)
    if dtype != "bool":
        target[..., 3, :] = 255
    instances[..., 3, :] = 255
    return preds, target, instances


def assert_same(result: object, expected: object, kind: type) -> None:
    """Same fields, bit for bit, in arrays of `kind`."""
    results = result if isinstance(result, tuple) else (result,)
    expecteds = expected if isinstance(expected, tuple) else (expected,)
    for value, reference_value in zip(results, expecteds, strict=True):
        assert isinstance(value, kind)
        array = np.asarray(value)
        reference_array = np.asarray(reference_value)
        assert (array.dtype, array.shape) == (reference_array.dtype, reference_array.shape)
        np.testing.assert_array_equal(array, reference_array)


def to_kind(array: np.ndarray, kind: type) -> object:
    return array if kind is np.ndarray else torch.from_numpy(array)


@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
@pytest.mark.parametrize("shape", [(3, 14, 21), (14, 21), (1, 14, 21)])
@pytest.mark.parametrize("dtype", MASK_DTYPES)
def test_results_are_of_the_callers_kind_and_equal_the_reference(
    kind: type, shape: tuple[int, ...], dtype: str
) -> None:
    preds, target, instances = scene(shape, dtype)
    masks = to_kind(target, kind)
    assert_same(fastia.label(masks), reference.label(target), kind)
    assert_same(fastia.components(masks, connectivity=4), reference.components(target, connectivity=4), kind)
    assert_same(fastia.weights(masks), reference.weights(target), kind)
    arrays = [to_kind(array, kind) for array in (preds, target, instances)]
    for protocol in ("wacv2024", "exact"):
        expected, confusion = reference.instance_overlaps(preds, target, instances, num_classes=3, protocol=protocol)
        assert_same(fastia.instance_iou(*arrays, protocol=protocol), expected, kind)
        records, counted = instance_overlaps(*arrays, num_classes=3, protocol=protocol)
        assert_same(records, expected, kind)
        assert_same(counted, confusion, kind)


def test_batch_axis_is_absent_for_a_single_mask() -> None:
    preds, target, instances = scene((14, 21))
    found = fastia.components(target)
    assert found.labels.shape == (14, 21)
    assert found.count.shape == ()
    assert found.bbox.shape == (found.count, 4)
    result = fastia.instance_iou(preds, target, instances)
    assert result.count.shape == result.unmatched_count.shape == ()
    assert result.iou.shape == (result.count,)
    assert result.unmatched_area.shape == (result.unmatched_count,)


def test_numpy_masks_with_negative_strides_are_read_as_they_are() -> None:
    preds, target, instances = scene((3, 14, 21))
    flipped = target[::-1, ::-2, ::-1]
    assert_same(fastia.label(flipped), reference.label(flipped), np.ndarray)
    arrays = [array[:, ::-1, ::-3] for array in (preds, target, instances)]
    assert_same(fastia.instance_iou(*arrays), reference.instance_iou(*arrays), np.ndarray)


def test_strided_tensors_are_read_as_they_are() -> None:
    _, target, _ = scene((3, 14, 21))
    masks = torch.from_numpy(target).permute(2, 1, 0)[::2]
    assert_same(fastia.weights(masks), reference.weights(masks.numpy()), torch.Tensor)


def test_read_only_arrays_are_accepted() -> None:
    _, target, _ = scene((3, 14, 21))
    target.flags.writeable = False
    assert_same(fastia.label(target), reference.label(target), np.ndarray)


def test_inputs_are_not_written() -> None:
    arrays = scene((3, 14, 21))
    copies = [array.copy() for array in arrays]
    fastia.components(arrays[1])
    fastia.weights(arrays[1])
    fastia.instance_iou(*arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_other_dlpack_objects_get_tensors() -> None:
    class Exporter:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __dlpack__(self, **options: object) -> object:
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.tensor.__dlpack_device__()

    preds, target, _ = scene((3, 14, 21))
    exporter = Exporter(torch.from_numpy(target))
    assert_same(fastia.label(exporter), reference.label(target), torch.Tensor)
    result = fastia.instance_iou(torch.from_numpy(preds), exporter)
    assert_same(result, reference.instance_iou(preds, target), torch.Tensor)


@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
@pytest.mark.parametrize("shape", [(0, 5, 7), (2, 0, 7), (2, 5, 0), (0, 7), (0, 0, 0)])
def test_empty_batches_and_images_give_empty_results(kind: type, shape: tuple[int, ...]) -> None:
    masks = to_kind(np.zeros(shape, np.uint8), kind)
    assert fastia.label(masks).shape == shape
    assert fastia.weights(masks).shape == shape
    found = fastia.components(masks)
    assert found.class_id.shape == (*shape[:-2], 0)
    assert found.bbox.shape == (*shape[:-2], 0, 4)
    assert fastia.components(masks, max_components=2).area.shape == (*shape[:-2], 2)
    records, confusion = instance_overlaps(masks, masks, num_classes=4)
    assert records.iou.shape == records.unmatched_area.shape == (*shape[:-2], 0)
    assert confusion.shape == (*shape[:-2], 4, 5)
    assert not confusion.any()


@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
def test_given_sizes_cut_and_pad_the_tables(kind: type) -> None:
    preds, target, instances = scene((3, 14, 21))
    for width in (0, 2, 50):
        expected = reference.components(target, max_components=width)
        assert_same(fastia.components(to_kind(target, kind), max_components=width), expected, kind)
        arrays = [to_kind(array, kind) for array in (preds, target, instances)]
        result = fastia.instance_iou(*arrays, max_instances=width, max_unmatched=width + 1)
        expected = reference.instance_iou(preds, target, instances, max_instances=width, max_unmatched=width + 1)
        assert_same(result, expected, kind)
        assert result.iou.shape == (3, width)
        assert result.unmatched_area.shape == (3, width + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("normalizer", ["class", "foreground"])
def test_weights_are_formed_in_float64_and_rounded_once(dtype: torch.dtype, normalizer: str) -> None:
    _, target, _ = scene((3, 14, 21))
    result = fastia.weights(torch.from_numpy(target), dtype=dtype, tau=7.3, normalizer=normalizer)
    exact = reference.weights(target, dtype=np.float64, tau=7.3, normalizer=normalizer)
    assert result.dtype == dtype
    torch.testing.assert_close(result, torch.from_numpy(exact).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, np.float16, "float16", np.dtype(np.float16)])
def test_weights_of_numpy_masks_take_dtypes_of_torch_and_numpy(dtype: object) -> None:
    assert fastia.weights(np.zeros((2, 2), np.uint8), dtype=dtype).dtype == np.float16


def test_instance_ignore_index_is_ignore_index_unless_given() -> None:
    preds, target, instances = scene((14, 21))
    target[target == 255] = 7
    instances[instances == 255] = 7
    result = fastia.instance_iou(preds, target, instances, ignore_index=7)
    assert_same(
        result, fastia.instance_iou(preds, target, instances, ignore_index=7, instance_ignore_index=7), np.ndarray
    )
    assert 7 not in result.instance_id
    assert 7 in fastia.instance_iou(preds, target, instances, ignore_index=255, instance_ignore_index=None).instance_id


def test_numpy_integers_are_integers() -> None:
    _, target, _ = scene((14, 21))
    result = fastia.components(target, background=np.uint8(1), ignore_index=np.int64(255), max_components=np.int32(3))
    assert_same(result, reference.components(target, background=1, max_components=3), np.ndarray)


@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
def test_thread_count_does_not_change_results(kind: type) -> None:
    arrays = [to_kind(array, kind) for array in scene((3, 200, 301))]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append((*fastia.components(arrays[1]), fastia.weights(arrays[1]), *fastia.instance_iou(*arrays)))
    finally:
        torch.set_num_threads(threads)
    assert_same(results[1], results[0], kind)
    results = [instance_overlaps(*arrays, num_classes=3, threads=count) for count in (1, 2)]
    assert_same(results[1][0], results[0][0], kind)
    assert_same(results[1][1], results[0][1], kind)


class WeightsDataset(torch.utils.data.Dataset):
    """A dataset that computes weights in the worker, as training does."""

    def __init__(self, masks: np.ndarray) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(fastia.weights(self.masks[index]))


def test_forked_workers_neither_hang_nor_differ() -> None:
    _, target, _ = scene((8, 200, 301))
    expected = fastia.weights(target)  # the pool of this process runs before the fork
    loader = torch.utils.data.DataLoader(
        WeightsDataset(target), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    np.testing.assert_array_equal(torch.cat(list(loader)), expected)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_results_are_on_the_device_of_the_masks_whatever_the_default(device: str) -> None:
    preds, target, instances = map(torch.from_numpy, scene((3, 14, 21)))
    expected = fastia.components(target), fastia.weights(target), fastia.instance_iou(preds, target, instances)
    with torch.device(device):
        result = fastia.components(target), fastia.weights(target), fastia.instance_iou(preds, target, instances)
    for values, expected_values in zip(result, expected, strict=True):
        assert_same(values, expected_values, torch.Tensor)


MASK = np.zeros((2, 4, 5), np.uint8)
DTYPES = "bool, uint8, int16, uint16, int32, int64"


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: fastia.label(MASK[0, 0]), ValueError, "masks must be [H, W] or [B, H, W], got shape (5,)"),
        (
            lambda: fastia.label(np.zeros((2, 3, 4, 5), np.uint8)),
            ValueError,
            "masks must be [H, W] or [B, H, W], got shape (2, 3, 4, 5)",
        ),
        (
            lambda: fastia.weights(torch.zeros(2, 1, 4, 5, dtype=torch.uint8)),
            ValueError,
            "masks must be [H, W] or [B, H, W], got shape (2, 1, 4, 5): squeeze it, masks.squeeze(1)",
        ),
        (lambda: fastia.label(MASK.astype(np.float32)), TypeError, f"masks must be of dtype {DTYPES}, got float32"),
        (lambda: fastia.label(torch.zeros(4, 5)), TypeError, f"masks must be of dtype {DTYPES}, got torch.float32"),
        (lambda: fastia.label(MASK.astype(np.int8)), TypeError, f"masks must be of dtype {DTYPES}, got int8"),
        (lambda: fastia.label(MASK.astype(">i4")), TypeError, "masks must be in native byte order, got dtype >i4"),
        (
            lambda: fastia.label([[0, 1]]),
            TypeError,
            "masks must be a torch tensor, a NumPy array or an object with __dlpack__, got builtins.list",
        ),
        (
            lambda: fastia.label(torch.zeros(4, 5, dtype=torch.uint8, device="meta")),
            NotImplementedError,
            "masks is on meta, but only CPU tensors and those of NVIDIA GPUs are supported: pass masks.cpu()",
        ),
        (lambda: fastia.label(MASK, connectivity=6), ValueError, "connectivity must be 4 or 8, got 6"),
        (lambda: fastia.label(MASK, background=-1), ValueError, "background must be None or in 0..65535, got -1"),
        (lambda: fastia.label(MASK, background=1.0), TypeError, "background must be an int or None, got 1.0"),
        (lambda: fastia.label(MASK, ignore_index="255"), TypeError, "ignore_index must be an int or None, got '255'"),
        (
            lambda: fastia.label(MASK, ignore_index=2**63),
            ValueError,
            f"ignore_index must be None or in {-(2**63)}..{2**63 - 1}, got {2**63}",
        ),
        (
            lambda: fastia.components(MASK, max_components=-1),
            ValueError,
            f"max_components must be None or in 0..{2**63 - 1}, got -1",
        ),
        (lambda: fastia.weights(MASK, tau=0.5), ValueError, "tau must be at least 1, got 0.5"),
        (lambda: fastia.weights(MASK, tau=float("nan")), ValueError, "tau must be at least 1, got nan"),
        (
            lambda: fastia.weights(MASK, normalizer="image"),
            ValueError,
            "normalizer must be 'class' or 'foreground', got 'image'",
        ),
        (
            lambda: fastia.weights(MASK, dtype=torch.bfloat16),
            TypeError,
            "dtype must be float16, float32 or float64 for a NumPy array, got torch.bfloat16",
        ),
        (
            lambda: fastia.weights(MASK, dtype=torch.int32),
            TypeError,
            "dtype must be float16, float32 or float64 for a NumPy array, got torch.int32",
        ),
        (
            lambda: fastia.weights(torch.from_numpy(MASK), dtype=np.float32),
            TypeError,
            "dtype must be torch.float16, bfloat16, float32 or float64, got <class 'numpy.float32'>",
        ),
        (
            lambda: fastia.instance_iou(MASK, MASK, protocol="voc"),
            ValueError,
            "protocol must be 'wacv2024' or 'exact', got 'voc'",
        ),
        (
            lambda: fastia.instance_iou(MASK, MASK[0]),
            ValueError,
            "preds and target must have the same shape, got (2, 4, 5) and (4, 5)",
        ),
        (
            lambda: fastia.instance_iou(MASK, MASK, MASK[:1]),
            ValueError,
            "preds and instances must have the same shape, got (2, 4, 5) and (1, 4, 5)",
        ),
        (
            lambda: fastia.instance_iou(MASK, torch.from_numpy(MASK)),
            TypeError,
            "preds and target must be of one kind, got numpy.ndarray and torch.Tensor",
        ),
        (
            lambda: fastia.instance_iou(MASK, MASK, torch.from_numpy(MASK)),
            TypeError,
            "preds and instances must be of one kind, got numpy.ndarray and torch.Tensor",
        ),
        (
            lambda: fastia.instance_iou(MASK, MASK, instance_ignore_index="none"),
            TypeError,
            "instance_ignore_index must be an int or None, got 'none'",
        ),
        (
            lambda: instance_overlaps(MASK, MASK, num_classes=0),
            ValueError,
            "num_classes must be in 1..65536, got 0",
        ),
        (lambda: instance_overlaps(MASK, MASK, num_classes=None), TypeError, "num_classes must be an int, got None"),
    ],
)
def test_bad_arguments_are_named_with_value_and_what_is_allowed(call, error: type, text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        call()


@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
@pytest.mark.parametrize("bad_id", [-1, 65536])
def test_ids_that_are_not_allowed_are_named(kind: type, bad_id: int) -> None:
    good = to_kind(np.zeros((1, 4, 5), np.int32), kind)
    bad = to_kind(np.full((1, 4, 5), bad_id, np.int32), kind)
    for operation in (fastia.label, fastia.components, fastia.weights):
        with pytest.raises(ValueError, match=rf"masks.*{bad_id}"):
            operation(bad)
    with pytest.raises(ValueError, match=rf"preds.*{bad_id}"):
        fastia.instance_iou(bad, good)
    with pytest.raises(ValueError, match=rf"target.*{bad_id}"):
        fastia.instance_iou(good, bad)


@pytest.mark.parametrize("bad_id", [-1, 2**31])
def test_instance_ids_that_are_not_allowed_are_named(bad_id: int) -> None:
    masks = np.zeros((1, 4, 5), np.uint8)
    with pytest.raises(ValueError, match=rf"instances.*{bad_id}"):
        fastia.instance_iou(masks, masks, np.full((1, 4, 5), bad_id, np.int64))


def test_target_outside_the_classes_is_named() -> None:
    masks = np.full((1, 4, 5), 3, np.uint8)
    with pytest.raises(ValueError, match=r"target.*3"):
        instance_overlaps(masks, masks, num_classes=3)


def test_ignored_ids_may_be_any_integer() -> None:
    for ignore_index in (-1, -100, 70000, -(2**63)):
        masks = np.array([[1, ignore_index, 1]])
        assert fastia.label(masks, ignore_index=ignore_index).tolist() == [[1, 0, 2]]
