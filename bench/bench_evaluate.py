"""`fastia.evaluate_directory` from folders, beside hotcoco's mIoU of the same folders and beside decoding alone.

Writes bench/results/evaluate.json; imports are not timed. hotcoco reads two PNGs an image and counts pixels, fastia
reads three and scores instances too.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cpuinfo
import numpy as np
from hotcoco import semantic
from PIL import Image

import fastia
from fastia.data import voc
from fastia.data.png import read_ids
from fastia.data.shapes import CLASSES, make_shapes
from fastia.functional import instance_overlaps

RESULTS = Path(__file__).parent / "results"
COCO100 = Path(__file__).parents[2] / "shared/data/coco100"
FOLDERS = ("Predictions", "SegmentationClass", "SegmentationObject")
ROUNDS = 15


def milliseconds(images, calls):
    """Median time per image of each call; they take turns, so that a slow moment of the machine hits all of them."""
    spent = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(rounds) / images * 1e3 for name, rounds in spent.items()}


def read_with_pillow(path):
    return np.asarray(Image.open(path))


def decode(root, names, jobs, read):
    """Read the three maps of every image and drop them."""

    def one(name):
        for folder in FOLDERS:
            read(f"{root}/{folder}/{name}.png")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda chunk: [one(name) for name in chunk] and None, np.array_split(names, -(-len(names) // 8))))


def mean_iou(root, classes):
    evaluation = semantic.SemanticEval(classes)
    evaluation.update_folders(f"{root}/SegmentationClass", f"{root}/Predictions")
    return evaluation


def whole(root, names, classes):
    """What is compared: calls by name and number of threads."""

    def evaluate(protocol, jobs):
        return fastia.evaluate_directory(
            root, "all", root / "Predictions", classes=classes, jobs=jobs, protocol=protocol
        )

    ours, theirs = evaluate("wacv2024", 2).scores["pixel_accuracy"], mean_iou(root, classes).stats[3]
    assert np.isclose(ours, theirs, rtol=0, atol=1e-12)
    cores = os.cpu_count()
    calls = {}
    for jobs in sorted({1, 2, cores}):
        for protocol in ("wacv2024", "exact"):
            calls[f"fastia.evaluate_directory, {protocol}", jobs] = partial(evaluate, protocol, jobs)
        calls["decoding alone, fastia.data.png", jobs] = partial(decode, root, names, jobs, read_ids)
        calls["decoding alone, Pillow", jobs] = partial(decode, root, names, jobs, read_with_pillow)
    calls["hotcoco, mIoU only", cores] = partial(mean_iou, root, classes)
    return calls


def parts(root, names, classes):
    """What one job of `fastia.evaluate_directory`, wacv2024, spends its time on: calls by name."""

    def score(images):
        for each in images:
            instance_overlaps(*each, num_classes=len(classes), threads=1)

    maps = [[read_ids(f"{root}/{folder}/{name}.png") for folder in FOLDERS] for name in names]
    return {
        "all of it": partial(fastia.evaluate_directory, root, "all", root / "Predictions", classes=classes, jobs=1),
        "reading and decoding": partial(decode, root, names, 1, read_ids),
        "looking for ids that are no class": lambda: [each[0].max() for each in maps],
        "kernel": partial(score, maps),
        "calling the kernel": partial(score, [[np.zeros((1, 1), np.uint8)] * 3] * len(names)),
    }


def measure(root, classes):
    names = voc.Dataset(root).ids("all")
    found = milliseconds(len(names), whole(root, names, classes))
    shares = milliseconds(len(names), parts(root, names, classes))
    shares["kernel"] -= shares["calling the kernel"]
    shares["collecting, scores and the rest"] = 2 * shares["all of it"] - sum(shares.values())
    print(f"{'ms per image':>50} {'jobs':>4}")
    for (name, jobs), cost in found.items():
        print(f"{name:42} {cost:7.3f} {jobs:4}")
    print("\nWhere the time of wacv2024 with 1 job goes:")
    for name, cost in shares.items():
        print(f"{name:42} {cost:7.3f}")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "images": len(names),
        "rows": [{"name": name, "jobs": jobs, "ms_per_image": cost} for (name, jobs), cost in found.items()],
        "parts": [{"name": name, "ms_per_image": cost} for name, cost in shares.items()],
        "processor": cpuinfo.get_cpu_info()["brand_raw"],
        "commit": commit,
    }


def main():
    if COCO100.exists():
        results = {"dataset": "coco100", **measure(COCO100, list(voc.CLASSES))}
    else:
        print(f"{COCO100} is absent: generated shapes take its place")
        with tempfile.TemporaryDirectory() as folder:
            make_shapes(folder, 100, size=(480, 640))
            results = {"dataset": "shapes", **measure(Path(folder), list(CLASSES))}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "evaluate.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
