"""DeepLabV2: dilated features, parallel convolutions at four rates, and the maximum over scales of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastia.functional import checks
from fastia.models.backbones import BACKBONES
from fastia.models.weights import LoadReport, load_matching, read_state, unwrapped_name
from fastia.typing import PathLike

RATES = (6, 12, 18, 24)


class DeepLabV2(nn.Module):
    """DeepLabV2, the network of the paper: images ``[B, 3, H, W]`` to logits ``[B, C, h, w]``.

    In training the result is a list: the logits of each scale, bilinearly resized to those of scale 1, and with more
    than one scale, last, their element-wise maximum; the loss is the sum over the list. In evaluation it is the
    maximum alone (the logits, with one scale). h and w are an eighth of H and W, rounded up:
    :func:`fastia.size_weighted_cross_entropy` and :func:`fastia.upsample_argmax` resize.

    The residual networks have torchvision's names and a batch norm that is frozen in training too, statistics and
    affine parameters: they want weights of a trained network, by ``load_backbone``. ``"small"`` has no norm, and learns
    from nothing.

    Args:
        num_classes: number of classes C.
        backbone: ``"resnet101"``, ``"resnet50"``, ``"resnet18"`` or ``"small"``.
        scales: of the input, 1 first.

    Raises:
        ValueError: an unknown backbone, no class, or scales that do not begin with 1.

    Example:
        >>> import torch
        >>> from fastia.models import DeepLabV2
        >>> model = DeepLabV2(21, backbone="small")
        >>> [tuple(logits.shape) for logits in model(torch.rand(1, 3, 64, 48))]
        [(1, 21, 8, 6), (1, 21, 8, 6), (1, 21, 8, 6), (1, 21, 8, 6)]
        >>> tuple(model.eval()(torch.rand(1, 3, 64, 48)).shape)
        (1, 21, 8, 6)

    Source: Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
    Fully Connected CRFs" (2017).
    """

    def __init__(
        self, num_classes: int, *, backbone: str = "resnet101", scales: Sequence[float] = (1.0, 0.75, 0.5)
    ) -> None:
        super().__init__()
        checks.integer("num_classes", num_classes, 1, checks.MAX_CLASSES, optional=False)
        checks.choice("backbone", backbone, tuple(BACKBONES))
        if not scales or scales[0] != 1 or min(scales) <= 0:
            raise ValueError(f"scales must begin with 1 and be above 0, got {tuple(scales)}")
        self.scales = tuple(scales)
        self.backbone = BACKBONES[backbone]()
        channels = self.backbone.channels
        branches = [nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate) for rate in RATES]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type]
        self.classifier = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """Logits of images ``[B, 3, H, W]``: a list in training, one tensor in evaluation."""
        logits = [self._logits(images)]
        for scale in self.scales[1:]:
            resized = self._logits(F.interpolate(images, scale_factor=scale, mode="bilinear"))
            logits.append(F.interpolate(resized, size=logits[0].shape[2:], mode="bilinear"))
        if len(logits) > 1:
            maximum = logits[0]
            for each in logits[1:]:
                maximum = torch.maximum(maximum, each)
            logits.append(maximum)
        return logits if self.training else logits[-1]

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Three groups for an optimizer: backbone x1, classifier weight x10, classifier bias x20 without decay.

        Each holds ``initial_lr`` beside ``lr``, what torch's schedulers, and a poly schedule, scale.

        Example:
            >>> groups = DeepLabV2(3, backbone="small").parameter_groups(0.01, 5e-4)
            >>> [(group["lr"], group["weight_decay"]) for group in groups]
            [(0.01, 0.0005), (0.1, 0.0005), (0.2, 0.0)]
        """
        trainable = [value for value in self.backbone.parameters() if value.requires_grad]
        groups = [
            (trainable, 1, weight_decay),
            ([branch.weight for branch in self.classifier], 10, weight_decay),
            ([branch.bias for branch in self.classifier], 20, 0.0),
        ]
        return [
            {"params": params, "lr": rate, "initial_lr": rate, "weight_decay": decay}
            for params, rate, decay in ((params, factor * learning_rate, decay) for params, factor, decay in groups)
        ]

    def load_backbone(self, path: PathLike) -> LoadReport:
        """Load the backbone from a state dict file with torchvision's names, or one of a whole segmentation network.

        Returns:
            What matched, was skipped (``fc.weight``), is missing, or has another shape.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be read, holds no state dict, or nothing in it matches.
        """
        state = {unwrapped_name(name).removeprefix("backbone."): tensor for name, tensor in read_state(path).items()}
        try:
            return load_matching(self.backbone, state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _logits(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        branches = [branch(features) for branch in self.classifier]
        return branches[0] + branches[1] + branches[2] + branches[3]
