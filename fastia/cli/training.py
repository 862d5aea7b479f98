"""The command `fastia train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fastia.cli.shared import errors_as_text, print_evaluation


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
        from fastia.training import run
        from fastia.training.config import load

        options = [*(overrides or [])]
        options += ["check=false"] * no_check + ["compile=true"] * compile
        options += [f"backbone_weights={backbone_weights}"] if backbone_weights else []
        result = run.train(load(config, options), resume=resume, progress=True)
        if result.evaluation is not None:
            print_evaluation(result.evaluation, [])
        if os.environ.get("RANK", "0") == "0":
            print(f"Wrote {result.output}: {', '.join(sorted(path.name for path in result.output.glob('[!.]*')))}")
