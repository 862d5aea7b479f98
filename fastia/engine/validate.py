"""Scores and predictions of a network on the images of a split, shared among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastia.data.files import replacing
from fastia.data.png import read_ids, write_ids
from fastia.data.training import normalized, read_image
from fastia.data.voc import Dataset
from fastia.engine.processes import Processes
from fastia.functional import upsample_argmax
from fastia.metrics import InstanceAwareIoU


def validate(
    model: nn.Module,
    dataset: Dataset,
    names: Sequence[str],
    here: Processes,
    *,
    num_classes: int,
    background: int | None = 0,
    ignore_index: int | None = 255,
    precision: torch.dtype = torch.float32,
) -> dict[str, float]:
    """The scores of :class:`fastia.InstanceAwareIoU` at one scale, the same bits for any number of processes.

    Args:
        model: images ``[1, 3, H, W]`` to logits ``[1, C, h, w]`` in evaluation mode.
        dataset: where images, targets and instances are.
        names: ids of the images.
        here: this process, which takes every ``here.count``-th image.
        num_classes, background, ignore_index: as in :class:`fastia.InstanceAwareIoU`.
        precision: of the forward pass.
    """
    metric = InstanceAwareIoU(num_classes, background=background, ignore_index=ignore_index, per_class=False).to(
        here.device
    )
    for name, logits, _ in _outputs(model, dataset, names, here, precision, (1.0,), False):
        folders = [dataset.targets, *([dataset.instances] if dataset.has_instances else [])]
        ids = [torch.from_numpy(read_ids(folder / f"{name}.png").copy())[None] for folder in folders]
        metric.update(logits, *(each.to(here.device) for each in ids))
    return {name: score.item() for name, score in metric.compute().items()}


def write_predictions(
    model: nn.Module,
    dataset: Dataset,
    names: Sequence[str],
    here: Processes,
    folder: Path,
    *,
    precision: torch.dtype = torch.float32,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> None:
    """Write a palette PNG of class ids per image, for `fastia evaluate`.

    Args:
        model, dataset, names, here, precision: as in :func:`validate`.
        folder: where to; made where it does not exist.
        scales: of the image; with several of them, or ``flip``, class probabilities are averaged.
        flip: whether mirrored images are averaged in too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, logits, size in _outputs(model, dataset, names, here, precision, scales, flip):
        with replacing(folder / f"{name}.png") as partial:
            write_ids(partial, upsample_argmax(logits, size)[0].cpu().numpy())


@torch.inference_mode()
def _outputs(
    model: nn.Module,
    dataset: Dataset,
    names: Sequence[str],
    here: Processes,
    precision: torch.dtype,
    scales: Sequence[float],
    flip: bool,
) -> Iterator[tuple[str, Tensor, tuple[int, int]]]:
    """Name, logits ``[1, C, h, w]`` and size of each image of this process."""
    training = model.training
    model.eval()
    try:
        for name in names[here.rank :: here.count]:
            picture = np.ascontiguousarray(read_image(dataset.images / f"{name}.jpg").transpose(2, 0, 1))
            image = normalized(torch.from_numpy(picture)[None].to(here.device))
            with torch.autocast(here.device.type, precision, enabled=precision != torch.float32):
                logits = _averaged(model, image, scales, flip)
            yield name, logits, (image.shape[2], image.shape[3])
    finally:
        model.train(training)


def _averaged(model: nn.Module, image: Tensor, scales: Sequence[float], flip: bool) -> Tensor:
    """Logits, or the mean of the class probabilities of several views at the resolution of the largest."""
    views = []
    for scale in sorted(scales, reverse=True):
        size = [max(1, round(scale * side)) for side in image.shape[2:]]
        view = image if scale == 1 else nn.functional.interpolate(image, size, mode="bilinear", antialias=scale < 1)
        views.append(model(view))
        if flip:
            views.append(model(view.flip(3)).flip(3))
    if len(views) == 1:
        return views[0]
    return torch.stack(
        [nn.functional.interpolate(view.float(), views[0].shape[2:], mode="bilinear").softmax(1) for view in views]
    ).mean(0)
