"""The kinds of arrays: which operators serve one, and results of the caller's kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastia import checks, ops, ops_cuda  # noqa: F401  registers the operators

Array = Any  # torch tensor, NumPy array, or an object with __dlpack__


def operations(masks: Array) -> Any:
    """The module of operators for a NumPy array or a tensor."""
    return ops if isinstance(masks, np.ndarray) else torch.ops.fastia


def batch(masks: Array) -> Array:
    """Masks with their batch axis, `[B, H, W]`."""
    return masks[None] if masks.ndim == 2 else masks


def answer(given: Array, masks: Array, result: Array) -> Array:
    """A result on `masks`, which `given` was checked to be, with its batch axis and of its kind."""
    result = result.squeeze(0) if masks.ndim == 2 else result
    if isinstance(given, (torch.Tensor, np.ndarray)) or not checks.is_cupy(given):
        return result
    import cupy

    return cupy.from_dlpack(result)
