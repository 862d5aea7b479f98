"""Operations on masks that are CUDA tensors: results are allocated here and filled by the CUDA kernels.

Nothing waits for the device but `validate`, and tables whose width is not given, once each.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fastia.fields import Components, empty_fields
from fastia.kernels.cuda import plan_masks
from fastia.kernels.cuda.launch import Call, dtype_name, masks_of
from fastia.kernels.cuda.plan import Plan
from fastia.options import ComponentOptions

# A plan is made once for masks of the same shape.
_plan_label = functools.lru_cache(plan_masks.label)
_plan_components = functools.lru_cache(plan_masks.components)
_plan_weights = functools.lru_cache(plan_masks.weights)


def label(masks: Tensor, options: ComponentOptions) -> Tensor:
    labels = torch.empty(masks.shape, dtype=torch.int32, device=masks.device)
    _call(masks, options).run(_plan_label(masks_of(masks), options), {"labels": labels})
    return labels


def weights(masks: Tensor, options: ComponentOptions, tau: float, normalizer: str, dtype: torch.dtype) -> Tensor:
    out = torch.empty(masks.shape, dtype=dtype, device=masks.device)
    plan = _plan_weights(masks_of(masks), options, tau, normalizer, dtype_name(dtype))
    _call(masks, options).run(plan, {"weights": out})
    return out


def components(masks: Tensor, options: ComponentOptions, max_components: int | None) -> Components:
    call = _call(masks, options)
    sizes = dict(zip("BHW", masks.shape, strict=True))
    found = empty_fields(Components, sizes, masks)
    plan, done = Plan(0, []), 0
    if max_components is None:
        plan = _plan_components(masks_of(masks), options, 0)
        call.run(plan, empty_fields(Components, sizes | {"K": 0}, masks) | found)
        done = len(plan.launches)
        max_components = int(found["count"].max()) if len(masks) else 0

    whole = _plan_components(masks_of(masks), options, max_components)
    if whole.launches[:done] != plan.launches:
        done = 0  # chunks of the batch have used the same scratch memory one after the other
    found = empty_fields(Components, sizes | {"K": max_components}, masks) | found
    call.run(whole, found, done)
    return Components(**found)


def _call(masks: Tensor, options: ComponentOptions) -> Call:
    return Call({"masks": masks}, {"masks": options.ignore_index}, options.validate)
