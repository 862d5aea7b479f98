"""The size-weighted cross-entropy, Eq. 4 of Mun et al., as a function and as a module."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastia.functional import checks
from fastia.functional.logits import check_loss_inputs, loss_options, pixel_loss
from fastia.functional.masks import component_options
from fastia.kernels.shared import arithmetic
from fastia.ops.logits import register_pixel_loss

register_pixel_loss("cross_entropy", "label_smoothing")


def size_weighted_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    tau: float = 5.0,
    connectivity: Literal[4, 8] = 8,
    background: int | None = 0,
    ignore_index: int | None = 255,
    normalizer: Literal["class", "foreground"] = "class",
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    resize: Literal["logits", "target"] = "logits",
    align_corners: bool = False,
    normalize: Literal["weights", "valid", "pixels"] = "weights",
    reduction: Literal["mean", "sum", "none"] = "mean",
    validate: bool = False,
) -> Tensor:
    """Cross-entropy of bilinearly upsampled logits, where pixels of small connected components weigh more.

    The upsampled logits are never in memory. Arithmetic is float32 (float64 for float64 logits), the result too; the
    gradient has the dtype of ``logits``.

    Args:
        logits: ``[B, C, h, w]`` float32, float16 or bfloat16, or float64 on the CPU; any strides.
        target: class ids ``[B, H, W]`` of the dtypes of :func:`label`: 0..C-1 or ``ignore_index``.
        weights: of each pixel, ``[B, H, W]`` floating and not negative. None: :func:`weights` of ``target``.
        tau, connectivity, background, normalizer: as in :func:`weights`; of use where ``weights`` is None. With
            ``tau=1`` every weight is 1: the plain cross-entropy.
        ignore_index: id of pixels that take no part, any integer; None: none.
        class_weight: ``[C]`` floating, the ``weight`` of ``torch.nn.functional.cross_entropy``.
        label_smoothing: in 0..1, as in ``torch.nn.functional.cross_entropy``.
        resize: ``"logits"``: logits are upsampled to H x W as by ``F.interpolate(mode="bilinear")``. ``"target"``:
            target and weights are resized to h x w, index ``((2i + 1) * H) // (2h)``, and weights computed here are
            those of the resized target.
        align_corners: as in ``torch.nn.functional.interpolate``.
        normalize: what ``reduction="mean"`` divides the sum of ``w * ce`` by. ``"weights"``: the sum of ``w *
            class_weight[target]``; ``"valid"``: the number of pixels that are not ignored; ``"pixels"``: the number
            of all pixels. Always over the whole batch.
        reduction: ``"mean"``, ``"sum"`` of ``w * ce``, or ``"none"``.
        validate: check ids and weights on a GPU too, where that waits for the device; on the CPU they are always
            checked.

    Returns:
        The 0-d loss, 0 where there is nothing to average; for ``"none"`` ``w * ce`` of each pixel, ``[B, H, W]``
        (``[B, h, w]`` with ``resize="target"``), 0 where ignored. Gradients flow to ``logits`` alone.

    Raises:
        TypeError: an argument is no tensor, or its dtype is none of the above.
        ValueError: shapes, batches or devices that do not match; a target of C or more; negative weights; weights
            that require gradients; an option that is not allowed.

    Example:
        >>> import torch
        >>> import fastia
        >>> logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
        >>> target = torch.tensor([[[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]]])
        >>> loss = fastia.size_weighted_cross_entropy(logits, target)
        >>> loss.backward()
        >>> round(loss.item(), 4), logits.grad.shape
        (0.6931, torch.Size([1, 2, 2, 2]))

    Source: Eq. 4 of Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    check_loss_inputs(logits, target, weights, class_weight)
    components = component_options(connectivity, background, ignore_index, validate)
    checks.choice("normalizer", normalizer, checks.NORMALIZERS)
    tau = checks.number("tau", tau, 1)
    label_smoothing = checks.number("label_smoothing", label_smoothing, 0, 1)
    if logits.shape[1] == 1:
        label_smoothing = 0.0  # means nothing to one class, whose gradient is then 0 exactly
    options = loss_options(
        "cross_entropy",
        (label_smoothing,),
        ignore_index=ignore_index,
        resize=resize,
        align_corners=align_corners,
        normalize=normalize,
        reduction=reduction,
        validate=validate,
    )

    def size_weights(target: Tensor) -> Tensor:
        return torch.ops.fastia.weights(target, *components, tau, normalizer, arithmetic(logits))

    return pixel_loss(logits, target, weights, class_weight, options, None if tau == 1 else size_weights)


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
