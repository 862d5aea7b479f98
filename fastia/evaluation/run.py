"""Instance-aware scores of predictions in a folder, against a dataset in PASCAL VOC layout."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastia.data import voc
from fastia.data.problems import FileProblems
from fastia.data.threads import in_threads
from fastia.evaluation.report import write_all
from fastia.evaluation.result import Evaluation
from fastia.evaluation.scoring import ImageScorer
from fastia.fields import InstanceIoU
from fastia.functional import checks
from fastia.metrics import further, registry, standard
from fastia.metrics.further import Counts
from fastia.metrics.standard import AbsentClasses
from fastia.progress import progress_bar
from fastia.typing import PathLike, Protocol


class EvaluationError(FileProblems):
    """Files that cannot be evaluated; the attribute ``problems`` has a text for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems, "evaluated")


def evaluate_directory(
    dataset: PathLike,
    split: str,
    predictions: PathLike,
    *,
    protocol: Protocol = "wacv2024",
    classes: PathLike | Sequence[str] | None = None,
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
    extra: Sequence[str] = (),
    absent_classes: AbsentClasses = "skip",
    json: PathLike | None = None,
    csv: PathLike | None = None,
    scores_csv: PathLike | None = None,
    plot: PathLike | None = None,
    report: PathLike | None = None,
    jobs: int | None = None,
    allow_missing: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Score the predictions of a split of a dataset in PASCAL VOC layout, and write reports.

    Every file is read even after one turned out bad, so that the error lists all of them; reports are written only
    when there is none, and appear complete or not at all. Without a folder ``SegmentationObject`` the connected
    components of the ground truth are the instances, and ``notes`` says so.

    Args:
        dataset: the folder that holds ``SegmentationClass``, ``SegmentationObject`` and ``ImageSets``.
        split: name of a file of ``ImageSets/Segmentation``, without ``.txt``.
        predictions: folder of one palette or grey PNG of class ids per image, 8 or 16 bits, in the size of its target.
        protocol: ``"wacv2024"`` or ``"exact"``, as in :func:`fastia.instance_iou`.
        classes: names of the classes, or a text file with one a line; None: those of ``classes.txt`` in the dataset,
            or without it those of PASCAL VOC.
        background: id of the background class; None: there is none.
        ignore_index: id of ignored pixels of the ground truth, and of no class in a prediction; None: none.
        instance_ignore_index: id of void pixels of ``SegmentationObject``, by default that of ``ignore_index``; None:
            none.
        extra: names of further scores, as of :class:`fastia.InstanceAwareIoU`.
        absent_classes: ``"skip"`` or ``"zero"``: whether ``miou`` leaves out a class that is predicted but absent from
            the ground truth, or counts it as 0.
        json: where to write scores and what each image contributes to them.
        csv: where to write one row per instance.
        scores_csv: where to write one row per score, over all classes and of each.
        plot: where to write a PNG of the scores by class and size.
        report: folder, made where it does not exist, for ``index.html``: a page that holds all it shows, with charts,
            tables, and pictures of missed instances.
        jobs: number of threads; None: number of cores.
        allow_missing: whether images without a prediction are skipped.
        progress: whether to show a bar with images per second on the standard error stream.

    Returns:
        :class:`Evaluation`.

    Raises:
        EvaluationError: a :class:`ValueError` with all files that are missing, truncated or damaged, hold colours in
            place of ids, differ in size from their target, or hold an id that is no class.
        ValueError: no such dataset, split or folder, an empty split, or an option that is not allowed.
        ModuleNotFoundError: a decoder or a plot needs ``pip install fastia[cli]``, the page ``fastia[report]`` too.

    Example:
        >>> import tempfile
        >>> import fastia
        >>> from fastia.data.shapes import make_shapes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=4)
        ...     result = fastia.evaluate_directory(folder, "all", f"{folder}/Predictions")
        >>> result.scores["ia_miou"] > result.scores["ia_miou_penalized"]
        True

    Source: IA-mIoU of Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    started = time.perf_counter()
    layout = voc.Dataset(dataset)
    names = layout.ids(split)
    class_names = layout.class_names if classes is None else voc.class_names(classes)
    reports = {"json": json, "csv": csv, "scores_csv": scores_csv, "plot": plot}
    _check_options(predictions, protocol, background, ignore_index, reports, report, jobs)
    checks.choice("absent_classes", absent_classes, standard.ABSENT_CLASSES)
    if instance_ignore_index == "ignore_index":
        instance_ignore_index = ignore_index

    image_scorer = ImageScorer(
        targets=f"{layout.targets}",
        instances=f"{layout.instances}" if layout.has_instances else None,
        predictions=f"{os.fspath(predictions)}",
        num_classes=len(class_names),
        ignore_index=ignore_index,
        allow_missing=allow_missing,
        extra=further.chosen(extra),
        options={
            "protocol": protocol,
            "background": background,
            "ignore_index": ignore_index,
            "instance_ignore_index": instance_ignore_index,
        },
    )
    confusion = np.zeros((len(class_names), len(class_names) + 1), np.int64)
    scored, records, class_pixels, counts, missing = [], [], [], [], []
    problems: list[str] = []
    with progress_bar(len(names), shown=progress) as advance:
        for name, outcome in zip(names, in_threads(image_scorer, names, jobs, advance), strict=True):
            problems += outcome.problems
            if outcome.scored is not None:
                scored.append(name)
                records.append(outcome.scored[0])
                class_pixels.append(standard.class_pixels(outcome.scored[1]))
                confusion += outcome.scored[1]
                counts.append(outcome.scored[2])
            elif not outcome.problems:
                missing.append(name)
    if not problems and not scored:
        problems = [f"{os.fspath(predictions)}: no prediction of any of the {len(names)} images of {split}.txt"]
    if problems:
        raise EvaluationError(problems)

    merged = InstanceIoU._make(
        np.concatenate([np.atleast_1d(part) for part in parts]) for parts in zip(*records, strict=True)
    )
    extra_counts = {name: np.stack([each[name] for each in counts]) for name in further.needs(image_scorer.extra)}
    totals, per_class, extra_names = _scores(
        merged, confusion, class_names, background, image_scorer.extra, extra_counts, absent_classes
    )
    notes = _notes(merged, layout.has_instances, missing, instance_ignore_index)
    seconds = time.perf_counter() - started
    result = Evaluation(
        scores=totals,
        per_class=per_class,
        images=scored,
        records=merged,
        class_pixels=np.stack(class_pixels),
        extra_scores=extra_names,
        extra_counts=extra_counts,
        missing=missing,
        notes=notes,
        dataset=layout.root,
        split=split,
        predictions=Path(predictions),
        protocol=protocol,
        background=background,
        ignore_index=ignore_index,
        instance_ignore_index=instance_ignore_index,
        absent_classes=absent_classes,
        classes=class_names,
        seconds=seconds,
    )
    if any((*reports.values(), report)):
        write_all(result, **reports, report=report)
    return result


