"""Segmentation networks."""

from fastia.models.deeplab import DeepLabV2
from fastia.models.weights import LoadReport, load_matching, read_state

__all__ = ["DeepLabV2", "LoadReport", "load_matching", "read_state"]
