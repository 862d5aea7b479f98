"""Predictions against ground truth on the CPU: results are allocated here and filled in C++, as in `masks`."""

from __future__ import annotations

import ctypes

import numpy as np

from fastia.fields import Array, ComponentMatches, Confusion, InstanceIoU, empty, fields_along, fields_of
from fastia.kernels.cpu.launch import Error, check, library, masks_of, overlap_options, pointer
from fastia.kernels.cpu.masks import counts_like, width_of
from fastia.options import OverlapOptions


def instance_iou(
    preds: Array,
    target: Array,
    instances: Array | None,
    options: OverlapOptions,
    max_instances: int | None,
    max_unmatched: int | None,
    threads: int | None,
) -> tuple[Array, ...]:
    """The fields of InstanceIoU, then the confusion matrix `[B, C, C + 1]`, where C is 0 without `num_classes`."""
    outputs, _ = _records(preds, target, instances, options, max_instances, max_unmatched, threads)
    return outputs


def instance_matches(
    preds: Array,
    target: Array,
    instances: Array | None,
    options: OverlapOptions,
    max_instances: int | None,
    max_unmatched: int | None,
    threads: int | None,
) -> tuple[Array, ...]:
    """The outputs of :func:`instance_iou`, then the fields of ComponentMatches, of the same pass."""
    outputs, table = _records(preds, target, instances, options, max_instances, max_unmatched, threads)
    count = table.match_count
    sizes = {"B": len(preds), "N": width_of(count, None)}
    matches = [empty(field, sizes, preds) for field in fields_along(ComponentMatches, "N").values()]
    table.copy_matches(*matches)
    return (*outputs, counts_like(preds, count), *matches)


def _records(
    preds: Array,
    target: Array,
    instances: Array | None,
    options: OverlapOptions,
    max_instances: int | None,
    max_unmatched: int | None,
    threads: int | None,
) -> tuple[tuple[Array, ...], InstanceTable]:
    classes = options.num_classes or 0
    sizes = {"B": len(preds), "C": classes, "C+1": classes + 1}
    confusion = empty(fields_of(Confusion)["confusion"], sizes, preds)
    table = instance_table(preds, target, instances, options, confusion if classes else None, threads)
    sizes |= {"K": width_of(table.count, max_instances), "M": width_of(table.unmatched_count, max_unmatched)}
    columns = [empty(field, sizes, preds) for field in fields_along(InstanceIoU, "K").values()]
    table.copy(*columns)
    unmatched = [empty(field, sizes, preds) for field in fields_along(InstanceIoU, "M").values()]
    table.copy_unmatched(*unmatched)
    counts = (counts_like(preds, table.count), counts_like(preds, table.unmatched_count))
    return (counts[0], *columns, counts[1], *unmatched, confusion), table


def instance_table(
    preds: Array,
    target: Array,
    instances: Array | None,
    options: OverlapOptions,
    confusion: Array | None = None,
    threads: int | None = None,
) -> InstanceTable:
    """Returns the table of the instances and components; fills `confusion` (int64 `[B, C, C + 1]`) if it is there."""
    error, handle = Error(), ctypes.c_void_p()
    count, unmatched_count = np.zeros(len(preds), np.int32), np.zeros(len(preds), np.int32)
    status = library.fastia_instance_iou(
        ctypes.byref(masks_of(preds)),
        ctypes.byref(masks_of(target)),
        None if instances is None else ctypes.byref(masks_of(instances)),
        ctypes.byref(overlap_options(options, threads)),
        pointer(confusion),
        pointer(count),
        pointer(unmatched_count),
        ctypes.byref(handle),
        ctypes.byref(error),
    )
    ignored = dict.fromkeys(("preds", "target"), options.ignore_index) | {"instances": options.instance_ignore_index}
    check(status, error, ignored, options.num_classes)
    return InstanceTable(handle, count, unmatched_count)


class InstanceTable:
    """The ground-truth instances and the predicted components of a batch; `count [B]`, `unmatched_count [B]`."""

    def __init__(self, handle: ctypes.c_void_p, count: np.ndarray, unmatched_count: np.ndarray) -> None:
        self._handle = handle
        self.count = count
        self.unmatched_count = unmatched_count

    def copy(self, *columns: Array) -> None:
        """Fills the fields `[B, K]` of InstanceIoU, padding included."""
        library.fastia_instances_copy(self._handle, ctypes.c_int64(columns[0].shape[1]), *map(pointer, columns))

    def copy_unmatched(self, *columns: Array) -> None:
        """Fills the fields `[B, M]` of InstanceIoU, padding included."""
        library.fastia_unmatched_copy(self._handle, ctypes.c_int64(columns[0].shape[1]), *map(pointer, columns))

    @property
    def match_count(self) -> np.ndarray:
        """Number of predicted components, `[B]`."""
        count = np.zeros_like(self.count)
        library.fastia_matches_count(self._handle, pointer(count))
        return count

    def copy_matches(self, *columns: Array) -> None:
        """Fills the fields `[B, N]` of ComponentMatches, padding included."""
        library.fastia_matches_copy(self._handle, ctypes.c_int64(columns[0].shape[1]), *map(pointer, columns))

    def __del__(self) -> None:
        library.fastia_instances_free(self._handle)
