"""Reading and scoring of one image of a dataset in folders; what is wrong with its files is told, not raised."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastia.data.png import Ids, read_ids
from fastia.extra import Sums, image_sums
from fastia.functional import InstanceIoU, instance_matches, instance_overlaps


class Outcome(NamedTuple):
    """What became of one image: scored, or problems, or neither where its prediction is missing and may be."""

    scored: tuple[InstanceIoU, NDArray[np.int64], Sums] | None = (
        None  # records, confusion matrix [C, C + 1], extra sums
    )
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
        prediction_path = f"{self.predictions}/{name}.png"
        if self.allow_missing and not os.path.exists(prediction_path):
            return Outcome()
        target_path = f"{self.targets}/{name}.png"
        instances_path = f"{self.instances}/{name}.png"
        prediction = _read(prediction_path, problems)
        target = _read(target_path, problems)
        instances = _read(instances_path, problems) if self.instances is not None else None
        if target is not None:
            for path, ids in ((prediction_path, prediction), (instances_path, instances)):
                if ids is not None and ids.shape != target.shape:
                    problems.append(f"{path}: size {_size(ids)} differs from {_size(target)} of {target_path}")
        if prediction is not None:
            problems += self._foreign_ids(prediction_path, prediction)
        if problems or prediction is None or target is None:
            return Outcome(problems=problems + self._foreign_ids(target_path, target))
        try:
            return Outcome(self._score(prediction, target, instances))
        except ValueError as error:
            return Outcome(problems=self._foreign_ids(target_path, target) or [f"{target_path}: {error}"])

    def _score(
        self, prediction: Ids, target: Ids, instances: Ids | None
    ) -> tuple[InstanceIoU, NDArray[np.int64], Sums]:
        options = {"num_classes": self.num_classes, "threads": 1, **self.options}
        if not self.extra:
            return *instance_overlaps(prediction, target, instances, **options), {}
        records, confusion, matches = instance_matches(prediction, target, instances, **options)
        kept = {name: self.options[name] for name in ("background", "ignore_index")}
        return records, confusion, image_sums(self.extra, prediction, target, records, confusion, matches, **kept)

    def _foreign_ids(self, path: str, ids: Ids | None) -> list[str]:
        """What is wrong with ids that are neither classes nor ignored, if any are."""
        if ids is None or ids.max(initial=0) < self.num_classes:
            return []
        foreign = ids[ids >= self.num_classes]
        if self.ignore_index is not None:
            foreign = foreign[foreign != self.ignore_index]
        if not foreign.size:
            return []
        values = np.unique(foreign)
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        ignored = "" if self.ignore_index is None else f" and ignore_index {self.ignore_index}"
        return [
            f"{path}: {'id' if len(values) == 1 else 'ids'} {shown} in {foreign.size} pixels;"
            f" allowed are the {self.num_classes} classes 0..{self.num_classes - 1}{ignored}"
        ]


def _read(path: str, problems: list[str]) -> Ids | None:
    try:
        return read_ids(path)
    except FileNotFoundError:
        problems.append(f"{path}: missing")
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
    except ValueError as error:
        problems.append(str(error))
    return None


def _size(ids: Ids) -> str:
    return f"{ids.shape[1]}x{ids.shape[0]}"
