"""The operations on logits: the size-weighted cross-entropy and the argmax of upsampled logits, which never exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastia import checks, ops_loss  # noqa: F401  registers the operators


def size_weighted_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    tau: float = 5.0,
    connectivity: Literal[4, 8] = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    normalizer: Literal["class", "foreground"] = "class",
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    resize: Literal["logits", "target"] = "logits",
    align_corners: bool = False,
    normalize: Literal["weights", "valid", "pixels"] = "weights",
    reduction: Literal["mean", "sum", "none"] = "mean",
    validate: bool = False,
) -> Tensor:
    """Cross-entropy of bilinearly upsampled logits, where pixels of small connected components weigh more.

    The upsampled logits are never in memory. Arithmetic is float32 (float64 for float64 logits), the result too; the
    gradient has the dtype of ``logits``.

    Args:
        logits: ``[B, C, h, w]`` float32, float16 or bfloat16, or float64 on the CPU; any strides.
        target: class ids ``[B, H, W]`` of the dtypes of :func:`label`: 0..C-1 or ``ignore_index``.
        weights: of each pixel, ``[B, H, W]`` floating and not negative. None: :func:`weights` of ``target``.
        tau, connectivity, background, normalizer: as in :func:`weights`; of use where ``weights`` is None. With
            ``tau=1`` every weight is 1: the plain cross-entropy.
        ignore_index: id of pixels that take no part, any integer; None: none.
        class_weight: ``[C]`` floating, the ``weight`` of ``torch.nn.functional.cross_entropy``.
        label_smoothing: in 0..1, as in ``torch.nn.functional.cross_entropy``.
        resize: ``"logits"``: logits are upsampled to H x W as by ``F.interpolate(mode="bilinear")``. ``"target"``:
            target and weights are resized to h x w, index ``((2i + 1) * H) // (2h)``, and weights computed here are
            those of the resized target.
        align_corners: as in ``torch.nn.functional.interpolate``.
        normalize: what ``reduction="mean"`` divides the sum of ``w * ce`` by. ``"weights"``: the sum of ``w *
            class_weight[target]``; ``"valid"``: the number of pixels that are not ignored; ``"pixels"``: the number
            of all pixels. Always over the whole batch.
        reduction: ``"mean"``, ``"sum"`` of ``w * ce``, or ``"none"``.
        validate: check ids and weights on a GPU too, where that waits for the device; on the CPU they are always
            checked.

    Returns:
        The 0-d loss, 0 where there is nothing to average; for ``"none"`` ``w * ce`` of each pixel, ``[B, H, W]``
        (``[B, h, w]`` with ``resize="target"``), 0 where ignored. Gradients flow to ``logits`` alone.

    Raises:
        TypeError: an argument is no tensor, or its dtype is none of the above.
        ValueError: shapes, batches or devices that do not match; a target of C or more; negative weights; weights
            that require gradients; an option that is not allowed.

    Example:
        >>> import torch
        >>> import fastia
        >>> logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
        >>> target = torch.tensor([[[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]]])
        >>> loss = fastia.size_weighted_cross_entropy(logits, target)
        >>> loss.backward()
        >>> round(loss.item(), 4), logits.grad.shape
        (0.6931, torch.Size([1, 2, 2, 2]))

    Source: Eq. 4 of Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    checks.logits(logits)
    checks.loss_target(target, logits)
    checks.constant("weights", weights, target.shape, logits)
    checks.constant("class_weight", class_weight, logits.shape[1:2], logits)
    ignore_index = checks.integer("ignore_index", ignore_index)
    background = checks.background(background)
    checks.choice("connectivity", connectivity, checks.CONNECTIVITIES)
    checks.choice("normalizer", normalizer, checks.NORMALIZERS)
    checks.choice("normalize", normalize, checks.NORMALIZES)
    checks.choice("reduction", reduction, checks.REDUCTIONS)
    tau = checks.number("tau", tau, 1)
    label_smoothing = checks.number("label_smoothing", label_smoothing, 0, 1)
    if logits.shape[1] == 1:
        label_smoothing = 0.0  # means nothing to one class, whose gradient is then 0 exactly
    if checks.choice("resize", resize, checks.RESIZES) == "target":
        target = nearest(target, logits.shape[2:])
        weights = None if weights is None else nearest(weights, logits.shape[2:])
    checks.sizes(logits, target.shape[1:])
    if validate and logits.device.type != "cpu":
        _validate(target, weights, logits.shape[1], ignore_index)

    arithmetic = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if weights is None and tau != 1:
        weights = torch.ops.fastia.weights(
            target, tau, connectivity, background, ignore_index, normalizer, arithmetic, validate
        )
    loss, _, sums = torch.ops.fastia.upsample_cross_entropy(
        logits, target, weights, class_weight, label_smoothing, ignore_index, align_corners
    )
    if reduction == "none":
        return loss
    total = sums[0]
    if reduction == "mean":
        if normalize == "pixels":
            total = total / max(target.numel(), 1)
        else:
            count = sums[1 if normalize == "weights" else 2].detach()
            total = total / torch.where(count == 0, 1.0, count)
    return total.to(arithmetic)


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


def _validate(target: Tensor, weights: Tensor | None, classes: int, ignore_index: int | None) -> None:
    ids = target.long()
    outside = (ids < 0) | (ids >= classes)
    wrong = ids[outside if ignore_index is None else outside & (ids != ignore_index)]
    if wrong.numel():
        raise ValueError(
            f"target holds the id {wrong[0].item()}, but ids must lie in 0..{classes - 1} (logits have {classes}"
            f" classes) or equal ignore_index ({ignore_index})"
        )
    if weights is not None and bool((weights < 0).any()):
        raise ValueError(f"weights must not be negative, got {weights.min().item()}")
