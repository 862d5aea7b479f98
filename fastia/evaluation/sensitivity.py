"""What mIoU and IA-mIoU do while objects are covered bit by bit, or removed from a perfect prediction one by one."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastia.data import voc
from fastia.data.files import write_together
from fastia.data.threads import in_threads
from fastia.evaluation.masks import ImageMasks, read_masks
from fastia.evaluation.result import Evaluation
from fastia.evaluation.run import evaluate_directory
from fastia.functional import checks
from fastia.functional.overlaps import instance_overlaps
from fastia.metrics import registry, standard
from fastia.metrics.registry import SIZE_NAMES
from fastia.typing import PathLike, Protocol

if TYPE_CHECKING:
    from rich.table import Table

SCORES = ("miou", "ia_miou", "ia_miou_penalized", *(f"ia_miou_{size}" for size in SIZE_NAMES))
_SCENE = (192, 256)
_OBJECTS = {"large": (16, 16, 160), "small": (32, 208, 24)}  # y, x, side


@dataclass(frozen=True)
class Curve:
    """Scores of the foreground classes, in the course of an analysis.

    Attributes:
        title: what is done.
        x_name: what ``x`` is a share of.
        x: ``[P]``, in 0..1, ascending.
        scores: ``[P]`` each, by the names of :data:`SCORES`; NaN where there is no such instance.
    """

    title: str
    x_name: str
    x: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]


def corner_cases(*, protocol: Protocol = "wacv2024") -> list[Curve]:
    """Cover a large and a small object of one class gradually, from one side: each alone, and each beside the other.

    "Alone": the other object is missed. "Beside": the other one is covered already. mIoU follows the large object and
    hardly notices the small one; IA-mIoU treats both alike.

    Args:
        protocol: as in :func:`fastia.instance_iou`.

    Returns:
        Four curves over the share of the object that is covered.

    Raises:
        ValueError: an unknown ``protocol``.

    Example:
        >>> from fastia.evaluation.sensitivity import corner_cases
        >>> for curve in corner_cases():
        ...     print(f"{curve.title}: {curve.scores['miou'][-1]:.2f} {curve.scores['ia_miou'][-1]:.2f}")
        large object alone: 0.98 0.50
        small object alone: 0.02 0.50
        large object beside the small one: 1.00 1.00
        small object beside the large one: 1.00 1.00

    Source: after Fig. 4 of Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    checks.choice("protocol", protocol, checks.PROTOCOLS)
    target, instances = np.zeros(_SCENE, np.uint8), np.zeros(_SCENE, np.uint8)
    squares = {name: np.s_[y : y + side, x : x + side] for name, (y, x, side) in _OBJECTS.items()}
    for number, square in enumerate(squares.values(), 1):
        target[square], instances[square] = 1, number

    def curve(name: str, other: str, beside: bool) -> Curve:
        y, x, side = _OBJECTS[name]
        tallies, pixels = [], []
        for columns in range(side + 1):
            prediction = np.zeros(_SCENE, np.uint8)
            prediction[y : y + side, x : x + columns] = 1
            if beside:
                prediction[squares[other]] = 1
            masks = ImageMasks(prediction, target, instances, instances)
            tally, counted = _score(masks, prediction, 2, protocol=protocol, background=0)
            tallies.append(tally)
            pixels.append(counted)
        title = f"{name} object " + (f"beside the {other} one" if beside else "alone")
        share = np.linspace(0, 1, side + 1)
        return Curve(title, "covered", share, _foreground_scores(np.array(tallies), np.array(pixels), 0))

    pairs = (("large", "small"), ("small", "large"))
    return [curve(name, other, beside) for beside in (False, True) for name, other in pairs]


