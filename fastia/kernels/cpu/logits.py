"""The CPU kernels of pixel losses and argmax of upsampled logits: `csrc/cpu/logits`, called through ctypes.

Arguments are taken as checked CPU tensors of any strides; what is allocated here is returned. Arithmetic is float64 for
float64 logits, else float32. Ids and weights are checked here, as the kernels read them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from fastia.kernels.cpu.launch import (
    FLOAT_DTYPES,
    INVALID_ID,
    NEGATIVE_WEIGHT,
    UNKNOWN_LOSS,
    Error,
    Id,
    Masks,
    check,
    id_of,
    library,
    masks_of,
    num_threads,
    pointer,
)
from fastia.kernels.errors import invalid_target, negative_weight
from fastia.kernels.shared import arithmetic, dense
from fastia.options import LossOptions


class _Logits(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
    ]


class _PixelLoss(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("parameters", ctypes.POINTER(ctypes.c_double)),
        ("logits", _Logits),
        ("target", Masks),
        ("weights", ctypes.c_void_p),
        ("class_weight", ctypes.c_void_p),
        ("ignore_index", Id),
        ("align_corners", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]


def upsample_loss(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    class_weight: Tensor | None,
    options: LossOptions,
    *,
    threads: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the weighted loss and the float64 log-sum-exp `[B, H, W]`, 0 where ignored, and `sums [3]` float64.

    The sums are those of the loss, of weight * class weight over the pixels that are not ignored, and their number.
    """
    dtype = arithmetic(logits)
    loss, lse = torch.empty(target.shape, dtype=dtype), torch.empty(target.shape, dtype=torch.float64)
    sums = torch.empty(3, dtype=torch.float64)
    weights, class_weight = dense(weights, dtype), dense(class_weight, dtype)
    problem = _problem(logits, target, weights, class_weight, options, threads)
    error = Error()
    status = library.fastia_upsample_loss(
        ctypes.byref(problem), pointer(loss), pointer(lse), pointer(sums), ctypes.byref(error)
    )
    _check(status, error, logits, weights, options)
    return loss, lse, sums


def upsample_loss_backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    class_weight: Tensor | None,
    lse: Tensor,
    options: LossOptions,
    *,
    threads: int | None = None,
) -> Tensor:
    """Returns the gradient of `logits`, given that of each pixel's loss: `[B, H, W]`, or 0-d, the same for all."""
    if not target.numel():
        return torch.zeros_like(logits)
    dtype = arithmetic(logits)
    grad_logits = torch.empty_like(logits)
    weights, class_weight, lse = dense(weights, dtype), dense(class_weight, dtype), lse.contiguous()
    grad = grad.to(dtype).expand(target.shape)
    problem = _problem(logits, target, weights, class_weight, options, threads)
    error = Error()
    status = library.fastia_upsample_loss_backward(
        ctypes.byref(problem),
        pointer(grad),
        (ctypes.c_int64 * 3)(*_byte_strides(grad)),
        pointer(lse),
        ctypes.byref(_logits(grad_logits)),
        ctypes.byref(error),
    )
    _check(status, error, logits, weights, options)
    return grad_logits


def upsample_argmax(
    logits: Tensor, size: tuple[int, int], *, align_corners: bool, threads: int | None = None
) -> Tensor:
    """Returns the class of the largest upsampled logit, `[B, H, W]`: uint8 for up to 256 classes, else int32."""
    out = torch.empty((len(logits), *size), dtype=torch.uint8 if logits.shape[1] <= 256 else torch.int32)
    error = Error()
    status = library.fastia_upsample_argmax(
        ctypes.byref(_logits(logits)),
        ctypes.c_int64(size[0]),
        ctypes.c_int64(size[1]),
        ctypes.c_int32(align_corners),
        ctypes.c_int32(threads or num_threads()),
        pointer(out),
        ctypes.byref(error),
    )
    check(status, error, {})
    return out


def _byte_strides(tensor: Tensor) -> list[int]:
    return [stride * tensor.element_size() for stride in tensor.stride()]


def _logits(logits: Tensor) -> _Logits:
    shape, strides = (ctypes.c_int64 * 4)(*logits.shape), (ctypes.c_int64 * 4)(*_byte_strides(logits))
    return _Logits(pointer(logits), shape, strides, FLOAT_DTYPES[logits.dtype])


def _problem(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    class_weight: Tensor | None,
    options: LossOptions,
    threads: int | None,
) -> _PixelLoss:
    return _PixelLoss(
        options.name.encode(),
        (ctypes.c_double * len(options.parameters))(*options.parameters),
        _logits(logits),
        masks_of(target),
        pointer(weights),
        pointer(class_weight),
        id_of(options.ignore_index),
        options.align_corners,
        threads or num_threads(),
    )


def _check(status: int, error: Any, logits: Tensor, weights: Tensor | None, options: LossOptions) -> None:
    if status == INVALID_ID:
        raise invalid_target(error.value, logits.shape[1], options.ignore_index)
    if status == NEGATIVE_WEIGHT:
        assert weights is not None
        raise negative_weight(weights.view(-1)[error.value].item())
    if status == UNKNOWN_LOSS:
        raise NotImplementedError(f"the CPU kernels have no pixel loss {options.name}")
    check(status, error, {})
