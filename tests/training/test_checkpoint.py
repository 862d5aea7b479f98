"""Checkpoints: whole or not at all, and the one before when the last is damaged."""

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fastia.training import checkpoint


def save(folder: Path, *iterations: int) -> None:
    for iteration in iterations:
        checkpoint.save(folder, iteration, {"weights": torch.full((1000,), float(iteration))})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_are_kept_and_nothing_else(tmp_path) -> None:
    (tmp_path / ".checkpoint-00000005.pt.123.partial").write_bytes(b"left by a kill")
    save(tmp_path, 10, 20, 30)
    assert names(tmp_path) == ["checkpoint-00000020.pt", "checkpoint-00000030.pt"]
    path, state = checkpoint.load_latest(tmp_path)
    assert path.name == "checkpoint-00000030.pt"
    assert state["iteration"] == 30
    assert torch.equal(state["weights"], torch.full((1000,), 30.0))


def test_folder_without_checkpoints_has_none(tmp_path) -> None:
    assert checkpoint.load_latest(tmp_path) is None
    assert checkpoint.load_latest(tmp_path / "absent") is None


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, lambda path: path.write_bytes(path.read_bytes()[:2000]), lambda path: path.write_bytes(b"")],
    ids=["a flipped bit", "truncated", "empty"],
)
def test_damaged_latest_is_named_and_the_one_before_is_taken(damage, tmp_path, capsys) -> None:
    save(tmp_path, 10, 20)
    damage(tmp_path / "checkpoint-00000020.pt")
    assert checkpoint.load_latest(tmp_path)[1]["iteration"] == 10
    message = capsys.readouterr().err
    assert "checkpoint-00000020.pt: damaged checkpoint: " in message
    assert "going on from checkpoint-00000010.pt" in message
    save(tmp_path, 15)  # the run goes on from 10, and the damaged one must not be found again
    assert names(tmp_path) == ["checkpoint-00000010.pt", "checkpoint-00000015.pt"]


def test_all_damaged_is_an_error_that_lists_them(tmp_path) -> None:
    save(tmp_path, 10, 20)
    for path in checkpoint.find(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint is whole:\n.*00020\.pt.*\n.*00010\.pt"):
        checkpoint.load_latest(tmp_path)


def test_other_files_are_no_checkpoints(tmp_path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: no checkpoint of this version of fastia train"):
        checkpoint.load(tmp_path / "a.pt")
    torch.save(Path("code"), tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b\.pt: damaged checkpoint"):
        checkpoint.load(tmp_path / "b.pt")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_earlier_ones(call: str, tmp_path, monkeypatch) -> None:
    save(tmp_path, 10, 20)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 30)
    assert names(tmp_path) == ["checkpoint-00000010.pt", "checkpoint-00000020.pt"]
    assert checkpoint.load_latest(tmp_path)[1]["iteration"] == 20


def test_random_numbers_go_on_where_they_were(tmp_path) -> None:
    def draw() -> tuple[float, ...]:
        return random.gauss(0, 1), np.random.standard_normal(), torch.randn(()).item(), random.random()

    draw()
    checkpoint.save(tmp_path, 1, {"random": checkpoint.random_state()})
    expected = draw()
    draw()
    checkpoint.set_random_state(checkpoint.load_latest(tmp_path)[1]["random"])
    assert draw() == expected
