"""The operators on predictions and ground truth: schemas, implementations by device, fakes, as in `masks`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastia.fields import ComponentMatches, Confusion, InstanceIoU, empty_fields, schema
from fastia.kernels.cpu import overlaps as cpu
from fastia.kernels.cuda import overlaps as cuda
from fastia.ops.library import register, width
from fastia.options import OverlapOptions

_MAPS = "Tensor preds, Tensor target, Tensor? instances"
_OPTIONS = (
    "str protocol, int? background, int? ignore_index, int? instance_ignore_index, int? num_classes, bool validate"
)
_COUNT = len(OverlapOptions._fields)
_WIDTHS = "SymInt? max_instances, SymInt? max_unmatched, int? threads"
_RECORDS = f"{schema(InstanceIoU)}, {schema(Confusion)}"


def _implementation(kernel: Any) -> Any:
    return lambda preds, target, instances, *rest: kernel(
        preds, target, instances, OverlapOptions(*rest[:_COUNT]), *rest[_COUNT:]
    )


def _implementations(name: str) -> dict[str, Any]:
    return {"CPU": _implementation(getattr(cpu, name)), "CUDA": _implementation(getattr(cuda, name))}


def _fake_instance_iou(preds: Tensor, target: Tensor, instances: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    classes = OverlapOptions(*rest[:_COUNT]).num_classes or 0
    sizes = {"B": preds.shape[0], "K": width(rest[_COUNT]), "M": width(rest[_COUNT + 1])}
    confusion = empty_fields(Confusion, {"B": preds.shape[0], "C": classes, "C+1": classes + 1}, preds)
    return (*empty_fields(InstanceIoU, sizes, preds).values(), *confusion.values())


def _fake_instance_matches(preds: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    matches = empty_fields(ComponentMatches, {"B": preds.shape[0], "N": width(None)}, preds)
    return (*_fake_instance_iou(preds, *rest), *matches.values())


_ARGUMENTS = f"{_MAPS}, {_OPTIONS}, {_WIDTHS}"
register("instance_iou", _ARGUMENTS, f"({_RECORDS})", _implementations("instance_iou"), _fake_instance_iou)
register(
    "instance_matches",
    _ARGUMENTS,
    f"({_RECORDS}, {schema(ComponentMatches, 'component_')})",
    _implementations("instance_matches"),
    _fake_instance_matches,
)
# CUDA's only: elsewhere the records are counted by `metrics.tally`.
register(
    "add_instances",
    f"{_MAPS}, {_OPTIONS}, Tensor(a!) tally, Tensor(b!) confusion",
    "()",
    {"CUDA": _implementation(cuda.add_instances)},
    lambda *arguments: None,
)
