"""The folder layout, class names and colours of PASCAL VOC segmentation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastia.typing import PathLike

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOID = 255


class Dataset:
    """Where the files of a dataset in PASCAL VOC layout are.

    ``JPEGImages/ID.jpg``, ``SegmentationClass/ID.png`` (class ids, 255 void), ``SegmentationObject/ID.png`` (instance
    ids, 0 none, 255 void; the folder may be absent), ``ImageSets/Segmentation/SPLIT.txt`` (one ID a line) and, where
    the classes are not those of PASCAL VOC, ``classes.txt`` (one name a line).

    Args:
        root: the folder that holds these.

    Raises:
        ValueError: there is no such folder, or it has no ``SegmentationClass``.
    """

    def __init__(self, root: PathLike) -> None:
        self.root = Path(root)
        self.images = self.root / "JPEGImages"
        self.targets = self.root / "SegmentationClass"
        self.instances = self.root / "SegmentationObject"
        self.splits = self.root / "ImageSets" / "Segmentation"
        if not self.root.is_dir():
            raise ValueError(f"dataset {self.root}: no such folder")
        if not self.targets.is_dir():
            raise ValueError(f"dataset {self.root}: no folder SegmentationClass in it")

    @property
    def has_instances(self) -> bool:
        """Whether there is a ``SegmentationObject``."""
        return self.instances.is_dir()

    @property
    def class_names(self) -> list[str]:
        """Names of the classes: those of ``classes.txt``, or without it those of PASCAL VOC."""
        own = self.root / "classes.txt"
        return class_names(own if own.is_file() else None)

    def ids(self, split: str) -> list[str]:
        """Ids of the images of a split, in the order of its file.

        Args:
            split: name of the file in ``ImageSets/Segmentation``, without ``.txt``.

        Raises:
            ValueError: there is no such split, it is empty, or names an image twice.
        """
        path = self.splits / f"{split}.txt"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in self.splits.glob("*.txt"))) or "none"
            raise ValueError(f"{path}: no such split; splits of this dataset: {known}")
        ids = read_lines(path)
        if not ids:
            raise ValueError(f"{path}: empty split")
        if len(set(ids)) < len(ids):
            twice = sorted({name for name in ids if ids.count(name) > 1})
            raise ValueError(f"{path}: listed more than once: {', '.join(twice[:5])}")
        return ids


def read_lines(path: PathLike) -> list[str]:
    """Lines of a text file without surrounding blanks; empty ones left out."""
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def class_names(source: PathLike | Sequence[str] | None) -> list[str]:
    """Names of the classes.

    Args:
        source: the names, or a text file with one a line; None: those of PASCAL VOC.

    Raises:
        ValueError: there are none, or one of them twice.
    """
    if source is None:
        return list(CLASSES)
    if isinstance(source, str | os.PathLike):
        names, where = read_lines(source), f"{os.fspath(source)}"
    else:
        names, where = list(source), "classes"
    if not names:
        raise ValueError(f"{where}: no class names")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{where}: named more than once: {', '.join(twice)}")
    return names


def palette() -> NDArray[np.uint8]:
    """RGB colours ``[256, 3]`` of the ids: bit 3k + c of an id is bit 7 - k of its channel c."""
    ids = np.arange(256)[:, None]
    channels = np.arange(3)
    colours = np.zeros((256, 3), np.int64)
    for k in range(3):
        colours |= (ids >> (3 * k + channels) & 1) << (7 - k)
    return colours.astype(np.uint8)
