"""Panoptic quality, and the matches of components and instances that it counts.

`pq`, `sq`, `rq` and these per class. The segments are ground-truth instances and predicted components of foreground
classes; they match when their IoU off void is above 1/2. Per class `sq` is the mean IoU of the matches, 0 without
any, `rq = TP / (TP + FP / 2 + FN / 2)` and `pq = sq * rq`; the means are over classes with a segment. Void is void of
either map; an unmatched component that is void by more than half is no false positive. A class that has pixels in the
ground truth but no instance at all (stuff) has none of these scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.metrics.registry import (
    SIZE_NAMES,
    Columns,
    CountedImage,
    Ratio,
    Score,
    Sums,
    combined,
    fixed,
    mean,
    quotient,
    size_of,
)

_KINDS = ("matched", "false", "match_iou")


def _count(image: CountedImage) -> NDArray[np.int64]:
    matches = image.matches
    matched = matches.instance_area > 0
    false = ~matched & (matches.class_id >= 0) & (matches.void_area <= matches.area)
    cells = matches.class_id[matched], size_of(matches.instance_area[matched])
    counts = np.zeros((3, len(image.confusion), len(SIZE_NAMES)), np.int64)
    np.add.at(counts[0], cells, 1)
    np.add.at(counts[1], (matches.class_id[false], size_of(matches.area[false])), 1)
    np.add.at(counts[2], cells, fixed(matches.intersection[matched] / matches.union[matched]))
    return counts.transpose(1, 0, 2).reshape(len(image.confusion), -1)


MATCHES = Sums(
    "matches",
    columns=tuple(f"{kind}_{size}" for kind in _KINDS for size in SIZE_NAMES),
    count=_count,
    fractions=frozenset(f"match_iou_{size}" for size in SIZE_NAMES),
    false_components=frozenset(f"false_{size}" for size in SIZE_NAMES),
)

_MATCHED, _FALSE, _INSTANCES, _IOU = (
    [f"{kind}_{size}" for size in SIZE_NAMES] for kind in ("matched", "false", "count", "match_iou")
)
_SEGMENTS = [*_MATCHED, *_FALSE, *_INSTANCES]  # TP + FP + (TP + FN)
_HALVES = dict.fromkeys(_SEGMENTS, 0.5)  # TP + FP / 2 + FN / 2


def _segmentation_quality(columns: Columns) -> dict[str, Any]:
    iou, matched, segments = (combined(columns, dict.fromkeys(names, 1))[0] for names in (_IOU, _MATCHED, _SEGMENTS))
    quality = np.where(matched > 0, quotient(iou, matched), np.where(segments > 0, 0.0, np.nan))
    return {"sq": mean(quality), "sq_per_class": quality}


SCORE = Score(
    "panoptic",
    needs=(MATCHES,),
    definition=__doc__,
    source='Kirillov et al., "Panoptic Segmentation", CVPR 2019, and panopticapi.',
    ratios={
        "pq": Ratio(dict.fromkeys(_IOU, 1), _HALVES, _SEGMENTS, per_class="pq"),
        "rq": Ratio(dict.fromkeys(_MATCHED, 1), _HALVES, _SEGMENTS, per_class="rq"),
    },
    others=_segmentation_quality,
)
