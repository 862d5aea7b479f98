"""Operations on masks on the CPU: results are allocated here, for NumPy arrays and CPU tensors, and filled in C++.

Arguments are taken as checked: masks are `[B, H, W]` of an integer dtype with any strides, outputs are C-contiguous.
Ids are checked as the kernels read them, whatever `validate` says.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from fastia.fields import Array, Components, Field, empty, fields_along, fields_of
from fastia.kernels.cpu.launch import FLOAT_DTYPES, Error, check, component_options, library, masks_of, pointer
from fastia.options import ComponentOptions

_NORMALIZERS = {"class": 0, "foreground": 1}


def label(masks: Array, options: ComponentOptions) -> Array:
    labels = empty(Field("int32", "B H W"), _sizes(masks), masks)
    fill_labels(masks, labels, options)
    return labels


def weights(masks: Array, options: ComponentOptions, tau: float, normalizer: str, dtype: Any) -> Array:
    out = np.empty(masks.shape, dtype) if isinstance(masks, np.ndarray) else torch.empty(masks.shape, dtype=dtype)
    fill_weights(masks, out, options, tau, normalizer)
    return out


def components(masks: Array, options: ComponentOptions, max_components: int | None) -> Components:
    found = fields_of(Components)
    labels = empty(found["labels"], _sizes(masks), masks)
    table = component_table(masks, labels, options)
    sizes = {"B": len(masks), "K": width_of(table.count, max_components)}
    columns = [empty(field, sizes, masks) for field in fields_along(Components, "K").values()]
    table.copy(*columns)
    return Components(labels, counts_like(masks, table.count), *columns)


def fill_labels(masks: Array, labels: Array, options: ComponentOptions, threads: int | None = None) -> None:
    """Fills `labels` (int32)."""
    error = Error()
    status = library.fastia_label(
        ctypes.byref(masks_of(masks)),
        ctypes.byref(component_options(options, threads)),
        pointer(labels),
        ctypes.byref(error),
    )
    check(status, error, {"masks": options.ignore_index})


def fill_weights(
    masks: Array, out: Array, options: ComponentOptions, tau: float, normalizer: str, threads: int | None = None
) -> None:
    """Fills `out` (float16, bfloat16, float32 or float64) with the weights of `masks`."""
    error = Error()
    status = library.fastia_weights(
        ctypes.byref(masks_of(masks)),
        ctypes.byref(component_options(options, threads)),
        _NORMALIZERS[normalizer],
        ctypes.c_double(tau),
        FLOAT_DTYPES[out.dtype],
        pointer(out),
        ctypes.byref(error),
    )
    check(status, error, {"masks": options.ignore_index})


def component_table(
    masks: Array, labels: Array, options: ComponentOptions, threads: int | None = None
) -> ComponentTable:
    """Fills `labels` (int32) and returns the table of the components."""
    error, handle, count = Error(), ctypes.c_void_p(), np.zeros(len(masks), np.int32)
    status = library.fastia_components(
        ctypes.byref(masks_of(masks)),
        ctypes.byref(component_options(options, threads)),
        pointer(labels),
        pointer(count),
        ctypes.byref(handle),
        ctypes.byref(error),
    )
    check(status, error, {"masks": options.ignore_index})
    return ComponentTable(handle, count)


class ComponentTable:
    """The components of a batch; `count [B]`."""

    def __init__(self, handle: ctypes.c_void_p, count: np.ndarray) -> None:
        self._handle = handle
        self.count = count

    def copy(self, *columns: Array) -> None:
        """Fills the fields `[B, K]` of Components, padding included."""
        library.fastia_components_copy(self._handle, ctypes.c_int64(columns[0].shape[1]), *map(pointer, columns))

    def __del__(self) -> None:
        library.fastia_components_free(self._handle)


def width_of(count: np.ndarray, limit: int | None) -> int:
    """The width of a table: the limit, or the largest count."""
    return int(count.max(initial=0)) if limit is None else limit


def counts_like(like: Array, count: np.ndarray) -> Array:
    """Counts that outlive their table, of the kind of `like`."""
    count = np.array(count, np.int32)
    return count if isinstance(like, np.ndarray) else torch.from_numpy(count)


def _sizes(masks: Array) -> dict[str, int]:
    return dict(zip("BHW", masks.shape, strict=True))
