"""Reading and scoring of one image of a dataset in folders; what is wrong with its files is reported, not raised."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastia.data.png import Ids
from fastia.data.problems import foreign_ids, read_masks
from fastia.fields import InstanceIoU
from fastia.functional.overlaps import instance_matches, instance_overlaps
from fastia.metrics import further
from fastia.metrics.further import Counts
from fastia.metrics.registry import CountedImage


class Outcome(NamedTuple):
    """What became of one image: scored, or problems, or neither where its prediction is missing and may be."""

    scored: tuple[InstanceIoU, NDArray[np.int64], Counts] | None = None  # records, confusion matrix, further counts
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class ImageScorer:
    """Reads and scores one image; called by several threads at once."""

    targets: str
    instances: str | None
    predictions: str
    num_classes: int
    ignore_index: int | None
    allow_missing: bool
    extra: Sequence[str]
    options: dict[str, Any]

    def __call__(self, name: str) -> Outcome:
        problems: list[str] = []
        allowed = self.num_classes, self.ignore_index
        prediction_path = f"{self.predictions}/{name}.png"
        if self.allow_missing and not os.path.exists(prediction_path):
            return Outcome()
        target_path = f"{self.targets}/{name}.png"
        paths = {"prediction": prediction_path, "target": target_path}
        if self.instances is not None:
            paths["instances"] = f"{self.instances}/{name}.png"
        masks = read_masks(paths, problems)
        prediction, target, instances = masks["prediction"], masks["target"], masks.get("instances")
        problems += foreign_ids(prediction_path, prediction, *allowed)
        if problems or prediction is None or target is None:
            return Outcome(problems=problems + foreign_ids(target_path, target, *allowed))
        try:
            return Outcome(self._score(prediction, target, instances))
        except ValueError as error:
            return Outcome(problems=foreign_ids(target_path, target, *allowed) or [f"{target_path}: {error}"])

    def _score(
        self, prediction: Ids, target: Ids, instances: Ids | None
    ) -> tuple[InstanceIoU, NDArray[np.int64], Counts]:
        options = {"num_classes": self.num_classes, "threads": 1, **self.options}
        if not self.extra:
            return *instance_overlaps(prediction, target, instances, **options), {}
        records, confusion, matches = instance_matches(prediction, target, instances, **options)
        ids = self.options["background"], self.options["ignore_index"]
        image = CountedImage(prediction, target, records, confusion, matches, *ids)
        return records, confusion, further.count(self.extra, image)
