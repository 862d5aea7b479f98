"""Compiles csrc/cuda for the CPU and runs plans of `fastia.kernels.cuda_plan` there, on NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from fastia.kernels import cuda_plan

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = ROOT / "csrc/cuda"
FLAGS = (
    "-std=c++17",
    "-O2",
    "-g",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
)
Array = np.ndarray[Any, Any]


class KernelError(RuntimeError):
    """A kernel did what a GPU would hang on, or what has no defined result there."""


class Kernels:
    """The kernels of some sources, by default all of csrc/cuda; `changes` replace text in them: (file, old, new)."""

    def __init__(self, *changes: tuple[str, str, str], flags: tuple[str, ...] = ()) -> None:
        self._launch = ctypes.CDLL(str(build(changes, flags))).cuda_on_cpu_launch

    def run(self, plan: cuda_plan.Plan, buffers: dict[str, Array | int], seed: int) -> None:
        """Run a plan on named buffers, arrays or addresses; `scratch` is allocated here, with garbage in it."""
        rng = np.random.default_rng((3, seed))
        scratch = np.frombuffer(bytearray(rng.bytes(plan.scratch_bytes + 256)), np.uint8)
        addresses = {
            name: buffer if isinstance(buffer, int) else buffer.ctypes.data for name, buffer in buffers.items()
        }
        addresses["scratch"] = -(-scratch.ctypes.data // 256) * 256
        for number, launch in enumerate(plan.launches):
            values = [_argument(argument, addresses) for argument in launch.arguments]
            pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            message = ctypes.create_string_buffer(1000)
            if not self._launch(
                launch.kernel.encode(),
                launch.grid,
                launch.block,
                ctypes.c_size_t(launch.shared_bytes),
                pointers,
                ctypes.c_uint64(seed * 1000 + number),
                message,
                ctypes.c_size_t(len(message)),
            ):
                raise KernelError(f"{launch.kernel}: {message.value.decode()}")


def build(changes: tuple[tuple[str, str, str], ...] = (), flags: tuple[str, ...] = ()) -> Path:
    """The shared library of the kernels, in build/, named for what went into it."""
    sources = {path.name: path.read_text() for path in sorted(SOURCES.glob("*.cu*"))}
    for file, old, new in changes:
        assert sources[file].count(old) == 1, f"{file} must hold {old!r} once"
        sources[file] = sources[file].replace(old, new)
    entry = '#include "launch.h"\n' + "".join(f'#include "{file}"\n' for file in cuda_plan.KERNELS)
    entry += "".join(f"CUDA_ON_CPU_KERNEL({kernel})\n" for kernels in cuda_plan.KERNELS.values() for kernel in kernels)
    headers = "".join(path.read_text() for path in sorted(HERE.glob("*.h")))
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    command = [*compiler, *FLAGS, *flags]

    digest = hashlib.sha256(repr((command, sources, entry, headers)).encode()).hexdigest()[:16]
    folder = ROOT / "build/cuda_on_cpu" / digest
    library = folder / "kernels.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in (*sources.items(), ("kernels.cpp", entry)):
            (folder / file).write_text(text)
        unfinished = folder / f"kernels.{os.getpid()}.so"
        include = [f"-I{folder}", f"-I{HERE}"]
        subprocess.run([*command, *include, str(folder / "kernels.cpp"), "-o", str(unfinished)], check=True)
        unfinished.rename(library)
    return library


def _argument(argument: cuda_plan.Pointer | float | None, addresses: dict[str, int]) -> Any:
    if isinstance(argument, cuda_plan.Pointer):
        return ctypes.c_void_p(addresses[argument.buffer] + argument.offset)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_int64(argument or 0)
