"""Work on many images in threads: the kernels and the decoding of PNGs let other threads run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

_CHUNK = 8  # images that a worker takes at a time: handing over one costs as much as decoding one


def in_threads(
    function: Callable[[Item], Value],
    items: Sequence[Item],
    jobs: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[Value]:
    """The value of a function for every item, in their order.

    Args:
        function: called by several threads at once.
        items: what it is called with.
        jobs: number of threads; None: number of cores.
        advance: called with the number of items done since the last call.
    """
    chunks = [items[begin : begin + _CHUNK] for begin in range(0, len(items), _CHUNK)]

    def run_chunk(chunk: Sequence[Item]) -> list[Value]:
        return [function(item) for item in chunk]

    def results(finished: Iterator[list[Value]]) -> Iterator[Value]:
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
