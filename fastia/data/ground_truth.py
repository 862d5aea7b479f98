"""The instances of a dataset in PASCAL VOC layout, with classes and areas as :func:`fastia.instance_iou` sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastia.data import voc
from fastia.data.problems import FileProblems, foreign_ids, read_masks
from fastia.data.threads import in_threads
from fastia.fields import InstanceIoU
from fastia.functional import checks
from fastia.functional.overlaps import instance_overlaps
from fastia.metrics.registry import SIZE_NAMES, size_of
from fastia.progress import progress_bar
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
        return size_of(self.area)

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
        fastia.data.problems.FileProblems: a :class:`ValueError` with all files that are missing, truncated or damaged,
            differ in size, or hold an id that is no class.
        ValueError: no such dataset or split, or an option that is not allowed.

    Example:
        >>> import tempfile
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.data.ground_truth import read_ground_truth
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=3)
        ...     read_ground_truth(folder, "all").counts().shape  # images, classes, sizes
        (3, 7, 3)
    """
    layout = voc.Dataset(dataset)
    names = layout.ids(split)
    class_names = layout.class_names if classes is None else voc.class_names(classes)
    checks.background(background)
    checks.integer("ignore_index", ignore_index)
    checks.integer("jobs", jobs, 1)

    def read(name: str) -> tuple[InstanceIoU, NDArray[np.int64]] | list[str]:
        """The instances of an image, as a perfect prediction meets them, and pixels by class; or what is wrong."""
        problems: list[str] = []
        paths = {"target": f"{layout.targets}/{name}.png"}
        if layout.has_instances:
            paths["instances"] = f"{layout.instances}/{name}.png"
        masks = read_masks(paths, problems)
        target = masks["target"]
        foreign = foreign_ids(paths["target"], target, len(class_names), ignore_index)
        if problems or foreign or target is None:
            return problems + foreign
        try:
            records, confusion = instance_overlaps(
                target,
                target,
                masks.get("instances"),
                background=background,
                ignore_index=ignore_index,
                instance_ignore_index=instance_ignore_index,
                num_classes=len(class_names),
                threads=1,
            )
        except ValueError as error:
            return [f"{paths['target']}: {error}"]
        return records, confusion.sum(1)

    with progress_bar(len(names), shown=progress) as advance:
        found = list(in_threads(read, names, jobs, advance))
    problems = [problem for each in found if isinstance(each, list) for problem in each]
    if problems:
        raise FileProblems(problems, "read")
    records, pixels = zip(*found, strict=True)
    class_id, instance_id, area = (
        np.concatenate([getattr(each, field) for each in records]).astype(np.int64)
        for field in ("class_id", "instance_id", "area")
    )
    kept = class_id != (-1 if background is None else background)
    return GroundTruth(
        images=names,
        classes=class_names,
        background=background,
        has_instances=layout.has_instances,
        image=np.repeat(np.arange(len(names)), [int(each.count) for each in records])[kept],
        class_id=class_id[kept],
        instance_id=instance_id[kept],
        area=area[kept],
        class_pixels=np.stack(pixels),
    )
