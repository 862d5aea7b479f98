"""The command line: `fastia evaluate`, `sensitivity`, `train`, `dataset`, `shapes`, and what is installed here."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Annotated

from fastia._version import __version__
from fastia.cli_shared import INSTALL, errors_as_text, id_or_none
from fastia.engine.result import Evaluation
from fastia.metrics import further

try:
    import typer
except ImportError:
    sys.exit(f"Error: no module typer: {INSTALL}")

from fastia.cli_dataset import Classes, dataset_app

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's table cuts long options at 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dataset_app, name="dataset")


class Protocol(str, Enum):
    """The protocols of :func:`fastia.instance_iou`, as choices."""

    wacv2024 = "wacv2024"
    exact = "exact"


class AbsentClasses(str, Enum):
    """What mIoU does with a class that is predicted but absent from the ground truth, as choices."""

    skip = "skip"
    zero = "zero"


def main() -> None:
    """Run the command line. Bad input is told in one text on the standard error stream, with exit status 2."""
    app()


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Instance-aware evaluation and size-balanced training of semantic segmentation."""
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        info()


@app.command()
def info() -> None:
    """Print versions, backends and folders."""
    from fastia.kernels import cpu

    rows = {
        "fastia": __version__,
        "backends": "cpu",
        "instruction set": f"{cpu.instruction_set()}, {cpu.num_threads()} threads",
        "torch": _version("torch"),
        "NumPy": _version("numpy"),
        "CuPy": next(filter(None, map(_version, ("cupy-cuda12x", "cupy-cuda13x", "cupy"))), None),
        "Triton": _version("triton"),
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "cache folder": f"{cache_folder()}",
    }
    for name, value in rows.items():
        print(f"{name:16} {value or 'not installed'}")


@app.command()
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
        from fastia.engine.evaluate import evaluate_directory

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
        _print_evaluation(result, filter(None, (json, csv, scores_csv, plot, report and report / "index.html")))


@app.command()
def train(
    config: Annotated[str, typer.Option(metavar="FILE|NAME", help="TOML file, or voc12, coco14 or shapes.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Keys of the configuration, over the file's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in output.")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not read all files first: check=false.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network: compile=true.")] = False,
    backbone_weights: Annotated[
        Path | None, typer.Option(help="State dict in torchvision's names: backbone_weights=FILE.")
    ] = None,
) -> None:
    """Train a network in two phases, and score it.

    With several processes, start it as `torchrun --nproc-per-node N -m fastia train ...`. SIGTERM and Ctrl-C save a
    checkpoint first.
    """
    with errors_as_text():
        from fastia.engine.config import load
        from fastia.engine.train import train as run

        options = [*(overrides or [])]
        options += ["check=false"] * no_check + ["compile=true"] * compile
        options += [f"backbone_weights={backbone_weights}"] if backbone_weights else []
        result = run(load(config, options), resume=resume, progress=True)
        if result.evaluation is not None:
            _print_evaluation(result.evaluation, [])
        if os.environ.get("RANK", "0") == "0":
            print(f"Wrote {result.output}: {', '.join(sorted(path.name for path in result.output.glob('[!.]*')))}")


@app.command()
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

        from fastia.engine import comparison_report
        from fastia.engine.compare import compare as compare_files

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


@app.command()
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

        from fastia import checks
        from fastia.engine import sensitivity as analyses

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


@app.command()
def shapes(
    root: Annotated[Path, typer.Argument(help="Folder to write into.")],
    images: Annotated[int, typer.Option(help="Number of images.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
) -> None:
    """Make a small synthetic dataset.

    In PASCAL VOC layout, with classes.txt, Predictions and PseudoMasks.
    """
    with errors_as_text():
        from fastia.data.shapes import make_shapes

        make_shapes(root, images, seed=seed)


def cache_folder() -> Path:
    """Where compiled kernels are kept: FASTIA_CACHE, else `fastia` in the user's cache folder."""
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("FASTIA_CACHE") or Path(users) / "fastia").expanduser()


def _print_evaluation(result: Evaluation, written: Iterable[Path]) -> None:
    from rich.console import Console

    from fastia.engine.report import extra_table, table

    console = Console(highlight=False)
    console.print(table(result))
    further = extra_table(result)
    if further is not None:
        console.print(further)
    for note in result.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
    for path in written:
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


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
