"""Choice of images in which every class has as many small as medium and large instances. No prediction plays a part."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastia.data import voc
from fastia.data.files import replacing, write_lines
from fastia.data.ground_truth import GroundTruth, read_ground_truth
from fastia.data.programme import Counts, Programme, imbalance
from fastia.functional import checks
from fastia.metrics.registry import SIZE_NAMES
from fastia.typing import PathLike

if TYPE_CHECKING:
    from rich.table import Table

RANDOM_SETS = 100


@dataclass(frozen=True)
class Balance:
    """What :func:`balance_dataset` returns; C classes of interest.

    Attributes:
        images: ids of the chosen images, in the order of the split.
        candidates: number of images to choose from: not excluded, with an instance of a class of interest.
        classes: names of the classes of interest.
        before, after: instances of each class and size, ``[C, 3]``, among the candidates and the chosen images.
        aim: number of instances wanted in each cell that has as many.
        deviation: instances too many or too few, summed over the cells.
        bound: no choice has a smaller deviation.
        proven: whether the solver ended before the time limit.
        imbalance: share of the instances that would have to be of another class or size for all cells to be equal: of
            the candidates (``"before"``), the chosen images (``"after"``), and the mean of 100 random choices of as
            many candidates (``"random"``).
        random_deviation: mean deviation of those.
        sets: further sets of images, each within ``tolerance`` of the best deviation.
        tolerance: instances by which their deviation may exceed ``deviation``.
        notes: what a user of the sets ought to know.
    """

    images: list[str]
    candidates: int
    classes: list[str]
    before: Counts
    after: Counts
    aim: int
    deviation: int
    bound: int
    proven: bool
    imbalance: dict[str, float]
    random_deviation: float
    sets: list[list[str]]
    tolerance: int
    notes: list[str]

    @property
    def gap(self) -> float:
        """Share of the deviation that a better choice might avoid at most."""
        return (self.deviation - self.bound) / self.deviation if self.deviation else 0.0


def balance_dataset(
    dataset: PathLike,
    split: str,
    name: str | None = "balanced",
    *,
    per_cell: int | None = None,
    images: int | None = None,
    interest: Sequence[str] | None = None,
    exclude: PathLike | Sequence[str] = (),
    sets: int = 0,
    slack: float = 0.05,
    seed: int = 0,
    time_limit: float = 60.0,
    classes: PathLike | Sequence[str] | None = None,
    background: int | None = 0,
    ignore_index: int | None = 255,
    csv: PathLike | None = None,
    jobs: int | None = None,
    progress: bool = False,
) -> Balance:
    """Choose images of a split so that the numbers of instances by class and size are as equal as possible.

    Only images with an instance of a class of interest are chosen. The same arguments give the same choice, unless the
    time limit cuts the search short.

    Args:
        dataset, split: as in :func:`fastia.evaluate_directory`.
        name: name of the split to write, in place of any of that name; None: none is written.
        per_cell: instances wanted of each class and size. None: with ``images``, what an average choice of so many
            would have; else the lower quartile of what the dataset has of each, so that three of four can be full.
        images: number of images to choose; None: as many as serve.
        interest: names of the classes to balance; None: all but the background.
        exclude: ids of images that were rejected by hand, or a text file with one a line.
        sets: number of further near-optimal sets to draw, to see how much a score depends on the choice.
        slack: share of the wanted instances by which the deviation of these sets may exceed the best.
        seed: of the order in which the solver sees the images, of the further sets, and of the random choices.
        time_limit: seconds for the search, and for each further set.
        classes, background, ignore_index, jobs, progress: as in :func:`fastia.data.ground_truth.read_ground_truth`.
        csv: where to write one row per chosen image with its instances, for review.

    Returns:
        :class:`Balance`.

    Raises:
        ValueError: an option that is not allowed, a split ``name`` that is the one to choose from, an id or class that
            does not exist, fewer candidates than ``images``, a time limit within which nothing was found, or bad files
            as in :func:`fastia.evaluate_directory`.
        ModuleNotFoundError: scipy is not installed (``pip install fastia[data]``).

    Example:
        >>> import tempfile
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.data.balance import balance_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=20)
        ...     result = balance_dataset(folder, "all")
        >>> result.imbalance["after"] < result.imbalance["random"]
        True

    Source: PASCAL-B of Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024; the
    solver is HiGHS (Huangfu and Hall, 2018), through :func:`scipy.optimize.milp`.
    """
    checks.pip_extra_module("scipy.optimize", "data")
    checks.integer("per_cell", per_cell, 1)
    checks.integer("images", images, 1)
    checks.integer("sets", sets, 0, optional=False)
    checks.integer("seed", seed, 0, optional=False)
    checks.number("slack", slack, 0)
    checks.number("time_limit", time_limit, 0)
    if name is not None and (Path(name).name != name or name.startswith(".") or name == split):
        raise ValueError(f"name must be that of another split than {split}, got {name!r}")
    checks.new_files(csv=csv)
    truth = read_ground_truth(
        dataset, split, classes=classes, background=background, ignore_index=ignore_index, jobs=jobs, progress=progress
    )
    chosen_classes = _interest(truth, interest)
    counts = truth.counts()[:, chosen_classes]
    excluded = _excluded(truth, exclude)
    candidates = np.flatnonzero(counts.any((1, 2)) & ~excluded)
    if not len(candidates):
        raise ValueError(f"{split}: no image has an instance of a class of interest")
    if images is not None and images > len(candidates):
        raise ValueError(f"images must be at most the {len(candidates)} of {split} to choose from, got {images}")
    counts = counts[candidates]

    programme = Programme.of(counts, per_cell, images)
    rng = np.random.default_rng(seed)
    solution = programme.solve(rng, time_limit)
    random = [programme.random(rng, int(solution.chosen.sum())) for _ in range(RANDOM_SETS)]
    tolerance = math.floor(slack * programme.wanted.sum())
    limit = solution.deviation + tolerance
    further = [programme.near(rng, limit, time_limit) for _ in range(sets)]

    def names(chosen: NDArray[np.bool_]) -> list[str]:
        return [truth.images[i] for i in candidates[chosen]]

    notes = []
    if not truth.has_instances:
        notes.append("No folder SegmentationObject: the connected components of the ground truth are the instances.")
    if not solution.proven:
        notes.append(
            f"The time limit of {time_limit:g} seconds ended the search: a slower machine may choose otherwise."
        )
    short = int((programme.totals < programme.aim).sum())
    if short:
        notes.append(
            f"{short} of {len(programme.totals)} cells have fewer than {programme.aim} instances in the dataset."
        )
    before, after = counts.sum(0), counts[solution.chosen].sum(0)
    lost = np.flatnonzero(before.sum(1) * (after.sum(1) == 0))
    if len(lost):
        notes.append(f"The chosen images have no {', '.join(truth.classes[chosen_classes[i]] for i in lost)}.")
    result = Balance(
        images=names(solution.chosen),
        candidates=len(candidates),
        classes=[truth.classes[i] for i in chosen_classes],
        before=before,
        after=after,
        aim=programme.aim,
        deviation=solution.deviation,
        bound=solution.bound,
        proven=solution.proven,
        imbalance={
            "before": imbalance(programme.totals),
            "after": imbalance(programme.totals_of(solution.chosen)),
            "random": float(np.mean([imbalance(programme.totals_of(each)) for each in random])),
        },
        random_deviation=float(np.mean([programme.deviation(each) for each in random])),
        sets=[names(each) for each in further],
        tolerance=tolerance,
        notes=notes,
    )
    if csv is not None:
        _write_review(csv, result.images, result.classes, counts[solution.chosen])
    if name is not None:
        write_lines(voc.Dataset(dataset).splits / f"{name}.txt", result.images)
    return result


def _interest(truth: GroundTruth, names: Sequence[str] | None) -> list[int]:
    if names is None:
        return truth.foreground
    known = [truth.classes[i] for i in truth.foreground]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"interest must be among {', '.join(known)}; got {', '.join(unknown) or 'none'}")
    return [i for i in truth.foreground if truth.classes[i] in names]


def _excluded(truth: GroundTruth, exclude: PathLike | Sequence[str]) -> NDArray[np.bool_]:
    if isinstance(exclude, str | os.PathLike):
        where, names = f"{os.fspath(exclude)}", voc.read_lines(exclude)
    else:
        where, names = "exclude", list(exclude)
    unknown = sorted({*names} - {*truth.images})
    if unknown:
        raise ValueError(f"{where}: not in the split: {', '.join(unknown[:5])}")
    return np.isin(np.array(truth.images), names)


def _write_review(path: PathLike, images: list[str], classes: list[str], counts: Counts) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "instances", *SIZE_NAMES, "classes"))
        for image, table in zip(images, counts, strict=True):
            rows = zip(classes, table.tolist(), strict=True)
            present = "; ".join(f"{name} {'/'.join(map(str, row))}" for name, row in rows if any(row))
            writer.writerow((image, table.sum(), *table.sum(0).tolist(), present))


def table(result: Balance) -> Table:
    """Objects by class and size before and after, for `rich` to print; 80 columns hold it."""
    from rich import box
    from rich.table import Table

    grid = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        title=f"Instances of {result.candidates} images, and of the {len(result.images)} chosen",
        title_justify="left",
        title_style="bold",
    )
    grid.add_column("class", overflow="ellipsis", no_wrap=True, max_width=20)
    for when in ("before", "after"):
        for size in SIZE_NAMES:
            grid.add_column(f"{size}\n{when}", justify="right", no_wrap=True)
    for i, name in enumerate(result.classes):
        cells = [*result.before[i].tolist(), *result.after[i].tolist()]
        grid.add_row(name, *(f"{count}" for count in cells), end_section=i == len(result.classes) - 1)
    totals = [*result.before.sum(0).tolist(), *result.after.sum(0).tolist()]
    grid.add_row("all", *(f"{count}" for count in totals), style="bold")
    return grid


def sentences(result: Balance) -> list[str]:
    """What the table leaves out: how good the choice is."""
    shares = {name: f"{100 * value:.1f} %" for name, value in result.imbalance.items()}
    lines = [
        f"Aim: {result.aim} instances of each class and size, or all where there are fewer.",
        f"Too many or too few: {result.deviation}; no choice has fewer than {result.bound} "
        f"(gap {100 * result.gap:.1f} %); {result.random_deviation:.1f} at random.",
        "Imbalance, the share of instances that would have to be of another class or size for all to be equal: "
        f"{shares['before']} before, {shares['after']} after, {shares['random']} at random.",
        f"At random: {len(result.images)} of these images, the mean of {RANDOM_SETS} such choices.",
    ]
    if result.sets:
        lines.append(f"{len(result.sets)} further sets have at most {result.deviation + result.tolerance}.")
    return lines + [f"Note: {note}" for note in result.notes]
