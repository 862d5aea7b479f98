"""What the commands share: errors as one text and an exit status, an id or none, and the scores in print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastia.evaluation.result import Evaluation

INSTALL = "the command line needs more packages: pip install fastia[cli]"


@contextmanager
def errors_as_text() -> Iterator[None]:
    """Bad input ends with status 2, a missing package or a loss that is not finite with status 1.

    Any other error is one of fastia's own.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, one prints it
            print(f"Error: {_text(error)}", file=sys.stderr)
        sys.exit(1 if isinstance(error, FloatingPointError) else 2)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        text = error.msg if "fastia[" in error.msg else f"no module {module}: {INSTALL}"
        print(f"Error: {text}", file=sys.stderr)
        sys.exit(1)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        from fastia.data.problems import describe

        return describe(f"{error.filename}", error)
    return f"{error}"


def id_or_none(option: str, text: str) -> int | None:
    """The value of an option that takes an id or the word none."""
    try:
        return None if text.lower() == "none" else int(text)
    except ValueError:
        raise ValueError(f"{option} must be an integer or none, got {text!r}") from None


def print_evaluation(result: Evaluation, written: Iterable[Path]) -> None:
    """Print the scores and notes of an evaluation, and which files were written."""
    from rich.console import Console

    from fastia.evaluation.report import extra_table, table

    console = Console(highlight=False)
    console.print(table(result))
    further = extra_table(result)
    if further is not None:
        console.print(further)
    for note in result.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
    for path in written:
        console.print(f"Wrote {path}", markup=False, soft_wrap=True)
