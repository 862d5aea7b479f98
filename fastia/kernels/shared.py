"""What all kernels on logits share: the dtype of their arithmetic, and constants as they read them."""

from __future__ import annotations

import torch
from torch import Tensor


def arithmetic(logits: Tensor) -> torch.dtype:
    """The dtype that an operation on logits computes in."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def dense(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Constants of a loss as a kernel reads them: of one dtype and contiguous."""
    return None if tensor is None else tensor.detach().to(dtype).contiguous()
