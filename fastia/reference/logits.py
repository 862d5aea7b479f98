"""The operations on logits in NumPy and float64, beside :mod:`fastia.reference`; and in torch, as one would write them.

Upsampling is a product with one matrix for each axis, so that its transpose gives the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fastia.reference import masks as reference

Array = NDArray[Any]


def size_weighted_cross_entropy(logits: Array, target: Array, weights: Array | None = None, **options: Any) -> Array:
    """Eq. 4: the loss, 0-d or of each pixel, of `logits [B, C, h, w]` on `target [B, H, W]`."""
    return size_weighted_cross_entropy_and_gradient(logits, target, weights, **options)[0]


def size_weighted_cross_entropy_and_gradient(
    logits: Array,
    target: Array,
    weights: Array | None = None,
    *,
    tau: float = 5.0,
    connectivity: int = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    normalizer: str = "class",
    label_smoothing: float = 0.0,
    resize: str = "logits",
    **options: Any,
) -> tuple[Array, NDArray[np.float64]]:
    """The loss, and the gradient `[B, C, h, w]` of its product with `upstream` (None: 1)."""
    if resize == "target":
        target = nearest(target, logits.shape[2:])
        weights = None if weights is None else nearest(weights, logits.shape[2:])
    if weights is None:
        weights = reference.weights(
            target,
            tau=tau,
            connectivity=connectivity,
            background=background,
            ignore_index=ignore_index,
            normalizer=normalizer,
            dtype=np.float64,
        )
    formula = partial(cross_entropy, label_smoothing=label_smoothing)
    return pixel_loss_and_gradient(formula, logits, target, weights, ignore_index=ignore_index, **options)


def cross_entropy(log_p: Array, one_hot: Array, class_weight: Array, *, label_smoothing: float) -> tuple[Array, Array]:
    """Loss and its derivatives in `log_p [B, C, H, W]`: `-sum_c share_c * log p_c`."""
    share = ((1 - label_smoothing) * one_hot + label_smoothing / log_p.shape[1]) * class_weight[:, None, None]
    return -(share * log_p).sum(1), -share


def pixel_loss_and_gradient(
    formula: Callable[[Array, Array, Array], tuple[Array, Array]],
    logits: Array,
    target: Array,
    weights: Array,
    *,
    class_weight: Array | None = None,
    ignore_index: int | None = 255,
    align_corners: bool = False,
    normalize: str = "weights",
    reduction: str = "mean",
    upstream: Array | None = None,
) -> tuple[Array, NDArray[np.float64]]:
    """A pixel loss that is a function of the log-probabilities, and the gradient of its product with `upstream`."""
    logits = logits.astype(np.float64)
    classes = logits.shape[1]
    cw = np.ones(classes) if class_weight is None else class_weight.astype(np.float64)
    valid = np.full(target.shape, True) if ignore_index is None else target != ignore_index
    hit = np.where(valid, target, 0).astype(np.int64)  # [B, H, W]

    rows = interpolation(logits.shape[2], target.shape[1], align_corners)  # [H, h]
    columns = interpolation(logits.shape[3], target.shape[2], align_corners)  # [W, w]
    z = np.einsum("Yy,bcyx,Xx->bcYX", rows, logits, columns, optimize=True)
    largest = z.max(1, keepdims=True)
    log_p = z - largest - np.log(np.exp(z - largest).sum(1, keepdims=True))
    one_hot = np.moveaxis(np.eye(classes)[hit], -1, 1)  # [B, C, H, W]
    loss, slope = formula(log_p, one_hot, cw)
    weight = np.where(valid, weights.astype(np.float64), 0)
    loss = weight * loss

    scale: Any = 1.0
    if reduction == "mean":
        count = {"weights": (weight * cw[hit]).sum(), "valid": valid.sum(), "pixels": valid.size}[normalize]
        scale = 1 / count if count else 1.0
    per_pixel = (1.0 if upstream is None else upstream) * scale * weight
    # d log p_k / dz_c = [c = k] - p_c
    slope = (slope - np.exp(log_p) * slope.sum(1, keepdims=True)) * per_pixel[:, None]
    gradient = np.einsum("Yy,bcYX,Xx->bcyx", rows, slope, columns, optimize=True)
    return (loss if reduction == "none" else loss.sum() * scale), gradient


def upsample_argmax(logits: Array, size: tuple[int, int], *, align_corners: bool = False) -> Array:
    """Class of the largest upsampled logit, `[B, H, W]`, ties to the lowest."""
    rows = interpolation(logits.shape[2], size[0], align_corners)
    columns = interpolation(logits.shape[3], size[1], align_corners)
    z = np.einsum("Yy,bcyx,Xx->bcYX", rows, logits.astype(np.float64), columns, optimize=True)
    return z.argmax(1).astype(np.uint8 if logits.shape[1] <= 256 else np.int32)


def interpolation(of: int, to: int, align_corners: bool) -> NDArray[np.float64]:
    """The matrix `[to, of]` of linear interpolation along an axis, as `F.interpolate` defines it."""
    at = np.arange(to, dtype=np.float64)
    if align_corners:
        source = at * ((of - 1) / (to - 1) if to > 1 else 0.0)
    else:
        source = np.maximum((at + 0.5) * (of / to) - 0.5, 0)
    near = np.minimum(source.astype(np.int64), of - 1)
    far = np.minimum(near + 1, of - 1)
    matrix = np.zeros((to, of))
    np.add.at(matrix, (np.arange(to), near), 1 - (source - near))
    np.add.at(matrix, (np.arange(to), far), source - near)
    return matrix


def nearest(values: Array, size: tuple[int, ...]) -> Array:
    """`values [B, H, W]` at the nearest pixels of a smaller or larger grid, by Pillow's rule."""
    rows, columns = ((2 * np.arange(to) + 1) * of // (2 * to) for of, to in zip(values.shape[1:], size, strict=True))
    return values[:, rows[:, None], columns]


def composite(
    logits: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    *,
    ignore_index: int | None = 255,
    class_weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    align_corners: bool = False,
    normalize: str = "weights",
    reduction: str = "mean",
) -> torch.Tensor:
    """What one would write in torch: upsample, cross-entropy of each pixel, weighted mean. The peer of tests."""
    size = target.shape[1:]
    z = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    ignored = torch.zeros_like(target, dtype=torch.bool) if ignore_index is None else target == ignore_index
    ids = target.long().masked_fill(ignored, -100)
    weight = weights.masked_fill(ignored, 0)
    ce = F.cross_entropy(z, ids, weight=class_weight, reduction="none", label_smoothing=label_smoothing)
    loss = weight * ce
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if normalize == "weights":
        hit = weight if class_weight is None else weight * class_weight[ids.clamp(min=0)]
        return loss.sum() / hit.sum()
    return loss.sum() / ((~ignored).sum() if normalize == "valid" else target.numel())
