"""The command line: `fastia evaluate`, `sensitivity`, `train`, `dataset`, `shapes`, and what is installed here."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

from fastia._version import __version__
from fastia.cli.shared import INSTALL

try:
    import typer
except ImportError:
    sys.exit(f"Error: no module typer: {INSTALL}")

from fastia.cli.dataset import dataset_app, shapes
from fastia.cli.evaluation import compare, evaluate, sensitivity
from fastia.cli.training import train

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's table cuts long options at 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line. Bad input is reported in one text on the standard error stream, with exit status 2."""
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


def info() -> None:
    """Print versions, backends and folders."""
    from fastia.kernels.cpu import launch as cpu

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


def cache_folder() -> Path:
    """Where compiled kernels are kept: FASTIA_CACHE, else `fastia` in the user's cache folder."""
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("FASTIA_CACHE") or Path(users) / "fastia").expanduser()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


for _command in (info, evaluate, train, compare, sensitivity, shapes):
    app.command()(_command)
app.add_typer(dataset_app, name="dataset")
