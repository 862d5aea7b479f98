"""What evaluations and comparisons return: data alone, below all that makes or shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastia.fields import InstanceIoU
from fastia.metrics.further import Counts


@dataclass(frozen=True)
class Evaluation:
    """What :func:`fastia.evaluate_directory` returns.

    Attributes:
        scores: the single numbers of :meth:`fastia.InstanceAwareIoU.compute`, by name; NaN where none was to average.
        per_class: by class name: ``iou``, and ``ia_iou``, ``ia_iou_penalized`` and the numbers of ``instances`` and of
            ``unmatched`` predicted components, also of each size (``ia_iou_small``, ...).
        images: ids of the images that were scored.
        records: one entry per instance and per unmatched component of all images, in their order; ``count`` and
            ``unmatched_count`` say how many of them each image has.
        extra_scores: names of those entries of ``scores`` that ``extra`` asked for.
        extra_counts: what each image adds to these, int64 ``[images, C, K]`` by name of the sums.
        class_pixels: ``[images, C, 3]`` int64: intersection, ground-truth and predicted pixels of each class.
        missing: ids of the images that were skipped because they have no prediction.
        notes: what a reader of the scores ought to know.
        dataset, split, predictions: as given.
        protocol, background, ignore_index, absent_classes: as given.
        instance_ignore_index: id of void pixels of ``SegmentationObject``; None: none.
        classes: names of the classes.
        seconds: time taken, reports not included.
    """

    scores: dict[str, float]
    per_class: dict[str, dict[str, float]]
    images: list[str]
    records: InstanceIoU
    class_pixels: NDArray[np.int64]
    extra_scores: list[str]
    extra_counts: Counts
    missing: list[str]
    notes: list[str]
    dataset: Path
    split: str
    predictions: Path
    protocol: str
    background: int | None
    ignore_index: int | None
    instance_ignore_index: int | None
    absent_classes: str
    classes: list[str]
    seconds: float


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A score of one method less that of another.

    Attributes:
        score, first, second: names of the score and the methods.
        interval: the difference and its 95 % interval.
        p: two-sided p-value of the permutation test.
        p_holm: the same, adjusted for all tests of the comparison.
    """

    score: str
    first: str
    second: str
    interval: Interval
    p: float
    p_holm: float


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation between two rankings of the same methods.

    Attributes:
        first, second: what ranks the methods.
        interval: the correlation and its 95 % interval over methods.
        methods: number of methods.
    """

    first: str
    second: str
    interval: Interval
    methods: int


@dataclass(frozen=True)
class Comparison:
    """What :func:`fastia.evaluation.comparison.compare` returns.

    Attributes:
        scores: by method and score, value and interval.
        differences: one for each score and pair of methods.
        correlations: between the rankings by mIoU and IA-mIoU, and by each score on either data set.
        other: as ``scores``, of the other data set; empty without one.
        small_strata: number of instances per (class, size) that has some, but fewer than 30.
        notes: what a reader ought to know.
        images: number of images.
        checkpoints: by method, how many there are.
        protocol, resamples, seed: as given.
    """

    scores: dict[str, dict[str, Interval]]
    differences: list[Difference]
    correlations: list[Correlation]
    other: dict[str, dict[str, Interval]]
    small_strata: dict[tuple[str, str], int]
    notes: list[str]
    images: int
    checkpoints: dict[str, int]
    protocol: str
    resamples: int
    seed: int
