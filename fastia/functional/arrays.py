"""The kinds of arrays: which kernels serve one, and results of the caller's kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from fastia import ops  # noqa: F401  registers the operators
from fastia.fields import Array
from fastia.functional import checks


def call(kernel: Callable[..., Any], arrays: Sequence[Array | None], options: NamedTuple, *rest: Any) -> Any:
    """Run an operation on checked arrays: a kernel of the CPU on NumPy arrays, its operator on tensors."""
    if isinstance(arrays[0], np.ndarray):
        return kernel(*arrays, options, *rest)
    return getattr(torch.ops.fastia, kernel.__name__)(*arrays, *options, *rest)


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
