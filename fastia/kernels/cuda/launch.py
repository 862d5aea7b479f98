"""The CUDA backend: runs plans of `plan` on torch tensors; csrc/cuda is compiled by NVRTC, through CuPy.

A kernel is compiled for the GPU at hand when it is first used, which takes seconds and cannot be captured in a CUDA
graph; CuPy keeps what was compiled on disk (in CUPY_CACHE_DIR). Launches go to torch's current stream of the device,
and nothing here waits for it. Threads may share everything.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastia.kernels.cuda.plan import Launch, Masks, Plan
from fastia.kernels.errors import invalid_id

# Contraction would round once where the other backends round twice.
OPTIONS = ("-std=c++17", "--fmad=false")
CAPABILITY = (7, 0)  # of the oldest GPU whose lanes make progress on their own
FOLDER = importlib.resources.files("fastia.kernels.cuda") / "sources"

_loaded: dict[tuple[int, str], Any] = {}  # by device and kernel
_loading = threading.Lock()


def empty_scratch(size: int, device: torch.device) -> Tensor:
    """Scratch memory of a plan, from torch's allocator: aligned to 512 bytes, and free again for what follows on the
    stream as soon as the tensor is gone.
    """
    return torch.empty(size, dtype=torch.uint8, device=device)


def run(launches: Sequence[Launch], buffers: dict[str, Tensor], device: torch.device) -> None:
    """Launch kernels on tensors of one device by the names that the plan has for them.

    Raises:
        ModuleNotFoundError: CuPy is not installed.
        ImportError: CuPy finds no NVRTC.
        RuntimeError: a kernel is to be used for the first time while a CUDA graph is captured, or the GPU is too old.
    """
    if not launches:
        return
    addresses = {name: buffer.data_ptr() for name, buffer in buffers.items()}
    with _current_stream(device):
        for launch in launches:
            kernel = _loaded.get((device.index, launch.kernel)) or _load(launch, device)
            packed = launch.parameters.pack(addresses)
            parameters = np.frombuffer(packed, f"V{len(packed)}")  # CuPy passes an array of size one by value
            kernel((launch.grid,), (launch.block,), (parameters,), shared_mem=launch.shared_bytes)


class Call:
    """What the plans of one operation share: its masks and scratch memory, and the check of ids if it is asked for.

    `ignored` has the id that each of the masks may hold besides.
    """

    def __init__(
        self, masks: dict[str, Tensor], ignored: dict[str, int | None], validate: bool, num_classes: int | None = None
    ) -> None:
        self.ignored = ignored
        self.num_classes, self.validate = num_classes, validate
        self.buffers, self.device = dict(masks), next(iter(masks.values())).device
        if validate:
            self.buffers["error"] = torch.zeros((len(ignored), 2), dtype=torch.int64, device=self.device)

    def run(self, plan: Plan, outputs: dict[str, Tensor], first: int = 0) -> None:
        """Run the launches of a plan from `first` on, in the scratch memory of those before."""
        if first == 0:
            self.buffers["scratch"] = empty_scratch(plan.scratch_bytes, self.device)
        run(plan.launches[first:], self.buffers | outputs, self.device)
        if self.validate and first == 0:
            self._check()

    def _check(self) -> None:
        for (name, ignored), (found, value) in zip(self.ignored.items(), self.buffers["error"].tolist(), strict=True):
            if found:
                raise invalid_id(name, value, ignored, self.num_classes)


def masks_of(masks: Tensor) -> Masks:
    """What a plan knows of masks."""
    size = masks.element_size()
    return Masks(tuple(masks.shape), tuple(size * stride for stride in masks.stride()), dtype_name(masks.dtype))


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype of torch, as plans have it."""
    return str(dtype).removeprefix("torch.")


def source_text(name: str) -> str:
    """A source with its headers in the place of their #include.

    CuPy's cache does not look into headers, and so has to see them.
    """
    included = set()

    def expand(name: str) -> str:
        if name in included:
            return ""
        included.add(name)
        text = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return re.sub(r'^#include "(.*)"$', lambda include: expand(include[1]), text, flags=re.MULTILINE)

    return expand(name)


def pip_extra() -> str:
    """The extra of fastia that brings a CuPy for the CUDA of this torch."""
    return "fastia[cuda12]" if (torch.version.cuda or "12").startswith("12") else "fastia[cuda13]"


def _load(launch: Launch, device: torch.device) -> Any:
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{launch.kernel} is used for the first time, and a CUDA graph cannot capture its compilation: run the"
            " operation once before, on a tensor of the same dtype and size"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        raise RuntimeError(
            f"operations on masks that are CUDA tensors need a GPU of compute capability {_version(CAPABILITY)} or"
            f" later, got {_version(capability)} on {device}: pass masks.cpu()"
        )
    with _loading:
        try:
            kernel = _module(launch.source).get_function(launch.kernel)
            kernel.kernel  # noqa: B018  compiles the module, if nothing has, or finds it on disk, and loads it
        except RuntimeError as error:
            if "nvrtc" not in str(error).lower():
                raise
            raise ImportError(f"CuPy finds no NVRTC, which comes with: pip install '{pip_extra()}'") from error
        _loaded[device.index, launch.kernel] = kernel
    return kernel


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


@functools.cache
def _module(source: str) -> Any:
    """A module of CuPy, which compiles and loads it for each device on its own."""
    return _cupy().RawModule(code=source_text(source), options=OPTIONS)


def _cupy() -> Any:
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        raise ModuleNotFoundError(
            f"operations on masks that are CUDA tensors need CuPy: pip install '{pip_extra()}'", name="cupy"
        ) from None
    return cupy


class _TorchStream:
    """torch's current stream of a device, for CuPy."""

    def __init__(self, device: torch.device) -> None:
        self.address = torch.cuda.current_stream(device).cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


@contextmanager
def _current_stream(device: torch.device) -> Iterator[None]:
    cuda, stream = _cupy().cuda, _TorchStream(device)
    # CuPy follows torch's current device. Its own Device would create a context, hundreds of MB, on the device that it
    # goes back to, even where nothing uses that one.
    with torch.cuda.device(device):
        if hasattr(cuda.Stream, "from_external"):
            external = cuda.Stream.from_external(stream)
        else:  # CuPy 13 and before
            external = cuda.ExternalStream(stream.address, device.index)
        with external:
            yield
