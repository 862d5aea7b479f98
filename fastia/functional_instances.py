"""Predictions scored instance by instance: check the arguments, pick the backend, answer in the caller's kind."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastia import checks
from fastia.arrays import Array, answer, batch, operations
from fastia.typing import Protocol


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
    void_area: Array  # [B, N] int64: its pixels void in either map, which `area` does not count
    instance_area: Array  # [B, N] int64: of the instance of its class with which it has an IoU above 1/2; 0: none
    intersection: Array  # [B, N] int64: pixels off void that it shares with that instance; 0: none
    union: Array  # [B, N] int64: pixels off void of either; 0: none


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


def add_instances(
    preds: Tensor,
    target: Tensor,
    instances: Tensor | None = None,
    *,
    tally: Tensor,
    confusion: Tensor,
    protocol: Protocol = "wacv2024",
    background: int | None = 0,
    ignore_index: int | None = 255,
    instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
    validate: bool = False,
) -> None:
    """Add what :func:`fastia.metrics.tally` counts and a confusion matrix to sums on a GPU, in place, with no records.

    Args:
        preds, target, instances, protocol, background, ignore_index, instance_ignore_index, validate: as in
            :func:`instance_overlaps`; CUDA tensors. Nothing waits for the device but ``validate``.
        tally: int64 ``[3, C, 4]``, contiguous, to which is added.
        confusion: int64 ``[C, C + 1]`` in pixels, contiguous, to which is added.

    Raises:
        TypeError: as :func:`instance_iou`.
        ValueError: as :func:`instance_overlaps`.

    Source: as :func:`instance_iou`.
    """
    maps, options = _checked(preds, target, instances, protocol, background, ignore_index, instance_ignore_index)
    torch.ops.fastia.add_instances(*map(_batched, maps), *options, validate, tally, confusion)


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
    maps, options = _checked(preds, target, instances, protocol, background, ignore_index, instance_ignore_index)
    fields = getattr(operations(maps[0]), operation)(
        *map(_batched, maps),
        *options,
        num_classes,
        checks.integer("max_instances", max_instances, 0),
        checks.integer("max_unmatched", max_unmatched, 0),
        validate,
        threads,
    )
    fields = [answer(preds, maps[0], field) for field in fields]
    records = len(InstanceIoU._fields)
    return InstanceIoU(*fields[:records]), *fields[records:]


def _checked(
    preds: Array,
    target: Array,
    instances: Array | None,
    protocol: Protocol,
    background: int | None,
    ignore_index: int | None,
    instance_ignore_index: int | Literal["ignore_index"] | None,
) -> tuple[list[Array | None], tuple[str, int | None, int | None, int | None]]:
    """The maps as arrays or tensors, the instances None if not given, and the options."""
    given = {} if instances is None else {"instances": instances}
    maps = checks.masks(preds=preds, target=target, **given)
    if instance_ignore_index == "ignore_index":
        instance_ignore_index = ignore_index
    options = (
        checks.choice("protocol", protocol, checks.PROTOCOLS),
        checks.background(background),
        checks.integer("ignore_index", ignore_index),
        checks.integer("instance_ignore_index", instance_ignore_index),
    )
    return maps if given else [*maps, None], options


def _batched(maps: Array | None) -> Array | None:
    return None if maps is None else batch(maps)
