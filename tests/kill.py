"""`python tests/kill.py`: `fastia train` killed at ten random moments, each time resumed, learns the same bits."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fastia.data.shapes import make_shapes
from fastia.training import checkpoint

KILLS = 10
ITERATIONS = 120
OPTIONS = (
    f"iterations={ITERATIONS}", f"switch={ITERATIONS // 2}", "batch_size=2", "accumulation=2", "crop=48",
    "scales=[0.4, 0.6]", "workers=1", "learning_rate=5e-4", "ewc_lambda=20", "checkpoint_every=2", "log_every=5",
    "val_split=", "check=false",
)  # fmt: skip


def start(shapes: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fastia", "train", "--resume", "--config", "shapes", *OPTIONS]
    return subprocess.Popen(
        [*command, f"dataset={shapes}", f"output={output}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def last(output: Path) -> int:
    found = checkpoint.find(output)
    return int(found[0].stem.removeprefix("checkpoint-")) if found else 0


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(2**32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        shapes, undisturbed, killed = (Path(folder, name) for name in ("shapes", "undisturbed", "killed"))
        make_shapes(shapes, 9, size=(160, 160))
        begin = time.perf_counter()
        assert start(shapes, undisturbed).wait() == 0
        print(f"undisturbed: {time.perf_counter() - begin:.0f} s")
        for kill in range(KILLS):
            before = last(killed)
            goal = ITERATIONS * (kill + rng.random()) / KILLS  # a random moment in each tenth of the run
            process = start(shapes, killed)
            while last(killed) < goal and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
            assert process.poll() is None, "the run ended before it was killed"
            process.kill()
            process.wait()
            print(f"kill {kill + 1}: from {before}, last checkpoint {last(killed)}")
        assert start(shapes, killed).wait() == 0
        one, other = (checkpoint.load_latest(output)[1] for output in (undisturbed, killed))
        assert one["iteration"] == other["iteration"] == ITERATIONS
        for part in ("model", "optimizer", "ewc"):
            assert flat(one[part]) == flat(other[part]), f"{part} differs"
        assert [row["loss"] for row in one["history"]] == [row["loss"] for row in other["history"]]
        print(f"{len(one['model'])} tensors of the model, those of the optimizer and of EWC: the same bits")


def flat(held: object) -> list[object]:
    """The leaves of nested dicts and lists; tensors as bytes."""
    if isinstance(held, dict):
        return [leaf for key, value in held.items() for leaf in (key, *flat(value))]
    if isinstance(held, list | tuple):
        return [leaf for value in held for leaf in flat(value)]
    return [held.contiguous().view(torch.uint8).numpy().tobytes() if isinstance(held, torch.Tensor) else held]


if __name__ == "__main__":
    main()
