"""The loss and argmax on upsampled logits as torch.library operators, with gradient and fakes.

The kernels of a tensor's device do the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastia.kernels import cpu_loss
from fastia.ops import _library

_OPTIONS = "float label_smoothing, int? ignore_index, bool align_corners"
_library.define(
    f"upsample_cross_entropy(Tensor logits, Tensor target, Tensor? weights, Tensor? class_weight, {_OPTIONS})"
    " -> (Tensor loss, Tensor lse, Tensor sums)"
)
_library.define(
    "upsample_cross_entropy_backward(Tensor grad, Tensor logits, Tensor target, Tensor? weights, Tensor? class_weight,"
    f" Tensor lse, {_OPTIONS}) -> Tensor"
)
_library.define("upsample_argmax(Tensor logits, SymInt height, SymInt width, bool align_corners) -> Tensor")


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    ignore_index: int | None,
    align_corners: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted loss and float64 log-sum-exp `[B, H, W]`, and `[3]` sums: of the loss, of weights, of valid pixels."""
    return _kernels(logits).upsample_cross_entropy(
        logits,
        target,
        weights,
        class_weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        align_corners=align_corners,
    )


def upsample_cross_entropy_backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    class_weight: Tensor | None,
    lse: Tensor,
    label_smoothing: float,
    ignore_index: int | None,
    align_corners: bool,
) -> Tensor:
    """The gradient of the logits from that of each pixel's loss, `[B, H, W]` or 0-d."""
    return _kernels(logits).upsample_cross_entropy_backward(
        grad,
        logits,
        target,
        weights,
        class_weight,
        lse,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        align_corners=align_corners,
    )


def upsample_argmax(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """Class ids `[B, height, width]`."""
    return _kernels(logits).upsample_argmax(logits, (height, width), align_corners=align_corners)


def _kernels(logits: Tensor) -> Any:
    if logits.device.type == "cpu":
        return cpu_loss
    try:
        from fastia.kernels import triton  # torch for CPUs comes without it
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ModuleNotFoundError(
            f"logits are on {logits.device}, where this operation needs Triton: pip install triton", name="triton"
        ) from error
    return triton


def _arithmetic(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _fake_upsample_cross_entropy(logits: Tensor, target: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    loss = logits.new_empty(target.shape, dtype=_arithmetic(logits))
    lse = torch.empty_like(loss, dtype=torch.float64)
    return loss, lse, logits.new_empty(3, dtype=torch.float64)


def _fake_upsample_cross_entropy_backward(grad: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _fake_upsample_argmax(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    dtype = torch.uint8 if logits.shape[1] <= 256 else torch.int32
    return logits.new_empty((logits.shape[0], height, width), dtype=dtype)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.label_smoothing, ctx.ignore_index, ctx.align_corners = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)  # a zero gradient of every pixel would be as large as the loss


def _backward(ctx: Any, grad_loss: Tensor | None, _: Any, grad_sums: Tensor | None) -> tuple[Any, ...]:
    nothing = (None,) * 6
    if grad_loss is None and grad_sums is None:
        return None, *nothing
    logits, target, weights, class_weight, lse = ctx.saved_tensors
    grad = grad_loss
    if grad_sums is not None:
        grad_sum = grad_sums[0].to(_arithmetic(logits))
        grad = grad_sum if grad_loss is None else grad_loss + grad_sum
    options = (ctx.label_smoothing, ctx.ignore_index, ctx.align_corners)
    gradient = torch.ops.fastia.upsample_cross_entropy_backward(
        grad, logits, target, weights, class_weight, lse, *options
    )
    return gradient, *nothing


def _no_second_derivative(ctx: Any, grad: Tensor) -> None:
    raise NotImplementedError("size_weighted_cross_entropy has no second derivative")


for _implementation, _fake in (
    (upsample_cross_entropy, _fake_upsample_cross_entropy),
    (upsample_cross_entropy_backward, _fake_upsample_cross_entropy_backward),
    (upsample_argmax, _fake_upsample_argmax),
):
    for _device in ("CPU", "CUDA"):
        _library.impl(_implementation.__name__, _implementation, _device)
    torch.library.register_fake(f"fastia::{_implementation.__name__}", _fake, lib=_library)
torch.library.register_autograd(
    "fastia::upsample_cross_entropy", _backward, setup_context=_save_for_backward, lib=_library
)
torch.library.register_autograd(
    "fastia::upsample_cross_entropy_backward",
    _no_second_derivative,
    setup_context=lambda ctx, inputs, output: None,
    lib=_library,
)
