"""The operations on masks: check the arguments, pick the backend, return arrays of the caller's kind."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from fastia import checks, ops, ops_cuda  # noqa: F401  registers the operators
from fastia.functional_loss import size_weighted_cross_entropy, upsample_argmax

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

Array = Any  # torch tensor, NumPy array, or an object with __dlpack__
Connectivity = Literal[4, 8]
Protocol = Literal["wacv2024", "exact"]


class Components(NamedTuple):
    """Connected components of every class, in label order; see :func:`components`."""

    labels: Array  # [B, H, W] int32
    count: Array  # [B] int32
    class_id: Array  # [B, K] int32, padding -1
    area: Array  # [B, K] int64, padding 0
    bbox: Array  # [B, K, 4] int32, padding 0: y0, x0, y1, x1, end exclusive


class InstanceIoU(NamedTuple):
    """Ground-truth instances and unmatched predicted components; see :func:`instance_iou`."""

    count: Array  # [B] int32
    class_id: Array  # [B, K] int32, padding -1
    instance_id: Array  # [B, K] int32, padding -1
    area: Array  # [B, K] int64, padding 0
    intersection: Array  # [B, K] int64, padding 0
    covered: Array  # [B, K] float64, padding 0
    iou: Array  # [B, K] float64, padding NaN
    unmatched_count: Array  # [B] int32
    unmatched_class_id: Array  # [B, M] int32, padding -1
    unmatched_area: Array  # [B, M] int64, padding 0


class ComponentMatches(NamedTuple):
    """Predicted components of foreground classes, off void, in raster order; see :func:`instance_matches`."""

    count: Array  # [B] int32
    class_id: Array  # [B, N] int32, padding -1
    area: Array  # [B, N] int64, padding 0
    void_area: Array  # [B, N] int64: its pixels on void, which `area` does not count
    instance_area: Array  # [B, N] int64: of the instance of its class with which it has an IoU above 1/2; 0: none
    intersection: Array  # [B, N] int64: with that instance; 0: none


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
    options = _component_options(connectivity, background, ignore_index)
    return _answer(masks, array, _operations(array).label(_batch(array), *options, validate))


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
    options = _component_options(connectivity, background, ignore_index)
    max_components = checks.integer("max_components", max_components, 0)
    fields = _operations(array).components(_batch(array), *options, max_components, validate)
    return Components(*(_answer(masks, array, field) for field in fields))


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
    options = _component_options(connectivity, background, ignore_index)
    checks.choice("normalizer", normalizer, checks.NORMALIZERS)
    dtype = checks.weight_dtype(dtype, masks)
    if not tau >= 1:
        raise ValueError(f"tau must be at least 1, got {tau}")
    out = _operations(array).weights(_batch(array), float(tau), *options, normalizer, dtype, validate)
    return _answer(masks, array, out)


def instance_iou(
    preds: Array,
    target: Array,
    instances: Array | None = None,
    *,
    protocol: Protocol = "wacv2024",
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
    max_instances: int | None = None,
    max_unmatched: int | None = None,
    validate: bool = False,
) -> InstanceIoU:
    """Score a semantic prediction instance by instance.

    An instance's class is the largest id of ``target`` under it that is not ignored; one without such a pixel has
    no record. For an instance T of class c, each predicted component P of class c has ``o = |P and T|`` pixels on T,
    ``other`` non-void pixels outside T whose target is c (exact: and that belong to an instance), and
    ``rest = |P| - o - other``. T answers for the share ``o / (o + other) * rest`` of the rest:
    ``intersection = sum o``, ``covered = sum over o > 0 of (o + share)`` and
    ``iou = intersection / (area + covered - intersection)``; an instance that no component touches has iou 0.

    Args:
        preds: predicted class ids, ``[H, W]`` or ``[B, H, W]``, of the dtypes of :func:`label`.
        target: ground-truth class ids, in the shape of ``preds``.
        instances: ground-truth instance ids in the shape of ``preds``: 0 none, up to 2**31 - 1. None: the
            8-connected components of ``target`` serve, and void is exactly ``target == ignore_index``.
        protocol: ``"wacv2024"``: the evaluation behind the published tables. Void is instance void only; components
            have their holes filled before they are connected; a share is truncated to an integer; background is one
            record per image (``instance_id`` 0). ``"exact"``: the paper's text. Pixels void in either map take no
            part at all; plain 8-connected components; a share may be a fraction; background is no instance.
        background: class id of the background; None: no class is background.
        ignore_index: id of ignored pixels of ``target``; a prediction with this id is an ordinary wrong one.
        instance_ignore_index: id of void pixels of ``instances``, by default that of ``ignore_index``; None: none.
        max_instances: width K of the instance tables; further ones are left out of them (``count`` still tells the
            true number). None: the largest count of the batch, which on a GPU waits for the device.
        max_unmatched: the same for the width M of the tables of unmatched components.
        validate: as in :func:`label`.

    Returns:
        :class:`InstanceIoU`. One record per ground-truth instance, ascending by instance id (background first):
        ``count [B]`` int32, ``class_id`` and ``instance_id`` int32 (padding -1), ``area`` and ``intersection``
        int64 in pixels, ``covered`` float64 (padding 0) and ``iou`` float64 (padding NaN), ``[B, K]`` each. One per
        predicted component of a foreground class that overlaps no instance of its class, in raster order:
        ``unmatched_count [B]`` int32, ``unmatched_class_id`` int32 (padding -1) and ``unmatched_area`` int64 in
        non-void pixels, ``[B, M]`` each. Without the batch axis for ``[H, W]`` input.

    Raises:
        TypeError: as :func:`label`, and arrays of different kinds.
        ValueError: as :func:`label`, and shapes or devices that differ, or an unknown ``protocol``.

    Example:
        >>> import numpy as np
        >>> import fastia
        >>> target = np.array([[1, 1, 0, 2, 2]], np.uint8)
        >>> preds = np.array([[1, 1, 1, 0, 1]], np.uint8)
        >>> result = fastia.instance_iou(preds, target, protocol="exact")
        >>> result.class_id, result.iou
        (array([1, 2], dtype=int32), array([0.66666667, 0.        ]))
        >>> result.unmatched_class_id, result.unmatched_area
        (array([1], dtype=int32), array([1]))

    Source: IA-IoU of Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    records, _ = _instance_overlaps(
        "instance_iou", preds, target, instances, protocol, background, ignore_index, instance_ignore_index, None,
        max_instances, max_unmatched, validate, None,
    )  # fmt: skip
    return records


