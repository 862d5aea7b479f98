"""The operations on masks in plain NumPy and SciPy: slow, written to be read, the tests' oracle.

Names, arguments and results are those of `fastia.functional`; arrays are NumPy's. One image is worked on at a time, one
class after another, as the definitions read. SciPy is needed here alone: users of the library need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fastia.fields import Components

Array = NDArray[Any]

LARGEST_CLASS = 2**16 - 1


def label(
    masks: Array, *, connectivity: int = 8, background: int | None = 0, ignore_index: int | None = 255
) -> NDArray[np.int32]:
    """Connected components of every class, numbered in raster order of their first pixel; 0: background and ignored."""
    check_ids("masks", masks, LARGEST_CLASS, "ignore_index", ignore_index)
    labels = np.zeros(masks.shape, np.int32)
    for mask, out in zip(batched(masks), batched(labels), strict=True):  # [H, W] each
        out[...] = _label(mask, connectivity, background, ignore_index)
    return labels


def components(
    masks: Array,
    *,
    connectivity: int = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    max_components: int | None = None,
) -> Components:
    """Labels, and class, area and bounding box of each component, padded to the largest count or `max_components`."""
    labels = label(masks, connectivity=connectivity, background=background, ignore_index=ignore_index)
    class_ids, areas, boxes = [], [], []
    for mask, image in zip(batched(masks), batched(labels), strict=True):
        _, first = np.unique(image[image > 0], return_index=True)
        class_ids.append(mask[image > 0][first])
        areas.append(np.bincount(image.ravel())[1:])
        boxes.append([(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(image)] if image.size else [])
    result = Components(
        labels=batched(labels),
        count=counts(areas),
        class_id=padded(class_ids, max_components, -1, np.int32),
        area=padded(areas, max_components, 0, np.int64),
        bbox=padded(boxes, max_components, (0, 0, 0, 0), np.int32),
    )
    return result if masks.ndim == 3 else Components(*(field[0] for field in result))


def weights(
    masks: Array,
    *,
    tau: float = 5.0,
    connectivity: int = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    normalizer: str = "class",
    dtype: Any = "float32",
) -> Array:
    """Eq. 3: min(tau, sum_k S_ck / S_cj) in component j of class c; background 1, ignored 0; `rounded` to `dtype`."""
    labels = label(masks, connectivity=connectivity, background=background, ignore_index=ignore_index)
    result = np.zeros(masks.shape, np.float64)
    for mask, image, out in zip(batched(masks), batched(labels), batched(result), strict=True):
        out[~ignored(mask, ignore_index)] = 1.0
        area = np.bincount(image.ravel())  # [1 + N] pixels of each component
        for class_id in np.unique(mask[image > 0]):
            pixels = (image > 0) & (mask == class_id)
            numerator = np.count_nonzero(pixels if normalizer == "class" else image)
            out[pixels] = np.minimum(tau, numerator / area[image[pixels]])
    return rounded(result, dtype)


def rounded(values: NDArray[np.float64], dtype: Any) -> Array:
    """`values` rounded once, to nearest even, to a float dtype of NumPy or torch or its name.

    NumPy has no bfloat16: there the result is float32 holding values of bfloat16, for values in its normal range.
    """
    name = str(dtype).removeprefix("torch.")
    if name != "bfloat16":
        return values.astype(name if name != str(dtype) else dtype)
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 2.0**8), exponent - 8).astype(np.float32)


def _label(mask: Array, connectivity: int, background: int | None, ignore_index: int | None) -> Array:
    labels = np.zeros(mask.shape, np.int64)
    count = 0
    for class_id in np.unique(mask[~ignored(mask, ignore_index)]):
        if class_id != background:
            component, found = connected(mask == class_id, connectivity)
            labels += np.where(component > 0, component + count, 0)
            count += found
    return in_raster_order(labels)


def in_raster_order(labels: Array) -> Array:
    """Labels renumbered 1, 2, ... in raster order of their first pixel; 0 stays."""
    _, first, inverse = np.unique(np.append(0, labels), return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # the 0 in front keeps label 0 first
    return rank[inverse[1:]].reshape(labels.shape)


def connected(pixels: NDArray[np.bool_], connectivity: int) -> tuple[Array, int]:
    return ndimage.label(pixels, ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2))


def ignored(ids: Array, ignore_index: int | None) -> NDArray[np.bool_]:
    return np.zeros(ids.shape, bool) if ignore_index is None else ids == ignore_index


def batched(array: Array) -> Array:
    return array if array.ndim == 3 else array[None]


def counts(rows: Sequence[Any]) -> NDArray[np.int32]:
    return np.array([len(row) for row in rows], np.int32)


def padded(rows: Sequence[Any], width: int | None, padding: Any, dtype: Any) -> Array:
    if width is None:
        width = max((len(row) for row in rows), default=0)
    padded = np.empty((len(rows), width, *np.shape(padding)), dtype)
    padded[...] = padding
    for out, row in zip(padded, rows, strict=True):
        row = np.reshape(row, (-1, *np.shape(padding)))[:width]
        out[: len(row)] = row
    return padded


def check_ids(name: str, ids: Array, largest: int, exception: str, exempt: int | None) -> None:
    wrong = ids[((ids < 0) | (ids > largest)) & ~ignored(ids, exempt)]
    if wrong.size:
        raise ValueError(f"{name} must hold ids of 0..{largest} or {exception} ({exempt}), got {wrong[0]}")
