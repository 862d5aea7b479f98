"""The operators on masks: schemas, implementations by device, fakes. Options are taken apart here and nowhere else.

The fakes tell ``torch.compile`` shapes and dtypes; a width that depends on the data is an unbacked size there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastia.fields import Components, Field, empty, empty_fields, schema
from fastia.kernels.cpu import masks as cpu
from fastia.kernels.cuda import masks as cuda
from fastia.ops.library import register, width
from fastia.options import ComponentOptions

_OPTIONS = "int connectivity, int? background, int? ignore_index, bool validate"
_COUNT = len(ComponentOptions._fields)


def _implementations(name: str) -> dict[str, Any]:
    def implementation(kernel: Any) -> Any:
        return lambda masks, *rest: kernel(masks, ComponentOptions(*rest[:_COUNT]), *rest[_COUNT:])

    return {"CPU": implementation(getattr(cpu, name)), "CUDA": implementation(getattr(cuda, name))}


def _sizes(masks: Tensor) -> dict[str, Any]:
    return dict(zip("BHW", masks.shape, strict=True))


def _fake_label(masks: Tensor, *_: Any) -> Tensor:
    return empty(Field("int32", "B H W"), _sizes(masks), masks)


def _fake_components(masks: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(empty_fields(Components, _sizes(masks) | {"K": width(rest[_COUNT])}, masks).values())


def _fake_weights(masks: Tensor, *rest: Any) -> Tensor:
    dtype: torch.dtype = rest[-1]
    return masks.new_empty(masks.shape, dtype=dtype)


register("label", f"Tensor masks, {_OPTIONS}", "Tensor", _implementations("label"), _fake_label)
register(
    "components",
    f"Tensor masks, {_OPTIONS}, SymInt? max_components",
    f"({schema(Components)})",
    _implementations("components"),
    _fake_components,
)
register(
    "weights",
    f"Tensor masks, {_OPTIONS}, float tau, str normalizer, ScalarType dtype",
    "Tensor",
    _implementations("weights"),
    _fake_weights,
)
