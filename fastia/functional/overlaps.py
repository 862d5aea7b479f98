"""Predictions scored instance by instance: check the arguments, pick the backend, answer in the caller's kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from fastia.fields import Array, ComponentMatches, InstanceIoU
from fastia.functional import checks
from fastia.functional.arrays import answer, batch, call
from fastia.kernels.cpu import overlaps as kernels
from fastia.options import OverlapOptions
from fastia.typing import Protocol

__all__ = ["ComponentMatches", "InstanceIoU", "instance_iou", "instance_matches", "instance_overlaps"]


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
    ``other`` non-void pixels outside T whose target is c (exact: that lie on other instances of class c), and
    ``rest = |P| - o - other``. T answers for the share ``o / (o + other) * rest`` of the rest:
    ``intersection = sum o``, ``covered = sum over o > 0 of (o + share)`` and
    ``iou = intersection / (area + covered - intersection)``; an instance that no component touches has iou 0.

    Args:
        preds: predicted class ids, ``[H, W]`` or ``[B, H, W]``, of the dtypes of :func:`label`.
        target: ground-truth class ids, in the shape of ``preds``.
        instances: ground-truth instance ids in the shape of ``preds``: 0 none, up to 2**31 - 1. None: the
            8-connected components of ``target`` serve, and void is exactly ``target == ignore_index``.
        protocol: ``"wacv2024"``: the evaluation behind the published tables. Void is instance void only (a pixel that
            the target alone ignores counts); components have their holes filled before they are connected; a share is
            truncated to an integer; background is one record per image (``instance_id`` 0). ``"exact"``: the paper's
            text. Pixels void in either map count in no area and no overlap; plain 8-connected components; a share may
            be a fraction; background is no instance. Under both, components are formed on the whole prediction: void
            cuts none in two. And under both, void of either map decides which component is false.
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
        false component, in raster order: a predicted component of a foreground class that, off void of either map,
        meets no instance of its class and no pixel whose target is its class, and that is void by half at most:
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
    options = _options(protocol, background, ignore_index, instance_ignore_index, None, validate)
    records, _ = _run(kernels.instance_iou, preds, target, instances, options, max_instances, max_unmatched)
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
    options = _options(protocol, background, ignore_index, instance_ignore_index, num_classes, validate)
    records, confusion = _run(
        kernels.instance_iou, preds, target, instances, options, max_instances, max_unmatched, threads
    )
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
    options = _options(protocol, background, ignore_index, instance_ignore_index, num_classes)
    records, confusion, *matches = _run(
        kernels.instance_matches, preds, target, instances, options, None, None, threads
    )
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
    options = _options(protocol, background, ignore_index, instance_ignore_index, len(confusion), validate)
    torch.ops.fastia.add_instances(*map(_batched, _masks(preds, target, instances)), *options, tally, confusion)


def _run(
    kernel: Callable[..., Any],
    preds: Array,
    target: Array,
    instances: Array | None,
    options: OverlapOptions,
    max_instances: int | None,
    max_unmatched: int | None,
    threads: int | None = None,
) -> tuple[Any, ...]:
    """The records, the confusion matrix, and what else the kernel gives."""
    masks = _masks(preds, target, instances)
    fields = call(
        kernel,
        [*map(_batched, masks)],
        options,
        checks.integer("max_instances", max_instances, 0),
        checks.integer("max_unmatched", max_unmatched, 0),
        checks.integer("threads", threads, 1),
    )
    fields = [answer(preds, masks[0], field) for field in fields]
    records = len(InstanceIoU._fields)
    return InstanceIoU(*fields[:records]), *fields[records:]


def _masks(preds: Array, target: Array, instances: Array | None) -> list[Array | None]:
    """The masks as arrays or tensors, the instances None if not given."""
    given = {} if instances is None else {"instances": instances}
    masks = checks.masks(preds=preds, target=target, **given)
    return masks if given else [*masks, None]


def _options(
    protocol: Any,
    background: Any,
    ignore_index: Any,
    instance_ignore_index: Any,
    num_classes: int | None,
    validate: bool = False,
) -> OverlapOptions:
    if isinstance(instance_ignore_index, str) and instance_ignore_index == "ignore_index":
        instance_ignore_index = ignore_index
    return OverlapOptions(
        checks.choice("protocol", protocol, checks.PROTOCOLS),
        checks.background(background),
        checks.integer("ignore_index", ignore_index),
        checks.integer("instance_ignore_index", instance_ignore_index),
        num_classes,
        validate,
    )


def _batched(masks: Array | None) -> Array | None:
    return None if masks is None else batch(masks)
