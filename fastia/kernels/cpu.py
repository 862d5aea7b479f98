"""The CPU kernels: `csrc/cpu`, called through ctypes on raw buffers.

Arguments are taken as checked: masks are `[B, H, W]` NumPy arrays or CPU tensors of an integer dtype with any strides,
outputs are C-contiguous. Ids are checked here, as the kernels read them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

Array = Any  # a NumPy array or a torch tensor

_MASK_DTYPES: dict[Any, int] = {}  # of NumPy and torch
for _code, _names in enumerate((("bool", "uint8"), ("int16",), ("uint16",), ("int32",), ("int64",))):
    _MASK_DTYPES |= {np.dtype(name): _code for name in _names} | {getattr(torch, name): _code for name in _names}
_FLOAT_DTYPES: dict[Any, int] = {np.dtype("float16"): 0, np.dtype("float32"): 2, np.dtype("float64"): 3}
_FLOAT_DTYPES |= {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_PROTOCOLS = {"wacv2024": 0, "exact": 1}
_NORMALIZERS = {"class": 0, "foreground": 1}
_INVALID_ID, _OUT_OF_MEMORY, _TOO_MANY_COMPONENTS = 1, 2, 3


class InvalidId(ValueError):
    """An id that is neither allowed nor `ignore_index`."""


_Three = ctypes.c_int64 * 3


class _Maps(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("shape", _Three),
        ("strides", _Three),
        ("dtype", ctypes.c_int32),
    ]


class _Id(ctypes.Structure):
    _fields_ = [("present", ctypes.c_int32), ("value", ctypes.c_int64)]


class _Options(ctypes.Structure):
    _fields_ = [
        ("background", _Id),
        ("ignore_index", _Id),
        ("connectivity", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]


class _OverlapOptions(ctypes.Structure):
    _fields_ = [
        ("options", _Options),
        ("instance_ignore_index", _Id),
        ("num_classes", _Id),
        ("protocol", ctypes.c_int32),
    ]


class _Error(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_int32), ("value", ctypes.c_int64)]


def _load_library() -> ctypes.CDLL:
    name = "libfastia_cpu.dylib" if sys.platform == "darwin" else "libfastia_cpu.so"
    path = Path(os.environ.get("FASTIA_LIBRARY") or Path(__file__).with_name(name))
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"the compiled kernels of fastia cannot be loaded from {path}: {error}. "
            "Install fastia with `pip install .` or build them in place with `python setup.py build_ext --inplace`"
        ) from error
    library.fastia_instruction_set.restype = ctypes.c_char_p
    for operation in ("components", "instances"):
        getattr(library, f"fastia_{operation}_free").restype = None
        getattr(library, f"fastia_{operation}_copy").restype = None
    library.fastia_unmatched_copy.restype = None
    library.fastia_matches_count.restype = None
    library.fastia_matches_copy.restype = None
    return library


_library = _load_library()


def num_threads() -> int:
    """Number of threads that the kernels use: that of torch, so a DataLoader worker runs on one."""
    return torch.get_num_threads()


def instruction_set() -> str:
    """Name of the instruction set in use; the environment variable FASTIA_CPU chooses a lesser one."""
    return _library.fastia_instruction_set().decode()


def label(
    masks: Array,
    out: Array,
    *,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    threads: int | None = None,
) -> None:
    """Fills `out` (int32) with the labels of `masks`."""
    options = _options(connectivity, background, ignore_index, threads)
    error = _Error()
    status = _library.fastia_label(
        ctypes.byref(_maps(masks)), ctypes.byref(options), _pointer(out), ctypes.byref(error)
    )
    _check(status, error, {"masks": ignore_index})


def weights(
    masks: Array,
    out: Array,
    *,
    tau: float,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    normalizer: str,
    threads: int | None = None,
) -> None:
    """Fills `out` (float16, bfloat16, float32 or float64) with the weights of `masks`."""
    options = _options(connectivity, background, ignore_index, threads)
    error = _Error()
    status = _library.fastia_weights(
        ctypes.byref(_maps(masks)),
        ctypes.byref(options),
        _NORMALIZERS[normalizer],
        ctypes.c_double(tau),
        _FLOAT_DTYPES[out.dtype],
        _pointer(out),
        ctypes.byref(error),
    )
    _check(status, error, {"masks": ignore_index})


def components(
    masks: Array,
    labels: Array,
    *,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    threads: int | None = None,
) -> ComponentTable:
    """Fills `labels` (int32) and returns the table of the components."""
    options = _options(connectivity, background, ignore_index, threads)
    error, handle, count = _Error(), ctypes.c_void_p(), np.zeros(len(masks), np.int32)
    status = _library.fastia_components(
        ctypes.byref(_maps(masks)),
        ctypes.byref(options),
        _pointer(labels),
        _pointer(count),
        ctypes.byref(handle),
        ctypes.byref(error),
    )
    _check(status, error, {"masks": ignore_index})
    return ComponentTable(handle, count)


def instance_iou(
    preds: Array,
    target: Array,
    instances: Array | None,
    *,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | None,
    num_classes: int | None = None,
    confusion: Array | None = None,
    threads: int | None = None,
) -> InstanceTable:
    """Returns the table of the ground-truth instances and unmatched components.

    With `num_classes`, predictions from it on form no component, such a target is an error, and `confusion`
    (int64 `[B, C, C + 1]`) is filled: rows ground truth, columns prediction, the last one for predictions outside the
    classes.
    """
    options = _OverlapOptions(
        _options(8, background, ignore_index, threads),
        _id(instance_ignore_index),
        _id(num_classes),
        _PROTOCOLS[protocol],
    )
    error, handle = _Error(), ctypes.c_void_p()
    count, unmatched_count = np.zeros(len(preds), np.int32), np.zeros(len(preds), np.int32)
    status = _library.fastia_instance_iou(
        ctypes.byref(_maps(preds)),
        ctypes.byref(_maps(target)),
        None if instances is None else ctypes.byref(_maps(instances)),
        ctypes.byref(options),
        None if confusion is None else _pointer(confusion),
        _pointer(count),
        _pointer(unmatched_count),
        ctypes.byref(handle),
        ctypes.byref(error),
    )
    ignored = {"preds": ignore_index, "target": ignore_index, "instances": instance_ignore_index}
    _check(status, error, ignored, num_classes)
    return InstanceTable(handle, count, unmatched_count)


class ComponentTable:
    """The components of a batch; `count [B]`."""

    def __init__(self, handle: ctypes.c_void_p, count: np.ndarray) -> None:
        self._handle = handle
        self.count = count

    def copy(self, class_id: Array, area: Array, bbox: Array) -> None:
        """Fills `class_id [B, K]` int32, `area [B, K]` int64 and `bbox [B, K, 4]` int32, padding included."""
        _library.fastia_components_copy(
            self._handle, ctypes.c_int64(class_id.shape[1]), _pointer(class_id), _pointer(area), _pointer(bbox)
        )

    def __del__(self) -> None:
        _library.fastia_components_free(self._handle)


class InstanceTable:
    """The ground-truth instances and the unmatched components of a batch; `count [B]`, `unmatched_count [B]`."""

    def __init__(self, handle: ctypes.c_void_p, count: np.ndarray, unmatched_count: np.ndarray) -> None:
        self._handle = handle
        self.count = count
        self.unmatched_count = unmatched_count

    def copy(
        self, class_id: Array, instance_id: Array, area: Array, intersection: Array, covered: Array, iou: Array
    ) -> None:
        """Fills `[B, K]` arrays: int32, int32, int64, int64, float64, float64, padding included."""
        columns = map(_pointer, (class_id, instance_id, area, intersection, covered, iou))
        _library.fastia_instances_copy(self._handle, ctypes.c_int64(class_id.shape[1]), *columns)

    def copy_unmatched(self, class_id: Array, area: Array) -> None:
        """Fills `[B, M]` arrays: int32 and int64, padding included."""
        _library.fastia_unmatched_copy(
            self._handle, ctypes.c_int64(class_id.shape[1]), _pointer(class_id), _pointer(area)
        )

    @property
    def match_count(self) -> np.ndarray:
        """Number of predicted components, `[B]`."""
        count = np.zeros_like(self.count)
        _library.fastia_matches_count(self._handle, _pointer(count))
        return count

    def copy_matches(
        self, class_id: Array, area: Array, void_area: Array, instance_area: Array, intersection: Array, union: Array
    ) -> None:
        """Fills `[B, N]` arrays of the predicted components: int32, then int64."""
        columns = map(_pointer, (class_id, area, void_area, instance_area, intersection, union))
        _library.fastia_matches_copy(self._handle, ctypes.c_int64(class_id.shape[1]), *columns)

    def __del__(self) -> None:
        _library.fastia_instances_free(self._handle)


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data)


def _maps(masks: Array) -> _Maps:
    if isinstance(masks, torch.Tensor):
        size = masks.element_size()
        strides = [size * stride for stride in masks.stride()]
    else:
        strides = masks.strides
    return _Maps(_pointer(masks), _Three(*masks.shape), _Three(*strides), _MASK_DTYPES[masks.dtype])


def _id(value: int | None) -> _Id:
    """An id that a map can hold; any other is as good as none."""
    return _Id(0, 0) if value is None or not -(2**63) <= value < 2**63 else _Id(1, value)


def _options(connectivity: int, background: int | None, ignore_index: int | None, threads: int | None) -> _Options:
    if background is not None and not 0 <= background <= 65535:
        background = None
    return _Options(_id(background), _id(ignore_index), connectivity, threads or num_threads())


def invalid_id(name: str, value: int, ignore_index: int | None, num_classes: int | None = None) -> InvalidId:
    """What an id that is not allowed is told with; `ignore_index` is that of the map called `name`."""
    if name == "instances":
        allowed = f"lie in 0..{2**31 - 1} or equal instance_ignore_index ({ignore_index})"
    elif name == "target" and num_classes is not None and 0 <= value <= 65535:
        allowed = f"be below num_classes ({num_classes}) or equal ignore_index ({ignore_index})"
    else:
        allowed = f"lie in 0..65535 or equal ignore_index ({ignore_index})"
    return InvalidId(f"{name} holds the id {value}, but ids must {allowed}")


def _check(status: int, error: _Error, ignored: dict[str, int | None], num_classes: int | None = None) -> None:
    """Raise what a call has answered; `ignored` has the id that each map may hold besides."""
    if status == _INVALID_ID:
        name = list(ignored)[error.argument]
        raise invalid_id(name, error.value, ignored[name], num_classes)
    if status == _OUT_OF_MEMORY:
        raise MemoryError("the kernels ran out of memory")
    if status == _TOO_MANY_COMPONENTS:
        raise OverflowError("an image has more than 2147483647 components, which int32 labels cannot number")
