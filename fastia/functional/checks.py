"""Argument checks that every backend shares; an error names the argument, what it was and what it must be."""

from __future__ import annotations

import importlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

MASK_DTYPES = {
    torch.bool: "bool",
    torch.uint8: "uint8",
    torch.int16: "int16",
    torch.uint16: "uint16",
    torch.int32: "int32",
    torch.int64: "int64",
}
WEIGHT_DTYPES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}
_NUMPY_DTYPES = {np.dtype(name) for name in MASK_DTYPES.values()}
CONNECTIVITIES = (4, 8)
NORMALIZERS = ("class", "foreground")
PROTOCOLS = ("wacv2024", "exact")
RESIZES = ("logits", "target")
NORMALIZES = ("weights", "valid", "pixels")
REDUCTIONS = ("mean", "sum", "none")
MAX_CLASSES = 65536


def masks(**arrays: Any) -> list[Any]:
    """Check arrays of ids, given by name, one by one and against the first; return them as NumPy arrays or tensors."""
    checked = {name: _mask(name, array) for name, array in arrays.items()}
    first_name, first = next(iter(checked.items()))
    for name, mask in checked.items():
        both = f"{first_name} and {name}"
        if isinstance(mask, np.ndarray) != isinstance(first, np.ndarray):
            raise TypeError(f"{both} must be of one kind, got {_kind(arrays[first_name])} and {_kind(arrays[name])}")
        if mask.shape != first.shape:
            raise ValueError(f"{both} must have the same shape, got {tuple(first.shape)} and {tuple(mask.shape)}")
        if isinstance(mask, torch.Tensor) and mask.device != first.device:
            raise ValueError(f"{both} must be on the same device, got {first.device} and {mask.device}")
    return list(checked.values())


def integer(name: str, value: Any, low: int = -(2**63), high: int = 2**63 - 1, optional: bool = True) -> Any:
    """Check an integer of low..high; NumPy's integers are integers too, and None is where it is optional."""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer, torch.SymInt)):
        raise TypeError(f"{name} must be an int{' or None' if optional else ''}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {'None or ' if optional else ''}in {low}..{high}, got {value}")
    return int(value) if isinstance(value, np.integer) else value


def background(value: Any) -> int | None:
    """Check `background`, a class id or None."""
    return integer("background", value, 0, MAX_CLASSES - 1)


