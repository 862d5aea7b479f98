"""The commands of `fastia dataset`, convert, balance and analyze, and `fastia shapes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastia.cli.shared import errors_as_text, id_or_none

dataset_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make, balance and look into datasets in PASCAL VOC layout."
)

_Root = Annotated[Path, typer.Argument(help="Folder in PASCAL VOC layout.")]
Classes = Annotated[
    Path | None, typer.Option(help="Text file, one name a line; classes.txt of the dataset by default, or VOC's.")
]
_Background = Annotated[str, typer.Option(metavar="ID|none", help="Class id of the background.")]
_Ignored = Annotated[str, typer.Option(metavar="ID|none", help="Id of void pixels.")]
_Jobs = Annotated[int | None, typer.Option(min=1, help="Number of threads; one a core by default.")]


@dataset_app.command()
def convert(
    root: Annotated[Path, typer.Argument(help="Folder to write into.")],
    annotations: Annotated[list[Path], typer.Argument(help="JSON of COCO or LVIS instances, or COCO panoptic.")],
    split: Annotated[str, typer.Option(help="Name of the split to write.")] = "val",
    class_map: Annotated[
        str, typer.Option(metavar="voc|categories|FILE", help="VOC's classes, one per category, or a TOML file.")
    ] = "voc",
    images: Annotated[Path | None, typer.Option(help="Folder of the JPEG files; without it, no pictures.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Link the pictures instead of copying them.")] = False,
    panoptic_masks: Annotated[Path | None, typer.Option(help="Folder of the PNGs of a panoptic JSON.")] = None,
    jobs: _Jobs = None,
) -> None:
    """Convert annotations of COCO or LVIS to PASCAL VOC layout.

    Of several files, each image takes a class from the first that has it: give LVIS before COCO for potted plants.
    An interrupted conversion goes on where it stopped. Bad annotations are all listed; the exit status is then 2.
    """
    with errors_as_text():
        from rich.console import Console

        from fastia.data.convert import convert_coco

        result = convert_coco(
            annotations,
            root,
            split,
            class_map=class_map,
            images=images,
            link=link,
            panoptic_masks=panoptic_masks,
            jobs=jobs,
            progress=True,
        )
        console = Console(highlight=False)
        console.print(f"{len(result.images)} images, {result.instances} instances, {len(result.classes)} classes")
        _print(console, [f"Note: {note}" for note in result.notes])
        _print(console, [f"Wrote split {split} of {root}"])


@dataset_app.command()
def balance(
    root: _Root,
    split: Annotated[str, typer.Option(help="Split to choose from.")] = "val",
    name: Annotated[str, typer.Option(help="Name of the split to write.")] = "balanced",
    per_cell: Annotated[int | None, typer.Option(min=1, help="Instances wanted of each class and size.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images to choose; as many as serve by default.")] = None,
    interest: Annotated[str | None, typer.Option(metavar="A,B,...", help="Classes to balance; all by default.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Text file of rejected images, one a line.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row per chosen image, for review.")] = None,
    sets: Annotated[int, typer.Option(min=0, help="Near-optimal sets to draw, for --scores.")] = 0,
    scores: Annotated[list[Path] | None, typer.Option(help="JSON of fastia evaluate of SPLIT; repeat it.")] = None,
    slack: Annotated[float, typer.Option(min=0, help="How much worse these sets may be.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice among equally good sets.")] = 0,
    time_limit: Annotated[float, typer.Option(min=0, help="Seconds for each search.")] = 60.0,
    classes: Classes = None,
    background: _Background = "0",
    ignore_index: _Ignored = "255",
    jobs: _Jobs = None,
) -> None:
    """Choose images with as many instances of each class and size.

    The recipe of PASCAL-B as an integer programme. Predictions play no part in the choice; --scores only shows how
    much scores and rankings depend on it.
    """
    with errors_as_text():
        if bool(scores) != bool(sets):
            raise ValueError("--sets and --scores need each other")
        from rich.console import Console

        from fastia.data.balance import balance_dataset, sentences, table
        from fastia.evaluation import stability

        result = balance_dataset(
            root,
            split,
            name,
            per_cell=per_cell,
            images=images,
            interest=None if interest is None else [each.strip() for each in interest.split(",")],
            exclude=exclude or (),
            sets=sets,
            slack=slack,
            seed=seed,
            time_limit=time_limit,
            classes=classes,
            background=id_or_none("--background", background),
            ignore_index=id_or_none("--ignore-index", ignore_index),
            csv=csv,
            jobs=jobs,
            progress=True,
        )
        console = Console(highlight=False)
        console.print(table(result))
        _print(console, sentences(result))
        if scores:
            spread = stability.across_sets(scores, result.sets)
            console.print(stability.table(spread))
            _print(console, stability.sentences(spread))
        _print(console, [f"Wrote split {name} of {root}", *([f"Wrote {csv}"] if csv else [])])


@dataset_app.command()
def analyze(
    root: _Root,
    split: Annotated[str, typer.Option(help="File in ImageSets/Segmentation, without .txt.")] = "val",
    csv: Annotated[Path | None, typer.Option(help="Write one row per class.")] = None,
    instances_csv: Annotated[Path | None, typer.Option(help="Write one row per instance.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG: by class and size, areas, per image.")] = None,
    classes: Classes = None,
    background: _Background = "0",
    ignore_index: _Ignored = "255",
    jobs: _Jobs = None,
) -> None:
    """Count instances by class and size, their areas, and components per image.

    Without SegmentationObject the connected components of SegmentationClass are the instances.
    """
    with errors_as_text():
        from rich.console import Console

        from fastia.data.analyze import analyze_dataset, table

        result = analyze_dataset(
            root,
            split,
            classes=classes,
            background=id_or_none("--background", background),
            ignore_index=id_or_none("--ignore-index", ignore_index),
            csv=csv,
            instances_csv=instances_csv,
            plot=plot,
            jobs=jobs,
            progress=True,
        )
        console = Console(highlight=False)
        console.print(table(result))
        _print(console, [f"Note: {note}" for note in result.notes])
        _print(console, [f"Wrote {path}" for path in (csv, instances_csv, plot) if path is not None])


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


def _print(console: Any, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
