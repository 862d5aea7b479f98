"""More than 2^31 pixels in one call: images of 48,000 x 48,000, and a batch of the same total.

    python tests/huge.py               # some minutes, and 14 GB of memory
    python tests/huge.py --side 3000   # the same on less

Each check runs in a process of its own, whose peak memory (VmHWM: input, result, the library's scratch memory, Python)
may be at most 6 bytes a pixel. Images are tiled from the benches' masks, so that what is right for a pixel follows from
the 16 tiles alone; a frame around each tile keeps its components apart, and all frames are one giant component.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from masks import masks as bench_masks

import fastia
from fastia import reference

FRAME = 200  # class of the frames
TAU = 1e12  # no weight reaches it, so that every area and every total shows
BYTES_PER_PIXEL = 6
START_UP = 2**29  # bytes of Python, torch and the tiles, beside which a small run's pixels are nothing


def framed_tiles() -> np.ndarray:
    """16 different tiles, [16, 513, 513], whose first row and column are the frame."""
    tiles = bench_masks()
    tiles[:, 0, :] = tiles[:, :, 0] = FRAME
    return tiles


def grid(side: int, tile: int, kinds: int) -> Iterator[tuple[int, slice, slice]]:
    """The kind of each tile of the image, and the rows and columns that it takes; those at the far edges are cut."""
    for row, y in enumerate(range(0, side, tile)):
        for column, x in enumerate(range(0, side, tile)):
            yield (5 * row + column) % kinds, slice(y, min(y + tile, side)), slice(x, min(x + tile, side))


def tiled(side: int, tiles: np.ndarray) -> np.ndarray:
    image = np.empty((side, side), np.uint8)
    for kind, rows, columns in grid(side, tiles.shape[1], len(tiles)):
        image[rows, columns] = tiles[kind, : rows.stop - rows.start, : columns.stop - columns.start]
    return image


def check_weights(side: int) -> int:
    tiles = framed_tiles()
    image = tiled(side, tiles)
    with measured("weights", image.size):
        weights = fastia.weights(image, tau=TAU)

    total = sum(np.bincount(row, minlength=256) for row in image)
    areas: dict[Any, np.ndarray] = {}  # of the component of each pixel, by kind and size of the tile
    for kind, rows, columns in grid(side, tiles.shape[1], len(tiles)):
        ids = image[rows, columns]
        if (kind, ids.shape) not in areas:
            found = reference.components(ids)
            areas[kind, ids.shape] = np.append(1, found.area)[found.labels]
        area = np.where(ids == FRAME, total[FRAME], areas[kind, ids.shape])
        expected = np.where(ids == 0, 1, np.where(ids == 255, 0, total[ids] / area)).astype(np.float32)
        np.testing.assert_array_equal(weights[rows, columns], expected)
    return image.size


def check_components(side: int) -> int:
    """One component of almost all pixels, more than an int32 can count, and isolated pixels within."""
    image = np.ones((side, side), np.uint8)
    image[50::100, 50::100] = 2
    isolated = np.count_nonzero(image[50::100, 50::100])
    with measured("components", image.size):
        found = fastia.components(image)

    assert found.count == 1 + isolated
    assert found.area[0] == image.size - isolated
    assert found.bbox[0].tolist() == [0, 0, side, side]
    np.testing.assert_array_equal(found.area[1:], 1)
    np.testing.assert_array_equal(found.labels[50::100, 50::100].ravel(), np.arange(isolated) + 2)
    assert sum(np.count_nonzero(row != 1) for row in found.labels) == isolated
    return image.size


def check_label(side: int) -> int:
    tiles = framed_tiles()
    expected = reference.label(tiles)
    masks = np.resize(tiles, (side * side // tiles[0].size + 1, *tiles.shape[1:]))
    with measured("label", masks.size):
        labels = fastia.label(masks)

    for first in range(0, len(masks), len(tiles)):
        np.testing.assert_array_equal(labels[first : first + len(tiles)], expected[: len(masks) - first])
    return masks.size


def check_instance_iou(side: int) -> int:
    """A prediction that is right but for one class, which it lacks."""
    tiles = framed_tiles()
    image = tiled(side, tiles)
    preds = image.copy()
    preds[preds == 3] = 0
    with measured("instance_iou", image.size):
        found = fastia.instance_iou(preds, image, protocol="exact")

    total = sum(np.bincount(row, minlength=256) for row in image)
    area = np.bincount(found.class_id, weights=found.area, minlength=256)
    total[[0, 255]] = 0
    np.testing.assert_array_equal(area[:256], total)
    np.testing.assert_array_equal(found.iou, found.class_id != 3)
    return image.size


@contextmanager
def measured(name: str, pixels: int) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    print(f"{name}: {pixels:,} pixels in {seconds:.2f} s, {1e9 * seconds / pixels:.2f} ns a pixel", flush=True)


def peak_memory() -> int:
    """VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


CHECKS = {
    "weights": check_weights,
    "components": check_components,
    "label": check_label,
    "instance_iou": check_instance_iou,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=48_000, help="of the image, in pixels")
    parser.add_argument("--only", choices=CHECKS, help="run this check, in this process")
    arguments = parser.parse_args()
    if arguments.only is None:
        command = [sys.executable, __file__, "--side", str(arguments.side), "--only"]
        failed = [name for name in CHECKS if subprocess.run([*command, name]).returncode]
        sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
    pixels = CHECKS[arguments.only](arguments.side)
    peak = peak_memory()
    print(f"{arguments.only}: right; peak memory {peak / 2**30:.2f} GiB, {peak / pixels:.2f} bytes a pixel", flush=True)
    if peak > BYTES_PER_PIXEL * pixels + (START_UP if pixels < 2**31 else 0):
        sys.exit(f"{arguments.only}: peak memory must be at most {BYTES_PER_PIXEL} bytes a pixel")


if __name__ == "__main__":
    main()
