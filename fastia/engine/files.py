"""The files of a training run: which they are, and what is wrong with them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastia.data import voc
from fastia.data.problems import FileProblems
from fastia.data.training import TrainingSet, check_files
from fastia.engine.config import Config
from fastia.progress import progress_bar


class TrainingFileError(FileProblems):
    """Files that cannot be trained on; the attribute ``problems`` has a text for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems, "used")


class Files:
    """The folders and names of a configuration."""

    def __init__(self, config: Config) -> None:
        if not config.dataset:
            raise ValueError("dataset must be a folder in PASCAL VOC layout, got none: give dataset=FOLDER")
        self.config = config
        self.layout = voc.Dataset(config.dataset)
        self.masks = self._within("pseudo_masks", config.pseudo_masks) if config.pseudo_masks else self.layout.targets
        for option, folder in (("dataset", self.layout.images), ("pseudo_masks", self.masks)):
            if not folder.is_dir():
                raise ValueError(f"{option}: no folder {folder}")
        names = self._within("classes", config.classes) if isinstance(config.classes, str) else config.classes
        self.classes = voc.class_names(names) if config.classes else self.layout.class_names
        if not 2 <= len(self.classes) <= 255:
            raise ValueError(f"classes must be 2 to 255 names, got {len(self.classes)}")
        self.names = self.layout.ids(config.train_split)
        self.validation_names = self.layout.ids(config.val_split) if config.val_split else []
        self.digest = zlib.crc32("\n".join(self.names).encode())

    def problems(self, progress: bool) -> list[str]:
        """What is wrong with the files of both splits."""
        options: dict[str, Any] = {"num_classes": len(self.classes), "ignore_index": self.config.ignore_index}
        total = len(self.names) + len(self.validation_names)
        with progress_bar(total, shown=progress) as advance:
            instances = self.layout.instances if self.layout.has_instances else None
            found = check_files(self.layout.images, self.masks, self.names, advance=advance, **options)
            found += check_files(
                self.layout.images, self.layout.targets, self.validation_names,
                instances=instances, advance=advance, **options,
            )  # fmt: skip
        return list(dict.fromkeys(found))

    def training_set(self) -> TrainingSet:
        """The crops to train on."""
        config = self.config
        return TrainingSet(
            self.layout.images,
            self.masks,
            self.names,
            config.crop,
            scales=(config.scales[0], config.scales[1]),
            flip=config.flip,
            ignore_index=config.ignore_index,
            seed=config.seed,
        )

    def _within(self, option: str, path: str) -> Path:
        """A path in the dataset where there is one, else as it is."""
        inside = self.layout.root / path
        if not inside.exists() and not Path(path).exists():
            raise ValueError(f"{option}: neither {inside} nor {path} exists")
        return inside if inside.exists() else Path(path)
