"""The compiled library of `csrc/cpu`, called through ctypes on raw buffers: its structs, and what its calls answer."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastia.fields import Array
from fastia.kernels.errors import invalid_id
from fastia.options import ComponentOptions, OverlapOptions

_MASK_DTYPES: dict[Any, int] = {}  # of NumPy and torch
for _code, _names in enumerate((("bool", "uint8"), ("int16",), ("uint16",), ("int32",), ("int64",))):
    _MASK_DTYPES |= {np.dtype(name): _code for name in _names} | {getattr(torch, name): _code for name in _names}
FLOAT_DTYPES: dict[Any, int] = {np.dtype("float16"): 0, np.dtype("float32"): 2, np.dtype("float64"): 3}
FLOAT_DTYPES |= {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_PROTOCOLS = {"wacv2024": 0, "exact": 1}
INVALID_ID, OUT_OF_MEMORY, TOO_MANY_COMPONENTS, NEGATIVE_WEIGHT, UNKNOWN_LOSS = 1, 2, 3, 4, 5

_Three = ctypes.c_int64 * 3


class Masks(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("shape", _Three),
        ("strides", _Three),
        ("dtype", ctypes.c_int32),
    ]


class Id(ctypes.Structure):
    _fields_ = [("present", ctypes.c_int32), ("value", ctypes.c_int64)]


class _ComponentOptions(ctypes.Structure):
    _fields_ = [
        ("background", Id),
        ("ignore_index", Id),
        ("connectivity", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]


class _OverlapOptions(ctypes.Structure):
    _fields_ = [
        ("components", _ComponentOptions),
        ("instance_ignore_index", Id),
        ("num_classes", Id),
        ("protocol", ctypes.c_int32),
    ]


class Error(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_int32), ("value", ctypes.c_int64)]


def _load_library() -> ctypes.CDLL:
    name = "libfastia_cpu.dylib" if sys.platform == "darwin" else "libfastia_cpu.so"
    path = Path(os.environ.get("FASTIA_LIBRARY") or Path(__file__).with_name(name))
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"the compiled kernels of fastia cannot be loaded from {path}: {error}. "
            "Install fastia with `pip install .` or build them in place with `python setup.py build_ext --inplace`"
        ) from error
    loaded.fastia_instruction_set.restype = ctypes.c_char_p
    for function in ("components_free", "components_copy", "instances_free", "instances_copy", "unmatched_copy"):
        getattr(loaded, f"fastia_{function}").restype = None
    loaded.fastia_matches_count.restype = loaded.fastia_matches_copy.restype = None
    return loaded


library = _load_library()


def num_threads() -> int:
    """Number of threads that the kernels use: that of torch, so a DataLoader worker runs on one."""
    return torch.get_num_threads()


def instruction_set() -> str:
    """Name of the instruction set in use; the environment variable FASTIA_CPU chooses a lesser one."""
    return library.fastia_instruction_set().decode()


def pointer(array: Array | None) -> ctypes.c_void_p:
    """The address of an array's first element; null for None."""
    if array is None:
        return ctypes.c_void_p(None)
    return ctypes.c_void_p(array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data)


def masks_of(masks: Array) -> Masks:
    """A batch of ids, `[B, H, W]`, in place."""
    if isinstance(masks, torch.Tensor):
        size = masks.element_size()
        strides = [size * stride for stride in masks.stride()]
    else:
        strides = masks.strides
    return Masks(pointer(masks), _Three(*masks.shape), _Three(*strides), _MASK_DTYPES[masks.dtype])


def id_of(value: int | None) -> Id:
    """An id that a mask can hold; any other is as good as none."""
    return Id(0, 0) if value is None or not -(2**63) <= value < 2**63 else Id(1, value)


def component_options(options: ComponentOptions, threads: int | None) -> _ComponentOptions:
    """The options as the library takes them."""
    background = options.background
    if background is not None and not 0 <= background <= 65535:
        background = None
    return _ComponentOptions(
        id_of(background), id_of(options.ignore_index), options.connectivity, threads or num_threads()
    )


def overlap_options(options: OverlapOptions, threads: int | None) -> _OverlapOptions:
    """The options as the library takes them."""
    components = ComponentOptions(8, options.background, options.ignore_index)
    return _OverlapOptions(
        component_options(components, threads),
        id_of(options.instance_ignore_index),
        id_of(options.num_classes),
        _PROTOCOLS[options.protocol],
    )


def check(status: int, error: Error, ignored: dict[str, int | None], num_classes: int | None = None) -> None:
    """Raise what a call has answered; `ignored` has the id that each map may hold besides."""
    if status == INVALID_ID:
        name = list(ignored)[error.argument]
        raise invalid_id(name, error.value, ignored[name], num_classes)
    if status == OUT_OF_MEMORY:
        raise MemoryError("the kernels ran out of memory")
    if status == TOO_MANY_COMPONENTS:
        raise OverflowError("an image has more than 2147483647 components, which int32 labels cannot number")
