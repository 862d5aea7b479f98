"""Weights from files: what fits a module is loaded, and all the rest is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastia.typing import PathLike

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\.")


@dataclass
class LoadReport:
    """Names of tensors: loaded, in the file only, in the module only, and in both with different shapes."""

    matched: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    other_shape: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} matched"]
        for title, names in (
            ("skipped", self.skipped),
            ("missing", self.missing),
            ("of another shape", self.other_shape),
        ):
            parts.append(f"{len(names)} {title}" + (f" ({', '.join(names)})" if names else ""))
        return "; ".join(parts)


def load_matching(module: nn.Module, state: dict[str, Tensor]) -> LoadReport:
    """Copy the tensors of a state dict that a module has by name and shape.

    Prefixes of DataParallel, DistributedDataParallel and ``torch.compile`` do not count, neither in the names of the
    module nor in those of the state. ``num_batches_tracked``, a counter of batch norm, is left out.

    Args:
        module: what to load into.
        state: tensors by name.

    Returns:
        The names that matched, were skipped, are missing, or have another shape.

    Raises:
        ValueError: nothing matches. The module is unchanged then.

    Example:
        >>> import torch
        >>> from fastia.models import load_matching
        >>> state = {"module.weight": torch.ones(2, 3), "fc.weight": torch.ones(4)}
        >>> print(load_matching(torch.nn.Linear(3, 2), state))
        1 matched; 1 skipped (fc.weight); 1 missing (bias); 0 of another shape
    """
    own = {unwrapped_name(name): tensor for name, tensor in module.state_dict().items()}
    given = {unwrapped_name(name): tensor for name, tensor in state.items()}
    report = LoadReport()
    for name, tensor in given.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in own:
            report.skipped.append(name)
        elif own[name].shape != tensor.shape:
            report.other_shape.append(f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}")
        else:
            report.matched.append(name)
    report.missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    if not report.matched:
        raise ValueError(
            f"state has no tensor that fits the model: it holds {_some(given)}; the model has {_some(own)}"
            + (f"; of another shape: {_some(report.other_shape)}" if report.other_shape else "")
        )
    with torch.no_grad():
        for name in report.matched:
            own[name].copy_(given[name])
    return report


def read_state(path: PathLike) -> dict[str, Tensor]:
    """Read a state dict: tensors by name, alone in the file or in a dict under ``model`` or ``state_dict``.

    Only tensors and plain values are unpickled (``weights_only=True``), so that no code of the file runs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is corrupt, holds other objects, or no state dict.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a corrupt file raises whatever the place where it is corrupt makes of it
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a file of weights: {reason}") from error
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a state dict, tensors by name, got {type(state).__name__}")
    return state


def unwrapped_name(name: str) -> str:
    """A name in a state dict without what DataParallel, DistributedDataParallel and ``torch.compile`` prefix.

    Example:
        >>> unwrapped_name("module._orig_mod.layer1._orig_mod.weight")
        'layer1.weight'
    """
    return _WRAPPERS.sub("", name)


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
