"""The learning rate over a run, and whether EWC is stable with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastia.training.config import Config


def poly(iteration: int, iterations: int, power: float = 0.9, every: int = 1) -> float:
    """The factor of the learning rate at an iteration from 0, constant over ``every`` of them.

    Example:
        >>> from fastia.training.schedule import poly
        >>> [round(poly(i, 100, 0.9, 10), 3) for i in (0, 9, 10, 99)]
        [1.0, 1.0, 0.91, 0.126]
    """
    return (1 - iteration // every * every / iterations) ** power


def instability(config: Config, groups: Sequence[dict[str, Any]]) -> str | None:
    """A warning where SGD with momentum m is not stable on the penalty lambda * F * x^2.

    That is where lambda * F times the learning rate exceeds 1 + m; the largest normalized F is 1.
    """
    factor = poly(config.switch, config.iterations, config.power, config.poly_step)
    largest = factor * max(group["initial_lr"] for group in groups)
    if config.ewc_lambda * largest <= 1 + config.momentum:
        return None
    return (
        f"ewc_lambda {config.ewc_lambda:g} times the largest learning rate at the switch, {largest:.2g}, exceeds"
        f" 1 + momentum: task B may diverge; below {(1 + config.momentum) / largest:.3g} it is stable"
    )
