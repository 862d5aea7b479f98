"""How many instances of which size a dataset has: by class, over areas, and per image."""

from __future__ import annotations

import csv as csv_module
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastia import functional
from fastia.data import voc
from fastia.data.files import replacing
from fastia.data.ground_truth import GroundTruth, read_ground_truth
from fastia.data.png import read_ids
from fastia.data.threads import in_threads
from fastia.functional import checks
from fastia.metrics.registry import SIZE_BOUNDS, SIZE_NAMES
from fastia.typing import PathLike

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = ("#d95f02", "#7570b3", "#1b9e77")  # small, medium, large
_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Analysis:
    """What :func:`analyze_dataset` returns.

    Attributes:
        truth: every instance, with its class and area.
        components: number of 8-connected components ``[images, C]`` of each image and class.
        per_class: by name of the class, ``all`` last: numbers of ``images`` that hold it, of ``instances``, also of
            each size (``small``, ...), and of ``components``; ``pixels``; ``area_minimum``, the quartiles ``area_25``,
            ``area_50`` and ``area_75``, and ``area_maximum`` (NaN without an instance); ``instances_per_image`` and
            ``components_per_image``, means over the images that hold it.
        notes: what a reader ought to know.
    """

    truth: GroundTruth
    components: NDArray[np.int64]
    per_class: dict[str, dict[str, float]]
    notes: list[str]


def analyze_dataset(
    dataset: PathLike,
    split: str,
    *,
    classes: PathLike | Sequence[str] | None = None,
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
    csv: PathLike | None = None,
    instances_csv: PathLike | None = None,
    plot: PathLike | None = None,
    jobs: int | None = None,
    progress: bool = False,
) -> Analysis:
    """Count the instances of a split by class and size, their areas, and components per image.

    Without a folder ``SegmentationObject`` the connected components of the ground truth are the instances.

    Args:
        dataset, split, background, ignore_index, instance_ignore_index, jobs, progress: as in
            :func:`fastia.evaluate_directory`.
        classes: as there; None: those of ``classes.txt`` in the dataset, or without it those of PASCAL VOC.
        csv: where to write one row per class.
        instances_csv: where to write one row per instance.
        plot: where to write a PNG: instances by class and size, areas, and numbers per image.

    Returns:
        :class:`Analysis`.

    Raises:
        fastia.data.problems.FileProblems: a :class:`ValueError` with all files that are bad.
        ValueError: no such dataset or split, or an option that is not allowed.
        ModuleNotFoundError: a plot or a decoder needs ``pip install fastia[cli]``.

    Example:
        >>> import tempfile
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.data.analyze import analyze_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=3)
        ...     row = analyze_dataset(folder, "all").per_class["all"]
        >>> row["instances"] == row["small"] + row["medium"] + row["large"] > 0
        True

    Source: sizes as in COCO's evaluation; the plot follows Figs. 1b and 6 of Mun et al., "Small Objects Matters in
    Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    checks.new_files(csv=csv, instances_csv=instances_csv, plot=plot)
    truth = read_ground_truth(
        dataset,
        split,
        classes=classes,
        background=background,
        ignore_index=ignore_index,
        instance_ignore_index=instance_ignore_index,
        jobs=jobs,
        progress=progress,
    )
    targets = voc.Dataset(dataset).targets

    def count_components(name: str) -> NDArray[np.int64]:
        found = functional.components(
            read_ids(targets / f"{name}.png"), background=background, ignore_index=ignore_index
        )
        return np.bincount(found.class_id, minlength=len(truth.classes))

    components = np.stack(list(in_threads(count_components, truth.images, jobs)))
    notes = []
    if not truth.has_instances:
        notes.append("No folder SegmentationObject: the connected components of the ground truth are the instances.")
    result = Analysis(truth, components, _per_class(truth, components), notes)
    for path, write in ((csv, write_csv), (instances_csv, write_instances_csv), (plot, write_plot)):
        if path is not None:
            with replacing(path) as partial:
                write(result, partial)
    return result


def write_csv(result: Analysis, path: PathLike) -> None:
    """Write one row per class and one for all; an empty field where there is no instance."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv_module.writer(file, lineterminator="\n")
        writer.writerow(("class", *result.per_class["all"]))
        for name, row in result.per_class.items():
            writer.writerow((name, *("" if np.isnan(value) else f"{value:.10g}" for value in row.values())))


def write_instances_csv(result: Analysis, path: PathLike) -> None:
    """Write one row per instance: image, class, instance, area, size."""
    truth = result.truth
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv_module.writer(file, lineterminator="\n")
        writer.writerow(("image", "class", "instance", "area", "size"))
        columns = (truth.image, truth.class_id, truth.instance_id, truth.area, truth.size)
        for image, class_id, instance, area, size in zip(*(column.tolist() for column in columns), strict=True):
            writer.writerow((truth.images[image], truth.classes[class_id], instance, area, SIZE_NAMES[size]))


