"""The operations as operators of torch.library: importing this package registers them."""

from fastia.ops import logits, masks, overlaps

__all__ = ["logits", "masks", "overlaps"]
