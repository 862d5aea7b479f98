"""What the operations on masks return, field by field; schemas, fakes, allocation and the C copies follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
import torch

Array = Any  # torch tensor, NumPy array, or an object with __dlpack__


class Field(NamedTuple):
    """An array of a result: its dtype, its axes by letter or size, and what stands beyond the counted entries."""

    dtype: str
    axes: str
    padding: float = 0


class Components(NamedTuple):
    """Connected components of every class, in label order; see :func:`fastia.components`."""

    labels: Annotated[Array, Field("int32", "B H W")]
    count: Annotated[Array, Field("int32", "B")]
    class_id: Annotated[Array, Field("int32", "B K", padding=-1)]
    area: Annotated[Array, Field("int64", "B K")]
    bbox: Annotated[Array, Field("int32", "B K 4")]  # y0, x0, y1, x1, end exclusive


class InstanceIoU(NamedTuple):
    """Ground-truth instances and false predicted components; see :func:`fastia.instance_iou`."""

    count: Annotated[Array, Field("int32", "B")]
    class_id: Annotated[Array, Field("int32", "B K", padding=-1)]
    instance_id: Annotated[Array, Field("int32", "B K", padding=-1)]
    area: Annotated[Array, Field("int64", "B K")]
    intersection: Annotated[Array, Field("int64", "B K")]
    covered: Annotated[Array, Field("float64", "B K")]
    iou: Annotated[Array, Field("float64", "B K", padding=float("nan"))]
    unmatched_count: Annotated[Array, Field("int32", "B")]
    unmatched_class_id: Annotated[Array, Field("int32", "B M", padding=-1)]
    unmatched_area: Annotated[Array, Field("int64", "B M")]


class ComponentMatches(NamedTuple):
    """Predicted components of foreground classes, off void, in raster order.

    See :func:`fastia.functional.instance_matches`.
    """

    count: Annotated[Array, Field("int32", "B")]
    class_id: Annotated[Array, Field("int32", "B N", padding=-1)]
    area: Annotated[Array, Field("int64", "B N")]
    void_area: Annotated[Array, Field("int64", "B N")]  # its pixels void in either map, which `area` does not count
    instance_area: Annotated[Array, Field("int64", "B N")]  # of the instance of its class with IoU above 1/2; 0: none
    intersection: Annotated[Array, Field("int64", "B N")]  # pixels off void of both; 0: none
    union: Annotated[Array, Field("int64", "B N")]  # pixels off void of either; 0: none


class Confusion(NamedTuple):
    """Confusion matrices: rows ground truth, columns prediction, the last one outside the classes."""

    confusion: Annotated[Array, Field("int64", "B C C+1")]


Sizes = Mapping[str, Any]  # of the axes, by letter


@cache
def fields_of(result: type[NamedTuple]) -> dict[str, Field]:
    """The fields of a result by name."""
    hints = get_type_hints(result, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


def fields_along(result: type[NamedTuple], axis: str) -> dict[str, Field]:
    """The fields of a result that have an axis, by name."""
    return {name: field for name, field in fields_of(result).items() if axis in field.axes.split()}


def schema(result: type[NamedTuple], prefix: str = "") -> str:
    """The fields as the returns of an operator's schema."""
    return ", ".join(f"Tensor {prefix}{name}" for name in fields_of(result))


def empty(field: Field, sizes: Sizes, like: Array) -> Array:
    """An array for a field of the kind of `like`, a NumPy array or a tensor, and on its device."""
    shape = tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in field.axes.split())
    if isinstance(like, np.ndarray):
        return np.empty(shape, field.dtype)
    return like.new_empty(shape, dtype=getattr(torch, field.dtype))


def empty_fields(result: type[NamedTuple], sizes: Sizes, like: Array) -> dict[str, Array]:
    """Arrays for those fields of a result whose axes all have a size, by name."""
    known = {
        name: field
        for name, field in fields_of(result).items()
        if all(axis.isdigit() or axis in sizes for axis in field.axes.split())
    }
    return {name: empty(field, sizes, like) for name, field in known.items()}
