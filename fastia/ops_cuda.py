"""The operations on masks that are CUDA tensors: results are allocated here and filled by the CUDA kernels.

Schemas and fakes are those of `ops`. Nothing waits for the device but `validate`, and `components` without
`max_components`, once each.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fastia.kernels import cuda, cuda_plan
from fastia.kernels.cpu import InvalidId
from fastia.kernels.cuda_plan import Maps, Options, Plan
from fastia.ops import _library

# A plan is made once for masks of the same shape.
_plan_label = functools.lru_cache(cuda_plan.label)
_plan_components = functools.lru_cache(cuda_plan.components)
_plan_weights = functools.lru_cache(cuda_plan.weights)


def label(masks: Tensor, connectivity: int, background: int | None, ignore_index: int | None, validate: bool) -> Tensor:
    options = Options(connectivity, background, ignore_index, validate)
    labels = torch.empty(masks.shape, dtype=torch.int32, device=masks.device)
    _Call(masks, options).run(_plan_label(_maps(masks), options), {"labels": labels})
    return labels


def components(
    masks: Tensor,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    max_components: int | None,
    validate: bool,
) -> tuple[Tensor, ...]:
    options = Options(connectivity, background, ignore_index, validate)
    call = _Call(masks, options)
    labels = torch.empty(masks.shape, dtype=torch.int32, device=masks.device)
    count = torch.empty(len(masks), dtype=torch.int32, device=masks.device)
    found = {"labels": labels, "count": count}
    plan, done = Plan(0, []), 0
    if max_components is None:
        plan = _plan_components(_maps(masks), options, 0)
        call.run(plan, found | _tables(masks, 0))
        done = len(plan.launches)
        max_components = int(count.max()) if len(count) else 0

    whole = _plan_components(_maps(masks), options, max_components)
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
    options = Options(connectivity, background, ignore_index, validate)
    out = torch.empty(masks.shape, dtype=dtype, device=masks.device)
    plan = _plan_weights(_maps(masks), options, tau, normalizer, _name(dtype))
    _Call(masks, options).run(plan, {"weights": out})
    return out


def instance_iou(preds: Tensor, target: Tensor, instances: Tensor | None, *options: Any) -> tuple[Tensor, ...]:
    every = "preds.cpu(), target.cpu()" + (", instances.cpu()" if instances is not None else "")
    raise NotImplementedError(f"preds are on {preds.device}, but instances are scored on the CPU only: pass {every}")


class _Call:
    """What the plans of one operation share: its masks and scratch memory, and the check of ids if it is asked for."""

    def __init__(self, masks: Tensor, options: Options) -> None:
        self.options = options
        self.buffers = {"masks": masks}
        if options.validate:
            self.buffers["error"] = torch.zeros(2, dtype=torch.int64, device=masks.device)

    def run(self, plan: Plan, outputs: dict[str, Tensor], first: int = 0) -> None:
        """Run the launches of a plan from `first` on, in the scratch memory of those before."""
        device = self.buffers["masks"].device
        if first == 0:
            self.buffers["scratch"] = cuda.empty_scratch(plan.scratch_bytes, device)
        cuda.run(plan.launches[first:], self.buffers | outputs, device)
        if self.options.validate and first == 0:
            self._check()

    def _check(self) -> None:
        found, value = self.buffers["error"].tolist()
        if found:
            raise InvalidId(
                f"masks holds the id {value}, but ids must lie in 0..65535 or equal ignore_index"
                f" ({self.options.ignore_index})"
            )


def _tables(masks: Tensor, width: int) -> dict[str, Tensor]:
    def empty(dtype: torch.dtype, *columns: int) -> Tensor:
        return torch.empty((len(masks), width, *columns), dtype=dtype, device=masks.device)

    return {"class_id": empty(torch.int32), "area": empty(torch.int64), "bbox": empty(torch.int32, 4)}


def _maps(masks: Tensor) -> Maps:
    size = masks.element_size()
    return Maps(tuple(masks.shape), tuple(size * stride for stride in masks.stride()), _name(masks.dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


for _implementation in (label, components, weights, instance_iou):
    _library.impl(_implementation.__name__, _implementation, "CUDA")
