"""Results of `fastia evaluate --json`, read back as sums per image, of which every score is a ratio."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.functional import checks
from fastia.functional.checks import PROTOCOLS
from fastia.metrics import further, registry
from fastia.metrics.registry import INSTANCES, PIXELS, Columns, Ratio, Terms
from fastia.metrics.standard import ABSENT_CLASSES, RATIOS, AbsentClasses, ratios
from fastia.typing import Floats, PathLike

_NEEDS = further.needs(further.SCORES)
_COUNTED = (*PIXELS, *INSTANCES, *itertools.chain.from_iterable(sums.columns for sums in _NEEDS.values()))


def _derived(columns: Columns) -> dict[str, Floats]:
    """The columns that follow from those that are counted."""
    return {name: column for score in further.SCORES.values() for name, column in score.derive(columns).items()}


COLUMNS = (*_COUNTED, *_derived(dict.fromkeys(_COUNTED, np.zeros((1, 1)))))
# Scores of the worst images, and `sq`, which is 0 where nothing matches, are no ratios of sums and not among them.
SCORES: dict[str, Ratio] = RATIOS | {
    name: ratio for score in further.SCORES.values() for name, ratio in score.ratios.items()
}
STANDARD_SCORES = tuple(RATIOS)
_TOLERANCE = 1e-8  # sums are rounded to multiples of 2^-36 by `fastia evaluate`


@dataclass(frozen=True)
class Result:
    """One file of `fastia evaluate --json`.

    Attributes:
        path: where it was read from.
        images: ids of the images.
        scores: names of the scores that it holds and that are ratios of sums.
        sums: ``[images, C, len(COLUMNS)]``: per class pixels (hit, ground truth, predicted) and, by size, numbers of
            instances and of unmatched components and sums of IA-IoU.
        protocol, classes, size_bounds, absent_classes: as written.
    """

    path: str
    images: list[str]
    scores: list[str]
    sums: Floats
    protocol: str
    classes: list[str]
    size_bounds: list[int]
    absent_classes: AbsentClasses

    def terms(self, score: str, present: NDArray[np.bool_] | None = None) -> Terms:
        """The terms of a score; of the classes ``present`` (None: those that take part)."""
        return registry.terms(columns_of(self.sums), self.ratio(score), present)

    def taking_part(self, score: str) -> NDArray[np.bool_]:
        """``[C]``: which classes a score averages over."""
        return registry.taking_part(columns_of(self.sums), self.ratio(score))

    def ratio(self, score: str) -> Ratio:
        """What a score is a ratio of, as the evaluation had its options."""
        return ratios(self.absent_classes).get(score) or SCORES[score]


def columns_of(sums: Floats) -> Columns:
    """The columns ``[images, C]`` of sums ``[images, C, len(COLUMNS)]``, by name."""
    return dict(zip(COLUMNS, np.moveaxis(sums, -1, 0), strict=True))


def read_result(path: PathLike) -> Result:
    """Read the JSON of `fastia evaluate`, and check that its scores follow from its images.

    Args:
        path: of the file.

    Returns:
        :class:`Result`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or not that of `fastia evaluate`; the text says what is wrong with it.

    Example:
        >>> import tempfile
        >>> import fastia
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.evaluation.sums import read_result
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=2)
        ...     names, path = f"{folder}/classes.txt", f"{folder}/a.json"
        ...     _ = fastia.evaluate_directory(folder, "all", f"{folder}/Predictions", classes=names, json=path)
        ...     read_result(path).images
        ['000000', '000001']
    """
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path}: not a JSON file: {error}") from None
    try:
        result = _parsed(path, content)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else f"{error}"
        raise ValueError(f"{path}: not what fastia evaluate --json writes: {reason}") from None
    _check_scores(result, content["scores"])
    return result


def check_same_data(results: Sequence[Result]) -> list[Result]:
    """The results with their images in the order of the first.

    Raises:
        ValueError: two of them differ in protocol, classes, sizes, images or ground truth.
    """
    first, aligned = results[0], [results[0]]
    for result in results[1:]:
        both = f"{first.path} and {result.path}"
        for name, values in (
            ("protocol", (first.protocol, result.protocol)),
            ("classes", (first.classes, result.classes)),
            ("size_bounds", (first.size_bounds, result.size_bounds)),
            ("absent_classes", (first.absent_classes, result.absent_classes)),
        ):
            if values[0] != values[1]:
                raise ValueError(f"{both} cannot be compared: they differ in {name}: {_difference(*values)}")
        if set(first.images) != set(result.images):
            only = [sorted(set(a) - set(b)) for a, b in ((first.images, result.images), (result.images, first.images))]
            raise ValueError(
                f"{both} cannot be compared: they are of different images: {len(only[0])} are in the first only"
                f"{_some(only[0])}, {len(only[1])} in the second only{_some(only[1])}"
            )
        place = {image: i for i, image in enumerate(result.images)}
        sums = result.sums[[place[image] for image in first.images]]
        truth = [COLUMNS.index(name) for name in COLUMNS if name == "truth" or name.startswith("count_")]
        differs = (sums[..., truth] != first.sums[..., truth]).any((1, 2))
        if differs.any():
            image = first.images[int(differs.argmax())]
            raise ValueError(
                f"{both} cannot be compared: the ground truth of {int(differs.sum())} images differs, first of {image}"
            )
        aligned.append(replace(result, images=first.images, sums=sums))
    return aligned


def _parsed(path: str, content: Any) -> Result:
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}, not an object")
    if not isinstance(content["scores"], dict):
        raise TypeError("scores must be an object")
    protocol, classes, bounds = content["protocol"], content["classes"], content["size_bounds"]
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise ValueError("classes must be a list of names")
    if not (isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(each, int) for each in bounds)):
        raise ValueError(f"size_bounds must be two integers, got {bounds!r}")
    images = content["images"]
    if not (isinstance(images, list) and images and all(isinstance(image, dict) for image in images)):
        raise ValueError("images must be a list of objects, at least one")
    names = [image["id"] for image in images]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("ids of images must be texts, each once")

    sums = np.zeros((len(images), len(classes), len(COLUMNS)))
    pixels = _rows(images, "classes", 4, len(classes))
    for column, value in zip(("hit", "truth", "predicted"), pixels.T[2:], strict=True):
        np.add.at(sums[..., COLUMNS.index(column)], _cells(pixels), value)
    instances = _rows(images, "instances", 4, len(classes))
    unmatched = _rows(images, "unmatched", 2, len(classes))
    # only the background's own record has the instance id 0
    background = np.unique(instances[instances[:, 2] == 0, 1])
    for kind, rows, area, value in (
        ("count", instances, 3, None),
        ("iou", instances, 3, 4),
        ("unmatched", unmatched, 2, None),
    ):
        size = 1 + np.searchsorted(bounds, rows[:, area], side="right")
        size[np.isin(rows[:, 1], background)] = 0
        cells = (*_cells(rows), COLUMNS.index(f"{kind}_background") + size)
        np.add.at(sums, cells, 1.0 if value is None else rows[:, value])
    for name, each in _NEEDS.items():
        if each.stacked:  # the pixels of every image
            for column, pixels_of in zip(each.columns, PIXELS, strict=True):
                sums[..., COLUMNS.index(column)] = sums[..., COLUMNS.index(pixels_of)]
        elif all(name in image.get("extra", {}) for image in images):
            table = _rows([image["extra"] for image in images], name, 1 + len(each.columns), len(classes))
            for column, value in zip(each.columns, table.T[2:], strict=True):
                np.add.at(sums[..., COLUMNS.index(column)], _cells(table), value)
    known = registry.without_stuff(columns_of(sums), _NEEDS.values())
    known = {**known, **_derived(known)}
    sums = np.stack([known[column] for column in COLUMNS], -1)
    missing = [name for name in STANDARD_SCORES if name not in content["scores"]]
    if missing:
        raise ValueError(f"no entry {missing[0]!r} in scores")
    scores = [name for name in SCORES if name in content["scores"]]
    absent_classes = checks.choice("absent_classes", content.get("absent_classes", "skip"), ABSENT_CLASSES)
    return Result(path, names, scores, sums, protocol, classes, bounds, absent_classes)


def _rows(images: Sequence[Mapping[str, Any]], key: str, width: int, classes: int) -> Floats:
    """All rows of a table of the images, ``[rows, 1 + width]``, the number of the image in front."""
    rows = [(i, *row) for i, image in enumerate(images) for row in image[key]]
    if any(len(row) != 1 + width for row in rows):
        raise ValueError(f"a row of {key} must hold {width} numbers")
    table = np.array(rows, np.float64).reshape(-1, 1 + width)
    if not np.isfinite(table).all() or (table < 0).any() or (table[:, 1] >= classes).any():
        raise ValueError(f"{key} hold a class that is not among the {classes} classes, or a number below 0")
    return table


def _cells(rows: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)


def _check_scores(result: Result, written: Mapping[str, Any]) -> None:
    for name in result.scores:
        given = math.nan if written[name] is None else written[name]
        value = result.terms(name).value
        if not (isinstance(given, float | int) and np.isclose(given, value, rtol=0, atol=_TOLERANCE, equal_nan=True)):
            raise ValueError(
                f"{result.path}: its images do not add up to its scores: {name} is {given} and should be {value:.6g}"
            )


def _difference(first: Any, second: Any) -> str:
    if isinstance(first, list) and len(first) == len(second):
        first, second = next((a, b) for a, b in zip(first, second, strict=True) if a != b)
    elif isinstance(first, list):
        first, second = f"{len(first)} of them", f"{len(second)}"
    return f"{first} against {second}"


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
