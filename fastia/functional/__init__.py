"""The public operations: arguments checked, the backend picked, results of the caller's kind."""

import importlib
from typing import Any

from fastia.functional.logits import upsample_argmax
from fastia.functional.masks import Components, components, label, weights
from fastia.functional.overlaps import (
    ComponentMatches,
    InstanceIoU,
    instance_iou,
    instance_matches,
    instance_overlaps,
)

__all__ = [
    "ComponentMatches",
    "Components",
    "InstanceIoU",
    "components",
    "instance_iou",
    "instance_matches",
    "instance_overlaps",
    "label",
    "size_weighted_cross_entropy",
    "upsample_argmax",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name == "size_weighted_cross_entropy":  # its home is a layer above, which builds on this one
        return importlib.import_module("fastia.losses").size_weighted_cross_entropy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
