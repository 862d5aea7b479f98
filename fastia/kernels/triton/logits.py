"""The Triton backend: pixel losses and argmax of bilinearly upsampled logits that are never formed, on CUDA tensors.

Arguments are taken as checked; every tensor may have any strides. Nothing here waits for the device. The same input
gives the same bits: no atomics, and sums of programs are added in a fixed order. `docs/fused_loss.md` derives the
gather backward and counts its bytes and operations.
"""

from typing import Any

import torch
import triton

if not hasattr(triton.language, "gather"):
    raise ImportError(f"Triton must be 3.2 or later, as torch 2.6 brings it, got {triton.__version__}")

from fastia.kernels.shared import dense
from fastia.kernels.triton.pixel_losses import PIXEL_LOSSES, PixelLoss
from fastia.kernels.triton.walk import (
    argmax_kernel,
    backward_kernel,
    backward_same_size_kernel,
    forward_kernel,
    pixel_kernel,
)
from fastia.options import LossOptions

PIXELS = 128  # full-resolution pixels of one program: one per thread of four warps
CELLS = {4: 32, 8: 16, 16: 16}  # low-resolution columns of one backward program (a warp), for each block of classes
BACKWARD_PROGRAMS = 4096  # enough to keep a large GPU busy; strips of rows are cut no shorter than that takes
# Forward and backward round alike: sums name their fused multiply-adds. Without a limit ptxas spills to run more warps.
PIXEL_OPTIONS = {"num_warps": 4, "maxnreg": 128, "enable_fp_fusion": False}
CELL_OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}


def class_block(num_classes: int) -> int:
    """The number of classes that a program holds at a time.

    Kernels are compiled once each for 1..4, 5..24 and more classes, argmax once more beyond 256, where ids are int32.
    """
    return 4 if num_classes <= 4 else 8 if num_classes <= 24 else 16


