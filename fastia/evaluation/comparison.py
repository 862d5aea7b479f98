"""Comparison of methods from the JSON of `fastia evaluate`: intervals, paired tests, and rank correlations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastia.evaluation import comparison_report
from fastia.evaluation.intervals import bootstrap, holm, spearman, swap_tests
from fastia.evaluation.result import Comparison, Correlation, Difference, Interval
from fastia.evaluation.sums import SCORES, Result, check_same_data, columns_of, read_result
from fastia.functional import checks
from fastia.metrics.registry import SIZE_NAMES
from fastia.typing import PathLike

FEW = 30  # instances of a class and size below which its score says little
Methods = Mapping[str, PathLike | Sequence[PathLike]]


def compare(
    methods: Methods,
    *,
    against: Methods | None = None,
    scores: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    json: PathLike | None = None,
    csv: PathLike | None = None,
    plot: PathLike | None = None,
) -> Comparison:
    """Compare methods on the same images, from the JSON files of `fastia evaluate`.

    Intervals are of a studentised bootstrap over images (:func:`fastia.evaluation.intervals.bootstrap`), p-values of
    swapping two methods' records image by image (:func:`fastia.evaluation.intervals.swap_tests`), adjusted by Holm for
    all pairs and scores of the call: name the ``scores`` you planned to look at.

    Args:
        methods: by the name of a method, its file, or the files of several checkpoints of it.
        against: the same methods on another data set, for the correlation between the rankings.
        scores: names of scores; None: all that the files hold, but ``sq`` and those of the worst images, which are no
            ratios of sums.
        resamples: number of bootstrap resamples and of random swaps.
        seed: of the random numbers.
        json: where to write everything.
        csv: where to write one row per score of a method and per difference.
        plot: where to write a PNG of scores with intervals, and of the rankings.

    Returns:
        :class:`Comparison`.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a file that `fastia evaluate` did not write, or files of different images, ground truth, classes or
            protocol, or an option that is not allowed.
        ModuleNotFoundError: rank correlations and plots need ``pip install fastia[cli]``.

    Example:
        >>> import tempfile
        >>> import fastia
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.evaluation.comparison import compare
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=20)
        ...     for name in ("Predictions", "PseudoMasks"):
        ...         _ = fastia.evaluate_directory(folder, "all", f"{folder}/{name}", json=f"{folder}/{name}.json")
        ...     files = {name: f"{folder}/{name}.json" for name in ("Predictions", "PseudoMasks")}
        ...     result = compare(files, scores=["miou"], resamples=999)
        >>> [(each.score, each.first, each.second) for each in result.differences]
        [('miou', 'Predictions', 'PseudoMasks')]
    """
    checks.integer("resamples", resamples, 99, optional=False)
    checks.integer("seed", seed, 0, optional=False)
    reports = {"json": json, "csv": csv, "plot": plot}
    checks.new_files(**reports)

    read = _read(methods)
    names = list(read)
    chosen = _chosen(scores, read)
    pairs = list(itertools.combinations(range(len(names)), 2))
    intervals, pair_intervals = _intervals(read, chosen, pairs, resamples, seed)
    tested = [(score, names[a], names[b]) for score in chosen for a, b in pairs]
    p_values = _p_values(read, tested, resamples, seed)
    differences = [
        Difference(*test, interval, p, adjusted)
        for test, interval, p, adjusted in zip(tested, pair_intervals, p_values, holm(p_values), strict=True)
    ]
    other: dict[str, dict[str, Interval]] = {}
    if against is not None:
        if set(against) != set(names):
            raise ValueError(f"against must name the methods {', '.join(names)}, got {', '.join(against)}")
        read_other = _read({name: against[name] for name in names})
        other, _ = _intervals(read_other, _chosen(chosen, read_other), [], resamples, seed)

    first = next(iter(read.values()))[0]
    strata = _small_strata(first)
    result = Comparison(
        scores=intervals,
        differences=differences,
        correlations=_correlations(intervals, other, chosen),
        other=other,
        small_strata=strata,
        notes=_notes(read, strata, differences),
        images=len(first.images),
        checkpoints={name: len(results) for name, results in read.items()},
        protocol=first.protocol,
        resamples=resamples,
        seed=seed,
    )
    if any(reports.values()):
        comparison_report.write_all(result, **reports)
    return result


def _read(methods: Methods) -> dict[str, list[Result]]:
    """The files of each method, their images in the same order."""
    if not methods:
        raise ValueError("methods must name at least one file")
    files = [
        (name, path)
        for name, paths in methods.items()
        for path in ([paths] if isinstance(paths, str | Path) or hasattr(paths, "__fspath__") else paths)
    ]
    read: dict[str, list[Result]] = {name: [] for name in methods}
    for (name, _), result in zip(files, check_same_data([read_result(path) for _, path in files]), strict=True):
        read[name].append(result)
    for name, results in read.items():
        if not results:
            raise ValueError(f"methods must have a file each, {name} has none")
    return read


def _chosen(scores: Sequence[str] | None, read: Mapping[str, Sequence[Result]]) -> list[str]:
    """The names of the scores to compare, of those that every file holds."""
    held = [name for name in SCORES if all(name in result.scores for results in read.values() for result in results)]
    unknown = [name for name in scores or () if name not in held]
    if unknown or (scores is not None and not scores):
        raise ValueError(f"scores must be of {', '.join(held)}, got {', '.join(unknown) or 'none'}")
    return held if scores is None else list(scores)


def _intervals(
    read: Mapping[str, Sequence[Result]],
    scores: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    resamples: int,
    seed: int,
) -> tuple[dict[str, dict[str, Interval]], list[Interval]]:
    """Intervals by method and score, and those of the differences, by score and pair."""
    sums = [[[result.terms(score) for result in results] for results in read.values()] for score in scores]
    found = bootstrap(sums, pairs, resamples=resamples, seed=seed)
    by_method = {
        name: {score: intervals[i] for score, (intervals, _) in zip(scores, found, strict=True)}
        for i, name in enumerate(read)
    }
    return by_method, [interval for _, of_pairs in found for interval in of_pairs]


def _p_values(
    read: Mapping[str, Sequence[Result]], tests: Sequence[tuple[str, str, str]], resamples: int, seed: int
) -> list[float]:
    """One per score and pair of methods; NaN between different numbers of checkpoints."""
    possible = [test for test in tests if len(read[test[1]]) == len(read[test[2]])]
    differences = []
    for score, first, second in possible:
        present = np.any([result.taking_part(score) for result in (*read[first], *read[second])], 0)
        both = [[result.terms(score, present) for result in read[name]] for name in (first, second)]
        differences.append((both[0], both[1]))
    found = dict(zip(possible, swap_tests(differences, resamples=resamples, seed=seed), strict=True))
    return [found.get(test, math.nan) for test in tests]


def _correlations(
    intervals: Mapping[str, Mapping[str, Interval]], other: Mapping[str, Mapping[str, Interval]], scores: Sequence[str]
) -> list[Correlation]:
    if len(intervals) < 2:
        return []

    def values(of: Mapping[str, Mapping[str, Interval]], score: str) -> list[float]:
        return [of[name][score].value for name in intervals]

    rankings = []
    if {"miou", "ia_miou"} <= set(scores):
        rankings.append(("miou", "ia_miou", values(intervals, "miou"), values(intervals, "ia_miou")))
    if other:
        rankings += [
            (score, f"{score}, other data set", values(intervals, score), values(other, score)) for score in scores
        ]
    return [
        Correlation(first, second, spearman(a, b), len(a))
        for first, second, a, b in rankings
        if not np.isnan([*a, *b]).any()
    ]


def _small_strata(result: Result) -> dict[tuple[str, str], int]:
    strata: dict[tuple[str, str], int] = {}
    for size in SIZE_NAMES:
        counts = columns_of(result.sums)[f"count_{size}"].sum(0)
        strata |= {
            (name, size): int(count) for name, count in zip(result.classes, counts, strict=True) if 0 < count < FEW
        }
    return strata


def _notes(
    read: Mapping[str, Sequence[Result]], strata: Mapping[tuple[str, str], int], differences: Sequence[Difference]
) -> list[str]:
    notes = []
    single = [name for name, results in read.items() if len(results) == 1]
    if single:
        whose = "all methods" if len(single) == len(read) else ", ".join(single)
        notes.append(
            f"Test-set variance only for {whose}: one checkpoint each, so the intervals do not say what training again"
            " would change."
        )
    if strata:
        fewest = sorted(strata.items(), key=lambda item: item[1])[:5]
        shown = ", ".join(f"{name} {size}: {count}" for (name, size), count in fewest)
        more = ", ..." if len(strata) > len(fewest) else ""
        notes.append(f"{len(strata)} strata of a class and size have fewer than {FEW} instances ({shown}{more}).")
    if any(len(read[each.first]) != len(read[each.second]) for each in differences):
        notes.append("No p-value between methods of different numbers of checkpoints.")
    return notes
