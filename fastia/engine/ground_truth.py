"""The instances of a dataset in PASCAL VOC layout, with classes and areas as :func:`fastia.instance_iou` sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastia.data import voc
from fastia.engine.evaluate import evaluate_directory
from fastia.scores import SIZE_BOUNDS, SIZE_NAMES
from fastia.typing import PathLike


@dataclass(frozen=True)
class GroundTruth:
    """Every instance of a split, image by image; N of them, of C classes.

    Attributes:
        images: ids of the images.
        classes: names of the classes.
        background: id of the class that has no instances, or None.
        has_instances: whether they are annotated; else they are the connected components of the classes.
        image: ``[N]``, the place of an instance's image in ``images``.
        class_id, instance_id, area: ``[N]``; areas in pixels.
        class_pixels: ``[images, C]`` pixels of each class.
    """

    images: list[str]
    classes: list[str]
    background: int | None
    has_instances: bool
    image: NDArray[np.int64]
    class_id: NDArray[np.int64]
    instance_id: NDArray[np.int64]
    area: NDArray[np.int64]
    class_pixels: NDArray[np.int64]

    @property
    def size(self) -> NDArray[np.int64]:
        """``[N]``: 0 small, below 32 * 32; 1 medium, below 96 * 96; 2 large."""
        return np.searchsorted(SIZE_BOUNDS, self.area, side="right")

    @property
    def foreground(self) -> list[int]:
        """Ids of the classes that may have instances."""
        return [i for i in range(len(self.classes)) if i != self.background]

    def counts(self) -> NDArray[np.int64]:
        """Number of instances ``[images, C, 3]`` of each image, class and size."""
        counts = np.zeros((len(self.images), len(self.classes), len(SIZE_NAMES)), np.int64)
        np.add.at(counts, (self.image, self.class_id, self.size), 1)
        return counts


def read_ground_truth(
    dataset: PathLike,
    split: str,
    *,
    classes: PathLike | Sequence[str] | None = None,
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
    jobs: int | None = None,
    progress: bool = False,
) -> GroundTruth:
    """Read the instances of a split; without a folder ``SegmentationObject``, its connected components.

    Args:
        dataset, split, classes, background, ignore_index, instance_ignore_index, jobs, progress: as in
            :func:`fastia.evaluate_directory`.

    Raises:
        fastia.engine.evaluate.EvaluationError, ValueError: as there.

    Example:
        >>> import tempfile
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.engine.ground_truth import read_ground_truth
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=3)
        ...     read_ground_truth(folder, "all").counts().shape  # images, classes, sizes
        (3, 7, 3)
    """
    layout = voc.Dataset(dataset)
    truth = evaluate_directory(
        dataset,
        split,
        layout.targets,
        classes=classes,
        background=background,
        ignore_index=ignore_index,
        instance_ignore_index=instance_ignore_index,
        jobs=jobs,
        progress=progress,
    )
    records = truth.records
    image = np.repeat(np.arange(len(truth.images)), records.count)
    kept = records.class_id != (-1 if background is None else background)
    return GroundTruth(
        images=truth.images,
        classes=truth.classes,
        background=background,
        has_instances=layout.has_instances,
        image=image[kept],
        class_id=records.class_id[kept].astype(np.int64),
        instance_id=records.instance_id[kept].astype(np.int64),
        area=records.area[kept],
        class_pixels=truth.class_pixels[:, :, 1],
    )
