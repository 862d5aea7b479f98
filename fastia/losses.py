"""The loss as a module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastia.functional_loss import size_weighted_cross_entropy


class SizeWeightedCrossEntropy(nn.Module):
    """:func:`size_weighted_cross_entropy` as a module: takes the place of ``nn.CrossEntropyLoss`` for segmentation.

    Logits may have any resolution: they need not be upsampled before. With ``tau=1`` the loss is the plain
    cross-entropy. What others do by default, and the arguments that do the same here (``tau=1`` besides):

    =============================================  ===============  ==============  =======================
    default of                                     ignore_index     normalize       reduction
    =============================================  ===============  ==============  =======================
    ``nn.CrossEntropyLoss()``                      ``-100``         ``"valid"``     ``"mean"``
    ``nn.CrossEntropyLoss(weight)``                ``-100``         ``"weights"``   ``"mean"``
    Hugging Face ``*ForSemanticSegmentation``      ``255``          ``"valid"``     ``"mean"``
    mmsegmentation ``CrossEntropyLoss``            ``255``          ``"pixels"``    ``"mean"``
    mmsegmentation, ``avg_non_ignore=True``        ``255``          ``"valid"``     ``"mean"``
    smp ``SoftCrossEntropyLoss(smooth_factor=0)``  ``-100``         ``"pixels"``    ``"mean"``
    this module, code released with the paper      ``255``          ``"weights"``   ``"mean"``
    =============================================  ===============  ==============  =======================

    Args:
        class_weight: ``[C]``, kept as a buffer that is not saved; None: 1.
        options: the keyword arguments of :func:`size_weighted_cross_entropy`.

    Raises:
        TypeError: an option that :func:`size_weighted_cross_entropy` does not have.

    Example:
        >>> import torch
        >>> import fastia
        >>> criterion = fastia.SizeWeightedCrossEntropy(tau=5.0, ignore_index=255)
        >>> logits, target = torch.zeros(2, 3, 8, 8), torch.randint(0, 3, (2, 32, 32))
        >>> round(criterion(logits, target).item(), 4)
        1.0986

    Source: as :func:`size_weighted_cross_entropy`.
    """

    class_weight: Tensor | None

    def __init__(self, *, class_weight: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        allowed = size_weighted_cross_entropy.__kwdefaults__ or {}
        for name in options:
            if name not in allowed:
                raise TypeError(f"{name} is no option of SizeWeightedCrossEntropy, which are {', '.join(allowed)}")
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.options = options

    def forward(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of logits ``[B, C, h, w]`` on a target ``[B, H, W]``."""
        return size_weighted_cross_entropy(logits, target, weights, class_weight=self.class_weight, **self.options)

    def extra_repr(self) -> str:
        """The options that were given."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