def choice(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    """Check that an option is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
    return value


def weight_dtype(dtype: Any, masks: Any) -> Any:
    """Check the dtype of weights; for NumPy and CuPy masks it may be NumPy's or torch's.

    Returned is NumPy's for NumPy masks, else torch's.
    """
    if isinstance(masks, np.ndarray) or is_cupy(masks):
        name = WEIGHT_DTYPES[dtype] if dtype in WEIGHT_DTYPES else _dtype_name(dtype)
        if name in ("float16", "float32", "float64"):
            return getattr(torch, name) if is_cupy(masks) else np.dtype(name)
        kind = "CuPy" if is_cupy(masks) else "NumPy"
        raise TypeError(f"dtype must be float16, float32 or float64 for a {kind} array, got {dtype}")
    if dtype not in WEIGHT_DTYPES:
        raise TypeError(f"dtype must be torch.float16, bfloat16, float32 or float64, got {dtype}")
    return dtype


def logits(value: Any) -> torch.Tensor:
    """Check logits, `[B, C, h, w]` on a device that has kernels for them."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"logits must be a torch tensor, got {_kind(value)}")
    if value.dtype not in WEIGHT_DTYPES:
        raise TypeError(f"logits must be of dtype {', '.join(WEIGHT_DTYPES.values())}, got {value.dtype}")
    if value.ndim != 4:
        raise ValueError(f"logits must be [B, C, h, w], got shape {tuple(value.shape)}")
    if not 1 <= value.shape[1] <= MAX_CLASSES:
        raise ValueError(f"logits must have 1..{MAX_CLASSES} classes, got shape {tuple(value.shape)}")
    _device("logits", value)
    if value.dtype == torch.float64 and value.device.type != "cpu":
        raise TypeError("logits must be of dtype float16, bfloat16, float32 on a GPU, got torch.float64")
    return value


def sizes(logits: torch.Tensor, size: Any) -> None:
    """Check that logits can be upsampled to a size: some logits wherever there are pixels."""
    if 0 in logits.shape[2:] and 0 not in (logits.shape[0], *size):
        raise ValueError(f"logits must not be empty, got shape {tuple(logits.shape)} for an output of {tuple(size)}")


def loss_target(target: Any, logits: torch.Tensor) -> torch.Tensor:
    """Check a target `[B, H, W]` against checked logits."""
    if not isinstance(target, torch.Tensor):
        raise TypeError(f"target must be a torch tensor, got {_kind(target)}")
    _mask("target", target)
    if target.ndim != 3:
        raise ValueError(f"target must be [B, H, W], got shape {tuple(target.shape)}")
    if target.device != logits.device:
        raise ValueError(f"logits and target must be on the same device, got {logits.device} and {target.device}")
    if target.shape[0] != logits.shape[0]:
        both = f"{tuple(logits.shape)} and {tuple(target.shape)}"
        raise ValueError(f"logits and target must have the same batch size, got shapes {both}")
    return target


def constant(name: str, value: Any, shape: Any, logits: torch.Tensor) -> torch.Tensor | None:
    """Check an optional tensor of weights, which no gradient reaches."""
    if value is None:
        return None
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {_kind(value)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be of a floating dtype, got {value.dtype}")
    if value.requires_grad:
        raise ValueError(f"{name} must not require gradients, they are constants of the loss: pass {name}.detach()")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")
    if value.device != logits.device:
        raise ValueError(f"logits and {name} must be on the same device, got {logits.device} and {value.device}")
    return value


def number(name: str, value: float, low: float, high: float = math.inf) -> float:
    """Check a number of low..high."""
    if not low <= value <= high:
        raise ValueError(
            f"{name} must be {f'at least {low}' if high == math.inf else f'in {low}..{high}'}, got {value}"
        )
    return float(value)


def pip_extra_module(name: str, extra: str) -> Any:
    """Import a module that an extra of the package brings; without it, the error names the extra."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        text = f"no module {missing}: this needs more packages: pip install fastia[{extra}]"
        raise ModuleNotFoundError(text, name=error.name) from None


def is_cupy(array: Any) -> bool:
    """Whether an object is an array of CuPy, which need not be installed."""
    return type(array).__module__.partition(".")[0] == "cupy"


def new_files(**paths: str | os.PathLike[str] | None) -> None:
    """Check, option by option, where a file is to be written, if anywhere."""
    for option, path in paths.items():
        if path is not None and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise ValueError(f"{option} must be a file in a folder that exists, got {os.fspath(path)}")


def _mask(name: str, array: Any) -> Any:
    if not isinstance(array, (torch.Tensor, np.ndarray)):
        if not hasattr(array, "__dlpack__"):
            raise TypeError(
                f"{name} must be a torch tensor, a NumPy array or an object with __dlpack__, got {_kind(array)}"
            )
        if is_cupy(array) and min(array.strides, default=0) < 0:
            array = array.copy()  # torch has no negative strides
        array = torch.from_dlpack(array)
    if isinstance(array, torch.Tensor):
        _device(name, array)
        allowed = array.dtype in MASK_DTYPES
    else:
        allowed = array.dtype in _NUMPY_DTYPES
        if not allowed and array.dtype.newbyteorder("=") in _NUMPY_DTYPES:
            raise TypeError(f"{name} must be in native byte order, got dtype {array.dtype.str}")
    if not allowed:
        raise TypeError(f"{name} must be of dtype {', '.join(MASK_DTYPES.values())}, got {array.dtype}")
    if array.ndim not in (2, 3):
        hint = f": squeeze it, {name}.squeeze(1)" if array.ndim == 4 and array.shape[1] == 1 else ""
        raise ValueError(f"{name} must be [H, W] or [B, H, W], got shape {tuple(array.shape)}{hint}")
    return array


def _device(name: str, tensor: torch.Tensor) -> None:
    """Check that a tensor is where kernels are; ROCm calls its devices cuda."""
    rocm = tensor.device.type == "cuda" and torch.version.hip is not None
    if rocm or tensor.device.type not in ("cpu", "cuda"):
        raise NotImplementedError(
            f"{name} is on {tensor.device}{' of ROCm' if rocm else ''}, but only CPU tensors and those of NVIDIA GPUs"
            f" are supported: pass {name}.cpu()"
        )


def _kind(array: Any) -> str:
    return f"{type(array).__module__}.{type(array).__qualname__}"


def _dtype_name(dtype: Any) -> str:
    try:
        return np.dtype(dtype).name
    except TypeError:
        return ""
