"""What all kernels on logits share: the dtype of their arithmetic, and the errors of what they read."""

from __future__ import annotations

import torch
from torch import Tensor

from fastia.kernels.cpu import InvalidId


def arithmetic(logits: Tensor) -> torch.dtype:
    """The dtype that an operation on logits computes in."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def dense(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Constants of a loss as a kernel reads them: of one dtype and contiguous."""
    return None if tensor is None else tensor.detach().to(dtype).contiguous()


def invalid_target(value: int, num_classes: int, ignore_index: int | None) -> InvalidId:
    """The exception for a target that is neither a class of the logits nor ignored."""
    return InvalidId(
        f"target holds the id {value}, but ids must lie in 0..{num_classes - 1} (logits have {num_classes} classes) or"
        f" equal ignore_index ({ignore_index})"
    )


def negative_weight(value: float) -> ValueError:
    """The exception for a negative weight."""
    return ValueError(f"weights must not be negative, got {value}")
