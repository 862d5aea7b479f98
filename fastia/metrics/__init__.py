"""Scores from integer sums, and the metric of torchmetrics that counts them."""

from typing import TYPE_CHECKING, Any

from fastia.metrics.further import definitions, further_scores
from fastia.metrics.standard import scores, tally

if TYPE_CHECKING:
    from fastia.metrics.instance_aware_iou import InstanceAwareIoU

__all__ = ["InstanceAwareIoU", "definitions", "further_scores", "scores", "tally"]


def __getattr__(name: str) -> Any:
    if name == "InstanceAwareIoU":  # torchmetrics takes as long to import as torch, and only the class needs it
        from fastia.metrics.instance_aware_iou import InstanceAwareIoU

        return InstanceAwareIoU
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
