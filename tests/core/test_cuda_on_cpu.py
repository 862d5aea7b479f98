"""What runs CUDA kernels on the CPU: that it computes as a GPU does, and reports what a GPU would hang on."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from cuda_on_cpu import runner
from numpy.testing import assert_array_equal

SOURCE = """
#include <core/span.cuh>
using namespace fastia;

extern "C" __global__ void warp_operations(unsigned* out) {
    const unsigned t = threadIdx.x, lane = t % 32;
    unsigned* row = out + (blockIdx.x * blockDim.x + t) * 10LL;
    row[0] = __ballot_sync(~0u, t % 3 == 0);
    row[1] = __shfl_up_sync(~0u, t, 2);
    row[2] = __shfl_down_sync(~0u, t, 5);
    row[3] = __shfl_xor_sync(~0u, t, 8);
    row[4] = __shfl_sync(~0u, t, 7);
    row[5] = __match_any_sync(~0u, t % 5);
    row[6] = __reduce_add_sync(row[5], t);
    row[7] = __reduce_max_sync(row[5], t) - __reduce_min_sync(row[5], t);
    row[8] = __any_sync(~0u, lane == 9) + 2 * __all_sync(~0u, lane < 31);
    if (lane < 8) row[9] = __ballot_sync(0xFFu, lane & 1);
    else row[9] = __ballot_sync(0xFFFFFF00u, lane & 2);
}

