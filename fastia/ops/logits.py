"""Pixel losses and argmax of upsampled logits as torch.library operators, with gradients and fakes.

The kernels of a tensor's device do the work. A pixel loss is registered by its name and parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastia.kernels.cpu import logits as cpu
from fastia.kernels.shared import arithmetic
from fastia.ops.library import library
from fastia.options import LossOptions

_DEVICES = ("CPU", "CUDA")


def register_pixel_loss(name: str, *parameters: str) -> None:
    """Define the operators `upsample_<name>` and `upsample_<name>_backward` of a pixel loss that the kernels have.

    The first returns the weighted loss and the float64 log-sum-exp `[B, H, W]`, and `[3]` float64 sums: of the loss, of
    weights, of pixels that are not ignored. The second returns the gradient of the logits from that of each pixel's
    loss, `[B, H, W]` or 0-d.
    """
    tensors = "Tensor logits, Tensor target, Tensor? weights, Tensor? class_weight"
    options = ", ".join((*(f"float {parameter}" for parameter in parameters), "int? ignore_index, bool align_corners"))
    operator = f"upsample_{name}"
    library.define(f"{operator}({tensors}, {options}) -> (Tensor loss, Tensor lse, Tensor sums)")
    library.define(f"{operator}_backward(Tensor grad, {tensors}, Tensor lse, {options}) -> Tensor")

    def rebuilt(arguments: tuple[Any, ...]) -> LossOptions:
        *numbers, ignore_index, align_corners = arguments
        return LossOptions(name, tuple(numbers), ignore_index=ignore_index, align_corners=align_corners)

    def forward(
        logits: Tensor, target: Tensor, weights: Tensor | None, class_weight: Tensor | None, *arguments: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _kernels(logits).upsample_loss(logits, target, weights, class_weight, rebuilt(arguments))

    def backward(
        grad: Tensor,
        logits: Tensor,
        target: Tensor,
        weights: Tensor | None,
        class_weight: Tensor | None,
        lse: Tensor,
        *arguments: Any,
    ) -> Tensor:
        return _kernels(logits).upsample_loss_backward(
            grad, logits, target, weights, class_weight, lse, rebuilt(arguments)
        )

    def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[4:]
        ctx.save_for_backward(*inputs[:4], output[1])
        ctx.set_materialize_grads(False)  # a zero gradient of every pixel would be as large as the loss

    def differentiate(ctx: Any, grad_loss: Tensor | None, _: Any, grad_sums: Tensor | None) -> tuple[Any, ...]:
        nothing = (None,) * (3 + len(ctx.options))
        if grad_loss is None and grad_sums is None:
            return None, *nothing
        logits, target, weights, class_weight, lse = ctx.saved_tensors
        grad = grad_loss
        if grad_sums is not None:
            grad_sum = grad_sums[0].to(arithmetic(logits))
            grad = grad_sum if grad_loss is None else grad_loss + grad_sum
        gradient = _operator(f"{operator}_backward")(grad, logits, target, weights, class_weight, lse, *ctx.options)
        return gradient, *nothing

    def no_second_derivative(ctx: Any, grad: Tensor) -> None:
        raise NotImplementedError(f"{name} has no second derivative")

    _implement(operator, forward, _fake_loss)
    _implement(f"{operator}_backward", backward, _fake_loss_backward)
    torch.library.register_autograd(f"fastia::{operator}", differentiate, setup_context=save_for_backward, lib=library)
    torch.library.register_autograd(
        f"fastia::{operator}_backward",
        no_second_derivative,
        setup_context=lambda ctx, inputs, output: None,
        lib=library,
    )


def pixel_loss(
    logits: Tensor, target: Tensor, weights: Tensor | None, class_weight: Tensor | None, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Weighted loss `[B, H, W]` and `[3]` sums of a registered pixel loss."""
    loss, _, sums = _operator(f"upsample_{options.name}")(
        logits, target, weights, class_weight, *options.parameters, options.ignore_index, options.align_corners
    )
    return loss, sums


def upsample_argmax(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """Class ids `[B, height, width]`."""
    return _kernels(logits).upsample_argmax(logits, (height, width), align_corners=align_corners)


def _operator(name: str) -> Any:
    return getattr(torch.ops.fastia, name)


def _kernels(logits: Tensor) -> Any:
    if logits.device.type == "cpu":
        return cpu
    try:
        from fastia.kernels.triton import logits as triton  # torch for CPUs comes without it
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ModuleNotFoundError(
            f"logits are on {logits.device}, where this operation needs Triton: pip install triton", name="triton"
        ) from error
    return triton


def _fake_loss(logits: Tensor, target: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    loss = logits.new_empty(target.shape, dtype=arithmetic(logits))
    lse = torch.empty_like(loss, dtype=torch.float64)
    return loss, lse, logits.new_empty(3, dtype=torch.float64)


def _fake_loss_backward(grad: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _fake_upsample_argmax(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    dtype = torch.uint8 if logits.shape[1] <= 256 else torch.int32
    return logits.new_empty((logits.shape[0], height, width), dtype=dtype)


def _implement(operator: str, implementation: Any, fake: Any) -> None:
    for device in _DEVICES:
        library.impl(operator, implementation, device)
    torch.library.register_fake(f"fastia::{operator}", fake, lib=library)


library.define("upsample_argmax(Tensor logits, SymInt height, SymInt width, bool align_corners) -> Tensor")
_implement("upsample_argmax", upsample_argmax, _fake_upsample_argmax)