def _check_options(
    predictions: PathLike,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    reports: dict[str, PathLike | None],
    page_folder: PathLike | None,
    jobs: int | None,
) -> None:
    checks.choice("protocol", protocol, checks.PROTOCOLS)
    checks.background(background)
    checks.integer("ignore_index", ignore_index)
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if not Path(predictions).is_dir():
        raise ValueError(f"predictions {os.fspath(predictions)}: no such folder")
    checks.new_files(**reports)
    if reports["plot"] is not None:
        importlib.import_module("matplotlib")
    if page_folder is not None:
        folder = Path(page_folder)
        if not (folder.is_dir() or (folder.absolute().parent.is_dir() and not folder.exists())):
            raise ValueError(f"report must be a folder, or a new one in a folder that exists, got {folder}")
        importlib.import_module("fastia.evaluation.page")


def _scores(
    records: InstanceIoU,
    confusion: NDArray[np.int64],
    classes: list[str],
    background: int | None,
    extra: Sequence[str],
    extra_counts: Counts,
    absent_classes: AbsentClasses,
) -> tuple[dict[str, float], dict[str, dict[str, float]], list[str]]:
    """The scores over all classes, a row of scores and counts for each class, and the names of the further scores."""
    batch = InstanceIoU._make(field[None] for field in records)
    tally = standard.tally(batch, num_classes=len(classes), background=background)
    counted = standard.standard_columns(tally, confusion)
    computed = registry.values(standard.ratios(absent_classes), registry.without_stuff(counted, ()))
    counts = {
        name: table if further.needs(extra)[name].stacked else table.sum(0) for name, table in extra_counts.items()
    }
    found = further.further_scores(extra, counts, tally, confusion)
    columns = {"iou": computed["iou_per_class"]}
    for size, bins in standard.BINS_OF.items():
        columns |= {f"{name}{size}": computed[f"{name}{size}_per_class"] for name in ("ia_iou", "ia_iou_penalized")}
        for name, kind in (("instances", "count"), ("unmatched", "unmatched")):
            columns[f"{name}{size}"] = registry.combined(counted, {f"{kind}_{each}": 1 for each in bins})[0].astype(int)
    columns |= {name.removesuffix("_per_class"): table for name, table in found.items() if np.ndim(table)}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    per_class = {name: dict(zip(columns, row, strict=True)) for name, row in zip(classes, rows, strict=True)}
    totals = {name: float(value) for name, value in (computed | found).items() if not np.ndim(value)}
    return totals, per_class, [name for name in totals if name in found]


def _notes(
    records: InstanceIoU,
    has_instances: bool,
    missing: list[str],
    void: int | None,
) -> list[str]:
    notes = []
    if not has_instances:
        notes.append("No folder SegmentationObject: the connected components of the ground truth are the instances.")
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        total = len(missing) + len(records.count)
        skipped = f"{len(missing)} of {total} images skipped, for there is no prediction of them"
        notes.append(f"{skipped}: {', '.join(missing[:5])}{more}")
    if has_instances and void is not None and records.instance_id.max(initial=0) > void >= 1:
        notes.append(f"There are instance ids above {void}, and {void} itself counts as void (instance_ignore_index).")
    return notes
