"""The exceptions for values that kernels of every backend find as they read."""

from __future__ import annotations


class InvalidId(ValueError):
    """An id that is neither allowed nor `ignore_index`."""


def invalid_id(name: str, value: int, ignore_index: int | None, num_classes: int | None = None) -> InvalidId:
    """The exception for an id that is not allowed; `ignore_index` is that of the map called `name`."""
    if name == "instances":
        allowed = f"lie in 0..{2**31 - 1} or equal instance_ignore_index ({ignore_index})"
    elif name == "target" and num_classes is not None and 0 <= value <= 65535:
        allowed = f"be below num_classes ({num_classes}) or equal ignore_index ({ignore_index})"
    else:
        allowed = f"lie in 0..65535 or equal ignore_index ({ignore_index})"
    return InvalidId(f"{name} holds the id {value}, but ids must {allowed}")


def invalid_target(value: int, num_classes: int, ignore_index: int | None) -> InvalidId:
    """The exception for a target that is neither a class of the logits nor ignored."""
    return InvalidId(
        f"target holds the id {value}, but ids must lie in 0..{num_classes - 1} (logits have {num_classes} classes) or"
        f" equal ignore_index ({ignore_index})"
    )


def negative_weight(value: float) -> ValueError:
    """The exception for a negative weight."""
    return ValueError(f"weights must not be negative, got {value}")
