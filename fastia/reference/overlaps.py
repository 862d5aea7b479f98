"""Predictions against ground truth in plain NumPy and SciPy, as in `masks`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fastia.fields import InstanceIoU, fields_along
from fastia.reference.masks import (
    LARGEST_CLASS,
    Array,
    batched,
    check_ids,
    connected,
    counts,
    ignored,
    in_raster_order,
    label,
    padded,
)

_LARGEST_INSTANCE = 2**31 - 1
_FRACTION = 2.0**40  # fractions of shares are summed as multiples of 2^-40, so that their order cannot matter


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
    """Instance-aware IoU of each instance, and the false components."""
    return _instance_iou(
        preds, target, instances, LARGEST_CLASS + 1, protocol, background, ignore_index, instance_ignore_index,
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
    for predicted, truth in zip(batched(preds), batched(target), strict=True):
        counted = ~ignored(truth, ignore_index)
        outside = ignored(predicted, ignore_index) | (predicted >= num_classes)
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
) -> list[list[tuple[int, int, int, int, int, int]]]:
    """Per image (class, area, void area, instance's area, intersection, union) of each predicted component with area.

    The instance is the one of its class with which it has an IoU above 1/2; the last three are 0 without one. Its area
    is that of its record, all others but the void area are of pixels void in neither map.
    """
    given = _instances_and_void(target, instances, background, ignore_index, instance_ignore_index)
    matches = []
    for image in map(_Image, *map(batched, (preds, target, *given))):
        predicted = _predicted_components(image.preds, protocol, ignore_index, num_classes)
        area, void_area = _areas(predicted, image.void)
        classes = _instance_classes(image, ignore_index)
        instance_area = _counted(image.instances[~image.void])
        record_area = _counted(image.instances[~(image.void if protocol == "exact" else image.instance_void)])
        foreground = [j > 0 and class_id != background for j, class_id in enumerate(predicted.class_id)]
        found = dict.fromkeys(np.flatnonzero(foreground & (area > 0)).tolist(), (0, 0, 0))
        for (j, i), both in _pairs(predicted.labels, image.instances, ~image.void).items():
            union = instance_area[i] + int(area[j]) - both
            if j in found and classes.get(i) == predicted.class_id[j] and 2 * both > union:
                found[j] = (record_area[i], both, union)
        rows = [(predicted.class_id[j], int(area[j]), int(void_area[j]), *match) for j, match in found.items()]
        matches.append(rows)
    return matches


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
    check_ids("preds", preds, LARGEST_CLASS, "ignore_index", ignore_index)
    check_ids("target", target, num_classes - 1, "ignore_index", ignore_index)
    given = _instances_and_void(target, instances, background, ignore_index, instance_ignore_index)
    records, unmatched = [], []
    for image in map(_Image, *map(batched, (preds, target, *given))):
        predicted = _predicted_components(image.preds, protocol, ignore_index, num_classes)
        record = _exact_records if protocol == "exact" else _wacv2024_records
        records.append(record(image, predicted, background, ignore_index))
        unmatched.append(_false_components(image, predicted, background, ignore_index))

    def columns(axis: str, rows: Any, width: int | None) -> dict[str, Array]:
        """The fields `[B, width]` of rows that hold them in order."""
        found = fields_along(InstanceIoU, axis)
        return {
            name: padded([[row[i] for row in image] for image in rows], width, field.padding, field.dtype)
            for i, (name, field) in enumerate(found.items())
        }

    result = InstanceIoU(
        count=counts(records),
        unmatched_count=counts(unmatched),
        **columns("K", records, max_instances),
        **columns("M", unmatched, max_unmatched),
    )
    return result if target.ndim == 3 else InstanceIoU(*(field[0] for field in result))


def _instances_and_void(
    target: Array,
    instances: Array | None,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | str | None,
) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """The instance ids, where these are void, and where either map is."""
    target_void = ignored(target, ignore_index)
    if instances is None:
        return label(target, background=background, ignore_index=ignore_index), target_void, target_void
    void_id = ignore_index if isinstance(instance_ignore_index, str) else instance_ignore_index
    check_ids("instances", instances, _LARGEST_INSTANCE, "instance_ignore_index", void_id)
    instance_void = ignored(instances, void_id)
    return instances, instance_void, instance_void | target_void


class _Image(NamedTuple):
    """The maps of one image, `[H, W]` each."""

    preds: Array
    target: Array
    instances: Array
    instance_void: NDArray[np.bool_]
    void: NDArray[np.bool_]  # of either map


class _Predicted(NamedTuple):
    """The predicted components of an image, in raster order: `labels [H, W]`, and the class of each label; -1 of 0."""

    labels: NDArray[np.int64]
    class_id: list[int]


_Pairs = dict[tuple[int, int], int]


_Record = tuple[int, int, int, int, float, float]  # class, instance, area, intersection, covered, iou


def _predicted_components(preds: Array, protocol: str, ignore_index: int | None, num_classes: int) -> _Predicted:
    """Components of every class, of the background too, formed on the whole prediction.

    Under wacv2024 those in the holes of another one of their class belong to that one.
    """
    labels = np.zeros(preds.shape, np.int64)
    count = 0
    for class_id in np.unique(preds[~ignored(preds, ignore_index)]).tolist():
        if class_id < num_classes:
            pixels = preds == class_id
            # holes are 4-connected and do not reach the border
            whole = pixels if protocol == "exact" else ndimage.binary_fill_holes(pixels)
            component, found = connected(whole, 8)
            labels += np.where((component > 0) & pixels, component + count, 0)
            count += found
    labels = in_raster_order(labels)
    _, first = np.unique(np.append(0, labels), return_index=True)
    return _Predicted(labels, np.append(-1, preds.ravel())[first].astype(np.int64).tolist())


def _instance_classes(image: _Image, ignore_index: int | None) -> dict[int, int]:
    """The class of each instance by its id: the largest target id under it that is not ignored."""
    counted = (image.instances > 0) & ~image.instance_void & ~ignored(image.target, ignore_index)
    return dict(sorted(_pairs(image.instances, image.target, counted)))  # the last of an instance is the largest


def _areas(predicted: _Predicted, void: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels of each component off void and on void, `[1 + N]`."""
    size = len(predicted.class_id)
    return np.bincount(predicted.labels[~void], minlength=size), np.bincount(predicted.labels[void], minlength=size)


def _pairs(first: Array, second: Array, where: NDArray[np.bool_]) -> _Pairs:
    """The number of pixels of each pair of ids."""
    keys = first[where].astype(np.int64) << 32 | second[where].astype(np.int64)
    return {(key >> 32, key & 0xFFFFFFFF): count for key, count in _counted(keys).items()}


def _counted(ids: Array) -> dict[int, int]:
    """The number of pixels of each id."""
    return dict(zip(*(values.tolist() for values in np.unique(ids, return_counts=True)), strict=True))


def _exact_records(
    image: _Image, predicted: _Predicted, background: int | None, ignore_index: int | None
) -> list[_Record]:
    """The paper's text: what follows from the pixels void in neither map that components and instances share."""
    classes = {i: c for i, c in _instance_classes(image, ignore_index).items() if c != background}
    whole, _ = _areas(predicted, image.void)
    instance_area = _counted(image.instances[~image.void])
    pairs = _pairs(predicted.labels, image.instances, ~image.void)
    overlaps = {(j, i): o for (j, i), o in pairs.items() if classes.get(i) == predicted.class_id[j]}
    matched = np.zeros(len(whole), np.int64)  # of each component, on any instance of its class
    for (j, _), o in overlaps.items():
        matched[j] += o

    intersection, covered, fraction = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    for (j, i), o in overlaps.items():
        share = _share(o, int(matched[j]) - o, int(whole[j]))
        intersection[i] += o
        covered[i] += o + int(share)
        fraction[i] += int(np.rint((share - int(share)) * _FRACTION))
    total = {i: float(covered[i]) + float(fraction[i]) / _FRACTION for i in classes}
    return [_record(c, i, instance_area[i], intersection[i], total[i]) for i, c in classes.items()]


def _wacv2024_records(
    image: _Image, predicted: _Predicted, background: int | None, ignore_index: int | None
) -> list[_Record]:
    """The released evaluation: instance void alone is left out, and background is an instance."""
    records = []
    void = image.instance_void
    if background is not None:
        truth = (image.target == background) & ~ignored(image.target, ignore_index) & ~void
        found = (image.preds == background) & ~ignored(image.preds, ignore_index) & ~void
        if truth.any():
            pixels = (int(np.count_nonzero(mask)) for mask in (truth, truth & found, found))
            records.append(_record(background, 0, *pixels))

    classes = _instance_classes(image, ignore_index)
    whole, _ = _areas(predicted, void)
    instance_area = _counted(image.instances[~void])
    hit = ~void & (image.preds == image.target)
    of_class, _ = _areas(predicted, ~hit)  # pixels whose target is the component's class
    overlap_of_class = _pairs(predicted.labels, image.instances, hit)
    intersection, covered = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    for (j, i), o in _pairs(predicted.labels, image.instances, ~void).items():
        if classes.get(i) == predicted.class_id[j]:
            intersection[i] += o
            covered[i] += o + int(_share(o, int(of_class[j]) - overlap_of_class.get((j, i), 0), int(whole[j])))
    return records + [_record(c, i, instance_area[i], intersection[i], float(covered[i])) for i, c in classes.items()]


def _false_components(
    image: _Image, predicted: _Predicted, background: int | None, ignore_index: int | None
) -> list[tuple[int, int]]:
    """(class, area) of the components that off void meet nothing of their class, and lie on void by half at most.

    Void is that of either map, under both protocols.
    """
    area, void_area = _areas(predicted, image.void)
    classes = _instance_classes(image, ignore_index)
    met = {
        j for j, i in _pairs(predicted.labels, image.instances, ~image.void) if classes.get(i) == predicted.class_id[j]
    }
    met |= set(predicted.labels[~image.void & (image.preds == image.target)].tolist())
    return [
        (class_id, int(area[j]))
        for j, class_id in enumerate(predicted.class_id)
        if j > 0 and class_id != background and j not in met and area[j] > 0 and void_area[j] <= area[j]
    ]


def _record(class_id: int, instance_id: int, area: int, intersection: int, covered: float) -> _Record:
    iou = float(intersection) / ((float(area) + covered) - float(intersection))
    return class_id, instance_id, area, intersection, covered, iou


def _share(o: int, other: int, whole: int) -> float:
    """The part of a component outside of all instances of its class, in proportion to the overlap with one of them."""
    return float(o) / float(o + other) * float(whole - o - other)
