"""Errors of the command line: one text on the standard error stream, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

INSTALL = "the command line needs more packages: pip install fastia[cli]"


@contextmanager
def errors_as_text() -> Iterator[None]:
    """Bad input ends with status 2, a missing package with status 1; any other error is one of fastia's own."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        text = error.msg if "fastia[" in error.msg else f"no module {module}: {INSTALL}"
        print(f"Error: {text}", file=sys.stderr)
        sys.exit(1)
