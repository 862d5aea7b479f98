"""The operations on masks that are CUDA tensors: results are allocated here and filled by the CUDA kernels.

Schemas and fakes are those of `ops`. Nothing waits for the device but `validate`, and tables whose width is not given,
once each.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fastia.kernels import cuda, cuda_iou_plan, cuda_plan
from fastia.kernels.cpu import invalid_id
from fastia.kernels.cuda_iou_plan import OverlapInputs, OverlapOptions
from fastia.kernels.cuda_plan import ComponentOptions, Masks, Plan
from fastia.ops import _library

# A plan is made once for masks of the same shape.
_plan_label = functools.lru_cache(cuda_plan.label)
_plan_components = functools.lru_cache(cuda_plan.components)
_plan_weights = functools.lru_cache(cuda_plan.weights)
_plan_instance_iou = functools.lru_cache(cuda_iou_plan.instance_iou)
_plan_update = functools.lru_cache(cuda_iou_plan.update)

_RECORD_COUNTS = ("count", "unmatched_count")
_RECORD_FIELDS = (
    "count", "class_id", "instance_id", "area", "intersection", "covered", "iou",
    "unmatched_count", "unmatched_class_id", "unmatched_area", "confusion",
)  # fmt: skip


def label(masks: Tensor, connectivity: int, background: int | None, ignore_index: int | None, validate: bool) -> Tensor:
    options = ComponentOptions(connectivity, background, ignore_index, validate)
    labels = torch.empty(masks.shape, dtype=torch.int32, device=masks.device)
    _Call({"masks": masks}, {"masks": ignore_index}, validate).run(
        _plan_label(_masks(masks), options), {"labels": labels}
    )
    return labels


def components(
    masks: Tensor,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    max_components: int | None,
    validate: bool,
) -> tuple[Tensor, ...]:
    options = ComponentOptions(connectivity, background, ignore_index, validate)
    call = _Call({"masks": masks}, {"masks": ignore_index}, validate)
    labels = torch.empty(masks.shape, dtype=torch.int32, device=masks.device)
    count = torch.empty(len(masks), dtype=torch.int32, device=masks.device)
    found = {"labels": labels, "count": count}
    plan, done = Plan(0, []), 0
    if max_components is None:
        plan = _plan_components(_masks(masks), options, 0)
        call.run(plan, found | _tables(masks, 0))
        done = len(plan.launches)
        max_components = int(count.max()) if len(count) else 0

    whole = _plan_components(_masks(masks), options, max_components)
    if whole.launches[:done] != plan.launches:
        done = 0  # chunks of the batch have used the same scratch memory one after the other
    found |= _tables(masks, max_components)
    call.run(whole, found, done)
    return tuple(found.values())


def weights(
    masks: Tensor,
    tau: float,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    normalizer: str,
    dtype: torch.dtype,
    validate: bool,
) -> Tensor:
    options = ComponentOptions(connectivity, background, ignore_index, validate)
    out = torch.empty(masks.shape, dtype=dtype, device=masks.device)
    plan = _plan_weights(_masks(masks), options, tau, normalizer, _name(dtype))
    _Call({"masks": masks}, {"masks": ignore_index}, validate).run(plan, {"weights": out})
    return out


def instance_iou(
    preds: Tensor,
    target: Tensor,
    instances: Tensor | None,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | None,
    num_classes: int | None,
    max_instances: int | None,
    max_unmatched: int | None,
    validate: bool,
    threads: int | None,
) -> tuple[Tensor, ...]:
    options = OverlapOptions(protocol, background, ignore_index, instance_ignore_index, num_classes, validate)
    call, inputs = _inputs(preds, target, instances, options)
    classes = num_classes or 0
    found = {name: torch.empty(len(preds), dtype=torch.int32, device=preds.device) for name in _RECORD_COUNTS}
    found["confusion"] = torch.zeros((len(preds), classes, classes + 1), dtype=torch.int64, device=preds.device)
    plan, done = Plan(0, []), 0
    if max_instances is None or max_unmatched is None:
        plan = _plan_instance_iou(inputs, options, 0, 0)
        call.run(plan, found | _records(preds, 0, 0))
        done = max(0, len(plan.launches) - 1)  # the last one fills the records
        counts = [int(found[name].max()) if len(preds) else 0 for name in _RECORD_COUNTS]
        max_instances = counts[0] if max_instances is None else max_instances
        max_unmatched = counts[1] if max_unmatched is None else max_unmatched

    whole = _plan_instance_iou(inputs, options, max_instances, max_unmatched)
    if whole.launches[:done] != plan.launches[:done]:
        done = 0  # chunks of the batch have used the same scratch memory one after the other
        found["confusion"].zero_()
    found |= _records(preds, max_instances, max_unmatched)
    call.run(whole, found, done)
    return tuple(found[name] for name in _RECORD_FIELDS)


def instance_matches(preds: Tensor, target: Tensor, instances: Tensor | None, *options: Any) -> tuple[Tensor, ...]:
    every = "preds.cpu(), target.cpu()" + (", instances.cpu()" if instances is not None else "")
    raise NotImplementedError(f"preds are on {preds.device}, but components are matched on the CPU only: pass {every}")


def add_instances(
    preds: Tensor,
    target: Tensor,
    instances: Tensor | None,
    protocol: str,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | None,
    validate: bool,
    tally: Tensor,
    confusion: Tensor,
) -> None:
    """Adds a batch to the sums of the metric: `tally [3, C, 4]` of `scores.tally` and `confusion [C, C + 1]`."""
    options = OverlapOptions(protocol, background, ignore_index, instance_ignore_index, len(confusion), validate)
    call, inputs = _inputs(preds, target, instances, options)
    sums = {"tally": tally, "confusion": confusion}
    if not validate:
        call.run(_plan_update(inputs, options), sums)
        return
    added = {name: torch.zeros_like(values) for name, values in sums.items()}
    call.run(_plan_update(inputs, options), added)  # raises before anything is added
    for name, values in sums.items():
        values += added[name]


class _Call:
    """What the plans of one operation share: its maps and scratch memory, and the check of ids if it is asked for."""

    def __init__(
        self, maps: dict[str, Tensor], ignored: dict[str, int | None], validate: bool, num_classes: int | None = None
    ) -> None:
        self.ignored = ignored  # the id that each map may hold besides
        self.num_classes, self.validate = num_classes, validate
        self.buffers, self.device = dict(maps), next(iter(maps.values())).device
        if validate:
            self.buffers["error"] = torch.zeros((len(ignored), 2), dtype=torch.int64, device=self.device)

    def run(self, plan: Plan, outputs: dict[str, Tensor], first: int = 0) -> None:
        """Run the launches of a plan from `first` on, in the scratch memory of those before."""
        if first == 0:
            self.buffers["scratch"] = cuda.empty_scratch(plan.scratch_bytes, self.device)
        cuda.run(plan.launches[first:], self.buffers | outputs, self.device)
        if self.validate and first == 0:
            self._check()

    def _check(self) -> None:
        for (name, ignored), (found, value) in zip(self.ignored.items(), self.buffers["error"].tolist(), strict=True):
            if found:
                raise invalid_id(name, value, ignored, self.num_classes)


def _tables(masks: Tensor, width: int) -> dict[str, Tensor]:
    def empty(dtype: torch.dtype, *columns: int) -> Tensor:
        return torch.empty((len(masks), width, *columns), dtype=dtype, device=masks.device)

    return {"class_id": empty(torch.int32), "area": empty(torch.int64), "bbox": empty(torch.int32, 4)}


def _records(preds: Tensor, instances: int, unmatched: int) -> dict[str, Tensor]:
    def empty(dtype: torch.dtype, width: int) -> Tensor:
        return torch.empty((len(preds), width), dtype=dtype, device=preds.device)

    return {
        "class_id": empty(torch.int32, instances),
        "instance_id": empty(torch.int32, instances),
        "area": empty(torch.int64, instances),
        "intersection": empty(torch.int64, instances),
        "covered": empty(torch.float64, instances),
        "iou": empty(torch.float64, instances),
        "unmatched_class_id": empty(torch.int32, unmatched),
        "unmatched_area": empty(torch.int64, unmatched),
    }


def _inputs(
    preds: Tensor, target: Tensor, instances: Tensor | None, options: OverlapOptions
) -> tuple[_Call, OverlapInputs]:
    maps = {"preds": preds, "target": target} | ({} if instances is None else {"instances": instances})
    ignored = dict.fromkeys(("preds", "target"), options.ignore_index) | {"instances": options.instance_ignore_index}
    inputs = OverlapInputs(_masks(preds), _masks(target), None if instances is None else _masks(instances))
    return _Call(maps, ignored, options.validate, options.num_classes), inputs


def _masks(masks: Tensor) -> Masks:
    size = masks.element_size()
    return Masks(tuple(masks.shape), tuple(size * stride for stride in masks.stride()), _name(masks.dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


for _implementation in (label, components, weights, instance_iou, instance_matches, add_instances):
    _library.impl(_implementation.__name__, _implementation, "CUDA")
