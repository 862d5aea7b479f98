"""`make intervals`: how often the 95 % intervals of `fastia compare` hold the score of the whole population.

A large population of synthetic images stands for all there are: what is drawn from it is what an evaluation counts per
image, objects of random class and size with an IoU that depends on size, class and image. The score to be held is that
of the population over the classes that the sample has, for the set of classes is given.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from fastia.engine.inference import bootstrap
from fastia.engine.results import COLUMNS, STANDARD_SCORES, columns_of
from fastia.metrics.registry import SIZE_BOUNDS, Ratio, taking_part, terms
from fastia.metrics.standard import RATIOS

POPULATION = 60_000
SCENES = {"6 even classes": (6, 0.0), "20 even classes": (20, 0.0), "20 uneven classes": (20, 0.7)}


def population(classes: int, tail: float, images: int = POPULATION, seed: int = 0) -> np.ndarray:
    """Sums per image as of `fastia evaluate`, ``[images, classes, len(COLUMNS)]``; class k is as likely as k**-tail."""
    rng = np.random.default_rng(seed)
    frequency = np.arange(1, classes + 1.0) ** -tail
    frequency /= frequency.sum()
    difficulty = rng.normal(0, 0.8, images)
    objects = 1 + rng.poisson(3, images)
    image = np.repeat(np.arange(images), objects)
    theme = rng.choice(classes, images, p=frequency)  # objects of an image are often of one class
    class_id = np.where(rng.random(image.size) < 0.6, theme[image], rng.choice(classes, image.size, p=frequency))
    log_area = rng.normal(7.6, 1.6, image.size).clip(3.5, 11.5)
    skill = -0.3 + 0.55 * (log_area - 7.5) + np.linspace(-0.8, 0.8, classes)[class_id] + difficulty[image]
    iou = 1 / (1 + np.exp(-skill - rng.normal(0, 0.8, image.size)))
    iou[rng.random(image.size) < 1 / (1 + np.exp(1.2 + 0.9 * (log_area - 7)))] = 0  # missed
    area = np.exp(log_area)
    hit = area * np.where(iou > 0, iou + 0.2 * (1 - iou), 0)
    false = np.repeat(np.arange(images), rng.poisson(0.7 * np.exp(0.4 * difficulty)))
    false_class, false_area = rng.choice(classes, false.size, p=frequency), rng.lognormal(6.5, 1.2, false.size)

    sums = np.zeros((images, classes, len(COLUMNS)))

    def add(column: str, where: tuple[np.ndarray, np.ndarray], value: object, areas: np.ndarray | None = None) -> None:
        size = 0 if areas is None else 1 + np.searchsorted(SIZE_BOUNDS, areas, side="right")
        np.add.at(sums, (*where, COLUMNS.index(column) + size), value)

    objects_at, false_at = (image, class_id), (false, false_class)
    add("hit", objects_at, hit)
    add("truth", objects_at, area)
    add("predicted", objects_at, hit + np.where(iou > 0, 0.5 * (1 - iou) * area, 0))
    add("predicted", false_at, false_area)
    add("count_background", objects_at, 1, area)
    add("iou_background", objects_at, iou, area)
    add("unmatched_background", false_at, 1, false_area)
    return sums


def coverage(
    scene: tuple[int, float],
    images: int,
    repeats: int,
    *,
    scores: tuple[str, ...] = STANDARD_SCORES,
    resamples: int = 999,
) -> dict[str, float]:
    """By score, the share of samples of so many images whose interval holds the score of the population."""
    everything = population(*scene)
    total = everything.sum(0, keepdims=True)
    rng = np.random.default_rng(1)
    held = dict.fromkeys(scores, 0)
    for repeat in range(repeats):
        sums = everything[rng.integers(len(everything), size=images)]
        sampled = [[[terms(columns_of(sums), RATIOS[name])]] for name in scores]
        found = bootstrap(sampled, [], resamples=resamples, seed=repeat)
        for name, ((interval,), _) in zip(scores, found, strict=True):
            held[name] += interval.low <= whole(total, sums, RATIOS[name]) <= interval.high
    return {name: count / repeats for name, count in held.items()}


def whole(total: np.ndarray, sums: np.ndarray, score: Ratio) -> float:
    """The score of the population's sums over the classes that a sample has."""
    return terms(columns_of(total), score, taking_part(columns_of(sums), score)).value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    columns = [(name, images) for name in SCENES for images in (100, 1000)]
    table = [coverage(SCENES[name], images, repeats) for name, images in columns]
    error = 100 * math.sqrt(0.05 * 0.95 / repeats)
    print(f"Coverage of 95 % intervals in %, {repeats} samples each (standard error {error:.1f}):\n")
    print("| | " + " | ".join(f"{name}, n = {images}" for name, images in columns) + " |")
    print("|---" + "|---:" * len(columns) + "|")
    for score in STANDARD_SCORES:
        print(f"| `{score}` | " + " | ".join(f"{100 * each[score]:.1f}" for each in table) + " |")