def write_plot(result: Analysis, path: PathLike) -> None:
    """Draw instances by class for each size, in descending order, and histograms of areas and numbers per image."""
    from matplotlib.figure import Figure

    truth = result.truth
    names = [truth.classes[i] for i in truth.foreground]
    figure = Figure(figsize=(12, 4.6 + 0.2 * len(names)), dpi=120, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(0.8 + 0.2 * len(names), 3.8), squeeze=False)[:, 0]
    for ax, size, title, colour in zip(upper.subplots(1, 3, sharex=True), SIZE_NAMES, _titles(), _COLOURS, strict=True):
        counts = np.array([result.per_class[name][size] for name in names])
        order = np.argsort(-counts, kind="stable")
        ax.barh(np.arange(len(names)), counts[order], height=0.75, color=colour)
        for place, count in enumerate(counts[order]):
            ax.text(count, place, f" {count:.0f}", va="center", fontsize=7, color="0.35")
        ax.set_yticks(np.arange(len(names)), [names[i] for i in order], fontsize=8)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_title(f"{title}: {counts.sum():.0f}", fontsize=10)
        _tidy(ax)
    areas, per_image = lower.subplots(1, 2)
    if len(truth.area):
        edges = np.geomspace(truth.area.min(), truth.area.max() + 1, 41)
        by_size = [truth.area[truth.size == i] for i in range(3)]
        areas.hist(by_size, edges, stacked=True, color=_COLOURS, label=SIZE_NAMES)
        areas.legend(frameon=False, fontsize=8)
    areas.set_xscale("log")
    for bound in SIZE_BOUNDS:
        areas.axvline(bound, color="0.3", linewidth=0.8, linestyle=":")
    areas.set_xlabel("area in pixels")
    areas.set_ylabel("instances")
    _tidy(areas)
    numbers = {"instances": truth.counts().sum((1, 2)), "components": result.components.sum(1)}
    most = max(int(each.max()) for each in numbers.values())
    edges = np.arange(-0.5, most + 1 + most // 40, 1 + most // 40)
    per_image.hist(list(numbers.values()), edges, label=list(numbers), color=["#9ecae1", "#08519c"])
    per_image.legend(frameon=False, fontsize=8)
    per_image.set_xlabel("instances and connected components per image")
    per_image.set_ylabel("images")
    _tidy(per_image)
    figure.suptitle(f"{len(truth.area)} instances in {len(truth.images)} images, by class and size")
    figure.savefig(path, format="png")


def table(result: Analysis) -> Table:
    """Objects by class and size, for `rich` to print; 80 columns hold it."""
    from rich import box
    from rich.table import Table

    grid = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        title=f"Instances of {len(result.truth.images)} images by class and size",
        title_justify="left",
        title_style="bold",
        caption="small: below 32², medium: below 96² pixels; 25 %, median, 75 %: quartiles of the area;\n"
        "comp.: connected components in an image that holds the class, on average",
        caption_justify="left",
    )
    grid.add_column("class", overflow="ellipsis", no_wrap=True, max_width=13)
    for heading in ("images", "inst.", *SIZE_NAMES, "25 %", "median", "75 %", "comp."):
        grid.add_column(heading, justify="right", no_wrap=True)
    last = list(result.per_class)[-2]
    for name, row in result.per_class.items():
        counts = [f"{row[column]}" for column in ("images", "instances", *SIZE_NAMES)]
        areas = ["-" if np.isnan(row[f"area_{q}"]) else f"{row[f'area_{q}']:.0f}" for q in (25, 50, 75)]
        per_image = row["components_per_image"]
        cells = [*counts, *areas, "-" if np.isnan(per_image) else f"{per_image:.1f}"]
        grid.add_row(name, *cells, end_section=name == last, style="bold" if name == "all" else None)
    return grid


def _titles() -> tuple[str, str, str]:
    return "small, below 32²", "medium, below 96²", "large"


def _tidy(ax: Any) -> None:
    ax.grid(axis="both", color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _per_class(truth: GroundTruth, components: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    counts = truth.counts()
    rows = {}
    for class_id in truth.foreground:
        chosen = slice(class_id, class_id + 1)
        areas = truth.area[truth.class_id == class_id]
        rows[truth.classes[class_id]] = _row(
            areas, counts[:, chosen], components[:, chosen], truth.class_pixels[:, chosen]
        )
    everything = truth.foreground
    rows["all"] = _row(truth.area, counts[:, everything], components[:, everything], truth.class_pixels[:, everything])
    return rows


def _row(
    areas: NDArray[np.int64], counts: NDArray[np.int64], components: NDArray[np.int64], pixels: NDArray[np.int64]
) -> dict[str, float]:
    """The entry of one class or of all: ``counts [images, classes, 3]``, the rest ``[images, classes]``."""
    images = int((pixels.any(1)).sum())
    instances = int(counts.sum())
    quartiles = np.quantile(areas, _QUARTILES).tolist() if len(areas) else [np.nan] * 3
    return {
        "images": images,
        "instances": instances,
        **dict(zip(SIZE_NAMES, counts.sum((0, 1)).tolist(), strict=True)),
        "components": int(components.sum()),
        "pixels": int(pixels.sum()),
        "area_minimum": int(areas.min()) if len(areas) else np.nan,
        **{f"area_{round(100 * q)}": value for q, value in zip(_QUARTILES, quartiles, strict=True)},
        "area_maximum": int(areas.max()) if len(areas) else np.nan,
        "instances_per_image": instances / images if images else np.nan,
        "components_per_image": int(components.sum()) / images if images else np.nan,
    }
