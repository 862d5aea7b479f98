"""What every loss on logits does around its operator, and the argmax of upsampled logits, which never exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastia.functional import checks
from fastia.kernels.errors import invalid_target, negative_weight
from fastia.kernels.shared import arithmetic
from fastia.ops import logits as ops
from fastia.options import LossOptions


def check_loss_inputs(logits: Any, target: Any, weights: Any, class_weight: Any) -> None:
    """Check the tensors of a loss, one by one and against the logits."""
    checks.logits(logits)
    checks.loss_target(target, logits)
    checks.constant("weights", weights, target.shape, logits)
    checks.constant("class_weight", class_weight, logits.shape[1:2], logits)


def loss_options(
    name: str,
    parameters: tuple[float, ...],
    *,
    ignore_index: Any,
    resize: Any,
    align_corners: bool,
    normalize: Any,
    reduction: Any,
    validate: bool,
) -> LossOptions:
    """Check the options that all losses have, and build them; `parameters` are those of the pixel loss, checked."""
    return LossOptions(
        name,
        parameters,
        checks.integer("ignore_index", ignore_index),
        checks.choice("resize", resize, checks.RESIZES),
        align_corners,
        checks.choice("normalize", normalize, checks.NORMALIZES),
        checks.choice("reduction", reduction, checks.REDUCTIONS),
        validate,
    )


def pixel_loss(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    class_weight: Tensor | None,
    options: LossOptions,
    weights_of: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """A registered pixel loss of checked tensors, resized and reduced as the options say.

    `weights_of` computes the weights of the resized target where `weights` is None; without it they are 1.
    """
    if options.resize == "target":
        target = nearest(target, logits.shape[2:])
        weights = None if weights is None else nearest(weights, logits.shape[2:])
    checks.sizes(logits, target.shape[1:])
    if options.validate and logits.device.type != "cpu":
        _validate(target, weights, logits.shape[1], options.ignore_index)
    if weights is None and weights_of is not None:
        weights = weights_of(target)
    loss, sums = ops.pixel_loss(logits, target, weights, class_weight, options)
    if options.reduction == "none":
        return loss
    total = sums[0]
    if options.reduction == "mean":
        if options.normalize == "pixels":
            total = total / max(target.numel(), 1)
        else:
            count = sums[1 if options.normalize == "weights" else 2].detach()
            total = total / torch.where(count == 0, 1.0, count)
    return total.to(arithmetic(logits))


def upsample_argmax(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Class of the largest logit of each pixel after bilinear upsampling in float32, ties to the lowest class.

    Args:
        logits: ``[B, C, h, w]`` float32, float16 or bfloat16, or float64 on the CPU; any strides.
        size: H and W of the result.
        align_corners: as in ``torch.nn.functional.interpolate``.

    Returns:
        Class ids ``[B, H, W]``: uint8 for up to 256 classes, else int32. NaN counts as the largest, as in torch.

    Raises:
        TypeError: ``logits`` is no floating tensor.
        ValueError: ``logits`` is not 4-D or empty, or ``size`` is not two sizes.

    Example:
        >>> import torch
        >>> import fastia
        >>> fastia.upsample_argmax(torch.tensor([[[[0.0, 4.0]], [[1.0, 1.0]]]]), (1, 4))
        tensor([[[1, 0, 0, 0]]], dtype=torch.uint8)

    Source: ``F.interpolate(logits, size, mode="bilinear").argmax(1)``.
    """
    checks.logits(logits)
    if len(size) != 2:
        raise ValueError(f"size must be (H, W), got {tuple(size)}")
    height, width = (checks.integer("size", side, 0, 2**31 - 1, optional=False) for side in size)
    checks.sizes(logits, (height, width))
    return torch.ops.fastia.upsample_argmax(logits, height, width, align_corners)


def nearest(values: Tensor, size: Any) -> Tensor:
    """Ids or weights ``[B, H, W]`` at another size: nearest neighbours, by Pillow's rule."""
    if values.shape[1:] == size:
        return values
    rows, columns = (
        torch.div((2 * torch.arange(to, device=values.device) + 1) * of, 2 * to, rounding_mode="floor")
        for of, to in zip(values.shape[1:], size, strict=True)
    )
    if values.dtype == torch.uint16:  # torch indexes it as other integers only
        return values.view(torch.int16)[:, rows[:, None], columns].view(torch.uint16)
    return values[:, rows[:, None], columns]


def _validate(target: Tensor, weights: Tensor | None, num_classes: int, ignore_index: int | None) -> None:
    """Check on a GPU what the CPU's kernels check as they read it."""
    ids = target.long()
    outside = (ids < 0) | (ids >= num_classes)
    wrong = ids[outside if ignore_index is None else outside & (ids != ignore_index)]
    if wrong.numel():
        raise invalid_target(int(wrong[0]), num_classes, ignore_index)
    if weights is not None and bool((weights < 0).any()):
        raise negative_weight(weights.min().item())
