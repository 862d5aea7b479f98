"""The masks of the images of an evaluation, read again from its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.data import voc
from fastia.data.png import Ids, read_ids
from fastia.engine.result import Evaluation
from fastia.functional import label


@dataclass(frozen=True)
class ImageMasks:
    """The masks of one image, ``[H, W]`` each.

    Attributes:
        prediction, target, instances: as they are in the files; ``instances`` is None where there is no such folder.
        ids: the instance that each pixel counts for, as :func:`fastia.instance_iou` names it; 0 none, void too.
    """

    prediction: Ids
    target: Ids
    instances: Ids | None
    ids: NDArray[Any]


def read_masks(result: Evaluation, place: int) -> ImageMasks:
    """The masks of the image at this place of ``result.images``.

    Raises:
        OSError, ValueError: a file can no longer be read.
    """
    layout, name = voc.Dataset(result.dataset), result.images[place]
    prediction = read_ids(result.predictions / f"{name}.png")
    target = read_ids(layout.targets / f"{name}.png")
    if not layout.has_instances:
        ids = label(target, background=result.background, ignore_index=result.ignore_index)
        return ImageMasks(prediction, target, None, ids)
    instances = read_ids(layout.instances / f"{name}.png")
    void = np.zeros(instances.shape, bool)
    if result.instance_ignore_index is not None:
        void |= instances == result.instance_ignore_index
    if result.protocol == "exact" and result.ignore_index is not None:
        void |= target == result.ignore_index
    return ImageMasks(prediction, target, instances, np.where(void, instances.dtype.type(0), instances))
