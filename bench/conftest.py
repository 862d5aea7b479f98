"""What every bench records beside its timings, and how it is timed."""

import importlib.metadata
import time

import pytest
import torch

import fastia
from fastia.kernels.cpu import launch as cpu

PACKAGES = ["torch", "numpy", "connected-components-3d", "opencv-python-headless", "scikit-image", "scipy"]


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["instruction_set"] = cpu.instruction_set()
    machine_info["threads"] = torch.get_num_threads()
    machine_info["versions"] = {"fastia": fastia.__version__}
    machine_info["versions"] |= {name: importlib.metadata.version(name) for name in PACKAGES}


@pytest.fixture
def measure(benchmark):
    """`measure(function, threads=1, **info)`: 3 to 500 rounds in about two seconds; `info` goes to the report.

    Half a second of warm-up comes first: an idle core, of a virtual machine above all, takes that long to be at speed.
    A result is freed before the next call, outside the time: two large ones in turn would time the third-level cache.
    """
    before = torch.get_num_threads()

    def run(function, threads=1, **info):
        torch.set_num_threads(threads)
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < 0.5:
            function()
            calls += 1
        rounds = min(500, max(3, int(2 * calls / elapsed)))
        benchmark.extra_info.update(info, threads=threads)
        kept = []
        benchmark.pedantic(lambda: kept.append(function()), setup=kept.clear, rounds=rounds)

    yield run
    torch.set_num_threads(before)
