"""The operations on masks: check the arguments, pick the backend, return arrays of the caller's kind."""

from __future__ import annotations

from typing import Any, Literal

import torch

from fastia.fields import Array, Components
from fastia.functional import checks
from fastia.functional.arrays import answer, batch, call
from fastia.kernels.cpu import masks as kernels
from fastia.options import ComponentOptions

__all__ = ["Components", "components", "label", "weights"]

Connectivity = Literal[4, 8]


def label(
    masks: Array,
    *,
    connectivity: Connectivity = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    validate: bool = False,
) -> Array:
    """Label the connected components of every class at once.

    Two pixels are connected when they touch and hold the same class. Components are numbered 1..N per image, in
    raster order of their first pixel, so every backend, number of threads and batch split gives the same bits.

    Args:
        masks: class ids, ``[H, W]`` or ``[B, H, W]``, of bool, uint8, int16, uint16, int32 or int64, with any
        strides.
        connectivity: 8, or 4: whether pixels that share only a corner touch.
        background: class id that gets label 0; None: no class does.
        ignore_index: id of pixels that take no part and get label 0, any integer; None: none. Compared before
            anything else. All other ids lie in 0..65535.
        validate: check the ids on a GPU too, where that waits for the device; on the CPU they are always checked.

    Returns:
        int32 labels in the shape of ``masks``; a NumPy array for a NumPy array, a CuPy array for a CuPy array, else a
        tensor on the device of ``masks``.

    Raises:
        TypeError: ``masks`` is no array, or its dtype is none of the above.
        ValueError: a wrong rank, an id outside 0..65535, or an option that is not allowed.
        ModuleNotFoundError: ``masks`` is on a GPU, and CuPy is not installed.

    Example:
        >>> import numpy as np
        >>> import fastia
        >>> fastia.label(np.array([[1, 0, 2], [0, 1, 2], [7, 7, 255]], np.uint8))
        array([[1, 0, 2],
               [0, 1, 2],
               [3, 3, 0]], dtype=int32)

    Source: connected-component labelling as in scipy.ndimage.label, of all classes in one pass.
    """
    (array,) = checks.masks(masks=masks)
    options = component_options(connectivity, background, ignore_index, validate)
    return answer(masks, array, call(kernels.label, (batch(array),), options))


def components(
    masks: Array,
    *,
    connectivity: Connectivity = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    max_components: int | None = None,
    validate: bool = False,
) -> Components:
    """Label the connected components of every class and give class, area and bounding box of each.

    Args:
        masks: class ids, ``[H, W]`` or ``[B, H, W]``, as in :func:`label`.
        connectivity: 8 or 4, as in :func:`label`.
        background: class id that forms no component, as in :func:`label`.
        ignore_index: id of pixels that take no part, as in :func:`label`.
        max_components: width K of the tables; further components are left out of them (``count`` still tells the
            true number). None: the largest count of the batch, which on a GPU waits for the device once.
        validate: as in :func:`label`.

    Returns:
        :class:`Components`: ``labels [B, H, W]`` int32 as :func:`label` gives them, ``count [B]`` int32 and, per
        component in label order, ``class_id [B, K]`` int32 (padding -1), ``area [B, K]`` int64 in pixels and ``bbox
        [B, K, 4]`` int32 (y0, x0, y1, x1, end exclusive; padding 0). Without the batch axis for ``[H, W]`` input.

    Raises:
        TypeError: as :func:`label`.
        ValueError: as :func:`label`, and ``max_components`` below 0.

    Example:
        >>> import torch
        >>> import fastia
        >>> found = fastia.components(torch.tensor([[1, 1, 0], [0, 0, 2]], dtype=torch.uint8))
        >>> found.class_id.tolist(), found.area.tolist(), found.bbox.tolist()
        ([1, 2], [2, 1], [[0, 0, 1, 2], [1, 2, 2, 3]])

    Source: as :func:`label`.
    """
    (array,) = checks.masks(masks=masks)
    options = component_options(connectivity, background, ignore_index, validate)
    max_components = checks.integer("max_components", max_components, 0)
    fields = call(kernels.components, (batch(array),), options, max_components)
    return Components(*(answer(masks, array, field) for field in fields))


def weights(
    masks: Array,
    *,
    tau: float = 5.0,
    connectivity: Connectivity = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    normalizer: Literal["class", "foreground"] = "class",
    dtype: Any = torch.float32,
    validate: bool = False,
) -> Array:
    """Weight every pixel by how small its connected component is within its class.

    A pixel of class c in component j gets ``min(tau, sum_k S_ck / S_cj)``, where S_ck are the areas of the
    components of class c in that image. Background pixels get 1, ignored pixels 0. The ratio is formed in float64,
    capped, then cast.

    Args:
        masks: class ids, ``[H, W]`` or ``[B, H, W]``, as in :func:`label`.
        tau: upper bound of a weight, at least 1.
        connectivity: 8 or 4, as in :func:`label`.
        background: class id whose pixels weigh 1; None: no class is background.
        ignore_index: id of pixels that weigh 0, as in :func:`label`.
        normalizer: ``"class"``: the numerator is the pixel count of the pixel's class (the paper);
            ``"foreground"``: that of all foreground classes (the released code).
        dtype: float16, bfloat16, float32 or float64 of torch; for NumPy and CuPy input, of torch or NumPy (no
            bfloat16).
        validate: as in :func:`label`.

    Returns:
        Weights of ``dtype`` in the shape of ``masks``; of the caller's kind, on its device.

    Raises:
        TypeError: as :func:`label`, and a ``dtype`` that is not allowed.
        ValueError: as :func:`label`, and ``tau`` below 1 or an unknown ``normalizer``.

    Example:
        >>> import numpy as np
        >>> import fastia
        >>> fastia.weights(np.array([[3, 3, 3, 0, 3, 255]], np.uint8))
        array([[1.3333334, 1.3333334, 1.3333334, 1.       , 4.       , 0.       ]],
              dtype=float32)

    Source: Eq. 3 of Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    (array,) = checks.masks(masks=masks)
    options = component_options(connectivity, background, ignore_index, validate)
    checks.choice("normalizer", normalizer, checks.NORMALIZERS)
    dtype = checks.weight_dtype(dtype, masks)
    if not tau >= 1:
        raise ValueError(f"tau must be at least 1, got {tau}")
    out = call(kernels.weights, (batch(array),), options, float(tau), normalizer, dtype)
    return answer(masks, array, out)


def component_options(
    connectivity: Any, background: Any, ignore_index: Any, validate: bool = False
) -> ComponentOptions:
    """Check what forms components, and build it."""
    return ComponentOptions(
        checks.choice("connectivity", connectivity, checks.CONNECTIVITIES),
        checks.background(background),
        checks.integer("ignore_index", ignore_index),
        validate,
    )
