"""Scores by class and size from integer sums, which add up to the same bits in any order.

Apart from `fastia.metrics`, so that they can be had without importing torchmetrics.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastia.arrays import Array
from fastia.functional_instances import InstanceIoU, Protocol

SIZE_BOUNDS = (32 * 32, 96 * 96)  # smallest medium and smallest large area, in pixels, as COCO has them
SIZE_NAMES = ("small", "medium", "large")
IOU_BITS = 36  # ious are summed as multiples of 2^-36
MAX_INSTANCES_PER_CLASS = 2 ** (63 - IOU_BITS)  # the sum of as many ious of 1 would not fit into int64


def tally(result: InstanceIoU, *, num_classes: int, background: int | None, protocol: Protocol) -> Array:
    """Count and sum the records of :func:`fastia.instance_iou` by class and size.

    Args:
        result: records, with or without a batch axis, of torch or NumPy.
        num_classes: number of classes C; every record's class is below it.
        background: class id of the background, which has no size; None: no class is background.
        protocol: under ``"exact"`` records of the background class are no instances and are left out.

    Returns:
        int64 ``[3, C, 4]``, of the kind of ``result``: number of instances, number of unmatched components, and sum
        of rint(iou * 2**36), per class and bin (0 background, 1 small, 2 medium, 3 large). Results of several
        batches add up.

    Example:
        >>> import numpy as np
        >>> import fastia
        >>> from fastia.scores import tally
        >>> ids = np.array([[0, 1, 1]])
        >>> count, unmatched, iou_sum = tally(
        ...     fastia.instance_iou(ids, ids), num_classes=2, background=0, protocol="wacv2024"
        ... )
        >>> count
        array([[1, 0, 0, 0],
               [0, 1, 0, 0]])

    Source: the sizes are those of COCO's evaluation.
    """
    if isinstance(result.area, Tensor):  # NumPy's calls are the faster ones on a few hundred records
        arrays = InstanceIoU(*(field.cpu().numpy() for field in result))
        sums = tally(arrays, num_classes=num_classes, background=background, protocol=protocol)
        return torch.from_numpy(sums).to(result.area.device)
    dropped = 4 * num_classes  # cell of what does not count

    def cells(class_id: NDArray[np.int32], area: NDArray[np.int64]) -> NDArray[np.int64]:
        size = np.searchsorted(SIZE_BOUNDS, area, side="right")  # 0 small, 1 medium, 2 large
        cell = np.where(class_id < 0, dropped, 4 * class_id + 1 + size)
        if background is None:
            return cell
        return np.where(class_id == background, dropped if protocol == "exact" else 4 * background, cell)

    instance_cells = cells(result.class_id, result.area)
    unmatched_cells = cells(result.unmatched_class_id, result.unmatched_area)
    sums = np.zeros((3, dropped + 1), np.int64)
    np.add.at(sums[0], instance_cells, 1)
    np.add.at(sums[1], unmatched_cells, 1)
    np.add.at(sums[2], instance_cells, np.rint(np.nan_to_num(result.iou) * 2.0**IOU_BITS).astype(np.int64))
    return sums[:, :dropped].reshape(3, num_classes, 4)


def scores(tally: Array, confusion: Array, *, per_class: bool = True) -> dict[str, Tensor]:
    """Turn sums of :func:`tally` and of confusion matrices into the scores of :class:`fastia.InstanceAwareIoU`.

    Args:
        tally: int64 ``[3, C, 4]``, as :func:`tally` returns it.
        confusion: int64 ``[C, C + 1]`` in pixels: rows ground truth, columns prediction, the last outside the
        classes.
        per_class: also return the entries per class.

    Returns:
        The entries of :class:`fastia.InstanceAwareIoU`, float64 tensors on the CPU.

    Raises:
        OverflowError: a class has so many instances that their sum may not fit into 64 bits.

    Example:
        >>> import torch
        >>> from fastia.scores import scores
        >>> confusion = torch.tensor([[6, 1, 0], [0, 3, 0]])
        >>> scores(torch.zeros(3, 2, 4, dtype=torch.int64), confusion)["pixel_accuracy"]
        tensor(0.9000, dtype=torch.float64)

    Source: as :class:`fastia.InstanceAwareIoU`.
    """
    count, unmatched, iou_sum = _on_host(tally)  # [C, 4] each
    confusion = _on_host(confusion)
    _check_overflow(count, confusion)
    iou_sum = np.c_[iou_sum, iou_sum.sum(1)] / 2.0**IOU_BITS  # [C, 5]: the last column is all sizes
    count = np.c_[count, count.sum(1)]
    unmatched = np.c_[unmatched, unmatched.sum(1)]
    ia_iou = _ratio(iou_sum, count)
    penalized = _ratio(iou_sum, count + unmatched)

    truth = confusion.sum(1)
    hit = confusion.diagonal()
    iou = np.where(truth > 0, _ratio(hit, truth + confusion[:, :-1].sum(0) - hit), np.nan)
    frequency = _ratio(truth, np.full_like(truth, truth.sum()))

    values: dict[str, Any] = {"miou": _mean(iou)}
    for name, table in (("ia_miou", ia_iou), ("ia_miou_penalized", penalized)):
        values[name] = _mean(table[:, 4])
        values |= {f"{name}_{size}": _mean(table[:, i]) for i, size in enumerate(SIZE_NAMES, 1)}
    values["pixel_accuracy"] = _ratio(hit.sum(), truth.sum())
    values["mean_accuracy"] = _mean(_ratio(hit, truth))
    values["fw_iou"] = math.fsum((frequency * iou)[truth > 0]) if truth.any() else math.nan
    if per_class:
        values |= {"iou_per_class": iou, "ia_iou_per_class": ia_iou[:, 4]}
        values |= {f"ia_iou_{size}_per_class": ia_iou[:, i] for i, size in enumerate(SIZE_NAMES, 1)}
        values |= {"instances_per_class": count[:, 4], "unmatched_per_class": unmatched[:, 4]}
    return {name: torch.from_numpy(np.array(value, np.float64)) for name, value in values.items()}


def _on_host(array: Array) -> NDArray[np.int64]:
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def _check_overflow(count: NDArray[np.int64], confusion: NDArray[np.int64]) -> None:
    """Raise where a sum may have left int64: ious of one class, or pixels."""
    for class_id, instances in enumerate(count.sum(1)):
        if not 0 <= instances < MAX_INSTANCES_PER_CLASS:
            raise OverflowError(
                f"class {class_id} has {instances} instances: the sum of their IoU is exact below "
                f"{MAX_INSTANCES_PER_CLASS} only; compute() and reset() more often"
            )
    if (confusion < 0).any():
        raise OverflowError("the number of pixels of a class no longer fits into 64 bits")


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """Quotient in float64, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator != 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of what is not NaN, NaN if nothing is; fsum rounds once, so the order does not matter."""
    present = values[~np.isnan(values)]
    return math.fsum(present) / len(present) if len(present) else math.nan
