"""Compiles csrc/cuda for the CPU and runs plans of `fastia.kernels` there, on NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastia.kernels.cuda import plan, plan_masks, plan_overlaps

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FLAGS = ("-std=c++17", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-strict-aliasing")
KERNELS = plan_masks.KERNELS | plan_overlaps.KERNELS
Array = Any  # a NumPy array


class KernelError(RuntimeError):
    """A kernel did what a GPU would hang on, or what has no defined result there."""


class Kernels:
    """A library of kernels, compiled for the CPU; by default all of csrc/cuda."""

    def __init__(self, library: Path | None = None) -> None:
        self._launch = ctypes.CDLL(str(library or build(sources()))).cuda_on_cpu_launch

    def run(self, plan: plan.Plan, buffers: dict[str, Array], seed: int) -> None:
        """Run a plan on named arrays in an order that `seed` decides; `scratch` comes from here, with garbage in it."""
        rng = np.random.default_rng((3, seed))
        scratch = np.frombuffer(bytearray(rng.bytes(plan.scratch_bytes + 256)), np.uint8)
        addresses = {name: buffer.ctypes.data for name, buffer in buffers.items()}
        addresses["scratch"] = -(-scratch.ctypes.data // 256) * 256
        for number, launch in enumerate(plan.launches):
            self.launch(launch, addresses, seed * 1000 + number)

    def launch(self, launch: plan.Launch, addresses: dict[str, int], seed: int) -> None:
        got, expected = type(launch.parameters), KERNELS[launch.source][launch.kernel]
        if got is not expected:
            raise KernelError(f"{launch.kernel}: got {got.__name__}, expected {expected.__name__}")
        parameters = launch.parameters.pack(addresses)
        self.call(launch.kernel, launch.grid, launch.block, launch.shared_bytes, [parameters], seed)

    def call(
        self, kernel: str, grid: int, block: int, shared_bytes: int, arguments: Sequence[bytes], seed: int
    ) -> None:
        """Launch a kernel with arguments of these bytes."""
        message = ctypes.create_string_buffer(1000)
        if not self._launch(
            kernel.encode(),
            grid,
            block,
            ctypes.c_size_t(shared_bytes),
            (ctypes.c_char_p * len(arguments))(*arguments),
            (ctypes.c_size_t * len(arguments))(*map(len, arguments)),
            ctypes.c_size_t(len(arguments)),
            ctypes.c_uint64(seed),
            message,
            ctypes.c_size_t(len(message)),
        ):
            raise KernelError(f"{kernel}: {message.value.decode()}")


def sources() -> dict[str, str]:
    """The files of csrc/cuda."""
    folder = ROOT / "csrc/cuda"
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.glob("*/*.cu*"))}


def build(
    files: dict[str, str], kernels: Mapping[str, Iterable[str]] = KERNELS, flags: tuple[str, ...] = ("-O2",)
) -> Path:
    """The library of the kernels of some sources, in build/, named for all that went into it."""
    entry = '#include "launch.h"\n' + "".join(f'#include "{file}"\n' for file in kernels)
    entry += "".join(f"CUDA_ON_CPU_KERNEL({kernel})\n" for names in kernels.values() for kernel in names)
    headers = "".join(path.read_text() for path in sorted(HERE.glob("*.h")))
    command = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS, *flags]

    digest = hashlib.sha256(repr((command, files, entry, headers)).encode()).hexdigest()[:16]
    folder = ROOT / "build/cuda_on_cpu" / digest
    library = folder / "kernels.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in {**files, "kernels.cpp": entry}.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(text)
        unfinished = folder / f"{os.getpid()}.so"
        command += [f"-I{folder}", f"-I{HERE}", str(folder / "kernels.cpp"), "-o", str(unfinished)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{result.stderr[:5000]}")
        unfinished.rename(library)
    return library
