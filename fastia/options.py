"""The options of operations, checked and built once by the functional layer and passed on whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LossOptions:
    """Of a pixel loss on upsampled logits; :func:`fastia.size_weighted_cross_entropy` explains them."""

    name: str  # of the pixel loss
    parameters: tuple[float, ...]  # of the pixel loss itself: the label smoothing of "cross_entropy"
    ignore_index: int | None = 255
    resize: Literal["logits", "target"] = "logits"
    align_corners: bool = False
    normalize: Literal["weights", "valid", "pixels"] = "weights"
    reduction: Literal["mean", "sum", "none"] = "mean"
    validate: bool = False
