"""The CUDA kernels, run on the CPU in random order, against the reference; and whether such runs see mistakes."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess

import generators
import numpy as np
import pytest
from cuda_on_cpu import check, check_iou, runner
from numpy.testing import assert_array_equal

from fastia import reference
from fastia.kernels.cuda import plan_masks
from fastia.kernels.cuda.plan import Masks, Tuning
from fastia.options import ComponentOptions

OPTIONS = {"connectivity": 8, "background": 0, "ignore_index": 255}
SMALL_STRIPS = Tuning(block=64, strips=1, strip_words=(12, 12), run_capacity=60)


@pytest.fixture(scope="module")
def kernels() -> runner.Kernels:
    return runner.Kernels()


@pytest.mark.parametrize("chunk", range(10))
def test_masks_equal_the_reference(kernels, chunk):
    assert sum(check.check_masks(kernels, seed) for seed in range(chunk * 54, chunk * 54 + 54)) >= 280


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("schedule", range(5))
def test_nasty_masks_equal_the_reference(kernels, connectivity, schedule):
    options = OPTIONS | {"connectivity": connectivity}
    rng = np.random.default_rng(schedule)
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = {}
    for mask in generators.nasty().values():
        by_shape.setdefault(mask.shape, []).append(mask)
    for masks in by_shape.values():
        check.check_labels(kernels, np.concatenate(masks), options, check.any_tuning(rng), rng, schedule)
        check.check_weights(kernels, np.concatenate(masks), options, check.any_tuning(rng), rng, schedule)


@pytest.mark.parametrize("pattern", [generators.spiral, generators.comb, generators.diagonals, generators.giant])
def test_borders_between_strips_at_every_row(kernels, pattern):
    masks = pattern(np.random.default_rng(0), 13, 70, 2)[None].astype(np.uint8)
    for rows in range(1, 14):
        tuning = Tuning(block=32, strips=1, strip_words=(3 * rows, 3 * rows))
        assert_array_equal(check.labels_of(kernels, masks, OPTIONS, tuning, rows), reference.label(masks, **OPTIONS))


def test_bytes_at_every_alignment_and_the_ends_of_their_memory(kernels):
    rng = np.random.default_rng(0)
    for offset in range(17):
        memory = rng.integers(0, 2, offset + 3 * 5 * 97).astype(np.uint8).repeat(2)[: offset + 3 * 5 * 97].copy()
        masks = memory[offset:].reshape(3, 5, 97)
        labels = check.labels_of(kernels, masks, OPTIONS, SMALL_STRIPS, offset)
        assert_array_equal(labels, reference.label(masks, **OPTIONS))


def test_strip_of_more_runs_than_shared_memory_holds_gives_the_same(kernels):
    masks = generators.white(np.random.default_rng(0), 20, 150, 3)[None].astype(np.uint8)
    expected = reference.label(masks, **OPTIONS)
    for capacity in (1, 100, 2000):
        tuning = Tuning(block=128, strips=1, strip_words=(50, 50), run_capacity=capacity)
        assert_array_equal(check.labels_of(kernels, masks, OPTIONS, tuning, capacity), expected)


def test_ids_that_are_not_allowed_are_ignored_and_reported(kernels):
    masks = np.array([[[1, -3, 1, 65535, 65536, 2**40, 2]]])
    error, labels = np.zeros(2, np.int64), np.empty(masks.shape, np.int32)
    for validate in (False, True):
        plan = plan_masks.label(check.masks_of(masks), ComponentOptions(8, 0, 255, validate))
        kernels.run(plan, {"masks": masks, "labels": labels, "error": error}, 0)
        assert labels.tolist() == [[[1, 0, 2, 3, 0, 0, 4]]]
        assert error[0] == validate
    assert error[1] in (-3, 65536, 2**40)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0), (0, 0, 0)])
def test_empty_batches_have_empty_tables(kernels, shape):
    masks = np.zeros(shape, np.uint8)
    for plan in (
        plan_masks.label(check.masks_of(masks), ComponentOptions(8, 0, 255)),
        plan_masks.weights(check.masks_of(masks), ComponentOptions(8, 0, 255), 5.0, "class", "float32"),
    ):
        assert plan == (0, [])
    check.check_components(kernels, masks, OPTIONS, Tuning(), np.random.default_rng(0), 0)


def test_weights_of_a_training_batch_take_four_launches_and_little_memory():
    masks = Masks((16, 513, 513), (513 * 513, 513, 1), "uint8")
    plan = plan_masks.weights(masks, ComponentOptions(8, 0, 255), 5.0, "class", "float32")
    assert [launch.source for launch in plan.launches] == [
        "masks/strips.cu",
        "core/merge.cu",
        "masks/flatten.cu",
        "masks/weights.cu",
    ]
    assert plan.scratch_bytes < 20 * 16 * 513 * 513
    large = Masks((64, 1024, 2048), (1024 * 2048, 2048, 1), "uint8")
    assert plan_masks.components(large, ComponentOptions(8, 0, 255), 1000).scratch_bytes <= 2**31


def test_64_bit_numbers_where_an_image_has_two_to_the_31_pixels():
    shape = (1, 2**16, 2**15)
    plan = plan_masks.label(Masks(shape, (2**31, 2**15, 1), "uint8"), ComponentOptions(8, 0, 255))
    assert all(launch.kernel.endswith("_64") for launch in plan.launches)
    shape = (1, 2**16, 2**15 - 1)
    plan = plan_masks.label(Masks(shape, (2**31, 2**15, 1), "uint8"), ComponentOptions(8, 0, 255))
    assert all(launch.kernel.endswith("_32") for launch in plan.launches)


# Mistakes that a kernel may hold: file, text, what it becomes.
PLANTED = {
    "no barrier before runs are united": (
        "core/strips.cuh",
        "    __syncthreads();\n}\n\n// Unites",
        "}\n\n// Unites",
    ),
    "no barrier before components are numbered": (
        "core/strips.cuh",
        "    __syncthreads();\n}\n\n// Numbers",
        "}\n\n// Numbers",
    ),
    "no barrier before sums are written again": (
        "core/runs.cuh",
        "    __syncthreads();  // `sums` may be written again\n",
        "",
    ),
    "areas added up without an atomic": (
        "core/strips.cuh",
        "atomicAdd(&runs.area[root], pixels);",
        "runs.area[root] += pixels;",
    ),
    "parents changed without an atomic": (
        "core/runs.cuh",
        "const Index before = atomicMin(&parent[larger], smaller);",
        "const Index before = parent[larger];\n        parent[larger] = smaller;",
    ),
    "last pixels of a border left out": (
        "core/merge.cu",
        "if (word_number >= border_words)",
        "if (word_number + 1 >= border_words)",
    ),
    "diagonal across the end of a row": ("core/runs.cuh", " && !(first && x == 0)", ""),
    "ballot by some lanes": (
        "core/edges.cuh",
        "const unsigned missing = __ballot_sync(kAllLanes, !found);",
        "const unsigned missing = found ? 0 : __ballot_sync(kAllLanes, true);",
    ),
    "barrier that one thread does not reach": (
        "core/ranks.cuh",
        "    const bool last = sums[0] == strips - 1;",
        "    const bool last = sums[0] == strips - 1;\n    if (threadIdx.x == 1) return;",
    ),
    "write past the end of shared memory": ("core/runs.cuh", "sums[warp] = sum;", "sums[warp + 32] = sum;"),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_planted_mistakes_are_caught(mistake):
    file, old, new = PLANTED[mistake]
    sources = runner.sources()
    assert sources[file].count(old) == 1
    library = runner.build(sources | {file: sources[file].replace(old, new)}, flags=("-O0", "-w"))
    # In a process of its own, since it may write anywhere.
    child = multiprocessing.get_context("fork").Process(target=exit_with_1_where_wrong, args=(library,))
    child.start()
    child.join(60)
    assert child.exitcode == 1 or child.exitcode in (-signal.SIGSEGV, -signal.SIGABRT)


def exit_with_1_where_wrong(library):
    kernels = runner.Kernels(library)
    try:
        for seed in range(100):
            check.check_masks(kernels, seed)
    except (AssertionError, runner.KernelError):
        os._exit(1)
    except BaseException:
        os._exit(2)
    os._exit(0)


def test_gpus_without_sums_over_a_warp_in_one_instruction():
    kernels = runner.Kernels(runner.build(runner.sources(), flags=("-O2", "-D__CUDA_ARCH__=750")))
    assert sum(check.check_masks(kernels, seed) for seed in range(30)) >= 100
    assert sum(check_iou.check_scenes(kernels, seed) for seed in range(30)) >= 50


@pytest.mark.parametrize("source", runner.KERNELS)
def test_nvcc_compiles_every_kernel_without_spills(source, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    targets = ["-gencode=arch=compute_75,code=sm_75", "-gencode=arch=compute_80,code=[sm_80,sm_90,sm_100]"]
    command = ["nvcc", "-std=c++17", "--fmad=false", "-fatbin", *targets, "-Xptxas=-v", "-Werror=all-warnings"]
    command.append(f"-I{runner.ROOT / 'csrc/cuda'}")
    path = runner.ROOT / "csrc/cuda" / source
    result = subprocess.run([*command, "-o", tmp_path / "out", path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for kernel in runner.KERNELS[source]:
        assert len(re.findall(rf"Compiling entry function '{kernel}' for 'sm_(75|80|90|100)'", result.stderr)) == 4
    usage = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert len(usage) >= 4 * len(runner.KERNELS[source])
    assert set(usage) == {("0", "0", "0")}
