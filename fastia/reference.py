"""The operations of :mod:`fastia.functional` in plain NumPy and SciPy: slow, written to be read, the tests' oracle.

Names, arguments and results are those of `fastia.functional`; arrays are NumPy's. One image is worked on at a time, one
class or instance after another, as the definitions read. SciPy is needed here alone: users of the library need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fastia.functional import Components, InstanceIoU

Array = NDArray[Any]

_LARGEST_CLASS = 2**16 - 1
_LARGEST_INSTANCE = 2**31 - 1
_FRACTION = 2.0**40  # fractions of shares are summed as multiples of 2^-40, so that their order cannot matter


def label(
    masks: Array, *, connectivity: int = 8, background: int | None = 0, ignore_index: int | None = 255
) -> NDArray[np.int32]:
    """Connected components of every class, numbered in raster order of their first pixel; 0: background and ignored."""
    _check_ids("masks", masks, _LARGEST_CLASS, "ignore_index", ignore_index)
    labels = np.zeros(masks.shape, np.int32)
    for mask, out in zip(_batched(masks), _batched(labels), strict=True):  # [H, W] each
        out[...] = _label(mask, connectivity, background, ignore_index)
    return labels


def components(
    masks: Array,
    *,
    connectivity: int = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    max_components: int | None = None,
) -> Components:
    """Labels, and class, area and bounding box of each component, padded to the largest count or `max_components`."""
    labels = label(masks, connectivity=connectivity, background=background, ignore_index=ignore_index)
    class_ids, areas, boxes = [], [], []
    for mask, image in zip(_batched(masks), _batched(labels), strict=True):
        _, first = np.unique(image[image > 0], return_index=True)
        class_ids.append(mask[image > 0][first])
        areas.append(np.bincount(image.ravel())[1:])
        boxes.append([(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(image)] if image.size else [])
    result = Components(
        labels=_batched(labels),
        count=_counts(areas),
        class_id=_padded(class_ids, max_components, -1, np.int32),
        area=_padded(areas, max_components, 0, np.int64),
        bbox=_padded(boxes, max_components, (0, 0, 0, 0), np.int32),
    )
    return result if masks.ndim == 3 else Components(*(field[0] for field in result))


def weights(
    masks: Array,
    *,
    tau: float = 5.0,
    connectivity: int = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    normalizer: str = "class",
    dtype: Any = "float32",
) -> Array:
    """Eq. 3: min(tau, sum_k S_ck / S_cj) in component j of class c; background 1, ignored 0; `rounded` to `dtype`."""
    labels = label(masks, connectivity=connectivity, background=background, ignore_index=ignore_index)
    result = np.zeros(masks.shape, np.float64)
    for mask, image, out in zip(_batched(masks), _batched(labels), _batched(result), strict=True):
        out[~_ignored(mask, ignore_index)] = 1.0
        area = np.bincount(image.ravel())  # [1 + N] pixels of each component
        for class_id in np.unique(mask[image > 0]):
            pixels = (image > 0) & (mask == class_id)
            numerator = np.count_nonzero(pixels if normalizer == "class" else image)
            out[pixels] = np.minimum(tau, numerator / area[image[pixels]])
    return rounded(result, dtype)


def instance_iou(
    preds: Array,
    target: Array,
    instances: Array | None = None,
    *,
    protocol: str = "wacv2024",
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | str | None = "ignore_index",
    max_instances: int | None = None,
    max_unmatched: int | None = None,
) -> InstanceIoU:
    """Instance-aware IoU of each instance, and the predicted components that overlap no instance of their class."""
    return _instance_iou(
        preds, target, instances, _LARGEST_CLASS + 1, protocol, background, ignore_index, instance_ignore_index,
        max_instances, max_unmatched,
    )  # fmt: skip


def instance_overlaps(
    preds: Array,
    target: Array,
    instances: Array | None = None,
    *,
    num_classes: int,
    protocol: str = "wacv2024",
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | str | None = "ignore_index",
    max_instances: int | None = None,
    max_unmatched: int | None = None,
) -> tuple[InstanceIoU, NDArray[np.int64]]:
    """`instance_iou` of classes below `num_classes`, and the confusion matrix of each image, [B, C, C + 1].

    Rows are ground truth, columns predictions; the last column counts predictions outside the classes. Pixels whose
    target is ignored are left out.
    """
    result = _instance_iou(
        preds, target, instances, num_classes, protocol, background, ignore_index, instance_ignore_index,
        max_instances, max_unmatched,
    )  # fmt: skip
    confusion = []
    for predicted, truth in zip(_batched(preds), _batched(target), strict=True):
        counted = ~_ignored(truth, ignore_index)
        outside = _ignored(predicted, ignore_index) | (predicted >= num_classes)
        column = np.where(outside, num_classes, predicted.astype(np.int64))[counted]
        cell = truth[counted].astype(np.int64) * (num_classes + 1) + column
        confusion.append(np.bincount(cell, minlength=num_classes * (num_classes + 1)).reshape(num_classes, -1))
    stacked = np.array(confusion, np.int64).reshape(-1, num_classes, num_classes + 1)
    return result, stacked if target.ndim == 3 else stacked[0]


def instance_matches(
    preds: Array,
    target: Array,
    instances: Array | None = None,
    *,
    num_classes: int,
    protocol: str = "wacv2024",
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | str | None = "ignore_index",
) -> list[list[tuple[int, int, int, int, int]]]:
    """Per image (class, area, void area, instance's area, intersection) of each predicted component off void.

    The instance is the one of its class with which it has an IoU above 1/2; area and intersection are 0 without one.
    """
    instances, void = _instances_and_void(target, instances, protocol, background, ignore_index, instance_ignore_index)
    matches = []
    for image in zip(_batched(preds), _batched(target), _batched(instances), _batched(void), strict=True):
        predicted = _PredictedComponents(image[0], image[3], protocol)
        records, _ = _instance_records(*image, predicted, protocol, background, ignore_index)
        found = []
        for class_id in _foreground(image[0], background, ignore_index, num_classes):
            labels, area = predicted[class_id]
            ids, first, whole = np.unique(labels, return_index=True, return_counts=True)
            for j, pixel, pixels in zip(ids.tolist(), first.tolist(), whole.tolist(), strict=True):
                if j == 0 or area[j] == 0:
                    continue
                match = (0, 0)
                for instance_class, instance_id, instance_area, *_ in records:
                    if instance_class == class_id and instance_id > 0:
                        inside = (image[2] == instance_id) & ~image[3]
                        both = int(np.count_nonzero(inside & (labels == j)))
                        if 2 * both > instance_area + int(area[j]) - both:
                            match = (instance_area, both)
                found.append((pixel, (class_id, int(area[j]), pixels - int(area[j]), *match)))
        matches.append([row for _, row in sorted(found)])
    return matches


def rounded(values: NDArray[np.float64], dtype: Any) -> Array:
    """`values` rounded once, to nearest even, to a float dtype of NumPy or torch or its name.

    NumPy has no bfloat16: there the result is float32 holding values of bfloat16, for values in its normal range.
    """
    name = str(dtype).removeprefix("torch.")
    if name != "bfloat16":
        return values.astype(name if name != str(dtype) else dtype)
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 2.0**8), exponent - 8).astype(np.float32)


def _label(mask: Array, connectivity: int, background: int | None, ignore_index: int | None) -> Array:
    labels = np.zeros(mask.shape, np.int64)
    count = 0
    for class_id in np.unique(mask[~_ignored(mask, ignore_index)]):
        if class_id != background:
            component, found = _connected(mask == class_id, connectivity)
            labels += np.where(component > 0, component + count, 0)
            count += found
    _, first, inverse = np.unique(np.append(0, labels), return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # the 0 in front keeps label 0 first
    return rank[inverse[1:]].reshape(mask.shape)


def _instance_iou(
    preds: Array,
    target: Array,
    instances: Array | None,
    num_classes: int,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | str | None,
    max_instances: int | None,
    max_unmatched: int | None,
) -> InstanceIoU:
    _check_ids("preds", preds, _LARGEST_CLASS, "ignore_index", ignore_index)
    _check_ids("target", target, num_classes - 1, "ignore_index", ignore_index)
    instances, void = _instances_and_void(target, instances, protocol, background, ignore_index, instance_ignore_index)
    records, unmatched = [], []
    for image in zip(_batched(preds), _batched(target), _batched(instances), _batched(void), strict=True):
        predicted = _PredictedComponents(image[0], image[3], protocol)
        found, class_map = _instance_records(*image, predicted, protocol, background, ignore_index)
        records.append(found)
        foreground = _foreground(image[0], background, ignore_index, num_classes)
        unmatched.append(_unmatched(predicted, foreground, class_map))

    def instance(field: int, padding: float, dtype: Any) -> Array:
        return _padded([[row[field] for row in rows] for rows in records], max_instances, padding, dtype)

    def component(field: int, padding: int, dtype: Any) -> Array:
        return _padded([[row[field] for row in rows] for rows in unmatched], max_unmatched, padding, dtype)

    result = InstanceIoU(
        count=_counts(records),
        class_id=instance(0, -1, np.int32),
        instance_id=instance(1, -1, np.int32),
        area=instance(2, 0, np.int64),
        intersection=instance(3, 0, np.int64),
        covered=instance(4, 0.0, np.float64),
        iou=instance(5, np.nan, np.float64),
        unmatched_count=_counts(unmatched),
        unmatched_class_id=component(1, -1, np.int32),
        unmatched_area=component(2, 0, np.int64),
    )
    return result if target.ndim == 3 else InstanceIoU(*(field[0] for field in result))


def _instances_and_void(
    target: Array,
    instances: Array | None,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | str | None,
) -> tuple[Array, NDArray[np.bool_]]:
    if instances is None:
        return label(target, background=background, ignore_index=ignore_index), _ignored(target, ignore_index)
    void_id = ignore_index if isinstance(instance_ignore_index, str) else instance_ignore_index
    _check_ids("instances", instances, _LARGEST_INSTANCE, "instance_ignore_index", void_id)
    void = _ignored(instances, void_id)
    return instances, void | _ignored(target, ignore_index) if protocol == "exact" else void


def _foreground(preds: Array, background: int | None, ignore_index: int | None, num_classes: int) -> list[int]:
    return [c for c in np.unique(preds).tolist() if c not in (background, ignore_index) and c < num_classes]


class _PredictedComponents:
    """The predicted components of each class of an image: `labels [H, W]`, 0 for none, and `area [1 + N]` off void."""

    def __init__(self, preds: Array, void: Array, protocol: str) -> None:
        self.preds, self.void, self.protocol = preds, void, protocol
        self.known: dict[int, tuple[Array, Array]] = {}

    def __getitem__(self, class_id: int) -> tuple[Array, Array]:
        if class_id not in self.known:
            predicted = self.preds == class_id
            if self.protocol == "exact":
                labels, count = _connected(predicted & ~self.void, 8)
            else:
                filled = ndimage.binary_fill_holes(predicted)  # holes are 4-connected and do not reach the border
                labels, count = _connected(filled, 8)
                labels = labels * predicted
            self.known[class_id] = labels, np.bincount(labels[~self.void], minlength=count + 1)
        return self.known[class_id]


def _instance_records(
    preds: Array,
    target: Array,
    instances: Array,
    void: Array,
    predicted: _PredictedComponents,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
) -> tuple[list[tuple[int, int, int, int, float, float]], Array]:
    """(class, instance, area, intersection, covered, iou) by instance id; the class of each pixel's instance, or -1."""
    records = []
    class_map = np.full(target.shape, -1, np.int64)
    valid = ~_ignored(target, ignore_index)

    if protocol == "wacv2024" and background is not None:
        truth = (target == background) & valid & ~void
        found = (preds == background) & ~_ignored(preds, ignore_index) & ~void
        if truth.any():
            area, intersection, covered = (int(np.count_nonzero(m)) for m in (truth, truth & found, found))
            records.append((background, 0, area, intersection, float(covered), _iou(area, intersection, covered)))

    for instance_id in np.unique(instances[(instances > 0) & ~void]).tolist():
        inside = (instances == instance_id) & ~void
        classes = target[inside & valid]
        if classes.size == 0:
            continue
        class_id = int(classes.max())
        class_map[inside] = class_id

        labels, whole = predicted[class_id]
        elsewhere = (target == class_id) & ~inside & ~void
        if protocol == "exact":
            elsewhere &= instances > 0
        o = np.bincount(labels[inside], minlength=whole.size)
        other = np.bincount(labels[elsewhere], minlength=whole.size)
        o[0] = 0  # pixels of no component
        touched = np.flatnonzero(o)

        covered, fraction = 0, 0
        for j in touched:
            rest = int(whole[j] - o[j] - other[j])
            share = float(o[j]) / float(o[j] + other[j]) * rest
            covered += int(o[j]) + int(share)
            if protocol == "exact":
                fraction += int(np.rint((share - int(share)) * _FRACTION))
        area, intersection = int(np.count_nonzero(inside)), int(o[touched].sum())
        total = float(covered) + float(fraction) / _FRACTION
        records.append((class_id, instance_id, area, intersection, total, _iou(area, intersection, total)))
    return records, class_map


def _unmatched(predicted: _PredictedComponents, classes: Sequence[int], class_map: Array) -> list[tuple[int, int, int]]:
    """(first pixel, class, area) of the components with pixels off void, none of them in an instance of their class."""
    found = []
    for class_id in classes:
        labels, area = predicted[class_id]
        ids, first = np.unique(labels, return_index=True)
        matched = set(labels[class_map == class_id].tolist())
        for j, pixel in zip(ids.tolist(), first.tolist(), strict=True):
            if j > 0 and area[j] > 0 and j not in matched:
                found.append((pixel, class_id, int(area[j])))
    return sorted(found)


def _iou(area: int, intersection: int, covered: float) -> float:
    return float(intersection) / ((float(area) + float(covered)) - float(intersection))


def _connected(pixels: NDArray[np.bool_], connectivity: int) -> tuple[Array, int]:
    return ndimage.label(pixels, ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2))


def _ignored(ids: Array, ignore_index: int | None) -> NDArray[np.bool_]:
    return np.zeros(ids.shape, bool) if ignore_index is None else ids == ignore_index


def _batched(array: Array) -> Array:
    return array if array.ndim == 3 else array[None]


def _counts(rows: Sequence[Any]) -> NDArray[np.int32]:
    return np.array([len(row) for row in rows], np.int32)


def _padded(rows: Sequence[Any], width: int | None, padding: Any, dtype: Any) -> Array:
    if width is None:
        width = max((len(row) for row in rows), default=0)
    padded = np.empty((len(rows), width, *np.shape(padding)), dtype)
    padded[...] = padding
    for out, row in zip(padded, rows, strict=True):
        row = np.reshape(row, (-1, *np.shape(padding)))[:width]
        out[: len(row)] = row
    return padded


def _check_ids(name: str, ids: Array, largest: int, exception: str, exempt: int | None) -> None:
    wrong = ids[((ids < 0) | (ids > largest)) & ~_ignored(ids, exempt)]
    if wrong.size:
        raise ValueError(f"{name} must hold ids of 0..{largest} or {exception} ({exempt}), got {wrong[0]}")
