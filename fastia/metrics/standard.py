"""The scores that are always there: mIoU and pixel accuracy, IA-mIoU with and without the penalty, from integer sums.

They can be had without importing torchmetrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastia.fields import Array, InstanceIoU
from fastia.functional import checks
from fastia.metrics import registry
from fastia.metrics.registry import BINS, FRACTION_BITS, INSTANCES, PIXELS, SIZE_NAMES, Columns, Ratio

AbsentClasses = Literal["skip", "zero"]
ABSENT_CLASSES = ("skip", "zero")
MAX_INSTANCES_PER_CLASS = 2 ** (63 - FRACTION_BITS)  # the sum of as many ious of 1 would not fit into int64

_IOU = {"truth": 1, "predicted": 1, "hit": -1}


def _ia_miou(sizes: Sequence[str], penalized: bool, per_class: str) -> Ratio:
    kinds = ("count", "unmatched") if penalized else ("count",)
    counted = [f"{kind}_{size}" for kind in kinds for size in sizes]
    return Ratio({f"iou_{size}": 1 for size in sizes}, dict.fromkeys(counted, 1), counted, per_class=per_class)


BINS_OF = {"": BINS, **{f"_{size}": (size,) for size in SIZE_NAMES}}  # suffix of a score: bins that it counts
PENALIZED = {
    f"ia_miou_penalized{size}": _ia_miou(bins, True, f"ia_iou_penalized{size}") for size, bins in BINS_OF.items()
}
RATIOS = {
    "miou": Ratio({"hit": 1}, _IOU, ["truth"], per_class="iou"),
    **{f"ia_miou{size}": _ia_miou(bins, False, f"ia_iou{size}") for size, bins in BINS_OF.items()},
    **PENALIZED,
    "pixel_accuracy": Ratio({"hit": 1}, {"truth": 1}, ["truth"], "pooled"),
    "mean_accuracy": Ratio({"hit": 1}, {"truth": 1}, ["truth"]),
    "fw_iou": Ratio({"hit": 1}, _IOU, ["truth"], "frequency"),
}


def ratios(absent_classes: AbsentClasses = "skip") -> dict[str, Ratio]:
    """The scores that are always there; ``"zero"``: `miou` counts predicted classes without ground truth."""
    checks.choice("absent_classes", absent_classes, ABSENT_CLASSES)
    if absent_classes == "skip":
        return RATIOS
    return RATIOS | {"miou": Ratio({"hit": 1}, _IOU, ["truth", "predicted"], per_class="iou")}


def tally(result: InstanceIoU, *, num_classes: int, background: int | None) -> Array:
    """Count and sum the records of :func:`fastia.instance_iou` by class and size.

    Args:
        result: records, with or without a batch axis, of torch or NumPy.
        num_classes: number of classes C; every record's class is below it.
        background: class id of the background, which has no size; None: no class is background.

    Returns:
        int64 ``[3, C, 4]``, of the kind of ``result``: number of instances, number of unmatched components, and sum
        of rint(iou * 2**36), per class and bin (0 background, 1 small, 2 medium, 3 large). Results of several
        batches add up.

    Example:
        >>> import numpy as np
        >>> import fastia
        >>> from fastia.metrics import tally
        >>> ids = np.array([[0, 1, 1]])
        >>> count, unmatched, iou_sum = tally(fastia.instance_iou(ids, ids), num_classes=2, background=0)
        >>> count
        array([[1, 0, 0, 0],
               [0, 1, 0, 0]])

    Source: the sizes are those of COCO's evaluation.
    """
    if isinstance(result.area, Tensor):  # NumPy's calls are the faster ones on a few hundred records
        arrays = InstanceIoU(*(field.cpu().numpy() for field in result))
        sums = tally(arrays, num_classes=num_classes, background=background)
        return torch.from_numpy(sums).to(result.area.device)
    padding = 4 * num_classes

    def cells(class_id: NDArray[np.int32], area: NDArray[np.int64]) -> NDArray[np.int64]:
        cell = np.where(class_id < 0, padding, 4 * class_id + 1 + registry.size_of(area))
        return cell if background is None else np.where(class_id == background, 4 * background, cell)

    instance_cells = cells(result.class_id, result.area)
    unmatched_cells = cells(result.unmatched_class_id, result.unmatched_area)
    sums = np.zeros((3, padding + 1), np.int64)
    np.add.at(sums[0], instance_cells, 1)
    np.add.at(sums[1], unmatched_cells, 1)
    np.add.at(sums[2], instance_cells, registry.fixed(np.nan_to_num(result.iou)))
    return sums[:, :padding].reshape(3, num_classes, 4)


def scores(
    tally: Array, confusion: Array, *, per_class: bool = True, absent_classes: AbsentClasses = "skip"
) -> dict[str, Tensor]:
    """Turn sums of :func:`tally` and of confusion matrices into the scores of :class:`fastia.InstanceAwareIoU`.

    Args:
        tally: int64 ``[3, C, 4]``, as :func:`tally` returns it.
        confusion: int64 ``[C, C + 1]`` in pixels: rows ground truth, columns prediction, the last outside the
        classes.
        per_class: also return the entries per class.
        absent_classes: ``"skip"``: ``miou`` averages over classes with ground-truth pixels; ``"zero"``: a class that is
            predicted but absent from the ground truth counts as 0 too.

    Returns:
        The entries of :class:`fastia.InstanceAwareIoU`, float64 tensors on the CPU.

    Raises:
        OverflowError: a class has so many instances that their sum may not fit into 64 bits.

    Example:
        >>> import torch
        >>> from fastia.metrics import scores
        >>> confusion = torch.tensor([[6, 1, 0], [0, 3, 0]])
        >>> scores(torch.zeros(3, 2, 4, dtype=torch.int64), confusion)["pixel_accuracy"]
        tensor(0.9000, dtype=torch.float64)

    Source: as :class:`fastia.InstanceAwareIoU`.
    """
    columns = standard_columns(tally, confusion)
    found = registry.values(ratios(absent_classes), registry.without_stuff(columns, ()))
    found |= {
        f"{name}_per_class": registry.combined(columns, {f"{kind}_{size}": 1 for size in BINS})[0]
        for name, kind in (("instances", "count"), ("unmatched", "unmatched"))
    }
    not_listed = {f"{ratio.per_class}_per_class" for ratio in PENALIZED.values()}
    values = {name: np.asarray(value, np.float64) for name, value in found.items() if name not in not_listed}
    return {name: torch.from_numpy(value) for name, value in values.items() if per_class or value.ndim == 0}


def standard_columns(tally: Array, confusion: Array) -> Columns:
    """The columns, ``[1, C]`` each, of sums over all images.

    Raises:
        OverflowError: a sum may have left int64.
    """
    instances, pixels = (array.cpu().numpy() if isinstance(array, Tensor) else array for array in (tally, confusion))
    _check_overflow(instances[0], pixels)
    return columns_from(instances, class_pixels(pixels))


def columns_from(tally: NDArray[np.int64], pixels: NDArray[np.int64]) -> Columns:
    """The columns, ``[1, C]`` each, of sums ``[3, C, 4]`` and of :func:`class_pixels`."""
    unit = np.array([1, 1, 2.0**FRACTION_BITS])[:, None, None]
    table = np.concatenate([pixels.T, *(tally / unit).transpose(0, 2, 1)])  # [15, C]
    return dict(zip((*PIXELS, *INSTANCES), table[:, None], strict=True))


def class_pixels(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Intersection, ground-truth and predicted pixels of each class, ``[C, 3]``."""
    return np.stack([confusion.diagonal(), confusion.sum(1), confusion[:, :-1].sum(0)], axis=1)


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
