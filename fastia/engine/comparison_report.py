"""Reports of a comparison of methods: tables, JSON, CSV and plot."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastia.data.files import write_together
from fastia.engine.inference import LEVEL
from fastia.engine.result import Comparison, Interval
from fastia.typing import PathLike

if TYPE_CHECKING:
    from rich.table import Table

_RANKED = ("miou", "ia_miou")


def write_all(
    result: Comparison, *, json: PathLike | None = None, csv: PathLike | None = None, plot: PathLike | None = None
) -> None:
    """Write the reports that have a path; each file appears complete, and none if one of them cannot be written.

    Raises:
        OSError: a file cannot be written.
    """
    write_together(result, ((json, write_json), (csv, write_csv), (plot, write_plot)))


def as_dict(result: Comparison) -> dict[str, Any]:
    """All of a comparison, NaN as None; an interval is ``[value, low, high]``.

    ``{"level", "scores": {method: {score: interval}}, "differences": [{"score", "first", "second", "interval", "p",
    "p_holm"}], "correlations": [{"first", "second", "interval", "methods"}], "other": as "scores", "small_strata":
    [[class, size, instances]], "notes", "images", "checkpoints": {method: number}, "protocol", "resamples", "seed"}``.
    """

    def tables(scores: dict[str, dict[str, Interval]]) -> dict[str, Any]:
        return {method: {name: _triple(each) for name, each in row.items()} for method, row in scores.items()}

    return {
        "level": LEVEL,
        "scores": tables(result.scores),
        "differences": [
            {
                "score": each.score,
                "first": each.first,
                "second": each.second,
                "interval": _triple(each.interval),
                "p": _known(each.p),
                "p_holm": _known(each.p_holm),
            }
            for each in result.differences
        ],
        "correlations": [
            {"first": each.first, "second": each.second, "interval": _triple(each.interval), "methods": each.methods}
            for each in result.correlations
        ],
        "other": tables(result.other),
        "small_strata": [[*stratum, count] for stratum, count in result.small_strata.items()],
        "notes": result.notes,
        "images": result.images,
        "checkpoints": result.checkpoints,
        "protocol": result.protocol,
        "resamples": result.resamples,
        "seed": result.seed,
    }


def write_json(result: Comparison, path: PathLike) -> None:
    """Write :func:`as_dict`."""
    text = json.dumps(as_dict(result), allow_nan=False, ensure_ascii=False, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")


def write_csv(result: Comparison, path: PathLike) -> None:
    """Write one row per score of a method, and one per difference: score, method, less, value, low, high, p, p_holm."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("score", "method", "less", "value", "low", "high", "p", "p_holm"))
        for method, row in result.scores.items():
            writer.writerows((score, method, "", *_cells(each), "", "") for score, each in row.items())
        for each in result.differences:
            probabilities = ("" if math.isnan(p) else p for p in (each.p, each.p_holm))
            writer.writerow((each.score, each.first, each.second, *_cells(each.interval), *probabilities))


