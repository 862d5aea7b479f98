"""Boundary IoU: the IoU of pixels near an edge.

`boundary_iou` and per class: IoU of the pixels within 2 % of the image's diagonal of another class or of the image's
border, at least 1 pixel, in chessboard distance; summed over images, averaged over classes with ground truth. An
ignored target is another class there, and does not count.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.metrics.registry import CountedImage, Ratio, Score, Sums

RATIO = 0.02  # width of a boundary, of the image's diagonal


def _count(image: CountedImage) -> NDArray[np.int64]:
    preds, target, ignore_index = image.preds, image.target, image.ignore_index
    num_classes = len(image.confusion)
    width = max(1, round(RATIO * math.hypot(*target.shape)))
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


_HIT, _TRUTH, _PREDICTED = columns = ("boundary_hit", "boundary_truth", "boundary_predicted")

SCORE = Score(
    "boundary_iou",
    needs=(Sums("boundary", columns, _count),),
    definition=__doc__,
    source='Cheng et al., "Boundary IoU", CVPR 2021.',
    ratios={"boundary_iou": Ratio({_HIT: 1}, {_TRUTH: 1, _PREDICTED: 1, _HIT: -1}, [_TRUTH], per_class="boundary_iou")},
)
