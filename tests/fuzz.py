"""Generated masks and scenes through the CPU kernels and the reference, for as long as you like.

    python tests/fuzz.py --minutes 10
    python tests/fuzz.py --seeds 123:124      # the seed that a failure names

    python tests/fuzz.py --cuda --minutes 10

For sanitizers, FASTIA_LIBRARY names the library to load and LD_PRELOAD the sanitizer's runtime.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import generators
import numpy as np
import torch
from numpy.testing import assert_array_equal

from fastia import reference
from fastia.kernels.cpu import launch
from fastia.kernels.cpu import masks as cpu_masks
from fastia.kernels.cpu import overlaps as cpu_overlaps
from fastia.options import ComponentOptions, OverlapOptions

THREADS = (1, 2, 3, 7)
GUARD = 64  # bytes on both sides of an output, which no kernel may touch
BFLOAT16 = "bfloat16"


class Output:
    """An array for a kernel to fill, poisoned and guarded; `array` is a NumPy array, or now and then a torch tensor."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> None:
        name = "int16" if dtype == BFLOAT16 else np.dtype(dtype).name
        itemsize, size = np.dtype(name).itemsize, int(np.prod(shape))
        start = GUARD + itemsize * int(rng.integers(16))
        self.space = np.frombuffer(bytearray(rng.bytes(start + size * itemsize + GUARD)), np.uint8)
        self.before = self.space.copy()
        self.inside = slice(start, start + size * itemsize)
        self.values = self.space[self.inside].view(name).reshape(shape)
        self.array = torch.from_numpy(self.values) if dtype == BFLOAT16 or rng.random() < 0.2 else self.values
        if dtype == BFLOAT16:
            self.array = self.array.view(torch.bfloat16)

    def check(self, expected: np.ndarray) -> None:
        values = self.values
        if isinstance(self.array, torch.Tensor) and self.array.dtype == torch.bfloat16:
            # Not by torch: its OpenMP threads look like data races to a thread sanitizer.
            values = (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        assert_array_equal(values, expected)
        self.space[self.inside] = self.before[self.inside]
        assert_array_equal(self.space, self.before, "a kernel wrote outside its output")


class Inputs:
    """Arrays that a kernel may only read; now and then as torch tensors."""

    def __init__(self, rng: np.random.Generator, *arrays: np.ndarray | None) -> None:
        self.roots = [root(array) for array in arrays if array is not None]
        self.before = [array.copy() for array in self.roots]
        self.arrays = [as_tensor(array) if rng.random() < 0.2 else array for array in arrays]

    def check(self) -> None:
        for array, before in zip(self.roots, self.before, strict=True):
            assert array.tobytes() == before.tobytes(), "a kernel wrote to its input"


def root(array: np.ndarray) -> np.ndarray:
    """The array in whose memory `array` lies, what its strides skip included."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def as_tensor(array: np.ndarray | None) -> Any:
    """The same memory as a tensor where torch has such: no negative strides, aligned, writable."""
    if array is None or min(array.strides) < 0 or not array.flags.aligned or not array.flags.writeable:
        return array
    return torch.from_numpy(array)


def check_masks(seed: int, largest: int = 40) -> int:
    """Compare label, components and weights with the reference; return the number of masks."""
    rng = np.random.default_rng((1, seed))
    masks, options = generators.masks(seed, largest)
    inputs = Inputs(rng, masks)
    limit = None if rng.random() < 0.5 else int(rng.integers(6))
    expected = reference.components(masks, **options, max_components=limit)

    for threads in THREADS:
        labels = Output(rng, masks.shape, np.int32)
        cpu_masks.fill_labels(*inputs.arrays, labels.array, ComponentOptions(**options), threads=threads)
        labels.check(expected.labels)

    labels = Output(rng, masks.shape, np.int32)
    table = cpu_masks.component_table(
        *inputs.arrays, labels.array, ComponentOptions(**options), threads=pick(rng, THREADS)
    )
    labels.check(expected.labels)
    assert_array_equal(table.count, expected.count)
    check_tables(rng, table.copy, expected.class_id, expected.area, expected.bbox)

    tau = pick(rng, (1.0, 1.5, 5.0, 7.3, 1e6, np.inf))
    normalizer = pick(rng, ("class", "foreground"))
    dtype = pick(rng, ("float16", BFLOAT16, "float32", "float64"))
    weights = Output(rng, masks.shape, dtype)
    chosen = options | {"tau": tau, "normalizer": normalizer}
    cpu_masks.fill_weights(
        *inputs.arrays, weights.array, ComponentOptions(**options), tau, normalizer, threads=pick(rng, THREADS)
    )
    weights.check(reference.weights(masks, **chosen, dtype=dtype))
    inputs.check()
    return len(masks)


def check_scene(seed: int, largest: int = 40, stretch: int = 1) -> int:
    """Compare the instance IoU and the confusion matrix with the reference; return the number of masks."""
    rng = np.random.default_rng((2, seed))
    preds, target, instances, options = generators.scene(seed, largest, stretch)
    inputs = Inputs(rng, preds, target, instances)
    cut = {} if rng.random() < 0.5 else {"max_instances": int(rng.integers(6)), "max_unmatched": int(rng.integers(6))}
    classes = options.pop("num_classes")
    if classes is None:
        expected = reference.instance_iou(preds, target, instances, **options, **cut)
        confusion = None
    else:
        expected, counts = reference.instance_overlaps(preds, target, instances, num_classes=classes, **options, **cut)
        confusion = Output(rng, counts.shape, np.int64)

    matches = reference.instance_matches(
        preds, target, instances, num_classes=65536 if classes is None else classes, **options
    )
    for threads in rng.permutation(THREADS)[:2].tolist():
        table = cpu_overlaps.instance_table(
            *inputs.arrays,
            OverlapOptions(**options, num_classes=classes),
            confusion and confusion.array,
            threads=threads,
        )
        assert_array_equal(table.count, expected.count)
        assert_array_equal(table.unmatched_count, expected.unmatched_count)
        check_tables(rng, table.copy, *expected[1:7])
        check_tables(rng, table.copy_unmatched, *expected[8:])
        assert_array_equal(table.match_count, [len(rows) for rows in matches])
        check_tables(rng, table.copy_matches, *padded(matches))
        if confusion is not None:
            confusion.check(counts)
    inputs.check()
    return len(target)


def padded(matches: list[list[tuple[int, ...]]]) -> list[np.ndarray]:
    """The columns `[B, N]` of rows per image: class, area, void area, instance's area, intersection, union."""
    columns = np.zeros((6, len(matches), max(map(len, matches), default=0)), np.int64)
    columns[0] = -1
    for i, rows in enumerate(matches):
        columns[:, i, : len(rows)] = np.array(rows, np.int64).reshape(-1, 6).T
    return [columns[0].astype(np.int32), *columns[1:]]


def check_tables(rng: np.random.Generator, copy: Callable[..., None], *expected: np.ndarray) -> None:
    outputs = [Output(rng, field.shape, field.dtype) for field in expected]
    copy(*(output.array for output in outputs))
    for output, field in zip(outputs, expected, strict=True):
        output.check(field)


def pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def check(seed: int) -> int:
    """Both checks; one seed in fifty makes images large enough to be cut into strips."""
    if seed % 50 == 0:
        return check_masks(seed, largest=300) + check_scene(seed, stretch=100)
    return check_masks(seed) + check_scene(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", help="first:end, instead of seeds from the clock until the time is up")
    parser.add_argument("--cuda", action="store_true", help="the CUDA kernels, run on the CPU; by one caller")
    parser.add_argument("--callers", type=int, default=2, help="Python threads that call the kernels at once")
    arguments = parser.parse_args()
    check_seed, kernels = check, f"instruction set {launch.instruction_set()}, threads {THREADS}"
    if arguments.cuda:
        from cuda_on_cpu.check_iou import fuzz_cuda

        check_seed, kernels, arguments.callers = fuzz_cuda(), "CUDA kernels", 1

    end = time.monotonic() + 60 * arguments.minutes
    seeds = itertools.count(time.time_ns() // 1000)
    if arguments.seeds:
        first, last = map(int, arguments.seeds.split(":"))
        seeds, end = iter(range(first, last)), float("inf")
    checked, failed, lock = 0, [], threading.Lock()

    def work() -> None:
        nonlocal checked
        while not failed and time.monotonic() < end:
            with lock:
                seed = next(seeds, None)
            if seed is None:
                return
            try:
                count = check_seed(seed)
            except Exception:
                failed.append((seed, traceback.format_exc()))
                return
            with lock:
                checked += count

    print(f"{kernels}, {arguments.callers} callers", flush=True)
    callers = [threading.Thread(target=work, name=f"caller {i}") for i in range(arguments.callers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for seed, error in failed:
        print(
            f"{error}\nfailed: python tests/fuzz.py {'--cuda ' * arguments.cuda}--seeds {seed}:{seed + 1}", flush=True
        )
    print(f"{checked} masks, {'one wrong' if failed else 'all equal to the reference'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