def write_plot(result: Comparison, path: PathLike) -> None:
    """Draw scores with their intervals as a PNG, and methods by mIoU and IA-mIoU, and by either data set."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    methods = list(result.scores)
    names = list(result.scores[methods[0]])
    colours = [colormaps["tab10"](i % 10) for i in range(len(methods))]
    panels: list[tuple[str, tuple[str, list[Interval]], tuple[str, list[Interval]]]] = []

    def ranking(of: str, scores: dict[str, dict[str, Interval]], score: str) -> tuple[str, list[Interval]]:
        return f"{score}{of}", [scores[method][score] for method in methods]

    if set(_RANKED) <= set(names) and len(methods) > 1:
        first, second = (ranking("", result.scores, score) for score in _RANKED)
        panels.append(("this data set", first, second))
    if result.other:
        score = "ia_miou" if "ia_miou" in names else names[0]
        axes = ranking("", result.scores, score), ranking(", other data set", result.other, score)
        panels.append(("data set against data set", *axes))

    height = 1.5 + 0.16 * len(names) * (len(methods) + 1)
    figure = Figure(figsize=(8 + 4.5 * bool(panels), max(height, 4.5 * len(panels))), dpi=120, layout="constrained")
    grid = figure.add_gridspec(max(len(panels), 1), 1 + bool(panels), width_ratios=[1.7, 1][: 1 + bool(panels)])
    bars = figure.add_subplot(grid[:, 0])
    for k, (method, colour) in enumerate(zip(methods, colours, strict=True)):
        shown = [result.scores[method][name] for name in names]
        places = np.arange(len(names)) + (k - (len(methods) - 1) / 2) * 0.8 / len(methods)
        bars.errorbar(
            _percents(shown), places, xerr=_reach(shown), fmt="o", ms=4, capsize=2, color=colour, label=method
        )
    bars.set_yticks(range(len(names)), names)
    bars.set_ylim(len(names) - 0.5, -0.5)
    bars.set_xlabel("%")
    bars.grid(axis="x", color="0.9")
    bars.set_axisbelow(True)
    for edge in range(1, len(names)):
        bars.axhline(edge - 0.5, color="0.9", linewidth=0.6)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    for i, (title, (x_name, x), (y_name, y)) in enumerate(panels):
        ax = figure.add_subplot(grid[i, 1])
        for place, colour, across, up in zip(range(len(methods)), colours, x, y, strict=True):
            bars_of = {"xerr": _reach([across]), "yerr": _reach([up]), "color": colour}
            ax.errorbar(_percents([across]), _percents([up]), fmt="o", ms=4, elinewidth=0.8, **bars_of)  # type: ignore[arg-type]
            ax.annotate(methods[place], (100 * across.value, 100 * up.value), xytext=(4, 4), textcoords="offset points")
        found = [each for each in result.correlations if (each.first, each.second) == (x_name, y_name)]
        ax.set_title(
            f"{title}\n{correlation_text(found[0].interval, found[0].methods)}" if found else title, fontsize=9
        )
        ax.set_xlabel(f"{x_name}, %")
        ax.set_ylabel(f"{y_name}, %")
    figure.suptitle(f"Scores with {LEVEL:.0%} intervals over {result.images} images, protocol {result.protocol}")
    figure.savefig(path, format="png")


def scores_table(result: Comparison) -> Table:
    """Scores of the methods with their intervals in percent, for `rich` to print."""
    grid = _grid(f"Scores in % with {LEVEL:.0%} intervals, {result.images} images, protocol {result.protocol}")
    for heading in ("score", "method"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("value", "low", "high"):
        grid.add_column(heading, justify="right", no_wrap=True)
    methods = list(result.scores)
    for score in result.scores[methods[0]]:
        for method in methods:
            interval = result.scores[method][score]
            title = score if method == methods[0] else ""
            grid.add_row(title, method, *_texts(interval), end_section=method == methods[-1])
    return grid


def differences_table(result: Comparison) -> Table:
    """Differences between the methods with intervals in percentage points and p-values, for `rich` to print."""
    grid = _grid(
        f"Paired differences in percentage points with {LEVEL:.0%} intervals",
        f"p: {result.resamples} random swaps of the two methods' records image by image; Holm: adjusted for all"
        f" {len(result.differences)} differences",
    )
    grid.add_column("first - second")
    for heading in ("diff.", "low", "high", "p", "Holm"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for score, group in itertools.groupby(result.differences, lambda each: each.score):
        grid.add_section()
        grid.add_row(score)
        for each in group:
            style = "bold" if each.p_holm < 1 - LEVEL else ""
            row = (*_texts(each.interval, 2), _p_text(each.p), _p_text(each.p_holm))
            grid.add_row(f"  {each.first} - {each.second}", *row, style=style)
    return grid


def correlation_text(interval: Interval, methods: int) -> str:
    """Spearman's correlation in words."""
    if methods < 4:
        return f"Spearman {interval.value:.2f} (n = {methods}: too few methods for an interval)"
    return f"Spearman {interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}], n = {methods}"


def _grid(title: str, caption: str | None = None) -> Table:
    from rich import box
    from rich.table import Table

    style = {"title_justify": "left", "title_style": "bold", "caption_justify": "left"}
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, caption=caption, **style)  # type: ignore[arg-type]


def _texts(interval: Interval, digits: int = 1) -> list[str]:
    values = (interval.value, interval.low, interval.high)
    return ["-" if math.isnan(value) else f"{100 * value:.{digits}f}" for value in values]


def _p_text(p: float) -> str:
    return "-" if math.isnan(p) else f"{p:.4f}"


def _cells(interval: Interval) -> list[float | str]:
    return ["" if value is None else value for value in _triple(interval)]


def _triple(interval: Interval) -> list[float | None]:
    return [_known(value) for value in (interval.value, interval.low, interval.high)]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percents(intervals: list[Interval]) -> list[float]:
    return [100 * each.value for each in intervals]


def _reach(intervals: list[Interval]) -> list[list[float]]:
    """How far the intervals go down and up from the values, in percent; not below 0 where a value is rounded."""
    below = [max(100 * (each.value - each.low), 0.0) for each in intervals]
    return [below, [max(100 * (each.high - each.value), 0.0) for each in intervals]]
