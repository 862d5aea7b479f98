"""The loss of one batch as a sum and what it is divided by, so that several processes can divide by the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastia import functional, losses
from fastia.functional.logits import nearest
from fastia.training.config import Config

# Logits [B, C, h, w] and target [B, H, W] to a 0-d sum and a 0-d denominator, both over this process's images. Of
# several processes, sums are divided by the sum of the denominators: with a denominator of 1 the loss is their mean.
Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Weights = Callable[[Tensor], Tensor]  # target [B, H, W] to weights [B, H, W], 0 where ignored


def cross_entropy(config: Config) -> Loss:
    """The plain cross-entropy: of task A."""

    def loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        target = _resized(config, logits, target)
        total = losses.size_weighted_cross_entropy(
            logits, target, tau=1, ignore_index=config.ignore_index, reduction="sum"
        )
        return total, _pixels(target, None if config.normalize == "pixels" else config.ignore_index)

    return loss


def size_weighted_cross_entropy(config: Config, weights: Weights | None = None) -> Loss:
    """The cross-entropy with weights of each pixel: of task B.

    Args:
        config: what the options are read from.
        weights: None: :func:`fastia.weights`.
    """

    def own_weights(target: Tensor) -> Tensor:
        return functional.weights(
            target,
            tau=config.tau,
            connectivity=config.connectivity,  # type: ignore[arg-type]
            background=config.background,
            ignore_index=config.ignore_index,
            normalizer=config.normalizer,
        )

    weights_of = weights or own_weights

    def loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        target = _resized(config, logits, target)
        weight = weights_of(target)
        total = losses.size_weighted_cross_entropy(
            logits, target, weight, ignore_index=config.ignore_index, reduction="sum"
        )
        if config.normalize == "weights":
            return total, weight.sum(dtype=torch.float64 if weight.device.type == "cpu" else None)
        return total, _pixels(target, None if config.normalize == "pixels" else config.ignore_index)

    return loss


def total(loss: Loss, outputs: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and denominators ``[K]`` of the K outputs of a network, each of which has a loss of its own."""
    sums, denominators = zip(*(loss(logits, target) for logits in outputs), strict=True)
    return torch.stack([*sums]), torch.stack([*denominators]).detach()


def _resized(config: Config, logits: Tensor, target: Tensor) -> Tensor:
    return nearest(target, logits.shape[2:]) if config.resize == "target" else target


def _pixels(target: Tensor, ignore_index: int | None) -> Tensor:
    """Number of pixels that are not ignored."""
    if ignore_index is None:
        return torch.tensor(float(target.numel()), device=target.device)
    return (target != ignore_index).sum().float()
