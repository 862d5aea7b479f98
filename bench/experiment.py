"""What size weights and EWC do to small objects, on synthetic shapes: `make experiment`, docs/experiment.md.

`run` trains every arm on every seed (one that is finished is not repeated, one that was stopped goes on), after
choosing learning rates and strengths on other seeds; `report` writes the page. A seed decides the dataset, the initial
weights and the order and crops of the images together, so that the arms of a seed are paired.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from experiment_plan import (
    ARMS,
    CONTROLS,
    ENDPOINT,
    IMAGES,
    ITERATIONS,
    LEARNING_RATES,
    MAIN,
    NOISES,
    SEEDS,
    STRENGTHS,
    SWITCH,
    TUNING_SEEDS,
    Arm,
    planned,
    run_name,
)
from experiment_report import write

import fastia
from fastia.data.png import read_ids
from fastia.data.shapes import make_shapes
from fastia.data.voc import Dataset
from fastia.engine import config as configs
from fastia.engine import train

# One run


def dataset(root: Path, seed: int, noise: float) -> Path:
    """The shapes of a seed, made once; images and targets are the same for every noise."""
    folder = root / "shapes" / f"noise{noise}-seed{seed}"
    if not (folder / "classes.txt").exists():
        make_shapes(folder, IMAGES, noise=noise, seed=1000 + seed)
    return folder


def mean_weight(folder: Path) -> float:
    """Mean of the weights of all pseudo masks that are trained on."""
    masks = np.stack([read_ids(folder / "PseudoMasks" / f"{name}.png") for name in Dataset(folder).ids("train")])
    weights = fastia.weights(masks)
    return float(weights.sum(dtype=np.float64) / (masks != 255).sum())


def permuted_weights(target: torch.Tensor) -> torch.Tensor:
    """The weights of components dealt out to other components of the image at random, scaled to the same sum."""
    weights = fastia.weights(target)
    result = weights.clone()
    labels = fastia.label(target)
    for image in range(len(target)):
        count = int(labels[image].max())
        if count == 0:
            continue
        foreground = labels[image] > 0
        index = labels[image][foreground].long() - 1
        value = torch.zeros(count).index_put((index,), weights[image][foreground])
        dealt = value[torch.randperm(count)][index]
        result[image][foreground] = dealt * (weights[image][foreground].sum() / dealt.sum())
    return result


def focal(logits, target):
    from kornia.losses import FocalLoss

    upsampled = F.interpolate(logits, size=target.shape[1:], mode="bilinear")
    loss = FocalLoss(alpha=None, gamma=2.0, reduction="none", ignore_index=255)(upsampled, target.long())
    return loss.sum(), (target != 255).sum().float()


def dice(logits, target):
    from kornia.losses import DiceLoss

    upsampled = F.interpolate(logits, size=target.shape[1:], mode="bilinear")
    ids = target.long()
    loss = DiceLoss(average="macro", ignore_index=255)(upsampled, ids)
    return loss + F.cross_entropy(upsampled, ids, ignore_index=255), torch.ones(())


class OtherFisher(fastia.EWC):
    """EWC whose Fisher information is replaced when task A ends: by 1, or by itself in another order."""

    def __init__(self, model, kind):
        super().__init__(model)
        self.kind = kind

    def consolidate(self):
        super().consolidate()
        state = self.state_dict()
        for value in state["fisher"].values():
            if self.kind == "uniform":
                value.fill_(1.0)
            else:
                value.copy_(value.flatten()[torch.randperm(value.numel())].view_as(value))
        self.load_state_dict(state)


def one_run(root: Path, output: Path, arm: Arm, seed: int, noise: float, options: dict) -> None:
    folder = dataset(root, seed, noise)
    rate = options["learning_rate"]
    values = {"dataset": folder, "output": output, "seed": seed, "iterations": ITERATIONS, "switch": SWITCH}
    values |= {"validate_every": 0, "checkpoint_every": 200, "crop": 160, "log_every": 25, "check": False}
    values |= options | arm.options
    if arm.special == "faster":
        values["learning_rate"] = rate * mean_weight(folder)
    texts = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    torch.set_num_threads(1)
    try:
        result = train.train(
            configs.load("shapes", texts),
            loss={"focal": focal, "dice": dice}.get(arm.special),
            weights=permuted_weights if arm.special == "permuted" else None,
            ewc=(lambda model: OtherFisher(model, arm.special)) if arm.special in ("uniform", "shuffled") else None,
            resume=True,
        )
    except FloatingPointError as error:  # a rate or strength that is too large: an answer too
        _write(output / "result.json", {"diverged": f"{error}"})
        return
    shares = loss_shares(result.model, folder)
    _write(output / "result.json", {"loss_shares": shares, "history": result.history})
    for checkpoint in output.glob("*.pt*"):
        checkpoint.unlink()


@torch.inference_mode()
def loss_shares(model, folder: Path) -> dict[str, float]:
    """Share of the plain cross-entropy of the validation images that pixels of each size have."""
    from fastia.data.training import normalized, read_image

    layout = Dataset(folder)
    sums = dict.fromkeys(("background", "small", "medium", "large"), 0.0)
    model.eval()
    for name in layout.ids("val"):
        picture = np.ascontiguousarray(read_image(layout.images / f"{name}.jpg").transpose(2, 0, 1))
        target = torch.from_numpy(read_ids(layout.targets / f"{name}.png").copy())[None]
        ce = fastia.size_weighted_cross_entropy(
            model(normalized(torch.from_numpy(picture)[None])), target, tau=1, reduction="none"
        )
        parts = fastia.components(target)
        area = torch.cat([torch.zeros(1, 1, dtype=torch.int64), parts.area], 1)[0][parts.labels[0].long()]
        for size, inside in {
            "background": area == 0,
            "small": (area > 0) & (area < 32**2),
            "medium": (area >= 32**2) & (area < 96**2),
            "large": area >= 96**2,
        }.items():
            sums[size] += float(ce[0][inside].sum())
    total = sum(sums.values())
    return {size: value / total for size, value in sums.items()}


# All runs


def start(root: Path, jobs: int, wanted: list[tuple[str, int, float, dict]]) -> None:
    """Do the runs that are not there yet, each in a process of one thread."""
    missing = [each for each in wanted if not (root / "runs" / run_name(*each) / "result.json").exists()]
    for seed, noise in sorted({(seed, noise) for _, seed, noise, _ in missing}):
        dataset(root, seed, noise)

    def one(number_and_run):
        number, (arm, seed, noise, options) = number_and_run
        command = [sys.executable, __file__, "one", "--root", str(root), "--arm", arm]
        command += ["--seed", f"{seed}", "--noise", f"{noise}", "--options", json.dumps(options)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        print(f"{number}/{len(missing)} {run_name(arm, seed, noise, options)}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, enumerate(missing, 1)))


def scores_of(root: Path, arm: str, seed: int, noise: float, options: dict) -> dict[str, float]:
    """The scores of a run that is finished; empty if it diverged."""
    path = root / "runs" / run_name(arm, seed, noise, options) / "scores.json"
    return json.loads(path.read_text())["scores"] if path.exists() else {}


def tune(root: Path, jobs: int, names: Iterable[str]) -> None:
    """Choose the options of some arms, those with the best mean endpoint on the tuning seeds, at noise 1."""
    path = root / "tuned.json"
    tuned = json.loads(path.read_text()) if path.exists() else {"chosen": {}, "tried": {}}
    chosen = tuned["chosen"]
    for strengths in (False, True):  # of the penalty, once the rate is known that they go with
        grids: dict[str, list[dict]] = {}
        for name in names:
            arm = ARMS[name]
            if strengths and arm.strengths:
                grids[name] = [{**chosen[arm.tuned_as], "ewc_lambda": strength} for strength in STRENGTHS]
            elif not strengths and not arm.tuned_as:
                grids[name] = [{"learning_rate": rate} for rate in LEARNING_RATES]
        start(root, jobs, [(name, s, 1.0, each) for name, grid in grids.items() for each in grid for s in TUNING_SEEDS])
        for name, grid in grids.items():
            scores = [[scores_of(root, name, seed, 1.0, each) for seed in TUNING_SEEDS] for each in grid]
            means = [float(np.mean([score.get(ENDPOINT, 0.0) for score in each])) for each in scores]
            chosen[name] = grid[int(np.argmax(means))]
            tuned["tried"][name] = [{**each, "endpoint": mean} for each, mean in zip(grid, means, strict=True)]
    for name in names:
        chosen.setdefault(name, chosen.get(ARMS[name].tuned_as))
    _write(path, tuned)


def run(root: Path, jobs: int) -> None:
    """All of it, the main arms first and seed by seed: whenever it is stopped, whole comparisons are there."""
    for names in (MAIN, CONTROLS, [name for name in ARMS if name not in (*MAIN, *CONTROLS)]):
        tune(root, jobs, names)
        for seed in SEEDS:
            start(root, jobs, planned(root, names, [seed], [1.0]))
    for seed in SEEDS:
        start(root, jobs, planned(root, MAIN, [seed], NOISES))


def _write(path: Path, value) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1))
    os.replace(partial, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "one", "report"])
    parser.add_argument("--root", type=Path, default=Path("experiment"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--arm")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--noise", type=float)
    parser.add_argument("--options", type=json.loads)
    arguments = parser.parse_args()
    if arguments.what == "one":
        name = run_name(arguments.arm, arguments.seed, arguments.noise, arguments.options)
        one_run(
            arguments.root,
            arguments.root / "runs" / name,
            ARMS[arguments.arm],
            arguments.seed,
            arguments.noise,
            arguments.options,
        )
    elif arguments.what == "report":
        write(arguments.root)
    else:
        run(arguments.root, arguments.jobs)
