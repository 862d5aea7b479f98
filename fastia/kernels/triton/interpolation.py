"""Bilinear interpolation of logits in Triton: where outputs lie among inputs, and their values."""

import triton
import triton.language as tl


@triton.jit
def as_index(value, WIDE: tl.constexpr):
    """Strides and sizes arrive with 64 bits, so that their type never depends on their value."""
    if WIDE:
        return value.to(tl.int64)
    else:
        return value.to(tl.int32)


@triton.jit
def _position(index, in_size, out_size, ALIGN_CORNERS: tl.constexpr):
    """Where an output lies among the inputs, in units of 1 / `_whole(out_size)`: an integer, so nothing is rounded."""
    if ALIGN_CORNERS:
        return index * (in_size - 1)
    else:
        return tl.maximum((2 * index + 1) * in_size - out_size, 0)


@triton.jit
def _whole(out_size, ALIGN_CORNERS: tl.constexpr):
    if ALIGN_CORNERS:
        return tl.maximum(out_size - 1, 1)
    else:
        return 2 * out_size


@triton.jit
def first_output(cell, in_size, out_size, ALIGN_CORNERS: tl.constexpr):
    """The first output index that lies at `cell` or beyond."""
    if ALIGN_CORNERS:
        divisor = tl.maximum(in_size - 1, 1)
        first = (cell * _whole(out_size, ALIGN_CORNERS) + divisor - 1) // divisor
    else:
        first = ((2 * cell + 1) * out_size + in_size - 1) // (2 * in_size)
    return tl.where(cell <= 0, 0, tl.where(cell >= in_size, out_size, tl.minimum(first, out_size)))


@triton.jit
def fraction_of(index, before, in_size, out_size, ALIGN_CORNERS: tl.constexpr):
    """How far an output lies from the input `before` towards the next one, 0..1: the next one's weight."""
    whole = _whole(out_size, ALIGN_CORNERS)
    part = (_position(index, in_size, out_size, ALIGN_CORNERS) - before * whole).to(tl.float32)
    whole = whole.to(tl.float32)
    inverse = 1.0 / whole
    quotient = part * inverse
    return tl.fma(tl.fma(-quotient, whole, part), inverse, quotient)  # rounded as a division, which takes far longer


@triton.jit
def _source(index, in_size, out_size, ALIGN_CORNERS: tl.constexpr):
    """The inputs before and after an output, and the weight of the one after it."""
    position = _position(index, in_size, out_size, ALIGN_CORNERS)
    before = tl.minimum(position // _whole(out_size, ALIGN_CORNERS), in_size - 1)
    return before, tl.minimum(before + 1, in_size - 1), fraction_of(index, before, in_size, out_size, ALIGN_CORNERS)


@triton.jit
def corners_of(y, x, stride_y, stride_x, in_height, in_width, out_height, out_width, ALIGN_CORNERS: tl.constexpr):
    """Offsets of the four low-resolution neighbours of a pixel, and the weights of the lower and right ones."""
    top, bottom, fraction_y = _source(y, in_height, out_height, ALIGN_CORNERS)
    left, right, fraction_x = _source(x, in_width, out_width, ALIGN_CORNERS)
    above, below = top * stride_y, bottom * stride_y
    left, right = left * stride_x, right * stride_x
    return above + left, above + right, below + left, below + right, fraction_y, fraction_x


@triton.jit
def mix(first, second, first_weight, second_weight):
    return tl.fma(first_weight, first, second_weight * second)


@triton.jit
def exp(x):
    """e^x for x <= 0 to 2 ulp, NaN for NaN: exp2 is given what the rounding of its argument leaves out."""
    x = tl.maximum(x, -110.0, propagate_nan=tl.PropagateNan.ALL)
    rounded = x * 1.4426950408889634
    power = tl.exp2(rounded)
    return tl.fma(power, tl.fma(x, 1.4426950408889634, -rounded) * 0.6931471805599453, power)


@triton.jit
def interpolate(pointer, corners, mask, resized):
    """Bilinear interpolation in float32, rounded as in the backward: vertically, then horizontally.

    At the same size only the first corner is read, and returned as it is.
    """
    top_left, top_right, bottom_left, bottom_right, y, x = corners
    others = (mask.to(tl.int32) & resized) != 0
    a = tl.load(pointer + top_left, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(pointer + top_right, mask=others, other=0.0).to(tl.float32)
    c = tl.load(pointer + bottom_left, mask=others, other=0.0).to(tl.float32)
    d = tl.load(pointer + bottom_right, mask=others, other=0.0).to(tl.float32)
    upper_weight = 1.0 - y
    return mix(mix(a, c, upper_weight, y), mix(b, d, upper_weight, y), 1.0 - x, x)
