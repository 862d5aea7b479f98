"""Scores as they are registered: the integers that each is counted in, and how these become the score.

Nearly every score is a ratio of sums over images, so that the metric, `fastia evaluate`, and the intervals of `fastia
compare` follow from one definition. :mod:`fastia.metrics.further` lists those that `extra=` names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastia.fields import ComponentMatches, InstanceIoU
from fastia.typing import Floats

SIZE_BOUNDS = (32 * 32, 96 * 96)  # smallest medium and smallest large area, in pixels, as COCO has them
SIZE_NAMES = ("small", "medium", "large")
EVERY_SIZE = {"": SIZE_NAMES, **{f"_{size}": (size,) for size in SIZE_NAMES}}  # suffix of a score: sizes that it counts
FRACTION_BITS = 36  # ious and recalls are summed as multiples of 2^-36

Columns = Mapping[str, Floats]  # each [images, C]; sums over all images: [1, C]


class CountedImage(NamedTuple):
    """What is known of one image when it is counted, without padding and batch axis."""

    preds: NDArray[Any]  # [H, W] class ids
    target: NDArray[Any]
    records: InstanceIoU
    confusion: NDArray[np.int64]  # [C, C + 1]
    matches: ComponentMatches
    background: int | None
    ignore_index: int | None


@dataclass(frozen=True)
class Sums:
    """Integers counted of each image, by class.

    Attributes:
        name: of the metric's state and of the table in the JSON of `fastia evaluate`.
        columns: a name for each of the K numbers of a class.
        count: int64 ``[C, K]`` of an image.
        fractions: columns that hold sums of rint(value * 2**36).
        false_components: columns that count predicted components as false, which those of stuff are not.
        stacked: whether the columns are the pixels of each class (intersection, ground truth, prediction) in every
            image, which are kept and not added up.
    """

    name: str
    columns: tuple[str, ...]
    count: Callable[[CountedImage], NDArray[np.int64]]
    fractions: frozenset[str] = frozenset()
    false_components: frozenset[str] = frozenset()
    stacked: bool = False

    def values(self, table: NDArray[np.int64]) -> Floats:
        """Counts ``[..., K]`` as floats, and those of fractions in their unit."""
        unit = [2.0**FRACTION_BITS if column in self.fractions else 1.0 for column in self.columns]
        return table / np.array(unit)


@dataclass(frozen=True)
class Ratio:
    """A score as a ratio of sums: how to add up columns of a class, and how to join the classes.

    Attributes:
        numerator, denominator: names of columns, each with its factor.
        present: columns whose sum over all images decides whether a class takes part.
        pooling: ``"mean"`` over classes, ``"frequency"``: mean weighted by ground-truth pixels, or ``"pooled"``: one
            ratio of the sums over all classes.
        per_class: the name of what the ratio is for one class, without ``_per_class``; None: nobody asks for it.
    """

    numerator: Mapping[str, float]
    denominator: Mapping[str, float]
    present: Sequence[str]
    pooling: str = "mean"
    per_class: str | None = None


@dataclass(frozen=True)
class Score:
    """Scores that come under one name of `extra=`.

    Attributes:
        name: what ``extra=`` and ``--extra`` call them.
        needs: the sums that they follow from, beside pixels and instances by class and size, which are always there.
        definition: what they are: the docstring of the score's module.
        source: where they come from.
        ratios: by name, those that are ratios of sums.
        derive: further columns from those of the sums.
        others: those that are no ratios, floats and ``[C]`` entries per class, from the columns.
    """

    name: str
    needs: tuple[Sums, ...]
    definition: str
    source: str
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    derive: Callable[[Columns], dict[str, Floats]] = lambda columns: {}
    others: Callable[[Columns], dict[str, Any]] = lambda columns: {}

    def values(self, columns: Columns) -> dict[str, Any]:
        """All of them: floats, and ``[C]`` what is per class."""
        columns = {**columns, **self.derive(columns)}
        return values(self.ratios, columns) | self.others(columns)


class Terms(NamedTuple):
    """What a ratio adds up over images, per class that takes part."""

    numerator: Floats  # [images, classes]
    denominator: Floats  # [images, classes]
    frequency: Floats | None  # [images, classes]: pixels that weigh the classes; None: all weigh alike

    @property
    def totals(self) -> Terms:
        """The sums over all images, ``[1, classes]`` each."""
        numerator, denominator, frequency = self
        return Terms(total(numerator), total(denominator), None if frequency is None else total(frequency))

    @property
    def value(self) -> float:
        """The score; NaN where no class takes part."""
        numerator, denominator, frequency = self.totals
        if numerator.size == 0:
            return math.nan
        if frequency is None:
            return mean(quotient(numerator[0], denominator[0]))
        weighted = quotient(numerator[0], denominator[0]) * frequency[0]
        return math.fsum(weighted) / math.fsum(frequency[0])


def values(ratios: Mapping[str, Ratio], columns: Columns) -> dict[str, Any]:
    """Scores that are ratios, and their entries per class, NaN where a class takes no part."""
    found: dict[str, Any] = {name: terms(columns, each).value for name, each in ratios.items()}
    per_class = {f"{each.per_class}_per_class": by_class(columns, each) for each in ratios.values() if each.per_class}
    return found | per_class


def terms(columns: Columns, ratio: Ratio, present: NDArray[np.bool_] | None = None) -> Terms:
    """The terms of a ratio; of the classes ``present`` (None: those that take part)."""
    if present is None:
        present = taking_part(columns, ratio)
    numerator, denominator = (
        combined(columns, factors)[:, present] for factors in (ratio.numerator, ratio.denominator)
    )
    if ratio.pooling == "pooled":
        return Terms(numerator.sum(1, keepdims=True), denominator.sum(1, keepdims=True), None)
    return Terms(numerator, denominator, columns["truth"][:, present] if ratio.pooling == "frequency" else None)


def taking_part(columns: Columns, ratio: Ratio) -> NDArray[np.bool_]:
    """``[C]``: which classes a ratio averages over."""
    return combined(columns, dict.fromkeys(ratio.present, 1)).sum(0) > 0


def by_class(columns: Columns, each: Ratio) -> Floats:
    """``[C]``: the ratio of every class alone."""
    numerator, denominator = (total(combined(columns, part))[0] for part in (each.numerator, each.denominator))
    return np.where(taking_part(columns, each), quotient(numerator, denominator), np.nan)


def without_stuff(columns: Columns, needs: Iterable[Sums]) -> Columns:
    """The columns with no false component of stuff: of classes with ground-truth pixels, and not one instance."""
    stuff = stuff_classes(columns)
    names = FALSE_COMPONENTS | {name for sums in needs for name in sums.false_components}
    return {name: np.where(stuff, 0.0, column) if name in names else column for name, column in columns.items()}


def stuff_classes(columns: Columns) -> NDArray[np.bool_]:
    """``[C]``: which classes have ground-truth pixels, but over all images not one instance."""
    instances = combined(columns, {f"count_{size}": 1 for size in BINS})
    return (columns["truth"].sum(0) > 0) & (instances.sum(0) == 0)


BINS = ("background", *SIZE_NAMES)  # background has no size
PIXELS = ("hit", "truth", "predicted")  # of a class: intersection, ground truth, prediction
INSTANCES = tuple(f"{kind}_{size}" for kind in ("count", "unmatched", "iou") for size in BINS)
FALSE_COMPONENTS = frozenset(f"unmatched_{size}" for size in BINS)


def combined(columns: Columns, factors: Mapping[str, float]) -> Floats:
    """The sum of columns, each times its factor."""
    return sum((factor * columns[name] for name, factor in factors.items()), np.float64(0))


def total(values: Floats) -> Floats:
    """``[1, C]`` sums over images; fsum rounds once, so their order does not matter."""
    return values if len(values) == 1 else np.array([[math.fsum(column) for column in values.T]])


def quotient(numerator: Any, denominator: Any) -> Floats:
    """Quotient in float64, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator != 0)


def mean(values: Floats) -> float:
    """Mean of what is not NaN, NaN if nothing is; fsum rounds once, so the order does not matter."""
    present = values[~np.isnan(values)]
    return math.fsum(present) / len(present) if len(present) else math.nan


def fixed(values: Floats) -> NDArray[np.int64]:
    """Fractions as multiples of 2^-36."""
    return np.rint(values * 2.0**FRACTION_BITS).astype(np.int64)


def size_of(area: NDArray[np.int64]) -> NDArray[np.intp]:
    """0 small, 1 medium, 2 large."""
    return np.searchsorted(SIZE_BOUNDS, area, side="right")
