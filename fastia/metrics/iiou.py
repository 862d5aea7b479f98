"""Cityscapes' iIoU: pixels of small instances weigh more.

`iiou` and per class, `iTP / (iTP + FP + iFN)`, where the pixels of an instance weigh the average area of its class
over its own: `(mean recall of instances) * (all their pixels) / (these + FP)`. Cityscapes has fixed average areas;
here they are those of the data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastia.metrics.registry import SIZE_NAMES, Columns, CountedImage, Floats, Ratio, Score, Sums, combined, fixed


def foreground_records(image: CountedImage) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Class, area and intersection of the instances of an image that are no background."""
    records = image.records
    kept = (records.class_id >= 0) & (records.class_id != (-1 if image.background is None else image.background))
    return records.class_id[kept], records.area[kept], records.intersection[kept]


def _count(image: CountedImage) -> NDArray[np.int64]:
    class_id, area, hit = foreground_records(image)
    counts = np.zeros((len(image.confusion), 2), np.int64)
    np.add.at(counts[:, 0], class_id, fixed(hit / area))
    np.add.at(counts[:, 1], class_id, area)
    return counts


def _weighted_recall(columns: Columns) -> dict[str, Floats]:
    """Recall of instances times the average area of their class."""
    instances = combined(columns, {f"count_{size}": 1 for size in SIZE_NAMES})
    average = columns["recall_area"].sum(0) / np.maximum(instances.sum(0), 1)
    return {"weighted_recall": columns["recall"] * average}


SCORE = Score(
    "iiou",
    needs=(Sums("recall", ("recall", "recall_area"), _count, fractions=frozenset({"recall"})),),
    definition=__doc__,
    source='Cordts et al., "The Cityscapes Dataset", CVPR 2016, and cityscapesscripts.',
    ratios={
        "iiou": Ratio(
            {"weighted_recall": 1}, {"recall_area": 1, "predicted": 1, "hit": -1}, ["recall_area"], per_class="iiou"
        )
    },
    derive=_weighted_recall,
)
