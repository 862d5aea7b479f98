"""Checkpoints that appear complete or not at all; the last two are kept, so that a bad one costs little."""

from __future__ import annotations

import os
import random
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

_KEPT = 2
_FORMAT = 1


def save(folder: Path, iteration: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint, then remove those before the last two.

    The file is written under a temporary name, flushed to the disk and renamed: a crash, a kill or a full disk at any
    moment leaves the earlier ones as they were.

    Args:
        folder: where to; made where it does not exist.
        iteration: optimizer steps that were done.
        state: tensors, numbers and texts in dicts and lists.

    Raises:
        OSError: it cannot be written.
    """
    buffer = BytesIO()  # torch.save into a file would report a full disk as a RuntimeError, or abort
    torch.save({"format": _FORMAT, "iteration": iteration, **state}, buffer)
    path = folder / f"checkpoint-{iteration:08d}.pt"
    partial = folder / f".{path.name}.{os.getpid()}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob(".checkpoint-*.partial"):
        abandoned.unlink(missing_ok=True)
    try:
        with open(partial, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _flush(folder)
    others = [other for other in find(folder) if other != path]
    before = [other for other in others if other.name < path.name]
    for other in {*others} - {*before[: _KEPT - 1]}:  # later ones are damaged: this run began before them
        other.unlink(missing_ok=True)
    return path


def find(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the latest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def load_latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The latest checkpoint that is whole, and what it holds; None where there is no checkpoint at all.

    Damaged ones are named on the standard error stream, and the one before is taken.

    Raises:
        ValueError: all are damaged.
    """
    problems = []
    for path in find(folder):
        try:
            state = load(path)
        except ValueError as error:
            problems.append(f"{error}")
            continue
        for problem in problems:
            print(f"Warning: {problem}; going on from {path.name}", file=sys.stderr, flush=True)
        return path, state
    if problems:
        raise ValueError("\n  ".join(["no checkpoint is whole:", *problems]))
    return None


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU; only tensors and plain data, no code, are read from it.

    Raises:
        ValueError: the file is damaged, or no checkpoint of fastia. The text begins with the path.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not verify the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of zipfile, pickle and torch, which are many kinds
        raise ValueError(f"{path}: damaged checkpoint: {error}") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"{path}: no checkpoint of this version of fastia train")
    return state


def seed_everything(seed: int) -> None:
    """Seed every random number generator of this process, those of a caller's own losses too."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """The state of every random number generator of this process."""
    version, numbers, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [version, torch.from_numpy(np.asarray(numbers).astype(np.int64)), position, has_gauss, gauss],
        "python": list(random.getstate()),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, *rest = state["numpy"]
    np.random.set_state((version, numbers.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _flush(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
