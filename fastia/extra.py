"""Further scores by name: panoptic quality, component F1, Cityscapes iIoU, fine-grained mIoU, boundary IoU.

All but the fine-grained ones follow from integer sums, which add up to the same bits in any order. For the worst images
of the fine-grained ones there is no sum: their state is a table of pixels per image and class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia import checks
from fastia.functional_instances import ComponentMatches, InstanceIoU
from fastia.scores import IOU_BITS, SIZE_BOUNDS, SIZE_NAMES

EXTRAS = ("panoptic", "components", "iiou", "fine_grained", "boundary_iou")
WORST = (1, 5)  # percent of images over which the worst-case fine-grained scores average
BOUNDARY_RATIO = 0.02  # width of a boundary, of the image's diagonal

Sums = dict[str, NDArray[np.int64]]
_Scores = dict[str, Any]


def check_extras(extra: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of :data:`EXTRAS`, each once.

    Raises:
        ValueError: a name that is none of them.
    """
    if isinstance(extra, str):
        raise ValueError(f"extra must be a list of names, got the text {extra!r}")
    for name in extra:
        checks.choice("extra", name, EXTRAS)
    return tuple(name for name in EXTRAS if name in extra)


def empty_sums(extra: Sequence[str], num_classes: int) -> Sums:
    """Zeros of the sums that the named scores need; :func:`image_sums` says what they hold."""
    shapes = {
        "matches": (3, num_classes, len(SIZE_NAMES)) if {"panoptic", "components"} & set(extra) else None,
        "recall": (2, num_classes) if "iiou" in extra else None,
        "instance_iou": (2, num_classes) if "fine_grained" in extra else None,
        "class_pixels": (0, num_classes, 3) if "fine_grained" in extra else None,
        "boundary": (num_classes, 3) if "boundary_iou" in extra else None,
    }
    return {name: np.zeros(shape, np.int64) for name, shape in shapes.items() if shape is not None}


def image_sums(
    extra: Sequence[str],
    preds: NDArray[Any],
    target: NDArray[Any],
    records: InstanceIoU,
    confusion: NDArray[np.int64],
    matches: ComponentMatches,
    *,
    background: int | None,
    ignore_index: int | None,
) -> Sums:
    """Count what the named scores need of one image.

    Args:
        extra: names of :data:`EXTRAS`.
        preds, target: class ids ``[H, W]``.
        records, confusion, matches: of :func:`fastia.functional.instance_matches`, without padding.
        background, ignore_index: as in :func:`fastia.instance_iou`.

    Returns:
        By name, int64: ``matches [3, C, 3]``: numbers of true positives by size of the instance, of false positives by
        size of the component, and sum of rint(IoU * 2**36) of the former; ``recall [2, C]``: sums of rint(recall *
        2**36) and of the areas of instances; ``instance_iou [2, C]``: sum of rint(IoU * 2**36) and number of instances;
        ``class_pixels [1, C, 3]``: intersection, ground truth and prediction, of which images are stacked and not
        summed; ``boundary [C, 3]``: the same three of boundaries.
    """
    sums = empty_sums(extra, len(confusion))
    class_pixels = np.stack([confusion.diagonal(), confusion.sum(1), confusion[:, :-1].sum(0)], 1)  # [C, 3]
    kept = (records.class_id >= 0) & (records.class_id != (-1 if background is None else background))
    class_id, area, hit = (field[kept] for field in (records.class_id, records.area, records.intersection))
    if "matches" in sums:
        _count_matches(sums["matches"], matches)
    if "recall" in sums:
        np.add.at(sums["recall"][0], class_id, _fixed(hit / area))
        np.add.at(sums["recall"][1], class_id, area)
    if "instance_iou" in sums:
        all_areas = np.zeros(len(confusion), np.int64)
        np.add.at(all_areas, class_id, area)
        false = (class_pixels[:, 2] - class_pixels[:, 0])[class_id] * (area / all_areas[class_id])
        np.add.at(sums["instance_iou"][0], class_id, _fixed(hit / (area + false)))
        np.add.at(sums["instance_iou"][1], class_id, 1)
        sums["class_pixels"] = class_pixels[None]
    if "boundary" in sums:
        sums["boundary"] = _boundary_pixels(preds, target, len(confusion), ignore_index)
    return sums


# The columns of `per_class_sums`.
SUM_COLUMNS = {
    "matches": tuple(f"{kind}_{size}" for kind in ("matched", "false", "match_iou") for size in SIZE_NAMES),
    "recall": ("recall", "recall_area"),
    "instance_iou": ("instance_iou", "instance_count"),
    "boundary": ("boundary_hit", "boundary_truth", "boundary_predicted"),
}

_FRACTIONS = {"recall", "instance_iou", *(f"match_iou_{size}" for size in SIZE_NAMES)}


