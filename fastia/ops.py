"""The operations on checked `[B, H, W]` arrays: results are allocated here and filled by the kernels.

Each function serves NumPy arrays as it is, and CPU tensors as ``torch.ops.fastia.<name>``. The fakes beside them tell
``torch.compile`` shapes and dtypes; a width that depends on the data is an unbacked size there. `validate` is of use to
backends that do not check ids unasked; the CPU's kernels always do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastia.kernels import cpu

Array = Any  # NumPy array or torch tensor

_library = torch.library.Library("fastia", "DEF")
_library.define("label(Tensor masks, int connectivity, int? background, int? ignore_index, bool validate) -> Tensor")
_library.define(
    "components(Tensor masks, int connectivity, int? background, int? ignore_index, SymInt? max_components,"
    " bool validate) -> (Tensor labels, Tensor count, Tensor class_id, Tensor area, Tensor bbox)"
)
_library.define(
    "weights(Tensor masks, float tau, int connectivity, int? background, int? ignore_index, str normalizer,"
    " ScalarType dtype, bool validate) -> Tensor"
)
_OVERLAPS = (
    "(Tensor preds, Tensor target, Tensor? instances, str protocol, int? background, int? ignore_index,"
    " int? instance_ignore_index, int? num_classes, SymInt? max_instances, SymInt? max_unmatched, bool validate,"
    " int? threads)"
    " -> (Tensor count, Tensor class_id, Tensor instance_id, Tensor area, Tensor intersection, Tensor covered,"
    " Tensor iou, Tensor unmatched_count, Tensor unmatched_class_id, Tensor unmatched_area, Tensor confusion"
)
_library.define(f"instance_iou{_OVERLAPS})")
_library.define(
    f"instance_matches{_OVERLAPS}, Tensor component_count, Tensor component_class_id, Tensor component_area,"
    " Tensor void_area, Tensor instance_area, Tensor component_intersection, Tensor component_union)"
)
# CUDA's only: elsewhere the records are counted by `scores.tally`.
_library.define(
    "add_instances(Tensor preds, Tensor target, Tensor? instances, str protocol, int? background, int? ignore_index,"
    " int? instance_ignore_index, bool validate, Tensor(a!) tally, Tensor(b!) confusion) -> ()"
)


def label(masks: Array, connectivity: int, background: int | None, ignore_index: int | None, validate: bool) -> Array:
    out = _empty(masks, masks.shape, "int32")
    cpu.label(masks, out, connectivity=connectivity, background=background, ignore_index=ignore_index)
    return out


def components(
    masks: Array,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    max_components: int | None,
    validate: bool,
) -> tuple[Array, ...]:
    labels = _empty(masks, masks.shape, "int32")
    table = cpu.components(masks, labels, connectivity=connectivity, background=background, ignore_index=ignore_index)
    shape = (len(masks), _width(table.count, max_components))
    columns = (_empty(masks, shape, "int32"), _empty(masks, shape, "int64"), _empty(masks, (*shape, 4), "int32"))
    table.copy(*columns)
    return labels, _counts(masks, table.count), *columns


def weights(
    masks: Array,
    tau: float,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    normalizer: str,
    dtype: Any,
    validate: bool,
) -> Array:
    out = _empty(masks, masks.shape, dtype)
    cpu.weights(
        masks,
        out,
        tau=tau,
        connectivity=connectivity,
        background=background,
        ignore_index=ignore_index,
        normalizer=normalizer,
    )
    return out


def instance_iou(
    preds: Array,
    target: Array,
    instances: Array | None,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | None,
    num_classes: int | None,
    max_instances: int | None,
    max_unmatched: int | None,
    validate: bool,
    threads: int | None,
) -> tuple[Array, ...]:
    """The fields of InstanceIoU, then the confusion matrix `[B, C, C + 1]`, where C is 0 without `num_classes`."""
    outputs, _ = _overlaps(
        preds, target, instances, protocol, background, ignore_index, instance_ignore_index, num_classes,
        max_instances, max_unmatched, threads,
    )  # fmt: skip
    return outputs


def instance_matches(
    preds: Array,
    target: Array,
    instances: Array | None,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | None,
    num_classes: int | None,
    max_instances: int | None,
    max_unmatched: int | None,
    validate: bool,
    threads: int | None,
) -> tuple[Array, ...]:
    """The outputs of :func:`instance_iou`, then the fields of ComponentMatches, of the same pass."""
    outputs, table = _overlaps(
        preds, target, instances, protocol, background, ignore_index, instance_ignore_index, num_classes,
        max_instances, max_unmatched, threads,
    )  # fmt: skip
    count = table.match_count
    shape = (len(preds), _width(count, None))
    matches = [_empty(preds, shape, dtype) for dtype in ("int32", "int64", "int64", "int64", "int64", "int64")]
    table.copy_matches(*matches)
    return (*outputs, _counts(preds, count), *matches)


def _overlaps(
    preds: Array,
    target: Array,
    instances: Array | None,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | None,
    num_classes: int | None,
    max_instances: int | None,
    max_unmatched: int | None,
    threads: int | None,
) -> tuple[tuple[Array, ...], cpu.InstanceTable]:
    classes = num_classes or 0
    confusion = _empty(preds, (len(preds), classes, classes + 1), "int64")
    table = cpu.instance_iou(
        preds,
        target,
        instances,
        protocol=protocol,
        background=background,
        ignore_index=ignore_index,
        instance_ignore_index=instance_ignore_index,
        num_classes=num_classes,
        confusion=confusion if num_classes else None,
        threads=threads,
    )
    shape = (len(preds), _width(table.count, max_instances))
    dtypes = ("int32", "int32", "int64", "int64", "float64", "float64")
    columns = [_empty(preds, shape, dtype) for dtype in dtypes]
    table.copy(*columns)
    shape = (len(preds), _width(table.unmatched_count, max_unmatched))
    unmatched = [_empty(preds, shape, dtype) for dtype in ("int32", "int64")]
    table.copy_unmatched(*unmatched)
    outputs = (
        _counts(preds, table.count),
        *columns,
        _counts(preds, table.unmatched_count),
        *unmatched,
        confusion,
    )
    return outputs, table


def _empty(like: Array, shape: Sequence[int], dtype: Any) -> Array:
    if isinstance(like, np.ndarray):
        return np.empty(shape, dtype)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return torch.empty(shape, dtype=dtype, device=like.device)


def _width(count: np.ndarray, limit: int | None) -> int:
    return int(count.max(initial=0)) if limit is None else limit


def _counts(like: Array, count: np.ndarray) -> Array:
    count = np.array(count, np.int32)  # the table's own memory goes with the table
    return count if isinstance(like, np.ndarray) else torch.from_numpy(count)


def _fake_label(masks: Tensor, *_: Any) -> Tensor:
    return masks.new_empty(masks.shape, dtype=torch.int32)


def _fake_components(masks: Tensor, *options: Any) -> tuple[Tensor, ...]:
    max_components = options[3]
    shape = (masks.shape[0], _fake_width(max_components))
    return (
        masks.new_empty(masks.shape, dtype=torch.int32),
        masks.new_empty(shape[:1], dtype=torch.int32),
        masks.new_empty(shape, dtype=torch.int32),
        masks.new_empty(shape, dtype=torch.int64),
        masks.new_empty((*shape, 4), dtype=torch.int32),
    )


def _fake_weights(masks: Tensor, *options: Any) -> Tensor:
    dtype = options[5]
    return masks.new_empty(masks.shape, dtype=dtype)


def _fake_instance_iou(preds: Tensor, *options: Any) -> tuple[Tensor, ...]:
    num_classes, max_instances, max_unmatched = options[6:9]
    shape = (preds.shape[0], _fake_width(max_instances))
    unmatched_shape = (preds.shape[0], _fake_width(max_unmatched))
    classes = num_classes or 0
    return (
        preds.new_empty(shape[:1], dtype=torch.int32),
        preds.new_empty(shape, dtype=torch.int32),
        preds.new_empty(shape, dtype=torch.int32),
        preds.new_empty(shape, dtype=torch.int64),
        preds.new_empty(shape, dtype=torch.int64),
        preds.new_empty(shape, dtype=torch.float64),
        preds.new_empty(shape, dtype=torch.float64),
        preds.new_empty(shape[:1], dtype=torch.int32),
        preds.new_empty(unmatched_shape, dtype=torch.int32),
        preds.new_empty(unmatched_shape, dtype=torch.int64),
        preds.new_empty((preds.shape[0], classes, classes + 1), dtype=torch.int64),
    )


def _fake_instance_matches(preds: Tensor, *options: Any) -> tuple[Tensor, ...]:
    shape = (preds.shape[0], _fake_width(None))
    return (
        *_fake_instance_iou(preds, *options),
        preds.new_empty(shape[:1], dtype=torch.int32),
        preds.new_empty(shape, dtype=torch.int32),
        *(preds.new_empty(shape, dtype=torch.int64) for _ in range(5)),
    )


def _fake_width(limit: int | None) -> Any:
    return torch.library.get_ctx().new_dynamic_size() if limit is None else limit


for _implementation, _fake in (
    (label, _fake_label),
    (components, _fake_components),
    (weights, _fake_weights),
    (instance_iou, _fake_instance_iou),
    (instance_matches, _fake_instance_matches),
):
    _library.impl(_implementation.__name__, _implementation, "CPU")
    torch.library.register_fake(f"fastia::{_implementation.__name__}", _fake, lib=_library)
torch.library.register_fake("fastia::add_instances", lambda *arguments: None, lib=_library)
