"""Instance-aware metrics and size-balanced losses for semantic segmentation."""

import importlib
from typing import TYPE_CHECKING, Any

from fastia._version import __version__ as __version__
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
    from fastia.evaluation.run import evaluate_directory
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

_LAZY = {  # by name, the module that has it
    "InstanceAwareIoU": "fastia.metrics",  # torchmetrics takes as long to import as torch
    "evaluate_directory": "fastia.evaluation.run",  # and what reads files is of use to scripts alone
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
