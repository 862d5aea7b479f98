"""What is wrong with the files of a dataset: told for all of them at once, not raised at the first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from fastia.data.png import Ids, read_ids

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 8  # images that a worker takes at a time: handing over one costs as much as decoding one


class FileProblems(ValueError):
    """Files that cannot be used.

    Attributes:
        problems: one text for each offending file, beginning with its path.
    """

    def __init__(self, problems: Sequence[str], purpose: str) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        super().__init__(
            "\n  ".join([f"{count} {'file' if count == 1 else 'files'} cannot be {purpose}:", *self.problems])
        )


def read_or_tell(path: str, problems: list[str]) -> Ids | None:
    """The ids of a PNG, or None and what is wrong with it."""
    try:
        return read_ids(path)
    except (OSError, ValueError) as error:
        problems.append(describe(path, error))
    return None


def describe(path: str, error: OSError | ValueError) -> str:
    """An error of reading a file as a text that begins with its path."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: missing"
    return f"{path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def foreign_ids(path: str, ids: Ids | None, num_classes: int, ignore_index: int | None) -> list[str]:
    """What is wrong with ids that are neither classes nor ignored, if any are."""
    if ids is None or ids.max(initial=0) < num_classes:
        return []
    foreign = ids[ids >= num_classes]
    if ignore_index is not None:
        foreign = foreign[foreign != ignore_index]
    if not foreign.size:
        return []
    values = np.unique(foreign)
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    ignored = "" if ignore_index is None else f" and ignore_index {ignore_index}"
    return [
        f"{path}: {'id' if len(values) == 1 else 'ids'} {shown} in {foreign.size} pixels;"
        f" allowed are the {num_classes} classes 0..{num_classes - 1}{ignored}"
    ]


def size_text(shape: tuple[int, ...]) -> str:
    """Width x height of a shape ``[H, W]``."""
    return f"{shape[1]}x{shape[0]}"


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int | None, advance: Callable[[int], None]
) -> Iterator[Result]:
    """The result of every item, in their order; ``advance`` is told how many are done."""
    chunks = [items[begin : begin + _CHUNK] for begin in range(0, len(items), _CHUNK)]

    def run_chunk(chunk: Sequence[Item]) -> list[Result]:
        return [function(item) for item in chunk]

    def results(finished: Iterator[list[Result]]) -> Iterator[Result]:
        for chunk in finished:
            yield from chunk
            advance(len(chunk))

    workers = min(jobs or cores(), len(chunks))
    if workers <= 1:
        yield from results(map(run_chunk, chunks))
    else:
        with ThreadPoolExecutor(workers) as pool:
            yield from results(pool.map(run_chunk, chunks))


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
