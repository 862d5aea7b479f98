"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fastia.typing import PathLike


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yields a path to write to; what is there takes its place under ``path`` unless an error was raised."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_lines(path: PathLike, lines: Iterable[str]) -> None:
    """Write a text file of these lines."""
    with replacing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_together(result: Any, reports: Iterable[tuple[PathLike | None, Callable[[Any, Path], None]]]) -> None:
    """Write reports to paths, where there is one: under temporary names first, then all renamed, or none."""
    with ExitStack() as stack:
        for path, write in reports:
            if path is not None:
                write(result, stack.enter_context(replacing(path)))
