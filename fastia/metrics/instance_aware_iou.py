"""Instance-aware IoU (IA-mIoU) by class and size beside mIoU, as a metric of torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from fastia.fields import Array, ComponentMatches, InstanceIoU
from fastia.functional import checks
from fastia.functional.logits import upsample_argmax
from fastia.functional.overlaps import add_instances, instance_matches, instance_overlaps
from fastia.metrics import further
from fastia.metrics.registry import SIZE_NAMES, CountedImage
from fastia.metrics.standard import ABSENT_CLASSES, AbsentClasses, scores, tally
from fastia.typing import Protocol


class InstanceAwareIoU(Metric):
    """IA-mIoU by instance size, with and without a penalty for false positives, beside mIoU and pixel accuracy.

    ``update(preds, target, instances=None)`` takes class ids ``[B, H, W]`` or ``[H, W]`` as
    :func:`fastia.instance_iou` does; ``preds`` may also be a tensor of logits ``[B, C, h, w]`` (or ``[C, h, w]``),
    which are upsampled bilinearly to the size of ``target`` before the argmax.

    ``compute()`` returns a dict of float64 tensors, NaN where there is nothing to average:

    - ``miou``, ``pixel_accuracy``, ``mean_accuracy`` (mean recall), ``fw_iou`` (sum of class frequency * IoU): over
      classes with ground-truth pixels; pixels whose target is ignored are left out. A class that is predicted but has
      no ground truth takes no part in ``miou``, unless ``absent_classes="zero"``: then it counts as 0 there, as in
      mmsegmentation, torchmetrics and scikit-learn;
    - ``ia_miou``: the mean over classes of the mean IoU of their instances; ``ia_miou_small``, ``_medium``,
      ``_large``: of those of an area below 32 * 32, below 96 * 96, and above. Under ``"wacv2024"`` background
      counts in ``ia_miou`` as one instance per image; it never has a size, and counts nowhere under ``"exact"``;
    - ``ia_miou_penalized`` and ``_small``, ``_medium``, ``_large``: the same, where each false component, as
      :func:`fastia.instance_iou` defines it, is one more instance of its class with IoU 0, in the size of its own area.
      A class of which there are such components only therefore scores 0. IA-mIoU alone does not see false
      positives. Stuff, a class with ground-truth pixels but, over all that was added, not one instance, takes no part;
    - with names in ``extra``, the scores that :func:`fastia.metrics.definitions` defines: ``pq``, ``sq`` and ``rq`` of
      ``"panoptic"``, ``component_f1``, ... of ``"components"``, ``iiou``, ``miou_image``, ``miou_class``, ... of
      ``"fine_grained"``, and ``boundary_iou``. They are counted on the CPU;
    - with ``per_class``, ``[num_classes]`` each: ``iou_per_class``, ``ia_iou_per_class``,
      ``ia_iou_small_per_class``, ``ia_iou_medium_per_class``, ``ia_iou_large_per_class`` (NaN where the class has
      no such instance), ``instances_per_class`` and ``unmatched_per_class`` (counts of instances and of false
      components, those of stuff too).

    The state is integer, and ``compute()`` reduces it on the host in class order: the scores have the same bits for
    any split into batches, order, device and number of processes. ``half()`` and ``set_dtype()`` change nothing. On a
    GPU an update of CUDA tensors adds to the state in place and waits for nothing, and may be captured in a CUDA graph.

    Args:
        num_classes: number of classes C; ids of ``target`` lie in 0..C-1 or are ``ignore_index``.
        protocol: ``"wacv2024"`` or ``"exact"``, as in :func:`fastia.instance_iou`.
        background: class id of the background; None: no class is background.
        ignore_index: id of ignored pixels of ``target``.
        instance_ignore_index: id of void pixels of ``instances``, by default that of ``ignore_index``; None: none.
        per_class: also return the entries per class.
        extra: names of further scores, see :func:`fastia.metrics.definitions`. The state of ``"fine_grained"`` grows by
            a table of ``num_classes`` rows per image.
        absent_classes: ``"skip"`` or ``"zero"``: whether a class that is predicted but absent from the ground truth
            is left out of ``miou`` or counts as 0 there.
        validate: check the ids on a GPU too, where that waits for the device; on the CPU they are always checked.
        kwargs: as for every :class:`torchmetrics.Metric`.

    Raises:
        TypeError: as :func:`fastia.instance_iou`.
        ValueError: as :func:`fastia.instance_iou`, and an id of ``target`` that is neither a class nor
        ``ignore_index``.
        OverflowError: by ``compute()``, when a class has so many instances that their sum may not fit into 64 bits.

    Example:
        >>> import torch
        >>> from fastia import InstanceAwareIoU
        >>> metric = InstanceAwareIoU(num_classes=3, per_class=False)
        >>> target = torch.tensor([[[1, 1, 0, 2, 2]]])
        >>> preds = torch.tensor([[[1, 1, 0, 1, 0]]])
        >>> metric.update(preds, target)
        >>> scores = metric.compute()
        >>> scores["ia_miou"], scores["ia_miou_small"], scores["ia_miou_penalized_small"]
        (tensor(0.5000, dtype=torch.float64), tensor(0.5000, dtype=torch.float64), tensor(0.2500, dtype=torch.float64))

    Source: Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    tally: Tensor
    confusion: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        protocol: Protocol = "wacv2024",
        background: int | None = 0,
        ignore_index: int | None = 255,
        instance_ignore_index: int | Literal["ignore_index"] | None = "ignore_index",
        per_class: bool = True,
        extra: Sequence[str] = (),
        absent_classes: AbsentClasses = "skip",
        validate: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = checks.integer("num_classes", num_classes, 1, checks.MAX_CLASSES, optional=False)
        self.protocol = checks.choice("protocol", protocol, checks.PROTOCOLS)
        self.background = checks.background(background)
        self.ignore_index = checks.integer("ignore_index", ignore_index)
        if instance_ignore_index != "ignore_index":
            checks.integer("instance_ignore_index", instance_ignore_index)
        self.instance_ignore_index = instance_ignore_index
        self.per_class = per_class
        self.validate = validate
        self.add_state("tally", torch.zeros(3, self.num_classes, 4, dtype=torch.int64), dist_reduce_fx="sum")
        confusion = torch.zeros(self.num_classes, self.num_classes + 1, dtype=torch.int64)
        self.add_state("confusion", confusion, dist_reduce_fx="sum")
        self.absent_classes = checks.choice("absent_classes", absent_classes, ABSENT_CLASSES)
        self.extra = further.chosen(extra)
        for name, sums in further.needs(self.extra).items():
            if sums.stacked:
                self.add_state(name, [], dist_reduce_fx="cat")
            else:
                zeros = torch.zeros(self.num_classes, len(sums.columns), dtype=torch.int64)
                self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, preds: Array, target: Array, instances: Array | None = None) -> None:
        """Add a batch: class ids or logits, and the ground truth; see the class."""
        if isinstance(preds, Tensor) and preds.is_floating_point() and preds.ndim == target.ndim + 1:
            if preds.shape[-3] != self.num_classes:
                shape = tuple(preds.shape)
                raise ValueError(f"preds must have num_classes = {self.num_classes} channels, got shape {shape}")
            preds = _upsample_argmax(preds, target.shape[-2:])
        options: dict[str, Any] = {
            "protocol": self.protocol,
            "background": self.background,
            "ignore_index": self.ignore_index,
            "instance_ignore_index": self.instance_ignore_index,
        }
        if not self.extra and isinstance(preds, Tensor) and preds.is_cuda and preds.device == self.tally.device:
            if self.tally.is_inference() and not torch.is_inference_mode_enabled():  # could not be written to
                self.tally, self.confusion = self.tally.clone(), self.confusion.clone()
            sums: dict[str, Any] = {"tally": self.tally, "confusion": self.confusion}
            add_instances(preds, target, instances, **sums, **options, validate=self.validate)
            return
        options["num_classes"] = self.num_classes
        if self.extra:
            preds, target, instances = map(_on_host, (preds, target, instances))
            records, confusion, matches = instance_matches(preds, target, instances, **options)
            self._add_extra(preds, target, records, confusion, matches)
        else:
            records, confusion = instance_overlaps(preds, target, instances, **options, validate=self.validate)
        records = InstanceIoU(*map(_on_host, records))
        counted = tally(records, num_classes=self.num_classes, background=self.background)
        # not in place: a state that was reset in inference mode could not be written to outside of it
        self.tally = self.tally + torch.as_tensor(counted, device=self.device)
        confusion = torch.as_tensor(_on_host(confusion), device=self.device)
        self.confusion = self.confusion + confusion.reshape(-1, *self.confusion.shape).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Scores of all that was added; see the class."""
        options: dict[str, Any] = {"per_class": self.per_class, "absent_classes": self.absent_classes}
        result = scores(self.tally, self.confusion, **options)
        if self.extra:
            counts = {name: self._counts(name) for name in further.needs(self.extra)}
            found = further.further_scores(self.extra, counts, self.tally, self.confusion)
            values = {name: torch.from_numpy(np.array(value, np.float64)) for name, value in found.items()}
            result |= {name: value for name, value in values.items() if self.per_class or value.ndim == 0}
        return {name: value.to(self.device) for name, value in result.items()}

    def _add_extra(
        self, preds: Array, target: Array, records: InstanceIoU, confusion: Array, matches: ComponentMatches
    ) -> None:
        if target.ndim == 2:
            images = [(preds, target, records, confusion, matches)]
        else:
            images = [
                (preds[i], target[i], InstanceIoU(*(part[i] for part in records)), confusion[i],
                 ComponentMatches(*(part[i] for part in matches)))
                for i in range(len(target))
            ]  # fmt: skip
        for image in images:
            counts = further.count(self.extra, CountedImage(*image, self.background, self.ignore_index))
            for name, sums in further.needs(self.extra).items():
                counted = torch.as_tensor(counts[name], device=self.device)
                if sums.stacked:
                    getattr(self, name).append(counted[None])
                else:
                    setattr(self, name, getattr(self, name) + counted)

    def _counts(self, name: str) -> Tensor:
        state = getattr(self, name)
        if isinstance(state, list):  # of images; one tensor after a gather
            columns = len(further.needs(self.extra)[name].columns)
            none = torch.zeros(0, self.num_classes, columns, dtype=torch.int64, device=self.device)
            state = torch.cat([none, *state])
        return state.cpu()

    def plot(self, val: Any = None, ax: Any = None, *, per_class: bool = False) -> tuple[Any, Any]:
        """Draw the scores as bars, or IA-IoU by class and size.

        Args:
            val: a result of ``compute()``, or a sequence of them, which is drawn over its steps; None: that of now.
            ax: matplotlib axes to draw on; None: new ones.
            per_class: draw three bars a class instead, one per instance size.

        Returns:
            Figure and axes.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: ``per_class`` of a result without entries per class.
        """
        val = self.compute() if val is None else val
        if isinstance(val, Sequence):
            steps = [{name: value for name, value in step.items() if value.ndim == 0} for step in val]
            return self._plot(steps, ax)
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        if per_class:
            if "ia_iou_per_class" not in val:
                raise ValueError("per_class must be True for the metric whose entries per class are plotted")
            for i, size in enumerate(SIZE_NAMES):
                heights = val[f"ia_iou_{size}_per_class"].cpu().numpy()
                ax.bar(np.arange(len(heights)) + (i - 1) * 0.27, heights, width=0.27, label=size)
            ax.legend()
            ax.set_xlabel("class")
            ax.set_ylabel("IA-IoU")
        else:
            bars = {name: value.item() for name, value in val.items() if value.ndim == 0}
            ax.bar(list(bars), list(bars.values()))
            ax.tick_params(axis="x", rotation=90)
        ax.set_ylim(self.plot_lower_bound, self.plot_upper_bound)
        return ax.figure, ax

    def set_dtype(self, dst_type: str | torch.dtype) -> InstanceAwareIoU:
        """Leave the state as it is: sums in another dtype would no longer be exact."""
        return self


def _on_host(array: Array | None) -> Array | None:
    """A NumPy array as it is, anything else as one."""
    if array is None or isinstance(array, np.ndarray):
        return array
    return (array if isinstance(array, Tensor) else torch.from_dlpack(array)).cpu().numpy()


def _upsample_argmax(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Class ids `[..., H, W]` of logits `[..., C, h, w]`."""
    return upsample_argmax(logits, size) if logits.ndim == 4 else upsample_argmax(logits[None], size)[0]
