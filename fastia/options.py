"""The options of operations, checked and built once by the functional layer and passed on whole."""

from __future__ import annotations

from typing import Literal, NamedTuple


class ComponentOptions(NamedTuple):
    """What forms components; :func:`fastia.label` explains them."""

    connectivity: int = 8
    background: int | None = 0
    ignore_index: int | None = 255
    validate: bool = False


class OverlapOptions(NamedTuple):
    """How predictions are held against ground truth; :func:`fastia.instance_iou` explains them.

    With `num_classes`, predictions from it on form no component, such a target is an error, and the confusion matrix is
    counted.
    """

    protocol: str = "wacv2024"
    background: int | None = 0
    ignore_index: int | None = 255
    instance_ignore_index: int | None = 255
    num_classes: int | None = None
    validate: bool = False


class LossOptions(NamedTuple):
    """Of a pixel loss on upsampled logits; :func:`fastia.size_weighted_cross_entropy` explains them."""

    name: str  # of the pixel loss
    parameters: tuple[float, ...]  # of the pixel loss itself: the label smoothing of "cross_entropy"
    ignore_index: int | None = 255
    resize: Literal["logits", "target"] = "logits"
    align_corners: bool = False
    normalize: Literal["weights", "valid", "pixels"] = "weights"
    reduction: Literal["mean", "sum", "none"] = "mean"
    validate: bool = False