def instance_overlaps(
    preds: Array,
    target: Array,
    instances: Array | None = None,
    *,
    num_classes: int,
    protocol: Protocol = "wacv2024",
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
    max_instances: int | None = None,
    max_unmatched: int | None = None,
    validate: bool = False,
    threads: int | None = None,
) -> tuple[InstanceIoU, Array]:
    """Score a prediction as :func:`instance_iou` does, and count its confusion matrix in the same pass.

    Args:
        preds, target, instances: as in :func:`instance_iou`. A prediction of ``num_classes`` or more is an ordinary
            wrong one and forms no component.
        num_classes: number of classes C; ids of ``target`` lie in 0..C-1 or are ``ignore_index``.
        protocol, background, ignore_index, instance_ignore_index, max_instances, max_unmatched, validate: as in
            :func:`instance_iou`.
        threads: number of CPU threads; None: ``torch.get_num_threads()``. 1 suits callers that are threads themselves.

    Returns:
        The records of :func:`instance_iou`, and the confusion matrix ``[B, C, C + 1]`` int64 in pixels: rows ground
        truth, columns prediction, the last column predictions outside the classes; pixels whose target is ignored
        are left out. Without the batch axis for ``[H, W]`` input.

    Raises:
        TypeError: as :func:`instance_iou`.
        ValueError: as :func:`instance_iou`, and an id of ``target`` that is neither a class nor ``ignore_index``.

    Example:
        >>> import numpy as np
        >>> from fastia.functional import instance_overlaps
        >>> records, confusion = instance_overlaps(np.array([[0, 1, 9]]), np.array([[0, 1, 1]]), num_classes=2)
        >>> confusion
        array([[1, 0, 0],
               [0, 1, 1]])

    Source: as :func:`instance_iou`.
    """
    num_classes = checks.integer("num_classes", num_classes, 1, checks.MAX_CLASSES, optional=False)
    records, confusion = _instance_overlaps(
        "instance_iou", preds, target, instances, protocol, background, ignore_index, instance_ignore_index,
        num_classes, max_instances, max_unmatched, validate, checks.integer("threads", threads, 1),
    )  # fmt: skip
    return records, confusion


