"""The device code of `logits`: pixel losses and argmax of bilinearly upsampled logits, which are never formed.

Each kernel is compiled once per block of classes, dtype and `align_corners`, and once more (`WIDE`) for tensors whose
offsets need 64 bits: sizes, strides and addresses are never specialised on. A tensor that may be absent is then None,
which is known when a kernel is compiled. What is computed of a pixel, FORWARD and BACKWARD, is one of `pixel_losses`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from fastia.kernels.triton.interpolation import (
    as_index,
    corners_of,
    exp,
    first_output,
    fraction_of,
    interpolate,
    mix,
)


def _kernel(function: Callable) -> Any:
    """`triton.jit` without specialisation: neither on values such as 1 or multiples of 16, nor on aligned addresses."""
    names = [name for name, p in inspect.signature(function).parameters.items() if p.annotation is not tl.constexpr]
    return triton.jit(function, do_not_specialize=names, do_not_specialize_on_alignment=names)


@triton.jit
def _target_class(target, weights, target_offset, weights_offset, mask, num_classes, ignore_index):
    """The class of each pixel, -1 where it is ignored, and its weight, 1 where it has none."""
    ids = tl.load(target + target_offset, mask=mask, other=0).to(tl.int64)
    valid = mask & (ids >= 0) & (ids < num_classes) & (ids != ignore_index)
    if weights is None:
        weight = tl.full(ids.shape, 1.0, tl.float32)
    else:
        weight = tl.load(weights + weights_offset, mask=mask, other=1.0)
        valid = valid & ((weight >= 0) | (weight != weight))  # a NaN weight is no negative one: it shows in the loss
    return tl.where(valid, ids, -1).to(tl.int32), weight


@triton.jit
def _weight_of_class(class_weight, c, mask):
    if class_weight is None:
        return tl.full(c.shape, 1.0, tl.float32)
    else:
        return tl.load(class_weight + c, mask=mask, other=1.0)


@_kernel
def forward_kernel(
    logits, target, weights, class_weight, loss, lse, partial_sums,
    logits_b: tl.int64, logits_c: tl.int64, logits_y: tl.int64, logits_x: tl.int64,
    target_b: tl.int64, target_y: tl.int64, target_x: tl.int64,
    weights_b: tl.int64, weights_y: tl.int64, weights_x: tl.int64,
    num_classes: tl.int32, in_height: tl.int32, in_width: tl.int32, out_height: tl.int32, out_width: tl.int32,
    ignore_index: tl.int32, class_share: tl.float32, first_parameter: tl.float32, second_parameter: tl.float32,
    FORWARD: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr, WIDE: tl.constexpr, CLASSES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    size = as_index(out_height, WIDE) * out_width
    tiles = tl.cdiv(size, PIXELS)
    program = tl.program_id(0)
    b = program // tiles
    pixel = program % tiles * PIXELS + tl.arange(0, PIXELS)
    y, x = (pixel // out_width).to(tl.int32), (pixel % out_width).to(tl.int32)
    inside = pixel < size

    label, weight = _target_class(
        target,
        weights,
        b * as_index(target_b, WIDE) + y * as_index(target_y, WIDE) + x * as_index(target_x, WIDE),
        b * as_index(weights_b, WIDE) + y * as_index(weights_y, WIDE) + x * as_index(weights_x, WIDE),
        inside, num_classes, ignore_index,
    )  # fmt: skip
    valid = label >= 0
    log_sum_exp = tl.full([PIXELS], 0.0, tl.float64)
    value = tl.full([PIXELS], 0.0, tl.float32)
    label_weight = tl.full([PIXELS], 0.0, tl.float32)
    if tl.max(valid.to(tl.int32), 0) > 0:
        stride = as_index(logits_c, WIDE)
        top_left, top_right, bottom_left, bottom_right, fraction_y, fraction_x = corners_of(
            as_index(y, WIDE), as_index(x, WIDE), as_index(logits_y, WIDE), as_index(logits_x, WIDE),
            in_height, in_width, out_height, out_width, ALIGN_CORNERS,
        )  # fmt: skip
        image = logits + b * as_index(logits_b, WIDE)
        resized = ((in_height != out_height) | (in_width != out_width)).to(tl.int32)
        largest = tl.full([PIXELS], float("-inf"), tl.float32)
        total = tl.full([PIXELS], 0.0, tl.float32)
        below = tl.full([PIXELS], 0.0, tl.float32)  # sum over classes of class_weight * (shift - z)
        shift = tl.full([PIXELS], 0.0, tl.float32)
        class_total = 0.0
        for first in range(0, num_classes, CLASSES):
            c = first + tl.arange(0, CLASSES)
            present = c < num_classes
            corners = (
                top_left[None, :], top_right[None, :], bottom_left[None, :], bottom_right[None, :],
                fraction_y[None, :], fraction_x[None, :],
            )  # fmt: skip
            z = interpolate(image + (c * stride)[:, None], corners, present[:, None] & valid[None, :], resized)
            z = tl.where(present[:, None], z, float("-inf"))
            larger = tl.maximum(largest, tl.max(z, 0))
            previous_shift = shift
            shift = tl.where(larger == float("-inf"), 0.0, larger)
            if class_share != 0:
                class_weights = _weight_of_class(class_weight, c, present)
                distances = tl.where(present[:, None], class_weights[:, None] * (shift[None, :] - z), 0.0)
                below += (shift - previous_shift) * class_total + tl.sum(distances, 0)
                class_total += tl.sum(tl.where(present, class_weights, 0.0), 0)
            total = total * exp(largest - shift) + tl.sum(exp(z - shift[None, :]), 0)
            largest = larger
        log_total = tl.log(total)
        log_sum_exp = largest.to(tl.float64) + log_total.to(tl.float64)

        corners = top_left, top_right, bottom_left, bottom_right, fraction_y, fraction_x
        z = interpolate(image + tl.maximum(label, 0) * stride, corners, valid, resized)
        label_weight = _weight_of_class(class_weight, label, valid)
        value = FORWARD((largest - z) + log_total, first_parameter, second_parameter) * label_weight
        if class_share != 0:
            value += class_share * (class_total * log_total + below)
    value = tl.where(valid, weight * value, 0.0)
    position = b * size + pixel
    tl.store(loss + position, value, mask=inside)
    tl.store(lse + position, tl.where(valid, log_sum_exp, 0.0), mask=inside)
    programs = tl.num_programs(0)
    tl.store(partial_sums + program, tl.sum(value, 0))
    tl.store(partial_sums + programs + program, tl.sum(tl.where(valid, weight * label_weight, 0.0), 0))
    tl.store(partial_sums + 2 * programs + program, tl.sum(valid.to(tl.float32), 0))


@_kernel
def argmax_kernel(
    logits, out,
    logits_b: tl.int64, logits_c: tl.int64, logits_y: tl.int64, logits_x: tl.int64,
    num_classes: tl.int32, in_height: tl.int32, in_width: tl.int32, out_height: tl.int32, out_width: tl.int32,
    ALIGN_CORNERS: tl.constexpr, WIDE: tl.constexpr, CLASSES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    size = as_index(out_height, WIDE) * out_width
    tiles = tl.cdiv(size, PIXELS)
    program = tl.program_id(0)
    b = program // tiles
    pixel = program % tiles * PIXELS + tl.arange(0, PIXELS)
    y, x = (pixel // out_width).to(tl.int32), (pixel % out_width).to(tl.int32)
    inside = pixel < size
    top_left, top_right, bottom_left, bottom_right, fraction_y, fraction_x = corners_of(
        as_index(y, WIDE), as_index(x, WIDE), as_index(logits_y, WIDE), as_index(logits_x, WIDE),
        in_height, in_width, out_height, out_width, ALIGN_CORNERS,
    )  # fmt: skip
    image = logits + b * as_index(logits_b, WIDE)
    resized = ((in_height != out_height) | (in_width != out_width)).to(tl.int32)
    absent = 2**31 - 1
    best = tl.full([PIXELS], float("-inf"), tl.float32)
    best_class = tl.full([PIXELS], 0, tl.int32)
    first_nan = tl.full([PIXELS], absent, tl.int32)  # torch's argmax takes the first NaN
    for first in range(0, num_classes, CLASSES):
        c = first + tl.arange(0, CLASSES)
        present = c < num_classes
        corners = (
            top_left[None, :], top_right[None, :], bottom_left[None, :], bottom_right[None, :],
            fraction_y[None, :], fraction_x[None, :],
        )  # fmt: skip
        pointer = image + (c * as_index(logits_c, WIDE))[:, None]
        z = interpolate(pointer, corners, present[:, None] & inside[None, :], resized)
        z = tl.where(present[:, None], z, float("-inf"))
        c = c[:, None]
        first_nan = tl.minimum(first_nan, tl.min(tl.where(z != z, c, absent), 0))
        value = tl.max(z, 0)
        better = value > best
        best_class = tl.where(better, tl.min(tl.where(z == value[None, :], c, absent), 0), best_class)
        best = tl.where(better, value, best)
    best_class = tl.where(first_nan < absent, first_nan, best_class)
    tl.store(out + b * size + pixel, best_class.to(out.dtype.element_ty), mask=inside)


@_kernel
def pixel_kernel(
    logits, grad, target, weights, lse, class_weight, class_weight_sum,
    softmax_factor, target_factor, class_factor, rounded_lse, labels, row_used,
    logits_b: tl.int64, logits_c: tl.int64, logits_y: tl.int64, logits_x: tl.int64,
    grad_b: tl.int64, grad_y: tl.int64, grad_x: tl.int64,
    target_b: tl.int64, target_y: tl.int64, target_x: tl.int64,
    weights_b: tl.int64, weights_y: tl.int64, weights_x: tl.int64,
    num_classes: tl.int32, in_height: tl.int32, in_width: tl.int32, height: tl.int32, width: tl.int32,
    ignore_index: tl.int32, class_share: tl.float32, first_parameter: tl.float32, second_parameter: tl.float32,
    BACKWARD: tl.constexpr, ALIGN_CORNERS: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """What a backward needs of each pixel, and of each row whether it has a pixel that is not ignored.

    The gradient of logit c of a pixel of class y is
    softmax_factor exp(z_c - rounded_lse) - target_factor [c = y] - class_factor class_weight_c;
    what the log-sum-exp was rounded by goes into the first factor. `logits` are absent where BACKWARD does not need
    the negative log-likelihood, `class_factor` where it is 0.
    """
    row = tl.program_id(0)
    b, y = row // height, row % height
    class_total = num_classes.to(tl.float32) if class_weight is None else tl.load(class_weight_sum)
    used = tl.full([PIXELS], 0, tl.int32)
    for first in range(0, width, PIXELS):
        x = first + tl.arange(0, PIXELS)
        inside = x < width
        label, weight = _target_class(
            target,
            weights,
            b * as_index(target_b, WIDE) + y * as_index(target_y, WIDE) + x * as_index(target_x, WIDE),
            b * as_index(weights_b, WIDE) + y * as_index(weights_y, WIDE) + x * as_index(weights_x, WIDE),
            inside, num_classes, ignore_index,
        )  # fmt: skip
        valid = label >= 0
        used |= valid.to(tl.int32)
        position = as_index(row, WIDE) * width + x
        grad_offset = b * as_index(grad_b, WIDE) + y * as_index(grad_y, WIDE) + x * as_index(grad_x, WIDE)
        upstream = tl.load(grad + grad_offset, mask=valid, other=0.0) * weight
        log_sum_exp = tl.load(lse + position, mask=valid, other=0.0)
        rounded = log_sum_exp.to(tl.float32)
        rest = (log_sum_exp - rounded.to(tl.float64)).to(tl.float32)
        nll = tl.full([PIXELS], 0.0, tl.float32)
        if logits is not None:
            corners = corners_of(
                as_index(y, WIDE), as_index(x, WIDE), as_index(logits_y, WIDE), as_index(logits_x, WIDE),
                in_height, in_width, height, width, ALIGN_CORNERS,
            )  # fmt: skip
            plane = logits + b * as_index(logits_b, WIDE) + tl.maximum(label, 0) * as_index(logits_c, WIDE)
            resized = ((in_height != height) | (in_width != width)).to(tl.int32)
            nll = rounded - interpolate(plane, corners, valid, resized) + rest
        slope = BACKWARD(nll, first_parameter, second_parameter) * _weight_of_class(class_weight, label, valid)
        softmax = upstream * (slope + class_share * class_total)
        tl.store(softmax_factor + position, tl.fma(-softmax, rest, softmax), mask=valid)
        tl.store(target_factor + position, upstream * slope, mask=valid)
        if class_factor is not None:
            tl.store(class_factor + position, upstream * class_share, mask=valid)
        tl.store(rounded_lse + position, rounded, mask=valid)
        tl.store(labels + position, label.to(labels.dtype.element_ty), mask=inside)
    tl.store(row_used + row, tl.max(used, 0))


@triton.jit
def _load_pixel(softmax_factor, target_factor, class_factor, rounded_lse, labels, position, mask):
    """What `pixel_kernel` has stored of a pixel: its class, the three factors and the log-sum-exp."""
    label = tl.load(labels + position, mask=mask, other=-1).to(tl.int32)
    valid = label >= 0
    of_softmax = tl.load(softmax_factor + position, mask=valid, other=0.0)
    of_target = tl.load(target_factor + position, mask=valid, other=0.0)
    of_class = tl.full(label.shape, 0.0, tl.float32)
    if class_factor is not None:
        of_class = tl.load(class_factor + position, mask=valid, other=0.0)
    return label, of_softmax, of_target, of_class, tl.load(rounded_lse + position, mask=valid, other=0.0)


@triton.jit
def _logit_gradient(z, c, class_weights, pixel, class_factor):
    label, of_softmax, of_target, of_class, lse = pixel
    g = tl.where(label[None, :] == c[:, None], -of_target[None, :], 0.0)
    g = tl.fma(of_softmax[None, :], exp(z - lse[None, :]), g)
    if class_factor is not None:
        g -= of_class[None, :] * class_weights[:, None]
    return tl.where((label >= 0)[None, :], g, 0.0)


@_kernel
def backward_kernel(
    logits, softmax_factor, target_factor, class_factor, rounded_lse, labels, row_used, class_weight, grad_logits,
    logits_b: tl.int64, logits_c: tl.int64, logits_y: tl.int64, logits_x: tl.int64,
    grad_b: tl.int64, grad_c: tl.int64, grad_y: tl.int64, grad_x: tl.int64,
    num_classes: tl.int32, in_height: tl.int32, in_width: tl.int32, out_height: tl.int32, out_width: tl.int32,
    strip: tl.int32,
    ALIGN_CORNERS: tl.constexpr, WIDE: tl.constexpr, CLASSES: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """One lane per class and cell, a cell being the outputs between four neighbours; first row and column are halo."""
    blocks = tl.cdiv(num_classes, CLASSES)
    tiles = tl.cdiv(in_width, CELLS - 1)
    strips = tl.cdiv(in_height, strip)
    program = tl.program_id(0)
    c = program % blocks * CLASSES + tl.arange(0, CLASSES)
    program = program // blocks
    lane = tl.arange(0, CELLS)
    cell = program % tiles * (CELLS - 1) - 1 + lane
    program = program // tiles
    first_row = program % strips * strip
    b = program // strips

    in_tile = (cell >= 0) & (cell < in_width)
    start = first_output(as_index(cell, WIDE), in_width, out_width, ALIGN_CORNERS).to(tl.int32)
    stop = first_output(as_index(cell + 1, WIDE), in_width, out_width, ALIGN_CORNERS).to(tl.int32)
    count = tl.where(in_tile, stop - start, 0)
    longest = tl.max(count, 0)

    present = c < num_classes
    mask = present[:, None] & in_tile[None, :]
    class_weights = _weight_of_class(class_weight, c, present)
    stride_y, stride_x = as_index(logits_y, WIDE), as_index(logits_x, WIDE)
    plane = logits + b * as_index(logits_b, WIDE) + (c * as_index(logits_c, WIDE))[:, None]
    left = (tl.maximum(cell, 0) * stride_x)[None, :]
    right = (tl.minimum(cell + 1, in_width - 1) * stride_x)[None, :]
    grad_column = grad_logits + b * as_index(grad_b, WIDE) + (c * as_index(grad_c, WIDE))[:, None]
    grad_column += (cell * as_index(grad_x, WIDE))[None, :]
    written = mask & (lane > 0)[None, :]
    left_lane = tl.broadcast_to(tl.maximum(lane - 1, 0)[None, :], (CLASSES, CELLS))
    last_cell = (cell == in_width - 1)[None, :]

    halo_row = tl.maximum(first_row - 1, 0)
    bottom_left = tl.load(plane + halo_row * stride_y + left, mask=mask, other=0.0).to(tl.float32)
    bottom_right = tl.load(plane + halo_row * stride_y + right, mask=mask, other=0.0).to(tl.float32)
    next_left = tl.full([CLASSES, CELLS], 0.0, tl.float32)
    next_right = tl.full([CLASSES, CELLS], 0.0, tl.float32)
    end = first_output(as_index(halo_row, WIDE), in_height, out_height, ALIGN_CORNERS).to(tl.int32)
    for step in range(0, tl.minimum(first_row + strip, in_height) - halo_row):
        row = halo_row + step
        begin = end
        end = first_output(as_index(row + 1, WIDE), in_height, out_height, ALIGN_CORNERS).to(tl.int32)
        top_left, top_right = bottom_left, bottom_right
        below = tl.minimum(row + 1, in_height - 1) * stride_y
        bottom_left = tl.load(plane + below + left, mask=mask, other=0.0).to(tl.float32)
        bottom_right = tl.load(plane + below + right, mask=mask, other=0.0).to(tl.float32)
        grad_left, grad_right = next_left, next_right
        next_left = tl.full([CLASSES, CELLS], 0.0, tl.float32)
        next_right = tl.full([CLASSES, CELLS], 0.0, tl.float32)
        for line in range(0, end - begin):
            y = begin + line
            output_row = as_index(b, WIDE) * out_height + y
            if tl.load(row_used + output_row) != 0:
                lower_weight = fraction_of(as_index(y, WIDE), as_index(row, WIDE), in_height, out_height, ALIGN_CORNERS)
                upper_weight = 1.0 - lower_weight
                z_left = mix(top_left, bottom_left, upper_weight, lower_weight)
                z_right = mix(top_right, bottom_right, upper_weight, lower_weight)
                sum_left = tl.full([CLASSES, CELLS], 0.0, tl.float32)
                sum_right = tl.full([CLASSES, CELLS], 0.0, tl.float32)
                for k in range(0, longest):
                    x = start + k
                    position = output_row * out_width + x
                    pixel = _load_pixel(
                        softmax_factor, target_factor, class_factor, rounded_lse, labels, position, k < count
                    )
                    right_weight = fraction_of(
                        as_index(x, WIDE), as_index(cell, WIDE), in_width, out_width, ALIGN_CORNERS
                    )
                    left_weight = 1.0 - right_weight
                    z = mix(z_left, z_right, left_weight[None, :], right_weight[None, :])
                    g = _logit_gradient(z, c, class_weights, pixel, class_factor)
                    sum_left = tl.fma(left_weight[None, :], g, sum_left)
                    sum_right = tl.fma(right_weight[None, :], g, sum_right)
                grad_left = tl.fma(upper_weight, sum_left, grad_left)
                grad_right = tl.fma(upper_weight, sum_right, grad_right)
                next_left = tl.fma(lower_weight, sum_left, next_left)
                next_right = tl.fma(lower_weight, sum_right, next_right)
        if row == in_height - 1:  # its lower neighbour is the row itself
            grad_left += next_left
            grad_right += next_right
        if row >= first_row:
            gradient = grad_left + tl.gather(grad_right, left_lane, 1) + tl.where(last_cell, grad_right, 0.0)
            pointer = grad_column + row * as_index(grad_y, WIDE)
            tl.store(pointer, gradient.to(grad_logits.dtype.element_ty), mask=written)


@_kernel
def backward_same_size_kernel(
    logits, softmax_factor, target_factor, class_factor, rounded_lse, labels, class_weight, grad_logits,
    logits_b: tl.int64, logits_c: tl.int64, logits_y: tl.int64, logits_x: tl.int64,
    grad_b: tl.int64, grad_c: tl.int64, grad_y: tl.int64, grad_x: tl.int64,
    num_classes: tl.int32, height: tl.int32, width: tl.int32,
    WIDE: tl.constexpr, CLASSES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The gradient where nothing is resized: one lane per pixel."""
    size = as_index(height, WIDE) * width
    tiles = tl.cdiv(size, PIXELS)
    program = tl.program_id(0)
    b = program // tiles
    pixel = program % tiles * PIXELS + tl.arange(0, PIXELS)
    y, x = (pixel // width).to(tl.int32), (pixel % width).to(tl.int32)
    inside = pixel < size
    position = b * size + pixel
    loaded = _load_pixel(softmax_factor, target_factor, class_factor, rounded_lse, labels, position, inside)
    valid = loaded[0] >= 0
    used = tl.max(valid.to(tl.int32), 0) > 0
    z_offset = y * as_index(logits_y, WIDE) + x * as_index(logits_x, WIDE)
    grad_offset = y * as_index(grad_y, WIDE) + x * as_index(grad_x, WIDE)
    image = logits + b * as_index(logits_b, WIDE)
    grad_image = grad_logits + b * as_index(grad_b, WIDE)
    for first in range(0, num_classes, CLASSES):
        c = first + tl.arange(0, CLASSES)
        present = (c < num_classes)[:, None]
        g = tl.full([CLASSES, PIXELS], 0.0, tl.float32)
        if used:
            class_weights = _weight_of_class(class_weight, c, c < num_classes)
            pointer = image + (c * as_index(logits_c, WIDE))[:, None] + z_offset[None, :]
            z = tl.load(pointer, mask=present & valid[None, :], other=0.0).to(tl.float32)
            g = _logit_gradient(z, c, class_weights, loaded, class_factor)
        pointer = grad_image + (c * as_index(grad_c, WIDE))[:, None] + grad_offset[None, :]
        tl.store(pointer, g.to(grad_logits.dtype.element_ty), mask=present & inside[None, :])
