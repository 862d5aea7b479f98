"""Losses on logits, one file each with function and module, and elastic weight consolidation."""

from fastia.losses.ewc import EWC
from fastia.losses.size_weighted_cross_entropy import SizeWeightedCrossEntropy, size_weighted_cross_entropy

__all__ = ["EWC", "SizeWeightedCrossEntropy", "size_weighted_cross_entropy"]
