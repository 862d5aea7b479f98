"""Predictions against ground truth on CUDA tensors: results are allocated here and filled by the CUDA kernels.

Nothing waits for the device but `validate`, and tables whose widths are not given, once each.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fastia.fields import Confusion, InstanceIoU, empty_fields, fields_of
from fastia.kernels.cuda import plan_overlaps
from fastia.kernels.cuda.launch import Call, masks_of
from fastia.kernels.cuda.plan import Plan
from fastia.kernels.cuda.plan_overlaps import OverlapInputs
from fastia.options import OverlapOptions

# A plan is made once for masks of the same shape.
_plan_instance_iou = functools.lru_cache(plan_overlaps.instance_iou)
_plan_update = functools.lru_cache(plan_overlaps.update)


def instance_iou(
    preds: Tensor,
    target: Tensor,
    instances: Tensor | None,
    options: OverlapOptions,
    max_instances: int | None,
    max_unmatched: int | None,
    threads: int | None,
) -> tuple[Tensor, ...]:
    """The fields of InstanceIoU, then the confusion matrix `[B, C, C + 1]`, where C is 0 without `num_classes`."""
    call, inputs = _inputs(preds, target, instances, options)
    classes = options.num_classes or 0
    sizes = {"B": len(preds), "C": classes, "C+1": classes + 1}
    found = empty_fields(InstanceIoU, sizes, preds) | empty_fields(Confusion, sizes, preds)
    found["confusion"].zero_()
    plan, done = Plan(0, []), 0
    if max_instances is None or max_unmatched is None:
        plan = _plan_instance_iou(inputs, options, 0, 0)
        call.run(plan, empty_fields(InstanceIoU, sizes | {"K": 0, "M": 0}, preds) | found)
        done = max(0, len(plan.launches) - 1)  # the last one fills the records
        counts = [int(found[name].max()) if len(preds) else 0 for name in ("count", "unmatched_count")]
        max_instances = counts[0] if max_instances is None else max_instances
        max_unmatched = counts[1] if max_unmatched is None else max_unmatched

    whole = _plan_instance_iou(inputs, options, max_instances, max_unmatched)
    if whole.launches[:done] != plan.launches[:done]:
        done = 0  # chunks of the batch have used the same scratch memory one after the other
        found["confusion"].zero_()
    found = empty_fields(InstanceIoU, sizes | {"K": max_instances, "M": max_unmatched}, preds) | found
    call.run(whole, found, done)
    return tuple(found[name] for name in (*fields_of(InstanceIoU), "confusion"))


def instance_matches(preds: Tensor, target: Tensor, instances: Tensor | None, *options: Any) -> tuple[Tensor, ...]:
    every = "preds.cpu(), target.cpu()" + (", instances.cpu()" if instances is not None else "")
    raise NotImplementedError(f"preds are on {preds.device}, but components are matched on the CPU only: pass {every}")


def add_instances(
    preds: Tensor,
    target: Tensor,
    instances: Tensor | None,
    options: OverlapOptions,
    tally: Tensor,
    confusion: Tensor,
) -> None:
    """Adds a batch to the sums of the metric: `tally [3, C, 4]` of `metrics.tally` and `confusion [C, C + 1]`."""
    call, inputs = _inputs(preds, target, instances, options)
    sums = {"tally": tally, "confusion": confusion}
    if not options.validate:
        call.run(_plan_update(inputs, options), sums)
        return
    added = {name: torch.zeros_like(values) for name, values in sums.items()}
    call.run(_plan_update(inputs, options), added)  # raises before anything is added
    for name, values in sums.items():
        values += added[name]


def _inputs(
    preds: Tensor, target: Tensor, instances: Tensor | None, options: OverlapOptions
) -> tuple[Call, OverlapInputs]:
    masks = {"preds": preds, "target": target} | ({} if instances is None else {"instances": instances})
    ignored = dict.fromkeys(("preds", "target"), options.ignore_index) | {"instances": options.instance_ignore_index}
    inputs = OverlapInputs(masks_of(preds), masks_of(target), None if instances is None else masks_of(instances))
    return Call(masks, ignored, options.validate, options.num_classes), inputs
