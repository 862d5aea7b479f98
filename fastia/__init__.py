"""Instance-aware metrics and size-balanced losses for semantic segmentation."""

from typing import TYPE_CHECKING, Any

from fastia._version import __version__ as __version__
from fastia.engine.evaluate import evaluate_directory
from fastia.functional import (
    Components,
    InstanceIoU,
    components,
    instance_iou,
    label,
    upsample_argmax,
    weights,
)
from fastia.losses import EWC, SizeWeightedCrossEntropy, size_weighted_cross_entropy

if TYPE_CHECKING:
    from fastia.metrics import InstanceAwareIoU

__all__ = [
    "EWC",
    "Components",
    "InstanceAwareIoU",
    "InstanceIoU",
    "SizeWeightedCrossEntropy",
    "components",
    "evaluate_directory",
    "instance_iou",
    "label",
    "size_weighted_cross_entropy",
    "upsample_argmax",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name == "InstanceAwareIoU":  # torchmetrics takes as long to import as torch, and only the metric needs it
        from fastia.metrics import InstanceAwareIoU

        return InstanceAwareIoU
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