def removal(
    dataset: PathLike,
    split: str,
    *,
    points: int = 100,
    protocol: Protocol = "wacv2024",
    classes: PathLike | Sequence[str] | None = None,
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
) -> Curve:
    """Remove instances from a perfect prediction, the smallest of the dataset first, until none is left.

    IA-mIoU falls with the number of objects that are missed; mIoU, with their pixels. An instance that is removed is
    predicted as background, or without one as no class. Foreground that belongs to no instance stays.

    Args:
        dataset, split, protocol, classes, background, ignore_index, instance_ignore_index: as in
            :func:`fastia.evaluate_directory`.
        points: number of steps in which all instances are removed; no more than there are instances.

    Returns:
        A curve over the share of instances that are removed.

    Raises:
        EvaluationError, OSError, ValueError: as :func:`fastia.evaluate_directory`, and a split without instances.

    Example:
        >>> import tempfile
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.evaluation.sensitivity import removal
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=3)
        ...     curve = removal(folder, "all", points=2)
        >>> curve.scores["ia_miou"][[0, -1]]
        array([1., 0.])

    Source: after Fig. 5 of Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    checks.integer("points", points, 1, optional=False)
    perfect = evaluate_directory(
        dataset,
        split,
        voc.Dataset(dataset).targets,
        protocol=protocol,
        classes=classes,
        background=background,
        ignore_index=ignore_index,
        instance_ignore_index=instance_ignore_index,
    )
    records = perfect.records
    foreground = records.class_id != (-1 if background is None else background)
    area = records.area[foreground]
    if not area.size:
        raise ValueError(f"{perfect.dataset}: no instances in split {split}")
    ends = np.unique(np.linspace(0, len(area), points + 1).round().astype(np.int64))  # how many are gone at a point
    rank = np.empty(len(area), np.int64)
    rank[np.argsort(area, kind="stable")] = np.arange(len(area))
    gone_at = np.searchsorted(ends, rank, side="right")  # the first point at which an instance is gone
    image = np.repeat(np.arange(len(perfect.images)), records.count)[foreground]
    ids = records.instance_id[foreground]

    num_classes = len(perfect.classes)
    tallies = np.zeros((len(ends), 3, num_classes, 4), np.int64)
    pixels = np.zeros((len(ends), num_classes, 3), np.int64)
    places = range(len(perfect.images))
    changes = in_threads(lambda place: _changes(perfect, place, ids[image == place], gone_at[image == place]), places)
    for point, tally, counted in (change for changes_of_image in changes for change in changes_of_image):
        tallies[point] += tally
        pixels[point] += counted
    found = _foreground_scores(tallies.cumsum(0), pixels.cumsum(0), background)
    return Curve("instances removed, the smallest first", "removed", ends / len(area), found)


def write_csv(curves: Sequence[Curve], path: PathLike) -> None:
    """Write one row per point: analysis, x, what x is, and the scores (empty where there is none)."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("analysis", "of", "share", *SCORES))
        for curve in curves:
            for i, x in enumerate(curve.x.tolist()):
                values = [curve.scores[name][i] for name in SCORES]
                writer.writerow((curve.title, curve.x_name, x, *("" if np.isnan(v) else float(v) for v in values)))


