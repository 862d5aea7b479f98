"""The operations of :mod:`fastia.functional` in plain NumPy, SciPy and torch: the oracle of every test.

:mod:`fastia.reference.logits` holds those on logits.
"""

from fastia.reference.masks import components, label, rounded, weights
from fastia.reference.overlaps import instance_iou, instance_matches, instance_overlaps

__all__ = ["components", "instance_iou", "instance_matches", "instance_overlaps", "label", "rounded", "weights"]
