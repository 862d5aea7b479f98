"""Seeded masks, and predictions with their ground truth, that are hard on connected components.

`masks(seed)` and `scene(seed)` give a batch with the options to call the operations with; `nasty()` is a fixed list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fastia.reference import label

Array = NDArray[Any]
Generator = np.random.Generator

DTYPES = (np.bool_, np.uint8, np.int16, np.uint16, np.int32, np.int64)
IGNORE = (255, 255, -1, -100, None, 0)
# Outside the ids of some or all dtypes; in the low 8 or 16 bits they are 0, 1 or 5, classes that are not to be ignored.
FAR_IGNORE = (256, 261, 65537, 2**31 - 1, -(2**31), 2**40 + 1, -(2**63))
WIDTHS = (31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513)


class Masks(NamedTuple):
    """A batch of masks and the options that say how to read it."""

    masks: Array  # [B, H, W]
    options: dict[str, Any]  # connectivity, background, ignore_index


class Scene(NamedTuple):
    """A batch of predictions with ground truth, and the options that say how to read it."""

    preds: Array  # [B, H, W]
    target: Array  # [B, H, W]
    instances: Array | None  # [B, H, W]
    options: dict[str, Any]  # protocol, background, ignore_index, instance_ignore_index, num_classes


def masks(seed: int, largest: int = 40) -> Masks:
    """A batch of generated masks, of `largest` rows and columns at most but for a few wide ones."""
    rng = np.random.default_rng(seed)
    dtype = _pick(rng, DTYPES)
    ignore_index = _ignore_index(rng)
    ids = _palette(rng, dtype, ignore_index)
    batch, height, width = _size(rng, largest)
    images = np.array([ids[_pattern(rng, height, width, len(ids))] for _ in range(batch)], dtype)
    options = {
        "connectivity": _pick(rng, (8, 4)),
        "background": _background(rng, ids),
        "ignore_index": ignore_index,
    }
    return Masks(_laid_out(rng, images.reshape(batch, height, width)), options)


def scene(seed: int, largest: int = 40, stretch: int = 1) -> Scene:
    """Predictions and instances that have to do with a generated target, or now and then nothing.

    `stretch` makes every pixel that many wide: large images of few instances, which the reference takes one by one.
    Some kernels cut images of more than 2^15 pixels into strips.
    """
    rng = np.random.default_rng(seed)
    dtype = _pick(rng, DTYPES)
    ignore_index = _ignore_index(rng)
    ids = _palette(rng, dtype, ignore_index)
    background = _background(rng, ids)
    batch, height, width = (
        _size(rng, largest) if stretch == 1 else rng.integers((1, 2, 2), (4, largest, largest)).tolist()
    )
    shape = (batch, height, width)
    target = np.array([ids[_pattern(rng, height, width, len(ids))] for _ in range(batch)], dtype).reshape(shape)
    preds = np.array([_predicted(rng, image, ids) for image in target], dtype).reshape(shape)
    options = {"protocol": _pick(rng, ("wacv2024", "exact")), "background": background, "ignore_index": ignore_index}

    instances, options["instance_ignore_index"] = None, None
    if rng.random() < 0.8:
        instances, options["instance_ignore_index"] = _instances(rng, target, background, ignore_index)
        instances = _laid_out(rng, instances.repeat(stretch, 2))
    preds, target = _laid_out(rng, preds.repeat(stretch, 2)), _laid_out(rng, target.repeat(stretch, 2))

    options["num_classes"] = None
    largest_id = target[target != ignore_index].max(initial=0) if ignore_index is not None else target.max(initial=0)
    if rng.random() < 0.6 and largest_id < 300:
        options["num_classes"] = int(largest_id) + int(rng.integers(1, 4))
    return Scene(preds, target, instances, options)


def nasty() -> dict[str, Array]:
    """Named uint8 masks [1, H, W] of ids 0..3 and 255, each hard on some way of labelling."""
    rng = np.random.default_rng(0)
    images = {f"{name} {h}x{w}": PATTERNS[name](rng, h, w, 4) for name in PATTERNS for h, w in ((37, 70), (64, 129))}
    for height, width in ((1, 1), (1, 513), (513, 1), (2, 64), (64, 2), (0, 5), (5, 0), (0, 0)):
        images[f"white {height}x{width}"] = white(rng, height, width, 4)
    for value in (0, 1, 255):
        images[f"all {value}"] = np.full((33, 65), value)
    images["void cross"] = white(rng, 40, 40, 2)
    images["void cross"][20, :] = images["void cross"][:, 20] = 255
    return {name: image.astype(np.uint8)[None] for name, image in images.items()}


def mask_arrays(elements: tuple[int, ...] = (0, 1, 2, 255), side: int = 9) -> Any:
    """Hypothesis strategy: uint8 masks of `elements`, up to `side` x `side`, that shrink to the smallest that fails."""
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    shapes = st.tuples(st.integers(1, side), st.integers(1, side))
    return hnp.arrays(np.uint8, shapes, elements=st.sampled_from(elements))


# Patterns: (generator, height, width, n) -> [height, width] of 0..n - 1.


def blobs(rng: Generator, height: int, width: int, n: int) -> Array:
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width), np.int64)
    for _ in range(rng.integers(1, 13)):
        cy, cx, ry, rx = rng.uniform(0, height), rng.uniform(0, width), *rng.uniform(1, 2 + max(height, width) / 4, 2)
        image[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = rng.integers(n)
    return image


def rings(rng: Generator, height: int, width: int, n: int) -> Array:
    """Nested outlines of a few classes, some of them broken: components within holes within components."""
    y, x = np.mgrid[:height, :width]
    dy, dx = np.abs(y - rng.integers(height + 1)), np.abs(x - rng.integers(width + 1))
    distance = _pick(rng, (np.maximum(dy, dx), dy + dx, np.hypot(dy, dx).astype(np.int64)))
    image = rng.integers(0, n, height + width + 2)[distance // rng.integers(1, 4)]
    return np.where(rng.random(image.shape) < _pick(rng, (0, 0.01, 0.05)), rng.integers(0, n, image.shape), image)


def diagonals(rng: Generator, height: int, width: int, n: int) -> Array:
    y, x = np.mgrid[:height, :width]
    image = (x + _pick(rng, (-1, 1)) * y) // rng.integers(1, 4) % max(2, min(n, rng.integers(2, 5)))
    return np.minimum(np.where(rng.random(image.shape) < 0.03, 0, image), n - 1)


def white(rng: Generator, height: int, width: int, n: int) -> Array:
    return rng.integers(0, n, (height, width))


def sparse(rng: Generator, height: int, width: int, n: int) -> Array:
    """Two classes, one of them at some density: around one half every way to touch and to enclose occurs."""
    return np.where(rng.random((height, width)) < _pick(rng, (0.02, 0.2, 0.4, 0.5, 0.6, 0.8, 0.98)), 0, n - 1)


def blocks(rng: Generator, height: int, width: int, n: int) -> Array:
    """Noise of coarse blocks, which meet at corners."""
    step = rng.integers(2, 9, 2)
    coarse = _pick(rng, (white, sparse))(rng, height // step[0] + 1, width // step[1] + 1, n)
    return coarse.repeat(step[0], 0).repeat(step[1], 1)[:height, :width]


def noisy_blobs(rng: Generator, height: int, width: int, n: int) -> Array:
    image = blobs(rng, height, width, n)
    return np.where(rng.random(image.shape) < 0.05, rng.integers(0, n, image.shape), image)


def stripes(rng: Generator, height: int, width: int, n: int) -> Array:
    y, x = np.mgrid[:height, :width]
    return _pick(rng, (y, x)) // rng.integers(1, 4) % n


def checkerboard(rng: Generator, height: int, width: int, n: int) -> Array:
    y, x = np.mgrid[:height, :width] // rng.integers(1, 3)
    return np.minimum((y + x) % 2, n - 1)


def spiral(rng: Generator, height: int, width: int, n: int) -> Array:
    """One path a pixel wide that winds from the rim to the middle."""
    image = np.zeros((height, width), np.int64)
    top, left, bottom, right = 0, 0, height - 1, width - 1
    image[:1] = n - 1
    while right - left > 2 and bottom - top > 2:
        image[top : bottom + 1, right] = image[bottom, left : right + 1] = n - 1
        image[top + 2 : bottom + 1, left] = image[top + 2, left : right - 1] = n - 1
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return image


def comb(rng: Generator, height: int, width: int, n: int) -> Array:
    """Teeth that meet in the last row or column alone, or the first."""
    y, x = np.mgrid[:height, :width]
    upright = (x % 2 == 0) | (y == _pick(rng, (0, height - 1)))
    lying = (y % 2 == 0) | (x == _pick(rng, (0, width - 1)))
    return np.where(_pick(rng, (upright, lying)), n - 1, 0)


def giant(rng: Generator, height: int, width: int, n: int) -> Array:
    """One component that covers everything but isolated pixels."""
    image = np.full((height, width), n - 1)
    image[1 :: rng.integers(2, 5), 1 :: rng.integers(2, 5)] = 0
    return image


def dots(rng: Generator, height: int, width: int, n: int) -> Array:
    image = np.zeros((height, width), np.int64)
    image[:: rng.integers(2, 4), :: rng.integers(2, 4)] = n - 1
    return image


def constant(rng: Generator, height: int, width: int, n: int) -> Array:
    return np.full((height, width), rng.integers(n))


PATTERNS: dict[str, Callable[[Generator, int, int, int], Array]] = {
    "blobs": blobs,
    "rings": rings,
    "diagonals": diagonals,
    "white": white,
    "sparse": sparse,
    "blocks": blocks,
    "noisy blobs": noisy_blobs,
    "stripes": stripes,
    "checkerboard": checkerboard,
    "spiral": spiral,
    "comb": comb,
    "giant": giant,
    "dots": dots,
    "constant": constant,
}


# How batches are made of patterns.


def _size(rng: Generator, largest: int) -> tuple[int, int, int]:
    batch = int(rng.integers(1, 12))
    kind = rng.random()
    if kind < 0.8:
        height, width = rng.integers(1, largest + 1, 2).tolist()
    elif kind < 0.95:
        height, width = int(rng.integers(1, 9)), _pick(rng, WIDTHS)
        batch = min(batch, 6)
    elif kind < 0.98:
        height, width = 1, int(rng.integers(1, 700))
    else:
        batch, height, width = (rng.permutation((0, rng.integers(3), rng.integers(3)))).tolist()
    return (batch, height, width) if rng.random() < 0.8 else (batch, width, height)


def _ignore_index(rng: Generator) -> int | None:
    return _pick(rng, IGNORE if rng.random() < 0.9 else FAR_IGNORE)


def _background(rng: Generator, ids: Array) -> int | None:
    allowed = ids[(ids >= 0) & (ids <= 65535)].tolist()
    return _pick(rng, (0, 0, None, *allowed[:1]))


def _palette(rng: Generator, dtype: Any, ignore_index: int | None) -> Array:
    """The ids that stand for 0..n - 1, shuffled: few or many, small or large, alike in their low bytes, or ignored."""
    if dtype == np.bool_:
        return rng.permutation(2)
    limit = min(65535, int(np.iinfo(dtype).max))
    ranges = ((0, 4), (0, 20), (250, 260), (0, 300), (limit - 3, limit), (0, limit))
    low, high = _pick(rng, ranges)
    ids = rng.integers(low, high, _pick(rng, (2, 3, 5, 8, 21)), endpoint=True)
    alike = ids[0] + np.array((256, 512, 32768)) if rng.random() < 0.2 else ids[:0]
    ids = np.unique(np.append(np.append(ids, alike), rng.integers(0, 2))).clip(0, limit)
    if ignore_index is not None and rng.random() < 0.6 and _holds(dtype, ignore_index):
        ids = np.append(ids, ignore_index)
    return rng.permutation(np.unique(ids))


def _pattern(rng: Generator, height: int, width: int, n: int) -> Array:
    if height == 0 or width == 0:
        return np.zeros((height, width), np.int64)
    image = PATTERNS[_pick(rng, tuple(PATTERNS))](rng, height, width, n)
    if rng.random() < 0.2:
        image = np.where(_rim(image), rng.integers(n), image)
    return image


def _rim(image: Array) -> NDArray[np.bool_]:
    """Pixels that differ from the one to the left or above."""
    rim = np.zeros(image.shape, bool)
    rim[:, 1:] |= image[:, 1:] != image[:, :-1]
    rim[1:] |= image[1:] != image[:-1]
    return rim


def _predicted(rng: Generator, target: Array, ids: Array) -> Array:
    """What a network might say of `target`, or something unrelated."""
    kind = rng.integers(9)
    preds = target.astype(np.int64)
    y, x = np.mgrid[: target.shape[0], : target.shape[1]]
    if kind == 0:
        return ids[_pattern(rng, *target.shape, len(ids))]
    if kind == 1:
        return np.roll(preds, rng.integers(-3, 4, 2), (0, 1))
    if kind == 2:
        return np.where(_rim(preds), ids[0], preds)
    if kind == 3:
        return np.where(rng.random(preds.shape) < 0.1, rng.choice(ids, preds.shape), preds)
    if kind == 4:
        step = rng.integers(2, 7)
        return rng.choice(ids, (target.shape[0] // step + 1, target.shape[1] // step + 1))[y // step, x // step]
    if kind == 5:
        return np.where((y + 2 * x) % rng.integers(4, 20) == 0, ids[-1], preds)
    if kind == 6:
        return ndimage.grey_dilation(preds, (3, 3)) if preds.size else preds
    if kind == 7:
        return np.where(x < rng.integers(target.shape[1] + 1), preds, ids[0])
    return preds


def _instances(
    rng: Generator, target: Array, background: int | None, ignore_index: int | None
) -> tuple[Array, int | None]:
    """Instance ids and the id that is void: components of `target` merged, split, lost, shifted and renumbered."""
    ids = label(np.ascontiguousarray(target), background=background, ignore_index=ignore_index).astype(np.int64)
    y, x = np.mgrid[: target.shape[1], : target.shape[2]]
    if rng.random() < 0.15:
        ids = rng.integers(0, _pick(rng, (2, 5, 40)), target.shape)
    if rng.random() < 0.3:
        ids = np.where(ids > 0, 2 * ids + (x > y), 0)
    if rng.random() < 0.3:
        ids = np.minimum(ids, rng.integers(1, 5))
    if rng.random() < 0.3:
        ids = np.roll(ids, rng.integers(-2, 3, 2), (1, 2))
    if rng.random() < 0.3:
        ids[:, rng.integers(9) : 14, rng.integers(9) : 20] = ids.max(initial=0) + 1
    numbers = np.arange(ids.max(initial=0) + 1)
    if rng.random() < 0.4:
        numbers[1:] = rng.integers(1, 2**31 - 1, numbers.size - 1, endpoint=True)
        numbers[-1:] = 2**31 - 1
    if rng.random() < 0.3:
        numbers = rng.permutation(numbers)
    ids = numbers[ids]

    void = _pick(rng, (ignore_index, ignore_index, 255, None, -1, 0, 2**31 - 1))
    if void is not None:
        for image, truth in zip(ids, target, strict=True):
            kind = rng.integers(4)
            image[(_rim(truth), truth == ignore_index, (y // 9 + x // 9) % 2 == 0, x < 0)[kind]] = void
    fitting = [t for t in DTYPES if _holds(t, int(ids.min(initial=0))) and _holds(t, int(ids.max(initial=0)))]
    return ids.astype(_pick(rng, fitting)), void


def _laid_out(rng: Generator, array: Array) -> Array:
    """The array in another memory layout; `broadcast` repeats its first image, row or column, and so changes ids."""
    layout = _pick(rng, ("contiguous", "contiguous", "transposed", "sliced", "unaligned", "broadcast"))
    if layout == "transposed":
        axes = rng.permutation(3)
        array = np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))
    if layout == "sliced":
        steps = rng.choice((-3, -2, -1, 1, 2, 3), 3).tolist()
        shape = [size * abs(step) + 1 for size, step in zip(array.shape, steps, strict=True)]
        garbage = np.frombuffer(bytearray(rng.bytes(int(np.prod(shape)) * array.itemsize)), array.dtype).reshape(shape)
        view = garbage[tuple(slice(None, None, step) for step in steps)][tuple(slice(size) for size in array.shape)]
        view[...] = array
        array = view
    if layout == "unaligned":
        space = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        space[...] = array
        array = space
    if layout == "broadcast":
        strides = [0 if rng.random() < 0.4 else stride for stride in array.strides]
        array = np.lib.stride_tricks.as_strided(array, array.shape, strides)
    if rng.random() < 0.2:
        array.flags.writeable = False
    return array


def _holds(dtype: Any, value: int) -> bool:
    low, high = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(low <= value <= high)


def _pick(rng: Generator, choices: Any) -> Any:
    return choices[rng.integers(len(choices))]
