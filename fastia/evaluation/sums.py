"""Results of `fastia evaluate --json`, read back as sums per image, of which every score is a ratio."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastia.checks import PROTOCOLS
from fastia.extra import SUM_COLUMNS
from fastia.scores import SIZE_NAMES
from fastia.typing import Floats, PathLike

_SIZES = ("background", *SIZE_NAMES)
COLUMNS = (
    "hit",
    "truth",
    "predicted",
    *(f"{kind}_{size}" for kind in ("count", "unmatched", "iou") for size in _SIZES),
    *itertools.chain(*SUM_COLUMNS.values()),
    # of fine-grained mIoU: IoU and presence of the class in the image, and both over the number of its classes
    "class_iou",
    "class_present",
    "image_iou",
    "image_share",
    "weighted_recall",  # of iIoU: recall of instances times the average area of their class
)
_EVERY = {"": _SIZES, **{f"_{size}": (size,) for size in SIZE_NAMES}}
_TOLERANCE = 1e-8  # sums are rounded to multiples of 2^-36 by `fastia evaluate`


@dataclass(frozen=True)
class Score:
    """A score as a ratio of sums: how to add up columns of a class, and how to join the classes.

    Attributes:
        numerator, denominator: names of columns of :data:`COLUMNS`, each with its factor.
        present: columns whose sum says whether a class takes part.
        pooling: ``"mean"`` over classes, ``"frequency"``: mean weighted by ground-truth pixels, or ``"pooled"``: one
            ratio of the sums over all classes.
    """

    numerator: Mapping[str, float]
    denominator: Mapping[str, float]
    present: Sequence[str]
    pooling: str = "mean"


def _ia_miou(sizes: Sequence[str], penalized: bool) -> Score:
    kinds = ("count", "unmatched") if penalized else ("count",)
    counted = [f"{kind}_{size}" for kind in kinds for size in sizes]
    return Score({f"iou_{size}": 1 for size in sizes}, dict.fromkeys(counted, 1), counted)


def _components(sizes: Sequence[str]) -> dict[str, Score]:
    found, false, wanted = ([f"{kind}_{size}" for size in sizes] for kind in ("matched", "false", "count"))
    predicted, both = [*found, *false], dict.fromkeys([*found, *false, *wanted], 1.0)
    return {
        "f1": Score(dict.fromkeys(found, 2), both, list(both)),
        "precision": Score(dict.fromkeys(found, 1), dict.fromkeys(predicted, 1), predicted),
        "recall": Score(dict.fromkeys(found, 1), dict.fromkeys(wanted, 1), wanted),
    }


# Scores of the worst images, and `sq`, which is 0 where nothing matches, are no ratios of sums and not among them.
SCORES: dict[str, Score] = {
    "miou": Score({"hit": 1}, {"truth": 1, "predicted": 1, "hit": -1}, ["truth"]),
    **{f"ia_miou{size}": _ia_miou(sizes, False) for size, sizes in _EVERY.items()},
    **{f"ia_miou_penalized{size}": _ia_miou(sizes, True) for size, sizes in _EVERY.items()},
    "pixel_accuracy": Score({"hit": 1}, {"truth": 1}, ["truth"], "pooled"),
    "mean_accuracy": Score({"hit": 1}, {"truth": 1}, ["truth"]),
    "fw_iou": Score({"hit": 1}, {"truth": 1, "predicted": 1, "hit": -1}, ["truth"], "frequency"),
    "pq": Score(
        {f"match_iou_{size}": 1 for size in SIZE_NAMES},
        {f"{kind}_{size}": 0.5 for kind in ("matched", "false", "count") for size in SIZE_NAMES},
        [f"{kind}_{size}" for kind in ("matched", "false", "count") for size in SIZE_NAMES],
    ),
    "rq": _components(SIZE_NAMES)["f1"],
    **{
        f"component_{name}{suffix}": score
        for suffix, sizes in {"": SIZE_NAMES, **{f"_{size}": (size,) for size in SIZE_NAMES}}.items()
        for name, score in _components(sizes).items()
    },
    "iiou": Score({"weighted_recall": 1}, {"recall_area": 1, "predicted": 1, "hit": -1}, ["recall_area"]),
    "miou_image": Score({"image_iou": 1}, {"image_share": 1}, ["class_present"], "pooled"),
    "miou_class": Score({"class_iou": 1}, {"class_present": 1}, ["class_present"]),
    "miou_instance": Score({"instance_iou": 1}, {"instance_count": 1}, ["instance_count"]),
    "boundary_iou": Score(
        {"boundary_hit": 1}, {"boundary_truth": 1, "boundary_predicted": 1, "boundary_hit": -1}, ["boundary_truth"]
    ),
}
STANDARD_SCORES = tuple(itertools.islice(SCORES, list(SCORES).index("fw_iou") + 1))


@dataclass(frozen=True)
class Result:
    """One file of `fastia evaluate --json`.

    Attributes:
        path: where it was read from.
        images: ids of the images.
        scores: names of the scores that it holds and that are ratios of sums.
        sums: ``[images, C, len(COLUMNS)]``: per class pixels (hit, ground truth, predicted) and, by size, numbers of
            instances and of unmatched components and sums of IA-IoU.
        protocol, classes, size_bounds: as written.
    """

    path: str
    images: list[str]
    scores: list[str]
    sums: Floats
    protocol: str
    classes: list[str]
    size_bounds: list[int]


class Terms(NamedTuple):
    """What a score adds up over images, per class that takes part."""

    numerator: Floats  # [images, classes]
    denominator: Floats  # [images, classes]
    frequency: Floats | None  # [images, classes]: pixels that weigh the classes; None: all weigh alike

    @property
    def totals(self) -> Terms:
        """The sums over all images, ``[1, classes]`` each."""
        numerator, denominator, frequency = self
        weights = None if frequency is None else frequency.sum(0, keepdims=True)
        return Terms(numerator.sum(0, keepdims=True), denominator.sum(0, keepdims=True), weights)


def terms(sums: Floats, score: Score, present: NDArray[np.bool_] | None = None) -> Terms:
    """The terms of a score from sums per image; of the classes ``present`` (None: those that the sums hold)."""
    if present is None:
        present = taking_part(sums, score)
    sums = sums[:, present]
    numerator, denominator = _combined(sums, score.numerator), _combined(sums, score.denominator)
    if score.pooling == "pooled":
        return Terms(numerator.sum(1, keepdims=True), denominator.sum(1, keepdims=True), None)
    return Terms(numerator, denominator, _combined(sums, {"truth": 1}) if score.pooling == "frequency" else None)


def taking_part(sums: Floats, score: Score) -> NDArray[np.bool_]:
    """``[C]``: which classes a score averages over."""
    return _combined(sums.sum(0), dict.fromkeys(score.present, 1)) > 0


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
        aligned.append(
            Result(result.path, first.images, result.scores, sums, result.protocol, result.classes, result.size_bounds)
        )
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
    for name, columns in SUM_COLUMNS.items():
        if all(name in image.get("extra", {}) for image in images):
            table = _rows([image["extra"] for image in images], name, 1 + len(columns), len(classes))
            for column, value in zip(columns, table.T[2:], strict=True):
                np.add.at(sums[..., COLUMNS.index(column)], _cells(table), value)
    _derive(sums)
    missing = [name for name in STANDARD_SCORES if name not in content["scores"]]
    if missing:
        raise ValueError(f"no entry {missing[0]!r} in scores")
    scores = [name for name in SCORES if name in content["scores"]]
    return Result(path, names, scores, sums, protocol, classes, bounds)


def _derive(sums: Floats) -> None:
    """Fill the columns that follow from others."""
    column = {name: sums[..., i] for i, name in enumerate(COLUMNS)}
    present = column["truth"] > 0
    union = column["truth"] + column["predicted"] - column["hit"]
    np.divide(column["hit"], union, out=column["class_iou"], where=present)
    column["class_present"][...] = present
    classes = np.maximum(present.sum(1, keepdims=True), 1)
    column["image_iou"][...] = column["class_iou"] / classes
    column["image_share"][...] = present / classes
    instances = sum(column[f"count_{size}"] for size in SIZE_NAMES)
    average = column["recall_area"].sum(0) / np.maximum(np.sum(instances, 0), 1)
    column["weighted_recall"][...] = column["recall"] * average


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


def _combined(sums: Floats, factors: Mapping[str, float]) -> Floats:
    return sum((factor * sums[..., COLUMNS.index(name)] for name, factor in factors.items()), np.float64(0))


def _check_scores(result: Result, written: Mapping[str, Any]) -> None:
    for name in result.scores:
        score, given = SCORES[name], math.nan if written[name] is None else written[name]
        total = terms(result.sums, score).totals
        value = plain_value(total)
        if not (isinstance(given, float | int) and np.isclose(given, value, rtol=0, atol=_TOLERANCE, equal_nan=True)):
            raise ValueError(
                f"{result.path}: its images do not add up to its scores: {name} is {given} and should be {value:.6g}"
            )


def plain_value(total: Terms) -> float:
    """The score of sums ``[1, classes]`` over all images; NaN where no class takes part."""
    if total.numerator.size == 0:
        return math.nan
    ratio = total.numerator[0] / total.denominator[0]  # taking part means a denominator above 0
    weight = np.ones_like(ratio) if total.frequency is None else total.frequency[0]
    return float(ratio @ weight / weight.sum())


def _difference(first: Any, second: Any) -> str:
    if isinstance(first, list) and len(first) == len(second):
        first, second = next((a, b) for a, b in zip(first, second, strict=True) if a != b)
    elif isinstance(first, list):
        first, second = f"{len(first)} of them", f"{len(second)}"
    return f"{first} against {second}"


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
