"""The plan of docs/experiment.md: arms, seeds, what is tuned, and which runs that makes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

IMAGES = 180  # two thirds of them to train on
ITERATIONS, SWITCH = 400, 200
SEEDS = range(5)
TUNING_SEEDS = (100, 101)
LEARNING_RATES = (0.005, 0.01, 0.02)
STRENGTHS = (0.03, 0.3, 3.0)
ENDPOINT = "ia_miou_penalized_small"


@dataclass(frozen=True)
class Arm:
    """What is trained: options of the configuration, and what no configuration says.

    `tuned_as`: the arm whose learning rate this one has, where it is not tuned for itself.
    """

    options: dict = field(default_factory=dict)
    special: str = ""
    strengths: bool = False
    tuned_as: str = ""


PLAIN = {"loss": "cross-entropy", "ewc_lambda": 0.0}
WEIGHTED = {"switch": 0, "ewc_lambda": 0.0}
ARMS = {
    "cross-entropy": Arm(PLAIN),
    "size-weighted": Arm(WEIGHTED),
    "two-phase, lambda 0": Arm({"ewc_lambda": 0.0}),
    "two-phase + EWC": Arm({}, strengths=True, tuned_as="two-phase, lambda 0"),
    "two-phase + L2 to theta_A": Arm({}, "uniform", strengths=True, tuned_as="two-phase, lambda 0"),
    "two-phase + EWC, F shuffled": Arm({}, "shuffled", tuned_as="two-phase + EWC"),
    "weights permuted": Arm(WEIGHTED, "permuted", tuned_as="size-weighted"),
    "cross-entropy, rate x mean weight": Arm(PLAIN, "faster", tuned_as="cross-entropy"),
    "focal": Arm(WEIGHTED, "focal"),
    "Dice + cross-entropy": Arm(WEIGHTED, "dice"),
    "cross-entropy, resize = target": Arm({**PLAIN, "resize": "target"}),
    "size-weighted, resize = target": Arm({**WEIGHTED, "resize": "target"}),
}
MAIN = ("cross-entropy", "size-weighted", "two-phase, lambda 0", "two-phase + EWC")
CONTROLS = (
    "weights permuted",
    "two-phase + EWC, F shuffled",
    "cross-entropy, rate x mean weight",
    "two-phase + L2 to theta_A",
)
NOISES = (0.5, 1.0, 1.5)


def run_name(arm: str, seed: int, noise: float, options: dict) -> str:
    text = "-".join([arm, f"noise{noise}", f"seed{seed}", *(f"{key}{value}" for key, value in options.items())])
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in text)


def planned(
    root: Path, names: Iterable[str], seeds: Iterable[int], noises: Iterable[float]
) -> list[tuple[str, int, float, dict]]:
    """Runs of tuned arms."""
    chosen = json.loads((root / "tuned.json").read_text())["chosen"]
    return [(name, seed, noise, chosen[name]) for name, seed, noise in itertools.product(names, seeds, noises)]
