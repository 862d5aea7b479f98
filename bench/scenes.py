"""The masks of every bench by name, made once: those of masks.py, a batch of 1 and of 64, and one 4096 x 4096 image."""

import functools

import masks
import numpy as np

NAMES = (
    "masks",
    "sparse",
    "noisy",
    "white",
    "giant",
    "spiral",
    "masks, batch 1",
    "masks, batch 64",
    "masks, 4096 x 4096",
)


def large_image(batch):
    """[16, 513, 513] -> [1, 4096, 4096], 8 x 8 tiles of it."""
    rows = [np.concatenate(np.roll(batch, shift, 0)[:8], 1) for shift in range(0, 16, 2)]
    return np.ascontiguousarray(np.concatenate(rows, 0)[None, :4096, :4096])


@functools.cache
def scene(name):
    """-> [B, H, W] uint8 class ids, 0 background, 255 void."""
    if name == "noisy":
        return masks.noisy(scene("masks"))
    if name == "masks, batch 1":
        return scene("masks")[:1].copy()
    if name == "masks, batch 64":
        return np.tile(scene("masks"), (4, 1, 1))
    if name == "masks, 4096 x 4096":
        return large_image(scene("masks"))
    return getattr(masks, name)()
