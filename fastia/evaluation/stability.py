"""How much scores and the ranking of methods depend on which near-optimal balanced set they are taken on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastia.evaluation.sums import Result, check_same_data, columns_of, read_result
from fastia.functional import checks
from fastia.metrics.registry import BINS, terms
from fastia.typing import Floats, PathLike

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = ("miou", "ia_miou", "ia_miou_penalized")


@dataclass(frozen=True)
class Stability:
    """What :func:`across_sets` returns, of M methods and S sets.

    Attributes:
        methods: names of the files, without ``.json``.
        on_sets: by name of the score, its values on each set, ``[M, S]``.
        on_all: by name of the score, its values on all images, ``[M]``.
        equal_sizes: the same with every class's sizes weighted equally: the mean over classes of the mean over sizes of
            the mean IA-IoU; of the scores of instances only.
        tau_between_sets: by name of the score, the mean of Kendall's tau between the rankings on two sets; NaN for
            one method or one set.
        tau_with_all, tau_with_equal_sizes: the mean over sets of that with the ranking on all images.
    """

    methods: list[str]
    on_sets: dict[str, Floats]
    on_all: dict[str, Floats]
    equal_sizes: dict[str, Floats]
    tau_between_sets: dict[str, float]
    tau_with_all: dict[str, float]
    tau_with_equal_sizes: dict[str, float]


def across_sets(scores: Sequence[PathLike], sets: Sequence[Sequence[str]]) -> Stability:
    """Score methods on sets of images, and compare their rankings.

    Args:
        scores: JSON files of ``fastia evaluate`` on the same images.
        sets: ids of the images of each set.

    Returns:
        :class:`Stability`.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not what ``fastia evaluate --json`` writes, the files are not of the same images, or lack
            an image of a set.

    Example:
        >>> import tempfile
        >>> import fastia
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.data.balance import balance_dataset
        >>> from fastia.evaluation.stability import across_sets
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=20)
        ...     names, path = f"{folder}/classes.txt", f"{folder}/a.json"
        ...     _ = fastia.evaluate_directory(folder, "all", f"{folder}/Predictions", classes=names, json=path)
        ...     result = across_sets([path], balance_dataset(folder, "all", sets=3).sets)
        >>> result.on_sets["ia_miou"].shape
        (1, 3)

    Source: Kendall, "A New Measure of Rank Correlation", Biometrika 30, 1938.
    """
    if not scores or not sets:
        raise ValueError(f"scores and sets must not be empty, got {len(scores)} and {len(sets)}")
    checks.pip_extra_module("scipy.stats", "data")
    results = check_same_data([read_result(path) for path in scores])
    place = {image: i for i, image in enumerate(results[0].images)}
    missing = sorted({image for images in sets for image in images} - set(place))
    if missing:
        raise ValueError(
            f"{os.fspath(scores[0])}: has no {', '.join(missing[:5])}: evaluate the split that was chosen from"
        )
    rows = [[place[image] for image in images] for images in sets]
    on_sets = {name: np.array([[_score(each, name, chosen) for chosen in rows] for each in results]) for name in _SHOWN}
    on_all = {name: np.array([_score(each, name) for each in results]) for name in _SHOWN}
    equal = {name: np.array([_equal_sizes(each, name) for each in results]) for name in _SHOWN if name != "miou"}
    return Stability(
        [Path(path).stem for path in scores],
        on_sets,
        on_all,
        equal,
        {name: _mean_tau(itertools.combinations(values.T, 2)) for name, values in on_sets.items()},
        {name: _mean_tau((each, on_all[name]) for each in values.T) for name, values in on_sets.items()},
        {name: _mean_tau((each, values) for each in on_sets[name].T) for name, values in equal.items()},
    )


def table(result: Stability) -> Table:
    """Scores in percent, for `rich` to print; 80 columns hold it."""
    from rich import box
    from rich.table import Table

    sets = next(iter(result.on_sets.values())).shape[1]
    grid = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        title=f"Scores in %, on all images and on {sets} balanced sets",
        title_justify="left",
        title_style="bold",
        caption="equal: all images, the sizes of each class weighted equally; sets: mean over the sets, "
        "sd: standard deviation; rank: on all images, in equal weighting, best to worst on the sets",
        caption_justify="left",
    )
    grid.add_column("score", no_wrap=True)
    grid.add_column("method", overflow="ellipsis", max_width=24)
    for heading in ("all", "equal", "sets", "sd", "min", "max", "rank"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, values in result.on_sets.items():
        everywhere, equal = result.on_all[name], result.equal_sizes.get(name)
        ranks = np.stack([_ranks(each) for each in values.T], 1)
        for i, method in enumerate(result.methods):
            rank = f"{_ranks(everywhere)[i]}, {'-' if equal is None else _ranks(equal)[i]}, "
            rank += f"{ranks[i].min()}-{ranks[i].max()}"
            shown = [everywhere[i], None if equal is None else equal[i], values[i].mean(), values[i].std()]
            shown += [values[i].min(), values[i].max()]
            cells = ["-" if value is None or np.isnan(value) else f"{100 * value:.1f}" for value in shown]
            grid.add_row(name if i == 0 else "", method, *cells, rank, end_section=i == len(result.methods) - 1)
    return grid


def sentences(result: Stability) -> list[str]:
    """What the table leaves out: the agreement of rankings."""
    if len(result.methods) < 2:
        return []
    lines = []
    for name in result.on_sets:
        text = f"{name}: Kendall's tau {_two(result.tau_between_sets[name])} between sets, "
        text += f"{_two(result.tau_with_all[name])} with the ranking on all images"
        if name in result.tau_with_equal_sizes:
            text += f", {_two(result.tau_with_equal_sizes[name])} with that in equal weighting"
        lines.append(text)
    return lines


def _score(result: Result, name: str, chosen: slice | list[int] = slice(None)) -> float:
    """A score over the chosen images."""
    return terms(columns_of(result.sums[chosen]), result.ratio(name)).value


def _equal_sizes(result: Result, name: str) -> float:
    """Mean over classes of the mean over sizes; under wacv2024 the background is a class of one size."""
    columns = columns_of(result.sums)
    kinds = {
        kind: np.stack([columns[f"{kind}_{size}"].sum(0) for size in BINS], 1) for kind in ("iou", "count", "unmatched")
    }
    counted = kinds["count"] + (kinds["unmatched"] if name == "ia_miou_penalized" else 0)  # [C, 4]
    present = counted.any(1)
    cells = np.divide(kinds["iou"], counted, out=np.zeros_like(counted), where=counted > 0)[present]
    return float((cells.sum(1) / (counted[present] > 0).sum(1)).mean()) if present.any() else np.nan


def _ranks(values: Floats) -> NDArray[np.int64]:
    """1 for the best; equal values share the better rank."""
    return 1 + (values[None] > values[:, None]).sum(1)


def _mean_tau(pairs: Iterable[tuple[Floats, ...]]) -> float:
    from scipy.stats import kendalltau

    values = [kendalltau(*pair).statistic for pair in pairs if len(pair[0]) > 1]
    return float(np.mean(values)) if values else float("nan")


def _two(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
