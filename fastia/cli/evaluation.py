"""The commands `fastia evaluate`, `compare` and `sensitivity`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fastia.cli.dataset import Classes
from fastia.cli.shared import errors_as_text, id_or_none, print_evaluation
from fastia.metrics import further


class Protocol(str, Enum):
    """The protocols of :func:`fastia.instance_iou`, as choices."""

    wacv2024 = "wacv2024"
    exact = "exact"


class AbsentClasses(str, Enum):
    """What mIoU does with a class that is predicted but absent from the ground truth, as choices."""

    skip = "skip"
    zero = "zero"


def evaluate(
    dataset: Annotated[Path, typer.Option(help="Folder in PASCAL VOC layout.")],
    predictions: Annotated[Path, typer.Option(help="Folder with a PNG of class ids per image: palette or grey.")],
    split: Annotated[str, typer.Option(help="File in ImageSets/Segmentation, without .txt.")] = "val",
    protocol: Annotated[Protocol, typer.Option(help="As published, or the paper's text.")] = Protocol.wacv2024,
    classes: Classes = None,
    background: Annotated[str, typer.Option(metavar="ID|none", help="Class id of the background.")] = "0",
    ignore_index: Annotated[str, typer.Option(metavar="ID|none", help="Id of ignored pixels.")] = "255",
    instance_ignore_index: Annotated[
        str | None, typer.Option(metavar="ID|none", help="Id of void in SegmentationObject; --ignore-index by default.")
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(further.SCORES), help="Further scores; may be given several times."),
    ] = None,
    absent_classes: Annotated[
        AbsentClasses, typer.Option(help="Whether mIoU skips a predicted class without ground truth, or counts 0.")
    ] = AbsentClasses.skip,
    json: Annotated[Path | None, typer.Option(help="Write scores and what each image contributes.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row per instance.")] = None,
    scores_csv: Annotated[Path | None, typer.Option(help="Write one row per class and score.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG: IA-IoU by class and size.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write DIR/index.html: charts, tables, missed objects.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Number of threads; one a core by default.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Skip images without prediction.")] = False,
) -> None:
    """Score predictions by class and size.

    Prints IA-IoU and penalized IA-IoU beside IoU. Bad files are all listed; the exit status is then 2.
    """
    with errors_as_text():
        from fastia.evaluation.run import evaluate_directory

        result = evaluate_directory(
            dataset,
            split,
            predictions,
            protocol=protocol.value,
            classes=classes,
            background=id_or_none("--background", background),
            ignore_index=id_or_none("--ignore-index", ignore_index),
            instance_ignore_index="ignore_index"
            if instance_ignore_index is None
            else id_or_none("--instance-ignore-index", instance_ignore_index),
            extra=extra or (),
            absent_classes=absent_classes.value,
            json=json,
            csv=csv,
            scores_csv=scores_csv,
            plot=plot,
            report=report,
            jobs=jobs,
            allow_missing=allow_missing,
            progress=True,
        )
        print_evaluation(result, filter(None, (json, csv, scores_csv, plot, report and report / "index.html")))


def compare(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FILE...", help="JSON of fastia evaluate. Files of one NAME are its checkpoints."
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE", help="The same methods on another data set, an option each."),
    ] = None,
    score: Annotated[list[str] | None, typer.Option(help="Only this score; may be given several times.")] = None,
    resamples: Annotated[int, typer.Option(min=99, help="Number of resamples, and of swaps.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write everything.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row per score and difference.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG: scores with intervals, rankings.")] = None,
) -> None:
    """Compare methods, with intervals and paired tests.

    All files are of the same images; a method without NAME is named as its file.
    """
    with errors_as_text():
        from rich.console import Console

        from fastia.evaluation import comparison_report
        from fastia.evaluation.comparison import compare as compare_files

        result = compare_files(
            _named(files),
            against=_named(against) if against else None,
            scores=score,
            resamples=resamples,
            seed=seed,
            json=json,
            csv=csv,
            plot=plot,
        )
    console = Console(highlight=False)
    console.print(comparison_report.scores_table(result))
    if result.differences:
        console.print(comparison_report.differences_table(result))
    for each in result.correlations:
        text = comparison_report.correlation_text(each.interval, each.methods)
        console.print(f"{each.first} against {each.second}: {text}", markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
    for path in filter(None, (json, csv, plot)):
        console.print(f"Wrote {path}", markup=False, soft_wrap=True)


def sensitivity(
    dataset: Annotated[Path | None, typer.Option(help="Folder in PASCAL VOC layout; without it, no removal.")] = None,
    split: Annotated[str, typer.Option(help="File in ImageSets/Segmentation, without .txt.")] = "val",
    protocol: Annotated[Protocol, typer.Option(help="As published, or the paper's text.")] = Protocol.wacv2024,
    classes: Classes = None,
    background: Annotated[str, typer.Option(metavar="ID|none", help="Class id of the background.")] = "0",
    ignore_index: Annotated[str, typer.Option(metavar="ID|none", help="Id of ignored pixels.")] = "255",
    points: Annotated[int, typer.Option(min=1, help="Number of steps of the removal.")] = 100,
    csv: Annotated[Path | None, typer.Option(help="Write the curves.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG of the curves.")] = None,
) -> None:
    """Show what mIoU and IA-mIoU notice.

    A large and a small object are covered gradually; of a dataset, instances are removed from a perfect prediction,
    the smallest first.
    """
    with errors_as_text():
        from rich.console import Console

        from fastia.evaluation import sensitivity as analyses
        from fastia.functional import checks

        checks.new_files(csv=csv, plot=plot)
        curves = analyses.corner_cases(protocol=protocol.value)
        if dataset is not None:
            removed = analyses.removal(
                dataset,
                split,
                points=points,
                protocol=protocol.value,
                classes=classes,
                background=id_or_none("--background", background),
                ignore_index=id_or_none("--ignore-index", ignore_index),
            )
            curves.append(removed)
        analyses.write_all(curves, csv=csv, plot=plot)
    console = Console(highlight=False)
    console.print(analyses.table(curves))
    for path in filter(None, (csv, plot)):
        console.print(f"Wrote {path}", markup=False, soft_wrap=True)


def _named(files: list[str]) -> dict[str, list[str]]:
    """The files of each method, of NAME=FILE and FILE."""
    named: dict[str, list[str]] = {}
    for text in files:
        name, equals, path = text.partition("=")
        if not equals:
            name, path = Path(text).stem, text
            if name in named:
                raise ValueError(f"two methods are named {name}: name them apart, as in other={path}")
        named.setdefault(name, []).append(path)
    return named