extern "C" __global__ void reversed(unsigned* out, long long size) {
    const Span<unsigned> shared = shared_span<unsigned>(0, 64);
    for (long long first = 0; first < size; first += blockDim.x) {
        shared[threadIdx.x] = out[blockIdx.x * size + first + threadIdx.x];
        __syncthreads();
        out[blockIdx.x * size + first + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
        __syncthreads();
    }
}

struct Range {
    long long first, step;
    double scale;
};
extern "C" __global__ void fill_with_range(unsigned* out, Range range, unsigned short offset) {
    const unsigned t = blockIdx.x * blockDim.x + threadIdx.x;
    out[t] = static_cast<unsigned>(range.scale * static_cast<double>(range.first + t * range.step)) + offset;
}

extern "C" __global__ void sum_with_atomics(unsigned* out) { atomicAdd(out, threadIdx.x); }
extern "C" __global__ void sum_without_atomics(unsigned* out) { Span<unsigned>(out, 1)[0] += threadIdx.x; }

extern "C" __global__ void barrier_after_the_end(unsigned*) {
    if (threadIdx.x == 5) return;
    __syncthreads();
}
extern "C" __global__ void barriers_in_both_branches(unsigned*) {
    if (threadIdx.x < 7) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
extern "C" __global__ void ballot_after_the_end(unsigned*) {
    if (threadIdx.x == 40) return;
    __ballot_sync(~0u, true);
}
extern "C" __global__ void ballot_with_other_lanes(unsigned*) { __ballot_sync(threadIdx.x % 32 ? ~0u : 3u, true); }
extern "C" __global__ void ballot_without_the_caller(unsigned*) { __ballot_sync(1u, true); }
extern "C" __global__ void shuffle_from_outside(unsigned*) { if (threadIdx.x % 32 < 2) __shfl_sync(3u, 1, 4); }
extern "C" __global__ void index_out_of_bounds(unsigned*) { shared_span<unsigned>(0, 64)[threadIdx.x + 1] = 1; }
extern "C" __global__ void more_shared_memory_than_given(unsigned*) { shared_span<unsigned>(128, 64)[0] = 1; }
extern "C" __global__ void read_before_a_write(unsigned* out) {
    const Span<unsigned> shared = shared_span<unsigned>(0, 64);
    if (threadIdx.x != 3) shared[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}
"""
REPORTS = {
    "barrier_after_the_end": r"thread \d+: waits at __syncthreads \(toys.cu:\d+\), but thread 5 has ended",
    "barriers_in_both_branches": r"waits at __syncthreads \(toys.cu:\d+\), thread \d+ at __syncthreads",
    "ballot_after_the_end": r"thread \d\d: waits at __ballot_sync \(toys.cu:\d+\), but lane 8 has ended",
    "ballot_with_other_lanes": r"waits at __ballot_sync \(toys.cu:\d+\), but lane \d+ (names other lanes|has ended)",
    "ballot_without_the_caller": r"names lanes without the one that calls it",
    "shuffle_from_outside": r"reads a lane that takes no part",
    "index_out_of_bounds": r"block \d, thread 63: index 64 is out of bounds of 64 in shared memory",
    "more_shared_memory_than_given": r"256 bytes has no room for 64 elements at byte 128",
    "read_before_a_write": r"block \d, thread 3: reads shared memory that nobody wrote",
}
KERNELS = ["warp_operations", "reversed", "fill_with_range", "sum_with_atomics", "sum_without_atomics", *REPORTS]
SEEDS = range(20)


@pytest.fixture(scope="module")
def toys() -> runner.Kernels:
    files = {"core/span.cuh": runner.sources()["core/span.cuh"], "toys.cu": SOURCE}
    return runner.Kernels(runner.build(files, {"toys.cu": KERNELS}, ("-O0",)))


def run(toys, kernel, out, *arguments, grid=3, block=64, seed=0):
    toys.call(kernel, grid, block, 256, [struct.pack("P", out.ctypes.data), *arguments], seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_operations_compute_what_they_do_on_a_gpu(toys, seed):
    out = np.zeros((3, 2, 32, 10), np.uint32)
    run(toys, "warp_operations", out, seed=seed)
    for warp in range(2):
        t = np.arange(32) + 32 * warp
        groups = [np.flatnonzero(t % 5 == value % 5) for value in t]
        lanes = np.arange(32)
        expected = [
            np.full(32, sum(1 << i for i in range(32) if t[i] % 3 == 0)),
            np.where(lanes >= 2, t - 2, t),
            np.where(lanes < 27, t + 5, t),
            32 * warp + (lanes ^ 8),
            np.full(32, t[7]),
            [sum(1 << int(i) for i in group) for group in groups],
            [t[group].sum() for group in groups],
            [np.ptp(t[group]) for group in groups],
            np.full(32, 1),
            np.where(lanes < 8, 0xAA, 0xCCCCCC00),
        ]
        assert (out[:, warp] == np.array(expected).T).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_share_no_memory_and_barriers_hold(toys, seed):
    out = np.arange(7 * 640, dtype=np.uint32).reshape(7, 10, 64)
    expected = out[:, :, ::-1].copy()
    run(toys, "reversed", out, struct.pack("q", 640), grid=7, seed=seed)
    assert (out == expected).all()


def test_atomics_add_up_and_what_is_none_loses_updates(toys):
    lost = 0
    for seed in SEEDS:
        out = np.zeros(2, np.uint32)
        run(toys, "sum_with_atomics", out[:1], seed=seed)
        run(toys, "sum_without_atomics", out[1:], seed=seed)
        assert out[0] == 3 * 64 * 63 // 2
        lost += out[1] != out[0]
    assert lost > len(SEEDS) // 2


RANGE, OFFSET = struct.pack("qqd", 2, 3, 0.5), struct.pack("H", 7)


def test_arguments_of_any_size_by_value(toys):
    out = np.zeros((3, 64), np.uint32)
    run(toys, "fill_with_range", out, RANGE, OFFSET)
    assert_array_equal(out.ravel(), (2 + 3 * np.arange(192)) // 2 + 7)


@pytest.mark.parametrize(
    ("arguments", "report"),
    [
        ((RANGE,), "fill_with_range: got 2 arguments, expected 3"),
        ((RANGE, OFFSET, OFFSET), "fill_with_range: got 4 arguments, expected 3"),
        ((OFFSET, RANGE), "fill_with_range: argument 2: got 2 bytes, expected 24"),
        ((RANGE[8:], OFFSET), "fill_with_range: argument 2: got 16 bytes, expected 24"),
        ((RANGE, bytes(8)), "fill_with_range: argument 3: got 8 bytes, expected 2"),
    ],
    ids=["missing", "extra", "swapped", "field missing", "too large"],
)
def test_arguments_that_are_not_those_of_the_kernel_are_reported(toys, arguments, report):
    out = np.zeros((3, 64), np.uint32)
    with pytest.raises(runner.KernelError, match=f"^{report}$"):
        run(toys, "fill_with_range", out, *arguments)
    assert not out.any()


@pytest.mark.parametrize("kernel", REPORTS)
def test_what_a_gpu_would_hang_on_is_reported_with_block_and_thread(toys, kernel):
    for seed in SEEDS:
        with pytest.raises(runner.KernelError, match=REPORTS[kernel]):
            run(toys, kernel, np.zeros(64, np.uint32), seed=seed)
