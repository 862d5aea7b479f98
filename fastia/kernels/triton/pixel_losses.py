"""The pixel losses of the Triton kernels. To add one, write its two functions, and name it in `PIXEL_LOSSES`.

With nll_c = log-sum-exp - z_c, the loss of a pixel is
weight * (class_weight[target] * forward(nll_target) + class_share * sum_c class_weight[c] * nll_c).
The kernels do the rest: interpolation, softmax, weights of pixels and classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl  # noqa: F401  Triton's interpreter wants to see it beside a function


class PixelLoss(NamedTuple):
    forward: Any  # of nll and two parameters, a triton.jit function
    backward: Any  # its derivative
    class_share: Callable[[tuple[float, ...], int], float]  # of all parameters and the number of classes
    backward_needs_nll: bool  # else the backward is given 0 in its place


@triton.jit
def cross_entropy(nll, label_smoothing, _):
    return (1.0 - label_smoothing) * nll


@triton.jit
def cross_entropy_backward(_nll, label_smoothing, _):
    return 1.0 - label_smoothing


PIXEL_LOSSES = {
    "cross_entropy": PixelLoss(
        cross_entropy, cross_entropy_backward, lambda parameters, num_classes: parameters[0] / num_classes, False
    ),
}
