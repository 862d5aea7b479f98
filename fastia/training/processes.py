"""One process or several: what torchrun started, and how they agree."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Processes:
    """This process among those of a run; alone, its methods return what they are given."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """A picklable object of each process."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def any(self, value: int) -> int:
        """The largest number of all processes, which wait for each other here."""
        if self.count == 1:
            return value
        agreed = torch.tensor(value)  # on the CPU, so that no GPU is waited for
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return int(agreed)


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did and nobody has before, and leave them at the end.

    Args:
        device: ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: ``"cuda"`` without a GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no GPU")
    rank, count, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES.items())
    use_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if use_gpu:
        torch.cuda.set_device(local)
    place = torch.device("cuda", local) if use_gpu else torch.device("cpu")
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), place)
        return
    if count == 1:
        yield Processes(0, 1, place)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if use_gpu else "gloo")
    try:
        yield Processes(rank, count, place)
    finally:
        dist.destroy_process_group()


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Catch SIGTERM and Ctrl-C; yields what returns the number of the first, 0 before. A second Ctrl-C interrupts."""
    received = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received = received or number

    if threading.current_thread() is not threading.main_thread():  # where Python does not allow it
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_VARIABLES = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}  # set by torchrun