def per_class_sums(name: str, sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums ``[images, ...]`` of :func:`image_sums` as ``[images, C, K]``, those of IoU and recall as fractions.

    K and its meaning are those of ``SUM_COLUMNS[name]``.
    """
    axes = {"matches": (0, 2, 1, 3), "boundary": (0, 1, 2)}.get(name, (0, 2, 1))
    table = sums.transpose(axes).reshape(len(sums), -1, len(SUM_COLUMNS[name])).astype(np.float64)
    table[..., [column in _FRACTIONS for column in SUM_COLUMNS[name]]] /= 2.0**IOU_BITS
    return table


def extra_scores(
    extra: Sequence[str], sums: Mapping[str, NDArray[np.int64]], tally: NDArray[np.int64], confusion: NDArray[np.int64]
) -> _Scores:
    """Turn sums of :func:`image_sums` into scores, NaN where there is nothing to average.

    - ``"panoptic"``: ``pq``, ``sq``, ``rq`` and these per class. The segments are ground-truth instances and predicted
      components of foreground classes; they match when their IoU is above 1/2. Per class ``sq`` is the mean IoU of the
      matches, 0 without any, ``rq = TP / (TP + FP / 2 + FN / 2)`` and ``pq = sq * rq``; the means are over classes with
      a segment. Void pixels do not count, and an unmatched component that is void by more than half is no false
      positive. Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019.
    - ``"components"``: ``component_f1``, ``component_precision``, ``component_recall``, also ``_small``, ``_medium``
      and ``_large``: of the same matches; a true positive and a missed instance count in the size of the instance, a
      false positive in its own. Source: the lesion-wise detection scores of medical imaging, and COCO's sizes.
    - ``"iiou"``: ``iiou`` and per class, ``iTP / (iTP + FP + iFN)``, where the pixels of an instance weigh the average
      area of its class over its own: ``(mean recall of instances) * (all their pixels) / (these + FP)``. Cityscapes
      has fixed average areas; here they are those of the data. Source: Cordts et al., "The Cityscapes Dataset", CVPR
      2016, and cityscapesscripts.
    - ``"fine_grained"``: of the IoU of class c in image i, where the ground truth has c: ``miou_image``, the mean
      over images of the mean over classes; ``miou_class``, the mean over classes of the mean over images; of each
      ``_worst_5`` and ``_worst_1``, over the worst 5 or 1 % of the images (at least one), per class for the latter;
      ``miou_instance``, the mean over classes of the mean over instances, where an instance answers for the share of
      its class's false positives in the image that its area has of its class; and ``image_iou_per_class``. Source: Wang
      et al., "Revisiting Evaluation Metrics for Semantic Segmentation", NeurIPS 2023 (mIoU^I, mIoU^C and mIoU^K).
    - ``"boundary_iou"``: ``boundary_iou`` and per class: IoU of the pixels within 2 % of the image's diagonal of
      another class or of the image's border, at least 1 pixel, in chessboard distance; summed over images, averaged
      over classes with ground truth. An ignored target is another class there, and does not count. Source: Cheng et
      al., "Boundary IoU", CVPR 2021.

    Args:
        extra: names of :data:`EXTRAS`.
        sums: of :func:`image_sums`, added up over images; ``class_pixels`` stacked.
        tally, confusion: as in :func:`fastia.scores.scores`.

    Returns:
        Floats, and float64 ``[C]`` for what is per class.
    """
    values: _Scores = {}
    instances = tally[0, :, 1:]  # [C, 3]
    false = confusion[:, :-1].sum(0) - confusion.diagonal()
    if "panoptic" in extra:
        values |= _panoptic(sums["matches"], instances)
    if "components" in extra:
        values |= _components(sums["matches"], instances)
    if "iiou" in extra:
        recall, area = sums["recall"]
        iiou = _ratio(recall / 2.0**IOU_BITS * _ratio(area, instances.sum(1)), area + false)
        values |= {"iiou": _mean(iiou), "iiou_per_class": iiou}
    if "fine_grained" in extra:
        total, count = sums["instance_iou"]
        values |= _fine_grained(sums["class_pixels"])
        values["miou_instance"] = _mean(_ratio(total / 2.0**IOU_BITS, count))
    if "boundary_iou" in extra:
        both, truth, predicted = sums["boundary"].T
        iou = np.where(truth > 0, _ratio(both, truth + predicted - both), np.nan)
        values |= {"boundary_iou": _mean(iou), "boundary_iou_per_class": iou}
    return values


def _count_matches(sums: NDArray[np.int64], matches: ComponentMatches) -> None:
    matched = matches.instance_area > 0
    false = ~matched & (matches.class_id >= 0) & (matches.void_area <= matches.area)
    cells = matches.class_id[matched], _size(matches.instance_area[matched])
    union = matches.area + matches.instance_area - matches.intersection
    np.add.at(sums[0], cells, 1)
    np.add.at(sums[1], (matches.class_id[false], _size(matches.area[false])), 1)
    np.add.at(sums[2], cells, _fixed(matches.intersection[matched] / union[matched]))


def _boundary_pixels(
    preds: NDArray[Any], target: NDArray[Any], num_classes: int, ignore_index: int | None
) -> NDArray[np.int64]:
    width = max(1, round(BOUNDARY_RATIO * math.hypot(*target.shape)))
    counted = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
    classes = (preds >= 0) & (preds < num_classes)
    if ignore_index is not None:
        classes &= preds != ignore_index
    truth = _boundary(target, width) & counted
    predicted = _boundary(preds, width) & counted & classes
    both = truth & predicted & (preds == target)
    masks = ((target, both), (target, truth), (preds, predicted))
    return np.stack([np.bincount(ids[mask].astype(np.int64), minlength=num_classes) for ids, mask in masks], 1)


def _boundary(ids: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Pixels with another id or the image's border within so many pixels: the square around them holds a change."""
    boundary = np.ones(ids.shape, bool)
    if min(ids.shape) > 2 * width:
        across = _any_of(_any_of(ids[:, 1:] != ids[:, :-1], 2 * width + 1, 0), 2 * width, 1)
        down = _any_of(_any_of(ids[1:] != ids[:-1], 2 * width, 0), 2 * width + 1, 1)
        boundary[width:-width, width:-width] = across | down
    return boundary


def _any_of(values: NDArray[np.bool_], length: int, axis: int) -> NDArray[np.bool_]:
    """Whether any of each so many neighbours along an axis is true; windows double until they are long enough."""
    values = np.moveaxis(values, axis, 0)
    reach = 1
    while reach < length:
        step = min(reach, length - reach)
        values = values[:-step] | values[step:]
        reach += step
    return np.moveaxis(values, 0, axis)


def _panoptic(matches: NDArray[np.int64], instances: NDArray[np.int64]) -> _Scores:
    positive, false, total = matches.sum(2)  # [C]
    segments = (positive + instances.sum(1) + false) / 2  # TP + FP / 2 + FN / 2
    recognition = _ratio(positive, segments)
    quality = np.where(positive > 0, _ratio(total / 2.0**IOU_BITS, positive), np.where(segments > 0, 0.0, np.nan))
    panoptic = _ratio(total / 2.0**IOU_BITS, segments)
    tables = {"pq": panoptic, "sq": quality, "rq": recognition}
    means = {name: _mean(table) for name, table in tables.items()}
    return means | {f"{name}_per_class": table for name, table in tables.items()}


def _components(matches: NDArray[np.int64], instances: NDArray[np.int64]) -> _Scores:
    values = {}
    for suffix, sizes in (("", slice(None)), *((f"_{name}", slice(i, i + 1)) for i, name in enumerate(SIZE_NAMES))):
        positive, false, _ = matches[:, :, sizes].sum(2)
        wanted = instances[:, sizes].sum(1)
        values[f"component_f1{suffix}"] = _mean(_ratio(2 * positive, positive + wanted + false))
        values[f"component_precision{suffix}"] = _mean(_ratio(positive, positive + false))
        values[f"component_recall{suffix}"] = _mean(_ratio(positive, wanted))
    return values


def _fine_grained(class_pixels: NDArray[np.int64]) -> _Scores:
    both, truth, predicted = np.moveaxis(class_pixels, 2, 0)
    iou = np.where(truth > 0, _ratio(both, truth + predicted - both), np.nan)  # [images, C]
    images = np.array([_mean(row) for row in iou])
    values = {"miou_image": _mean(images), "miou_class": _mean(np.array([_mean(column) for column in iou.T]))}
    for percent in WORST:
        values[f"miou_image_worst_{percent}"] = _worst(images, percent)
        values[f"miou_class_worst_{percent}"] = _mean(np.array([_worst(column, percent) for column in iou.T]))
    return values | {"image_iou_per_class": np.array([_mean(column) for column in iou.T])}


def _worst(values: NDArray[np.float64], percent: int) -> float:
    present = np.sort(values[~np.isnan(values)])
    return _mean(present[: max(1, len(present) * percent // 100)])


def _fixed(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(values * 2.0**IOU_BITS).astype(np.int64)


def _size(area: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.searchsorted(SIZE_BOUNDS, area, side="right")


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """Quotient in float64, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator != 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of what is not NaN, NaN if nothing is; fsum rounds once, so the order does not matter."""
    present = values[~np.isnan(values)]
    return math.fsum(present) / len(present) if len(present) else math.nan