def instance_matches(
    preds: Array,
    target: Array,
    instances: Array | None = None,
    *,
    num_classes: int,
    protocol: Protocol = "wacv2024",
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
    threads: int | None = None,
) -> tuple[InstanceIoU, Array, ComponentMatches]:
    """Score a prediction as :func:`instance_overlaps` does, and match its components with instances, in one pass.

    Args:
        preds, target, instances, num_classes, protocol, background, ignore_index, instance_ignore_index, threads: as
            in :func:`instance_overlaps`; on the CPU.

    Returns:
        The results of :func:`instance_overlaps`, and :class:`ComponentMatches`: every predicted component of a
        foreground class with its own pixels, and the one instance of its class, if any, with which it has a plain
        IoU above 1/2. Without the batch axis for ``[H, W]`` input.

    Raises:
        TypeError: as :func:`instance_iou`.
        ValueError: as :func:`instance_overlaps`.

    Example:
        >>> import numpy as np
        >>> from fastia.functional import instance_matches
        >>> _, _, matches = instance_matches(np.array([[1, 1, 0, 1]]), np.array([[1, 1, 1, 0]]), num_classes=2)
        >>> matches.area, matches.instance_area, matches.intersection
        (array([2, 1]), array([3, 0]), array([2, 0]))

    Source: the matching of Kirillov et al., "Panoptic Segmentation", CVPR 2019.
    """
    num_classes = checks.integer("num_classes", num_classes, 1, checks.MAX_CLASSES, optional=False)
    records, confusion, *matches = _instance_overlaps(
        "instance_matches", preds, target, instances, protocol, background, ignore_index, instance_ignore_index,
        num_classes, None, None, False, checks.integer("threads", threads, 1),
    )  # fmt: skip
    return records, confusion, ComponentMatches(*matches)


def _instance_overlaps(
    operation: str,
    preds: Array,
    target: Array,
    instances: Array | None,
    protocol: Protocol,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | Literal["ignore_index"] | None,
    num_classes: int | None,
    max_instances: int | None,
    max_unmatched: int | None,
    validate: bool,
    threads: int | None,
) -> tuple[Any, ...]:
    given = {} if instances is None else {"instances": instances}
    arrays = checks.masks(preds=preds, target=target, **given)
    if instance_ignore_index == "ignore_index":
        instance_ignore_index = ignore_index
    fields = getattr(_operations(arrays[0]), operation)(
        _batch(arrays[0]),
        _batch(arrays[1]),
        None if instances is None else _batch(arrays[2]),
        checks.choice("protocol", protocol, checks.PROTOCOLS),
        checks.background(background),
        checks.integer("ignore_index", ignore_index),
        checks.integer("instance_ignore_index", instance_ignore_index),
        num_classes,
        checks.integer("max_instances", max_instances, 0),
        checks.integer("max_unmatched", max_unmatched, 0),
        validate,
        threads,
    )
    fields = [_answer(preds, arrays[0], field) for field in fields]
    records = len(InstanceIoU._fields)
    return InstanceIoU(*fields[:records]), *fields[records:]


def _component_options(connectivity: Any, background: Any, ignore_index: Any) -> tuple[int, int | None, int | None]:
    return (
        checks.choice("connectivity", connectivity, checks.CONNECTIVITIES),
        checks.background(background),
        checks.integer("ignore_index", ignore_index),
    )


def _operations(masks: Array) -> Any:
    return ops if isinstance(masks, np.ndarray) else torch.ops.fastia


def _batch(masks: Array) -> Array:
    return masks[None] if masks.ndim == 2 else masks


def _answer(given: Array, masks: Array, result: Array) -> Array:
    """A result on `masks`, which `given` was checked to be, with its batch axis and of its kind."""
    result = result.squeeze(0) if masks.ndim == 2 else result
    if isinstance(given, (torch.Tensor, np.ndarray)) or not checks.is_cupy(given):
        return result
    import cupy

    return cupy.from_dlpack(result)