def upsample_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None,
    class_weight: torch.Tensor | None,
    options: LossOptions,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the loss `[B, H, W]` in float32, the log-sum-exp `[B, H, W]` in float64 and three sums in float64.

    The sums are those of the loss, of weight x class weight, and the number of pixels that are not ignored.
    """
    b, height, width = target.shape
    num_classes, in_height, in_width = logits.shape[1:]
    pixel_loss = _pixel_loss(options)
    loss = logits.new_empty((b, height, width), dtype=torch.float32)
    # float32 would round off digits of a large log-sum-exp that the softmax in the backward still has
    lse = torch.empty_like(loss, dtype=torch.float64)
    programs = b * triton.cdiv(height * width, PIXELS)
    partial_sums = loss.new_empty((3, programs))
    if programs == 0 or logits.numel() == 0:
        return loss.zero_(), lse.zero_(), partial_sums.new_zeros(3, dtype=torch.float64)
    target, weights, class_weight = _readable(target), _float32(weights), dense(class_weight, torch.float32)
    with _device(logits):
        forward_kernel[(programs,)](
            logits, target, weights, class_weight, loss, lse, partial_sums,
            *logits.stride(), *target.stride(), *_strides(weights),
            num_classes, in_height, in_width, height, width, _ignored_class(options.ignore_index, logits),
            pixel_loss.class_share(options.parameters, num_classes), *_two(options.parameters),
            FORWARD=pixel_loss.forward, ALIGN_CORNERS=bool(options.align_corners),
            WIDE=_is_wide(logits, target, weights, loss), CLASSES=class_block(num_classes), PIXELS=PIXELS,
            **PIXEL_OPTIONS,
        )  # fmt: skip
    return loss, lse, partial_sums.sum(1, dtype=torch.float64)


def upsample_loss_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None,
    class_weight: torch.Tensor | None,
    lse: torch.Tensor,
    options: LossOptions,
) -> torch.Tensor:
    """Returns the gradient of the logits; `grad` is that of the loss, `[B, H, W]` or one number for every pixel."""
    b, height, width = target.shape
    num_classes, in_height, in_width = logits.shape[1:]
    pixel_loss = _pixel_loss(options)
    grad_logits = torch.empty_like(logits)
    if logits.numel() == 0 or target.numel() == 0:
        return grad_logits.zero_()
    target, weights, class_weight = _readable(target), _float32(weights), dense(class_weight, torch.float32)
    grad, lse = grad.to(torch.float32).expand(target.shape), lse.contiguous()
    class_share = pixel_loss.class_share(options.parameters, num_classes)
    softmax_factor, target_factor, rounded_lse = (torch.empty_like(lse, dtype=torch.float32) for _ in range(3))
    class_factor = torch.empty_like(rounded_lse) if class_share else None
    labels = torch.empty_like(lse, dtype=torch.int16 if num_classes < 2**15 else torch.int32)
    row_used = labels.new_empty((b, height), dtype=torch.int32)
    wide = _is_wide(logits, grad_logits, target, weights, grad, lse)
    classes = class_block(num_classes)
    needs_nll = pixel_loss.backward_needs_nll
    with _device(logits):
        pixel_kernel[(b * height,)](
            logits if needs_nll else None, grad, target, weights, lse,
            class_weight, None if class_weight is None else class_weight.sum(),
            softmax_factor, target_factor, class_factor, rounded_lse, labels, row_used,
            *logits.stride(), *grad.stride(), *target.stride(), *_strides(weights),
            num_classes, in_height, in_width, height, width, _ignored_class(options.ignore_index, logits),
            class_share, *_two(options.parameters),
            BACKWARD=pixel_loss.backward, ALIGN_CORNERS=needs_nll and bool(options.align_corners),
            WIDE=wide, PIXELS=PIXELS, **PIXEL_OPTIONS,
        )  # fmt: skip
        if (in_height, in_width) == (height, width):
            backward_same_size_kernel[(b * triton.cdiv(height * width, PIXELS),)](
                logits, softmax_factor, target_factor, class_factor, rounded_lse, labels, class_weight, grad_logits,
                *logits.stride(), *grad_logits.stride(), num_classes, height, width,
                WIDE=wide, CLASSES=classes, PIXELS=PIXELS, **PIXEL_OPTIONS,
            )  # fmt: skip
            return grad_logits
        programs = b * triton.cdiv(num_classes, classes) * triton.cdiv(in_width, CELLS[classes] - 1)
        strip = max(triton.cdiv(in_height * programs, BACKWARD_PROGRAMS), 2)  # a strip recomputes one row of cells
        backward_kernel[(programs * triton.cdiv(in_height, strip),)](
            logits, softmax_factor, target_factor, class_factor, rounded_lse, labels, row_used, class_weight,
            grad_logits, *logits.stride(), *grad_logits.stride(),
            num_classes, in_height, in_width, height, width, strip,
            ALIGN_CORNERS=bool(options.align_corners), WIDE=wide, CLASSES=classes, CELLS=CELLS[classes],
            **CELL_OPTIONS,
        )  # fmt: skip
    return grad_logits


def upsample_argmax(logits: torch.Tensor, size: tuple[int, int], *, align_corners: bool) -> torch.Tensor:
    """Returns the class of the largest upsampled logit, ties to the lowest: uint8 (C <= 256) or int32 `[B, H, W]`."""
    b, num_classes, in_height, in_width = logits.shape
    height, width = size
    out = logits.new_empty((b, height, width), dtype=torch.uint8 if num_classes <= 256 else torch.int32)
    programs = b * triton.cdiv(height * width, PIXELS)
    if programs:
        with _device(logits):
            argmax_kernel[(programs,)](
                logits, out, *logits.stride(), num_classes, in_height, in_width, height, width,
                ALIGN_CORNERS=bool(align_corners), WIDE=_is_wide(logits, out), CLASSES=class_block(num_classes),
                PIXELS=PIXELS, **PIXEL_OPTIONS,
            )  # fmt: skip
    return out


def _readable(target: torch.Tensor) -> torch.Tensor:
    return target.view(torch.uint8) if target.dtype == torch.bool else target


def _float32(weights: torch.Tensor | None) -> torch.Tensor | None:
    return None if weights is None else weights.to(torch.float32)


def _strides(weights: torch.Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if weights is None else weights.stride()


def _two(parameters: tuple[float, ...]) -> tuple[float, ...]:
    """The parameters of a pixel loss as its functions take them, always two."""
    return (*parameters, 0.0, 0.0)[:2]


def _pixel_loss(options: LossOptions) -> PixelLoss:
    if options.name not in PIXEL_LOSSES:
        raise NotImplementedError(f"the Triton kernels have no pixel loss {options.name}")
    return PIXEL_LOSSES[options.name]


def _ignored_class(ignore_index: int | None, logits: torch.Tensor) -> int:
    """`ignore_index` where it is a class; any other id outside the classes is ignored without asking."""
    return -1 if ignore_index is None or not 0 <= ignore_index < logits.shape[1] else ignore_index


def _is_wide(logits: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether an offset or a position may not fit into 32 bits; the last tensor has the shape of the output.

    The last program may reach past the end by a few thousand.
    """
    tensors = [logits, *(tensor for tensor in others if tensor is not None)]
    extents = [sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) for t in tensors]
    sides = zip(logits.shape[2:], tensors[-1].shape[1:], strict=True)
    positions = [2 * (of + 1) * (to + 1) for of, to in sides]  # numerators of `interpolation`
    return max(*extents, *positions) >= 2**31 - 2**16


def _device(tensor: torch.Tensor) -> Any:
    """Launches go to the tensor's device (Triton takes the current one); under the interpreter there is none."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)
