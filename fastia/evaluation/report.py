"""Reports of an evaluation: table, JSON, CSV and plot. The penalized scores stand beside the plain ones in each."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastia.data.files import write_together
from fastia.evaluation.result import Evaluation
from fastia.metrics import further
from fastia.metrics.registry import SIZE_BOUNDS, SIZE_NAMES, size_of
from fastia.typing import PathLike

if TYPE_CHECKING:
    from rich.table import Table

_SIZES = ("", *(f"_{size}" for size in SIZE_NAMES))
_PIXEL_SCORES = {"pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy", "fw_iou": "fw IoU"}
_TITLES = (
    "all sizes",
    f"small, below {math.isqrt(SIZE_BOUNDS[0])}²",
    f"medium, below {math.isqrt(SIZE_BOUNDS[1])}²",
    "large",
)


def write_all(
    result: Evaluation,
    *,
    json: PathLike | None = None,
    csv: PathLike | None = None,
    scores_csv: PathLike | None = None,
    plot: PathLike | None = None,
    report: PathLike | None = None,
) -> None:
    """Write the reports that have a path; each file appears complete, and none if one of them cannot be written.

    ``report`` is a folder, for a page ``index.html``; it is written last, because its folder may be new.

    Raises:
        OSError: a file cannot be written.
    """
    page = None if report is None else Path(report) / "index.html"
    writers = (
        (json, write_json),
        (csv, write_csv),
        (scores_csv, write_scores_csv),
        (plot, write_plot),
        (page, _write_page),
    )
    write_together(result, writers)


def as_dict(result: Evaluation) -> dict[str, Any]:
    """Scores, and per image what intervals and comparisons need; NaN is None.

    ``{"scores": {...}, "per_class": {name: {...}}, "images": [{"id", "classes": [[class, intersection, ground-truth
    pixels, predicted pixels], ...], "instances": [[class, instance, area, iou], ...], "unmatched": [[class, area],
    ...]}], "protocol", "classes", "size_bounds"}``; the classes of an image are those that it or its prediction holds.
    With further scores, an image also has ``"extra": {name: [[class, ...], ...]}``: by class, the sums of
    :mod:`fastia.metrics.further`, those of IoU and recall as fractions. ``"absent_classes"`` is there if it is not
    ``"skip"``.
    """
    records = result.records
    instances = zip(
        *(field.tolist() for field in (records.class_id, records.instance_id, records.area, records.iou)), strict=True
    )
    unmatched = zip(records.unmatched_class_id.tolist(), records.unmatched_area.tolist(), strict=True)
    images: list[dict[str, Any]] = []
    for name, pixels, count, unmatched_count in zip(
        result.images, result.class_pixels, records.count.tolist(), records.unmatched_count.tolist(), strict=True
    ):
        images.append(
            {
                "id": name,
                "classes": _rows_by_class(pixels),
                "instances": [list(next(instances)) for _ in range(count)],
                "unmatched": [list(next(unmatched)) for _ in range(unmatched_count)],
            }
        )
    kept = {name: sums for name, sums in further.needs(further.SCORES).items() if not sums.stacked}
    by_class = {name: kept[name].values(table) for name, table in result.extra_counts.items() if name in kept}
    for i, image in enumerate(images if by_class else ()):
        image["extra"] = {name: _rows_by_class(table[i]) for name, table in by_class.items()}
    return {
        "scores": _nan_as_none(result.scores),
        "per_class": {name: _nan_as_none(row) for name, row in result.per_class.items()},
        "images": images,
        "protocol": result.protocol,
        "classes": result.classes,
        "size_bounds": list(SIZE_BOUNDS),
        **({"absent_classes": result.absent_classes} if result.absent_classes != "skip" else {}),
    }


def write_json(result: Evaluation, path: PathLike) -> None:
    """Write :func:`as_dict`."""
    text = json.dumps(as_dict(result), allow_nan=False, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def write_csv(result: Evaluation, path: PathLike) -> None:
    """Write one row per instance: image, class, instance, area, size, iou; the background has no size."""
    records = result.records
    images = np.repeat(np.array(result.images, object), records.count)
    classes = np.array(result.classes, object)[records.class_id]
    sizes = np.array(SIZE_NAMES, object)[size_of(records.area)]
    sizes = np.where(records.class_id == (-1 if result.background is None else result.background), "", sizes)
    columns = (images, classes, records.instance_id, records.area, sizes, records.iou)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "class", "instance", "area", "size", "iou"))
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


def write_scores_csv(result: Evaluation, path: PathLike) -> None:
    """Write one row per score: class ("" over all classes), score, value (empty where there is none)."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("class", "score", "value"))
        for name, row in {"": result.scores, **result.per_class}.items():
            writer.writerows((name, score, value) for score, value in _nan_as_none(row).items())