def write_plot(curves: Sequence[Curve], path: PathLike) -> None:
    """Draw mIoU and IA-mIoU of each analysis as a PNG; the sizes where an analysis changes more than one."""
    from matplotlib.figure import Figure

    columns = -(-len(curves) // 2)
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(0.5 + 3.6 * columns, 0.6 + 3.4 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    styles: dict[str, dict[str, Any]] = {
        "miou": {"label": "mIoU", "color": "#555555", "linestyle": "--"},
        "ia_miou": {"label": "IA-mIoU", "color": "#08519c", "linewidth": 2},
        "ia_miou_penalized": {"label": "penalized IA-mIoU", "color": "#d9730d", "linestyle": ":", "linewidth": 2},
    }
    sizes = {f"ia_miou_{size}": {"label": size, "linewidth": 0.9} for size in SIZE_NAMES}
    for ax, curve in zip(axes, curves, strict=False):
        for name, style in (styles | (sizes if curve.x_name == "removed" else {})).items():
            ax.plot(100 * curve.x, 100 * curve.scores[name], **style)
        ax.set_title(curve.title, fontsize=10)
        ax.set_xlabel(f"{curve.x_name}, %")
        ax.grid(color="0.9", linewidth=0.6)
        ax.set_xlim(0, 100)
        ax.set_ylim(-2, 102)
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    figure.supylabel("score of the foreground, %", fontsize=10)
    labels = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, format="png")


def write_all(curves: Sequence[Curve], *, csv: PathLike | None = None, plot: PathLike | None = None) -> None:
    """Write the reports that have a path; each file appears complete, and none if one of them cannot be written.

    Raises:
        OSError: a file cannot be written.
    """
    write_together(curves, ((csv, write_csv), (plot, write_plot)))


def table(curves: Sequence[Curve]) -> Table:
    """Scores in percent at the quarters of each curve, for `rich` to print; 80 columns hold it."""
    from rich import box
    from rich.table import Table

    grid = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        title="Scores of the foreground in %",
        title_justify="left",
        title_style="bold",
        caption="pen.: penalized IA-mIoU",
        caption_justify="left",
    )
    grid.add_column("", no_wrap=True)
    for heading in ("share", "mIoU", "IA-mIoU", "pen."):
        grid.add_column(heading, justify="right", no_wrap=True)
    for curve in curves:
        for quarter in range(5):
            i = int(np.abs(curve.x - quarter / 4).argmin())
            found = (f"{100 * curve.scores[name][i]:.1f}" for name in SCORES[:3])
            title = "" if quarter else curve.title
            grid.add_row(title, f"{100 * curve.x[i]:.0f} % {curve.x_name}", *found, end_section=quarter == 4)
    return grid


def _changes(
    perfect: Evaluation, place: int, ids: NDArray[np.integer], gone_at: NDArray[np.int64]
) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """What an image adds to the sums at the points where something of it goes, the first of which is 0."""
    masks = read_masks(perfect, place)
    num_classes = len(perfect.classes)
    options = {name: getattr(perfect, name) for name in ("protocol", "background", "ignore_index")}
    options["instance_ignore_index"] = perfect.instance_ignore_index
    prediction = masks.target.astype(np.int32)
    before = _score(masks, prediction, num_classes, **options)
    changes = [(0, *before)]
    for point in np.unique(gone_at).tolist():
        gone = np.isin(masks.ids, ids[gone_at == point])
        prediction[gone] = num_classes if perfect.background is None else perfect.background
        after = _score(masks, prediction, num_classes, **options)
        changes.append((point, after[0] - before[0], after[1] - before[1]))
        before = after
    return changes


def _score(
    masks: ImageMasks, prediction: NDArray[Any], num_classes: int, **options: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums ``[3, C, 4]`` of the records, and pixels ``[C, 3]``: intersection, ground truth, predicted."""
    records, confusion = instance_overlaps(
        prediction, masks.target, masks.instances, num_classes=num_classes, threads=1, **options
    )
    tally = standard.tally(records, num_classes=num_classes, background=options["background"])
    return tally, standard.class_pixels(confusion)


def _foreground_scores(
    tallies: NDArray[np.int64], pixels: NDArray[np.int64], background: int | None
) -> dict[str, NDArray[np.float64]]:
    """Scores ``[P]`` of sums ``[P, 3, C, 4]`` and pixels ``[P, C, 3]``, without the class ``background``."""
    if background is not None:
        tallies, pixels = np.delete(tallies, background, axis=2), np.delete(pixels, background, axis=1)
    points = [registry.without_stuff(standard.columns_from(*sums), ()) for sums in zip(tallies, pixels, strict=True)]
    return {
        name: np.array([registry.terms(columns, standard.RATIOS[name]).value for columns in points]) for name in SCORES
    }
