"""What was predicted in the pixels of the instances of an evaluation, whose files are read again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastia.data.threads import in_threads
from fastia.evaluation.masks import ImageMasks, read_masks
from fastia.evaluation.result import Evaluation
from fastia.metrics.registry import SIZE_NAMES, size_of


@dataclass(frozen=True)
class Instances:
    """The N instances of an evaluation, those of the background class left out, in the order of its records.

    Attributes:
        image: ``[N]``, the place of the image in ``Evaluation.images``.
        class_id, instance_id, area, iou: ``[N]``, as in :class:`fastia.InstanceIoU`.
        size: ``[N]``: 0 small, 1 medium, 2 large.
        predicted: ``[N]``, the class predicted in most pixels; C stands for what is no class.
        share: ``[N]``, the share of the pixels that it has.
        confusion: ``[3, C, C + 1]``, pixels of instances by size, class and predicted class.
    """

    image: NDArray[np.int64]
    class_id: NDArray[np.int64]
    instance_id: NDArray[np.int64]
    area: NDArray[np.int64]
    iou: NDArray[np.float64]
    size: NDArray[np.int64]
    predicted: NDArray[np.int64]
    share: NDArray[np.float64]
    confusion: NDArray[np.int64]


def read_instances(result: Evaluation) -> Instances:
    """The instances of an evaluation, and what was predicted in their pixels.

    Raises:
        OSError, ValueError: a file can no longer be read.
    """
    records = result.records
    kept = records.class_id != (-1 if result.background is None else result.background)
    image = np.repeat(np.arange(len(result.images)), records.count)[kept]
    class_id, instance_id, area = (
        field[kept].astype(np.int64) for field in (records.class_id, records.instance_id, records.area)
    )
    size = size_of(area)
    first = np.searchsorted(image, np.arange(len(result.images) + 1))
    classes = len(result.classes)
    confusion = np.zeros((len(SIZE_NAMES), classes, classes + 1), np.int64)
    predicted, share = np.zeros(len(image), np.int64), np.zeros(len(image))

    def count(place: int) -> NDArray[np.int64]:
        ids = instance_id[first[place] : first[place + 1]]
        return _count(read_masks(result, place), ids, classes) if len(ids) else np.zeros((0, classes + 1), np.int64)

    for place, pixels in enumerate(in_threads(count, range(len(result.images)))):
        these = slice(first[place], first[place + 1])
        np.add.at(confusion, (size[these], class_id[these]), pixels)
        predicted[these] = pixels.argmax(1)
        share[these] = pixels.max(1) / pixels.sum(1)
    return Instances(image, class_id, instance_id, area, records.iou[kept], size, predicted, share, confusion)


def _count(masks: ImageMasks, ids: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Pixels ``[K, C + 1]`` of each instance by predicted class."""
    rows = np.full(int(masks.ids.max(initial=0)) + 1, -1, np.int64)
    rows[ids] = np.arange(len(ids))
    row = rows[masks.ids]
    inside = row >= 0
    cell = row[inside] * (classes + 1) + np.minimum(masks.prediction[inside], classes)
    return np.bincount(cell, minlength=len(ids) * (classes + 1)).reshape(len(ids), classes + 1)
