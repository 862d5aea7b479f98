"""The torch.library that all operators are registered in, and how one is: schema, implementations, fake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

library = torch.library.Library("fastia", "DEF")


def register(
    name: str, arguments: str, returns: str, implementations: Mapping[str, Callable[..., Any]], fake: Callable[..., Any]
) -> None:
    """Define an operator; implementations by dispatch key."""
    library.define(f"{name}({arguments}) -> {returns}")
    for device, implementation in implementations.items():
        library.impl(name, implementation, device)
    torch.library.register_fake(f"fastia::{name}", fake, lib=library)


def width(limit: int | None) -> Any:
    """The width of a table in a fake: the limit, or a size that depends on the data."""
    return torch.library.get_ctx().new_dynamic_size() if limit is None else limit