def write_plot(result: Evaluation, path: PathLike) -> None:
    """Draw IA-IoU by class and size as a PNG: a pale bar for the plain score, a dark one in it for the penalized."""
    from matplotlib.figure import Figure

    names = ["overall", *result.classes]
    places = np.arange(len(names))
    figure = Figure(figsize=(12, 1.6 + 0.24 * len(names)), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(_SIZES), sharey=True)
    for ax, size, title in zip(axes, _SIZES, _TITLES, strict=True):
        plain, penalized, instances, unmatched = (
            np.array([row[f"{key}{size}"] for row in (_means(result), *result.per_class.values())], float)
            for key in ("ia_iou", "ia_iou_penalized", "instances", "unmatched")
        )
        ax.barh(places, 100 * np.nan_to_num(plain), height=0.78, color="#9ecae1", label="IA-IoU")
        ax.barh(places, 100 * np.nan_to_num(penalized), height=0.4, color="#08519c", label="penalized")
        for place, score, count, false in zip(places, plain, instances, unmatched, strict=True):
            text = f"{count:.0f}" + (f" +{false:.0f}" if false else "") if count + false else "none"
            ax.text(100 * np.nan_to_num(score) + 1.5, place, text, va="center", fontsize=7, color="0.45")
        ax.axhline(0.5, color="0.3", linewidth=0.8)
        ax.set_title(title, fontsize=10)
        ax.set_xlim(0, 115)
        ax.set_xticks(range(0, 101, 20))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_yticks(places, names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("IA-IoU in %; grey: number of instances + unmatched predicted components", fontsize=9)
    figure.suptitle(f"IA-IoU by class and instance size, {len(result.images)} images, protocol {result.protocol}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=2, fontsize=9, frameon=False)
    figure.savefig(path, format="png")


def table(result: Evaluation) -> Table:
    """Scores by class and size in percent, for `rich` to print; 80 columns hold it."""
    from rich import box
    from rich.table import Table

    pixels = ", ".join(f"{title} {_percent(result.scores[name])}" for name, title in _PIXEL_SCORES.items())
    grid = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        title=f"IA-IoU in %, {len(result.images)} images, protocol {result.protocol}",
        title_justify="left",
        title_style="bold",
        caption=f"{pixels}\n"
        "pen.: penalized; each unmatched component (unm.), one that meets nothing of "
        "its class, is one more instance (inst.) with IoU 0",
        caption_justify="left",
    )
    grid.add_column("class", overflow="fold")  # of all columns, long names give way
    for heading in ("inst.", "unm.", "IoU"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for heading in ("all", *SIZE_NAMES):
        grid.add_column(heading, justify="right", no_wrap=True)
        grid.add_column("pen.", justify="right", no_wrap=True, style="cyan")
    for name, row in result.per_class.items():
        grid.add_row(name, *_cells(row), end_section=name == result.classes[-1])
    grid.add_row("overall", *_cells(_means(result)), style="bold")
    return grid


def extra_table(result: Evaluation) -> Table | None:
    """The further scores in percent, for `rich` to print; None without any."""
    from rich import box
    from rich.table import Table

    extra = {name: value for name, value in result.scores.items() if name in result.extra_scores}
    if not extra:
        return None
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), title="Further scores in %", title_justify="left")
    for heading in ("score", "", *SIZE_NAMES):
        grid.add_column(heading, justify="left" if heading == "score" else "right", no_wrap=True)
    for name, value in extra.items():
        if not name.endswith(_SIZES[1:]):
            sized = (extra.get(f"{name}{size}") for size in _SIZES[1:])
            grid.add_row(name, _percent(value), *("" if each is None else _percent(each) for each in sized))
    return grid


def _write_page(result: Evaluation, path: Path) -> None:
    from fastia.evaluation.page import write_page

    write_page(result, path)


def _rows_by_class(table: NDArray[Any]) -> list[list[float]]:
    """``[class, ...]`` of the rows of ``[C, K]`` that hold anything."""
    present = np.flatnonzero(table.any(1))
    return [[class_id, *row] for class_id, row in zip(present.tolist(), table[present].tolist(), strict=True)]


def _means(result: Evaluation) -> dict[str, float]:
    """The row of means over classes, under the names of a class's row, and the totals of the counts."""
    row = {"iou": result.scores["miou"]}
    for size in _SIZES:
        row[f"ia_iou{size}"] = result.scores[f"ia_miou{size}"]
        row[f"ia_iou_penalized{size}"] = result.scores[f"ia_miou_penalized{size}"]
        for count in ("instances", "unmatched"):
            row[f"{count}{size}"] = sum(each[f"{count}{size}"] for each in result.per_class.values())
    return row


def _cells(row: dict[str, float]) -> list[str]:
    scores = [_percent(row[f"{name}{size}"]) for size in _SIZES for name in ("ia_iou", "ia_iou_penalized")]
    return [f"{row['instances']}", f"{row['unmatched']}", _percent(row["iou"]), *scores]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _nan_as_none(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
