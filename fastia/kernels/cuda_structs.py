"""What the CUDA kernels take: one struct by value each, with the fields that the structs of csrc/cuda have.

Every field has 8 bytes: an address, an integer or a double. What a field means stands beside the one in C++.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple


class Pointer(NamedTuple):
    """The address of a byte of a buffer."""

    buffer: str
    offset: int = 0


class Struct:
    """A struct of C++; a null pointer is None."""

    def pack(self, addresses: dict[str, int]) -> bytes:
        """Its bytes, where buffers lie at these addresses."""
        return b"".join(_pack(value, addresses) for value in vars(self).values())


def _pack(value: Struct | Pointer | int | float | None, addresses: dict[str, int]) -> bytes:
    if isinstance(value, Struct):
        return value.pack(addresses)
    if isinstance(value, Pointer):
        value = addresses[value.buffer] + value.offset
    return struct.pack("d" if isinstance(value, float) else "q", value or 0)


@dataclass(frozen=True, kw_only=True)
class Division(Struct):
    height: int
    width: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Labelling(Struct):
    division: Division
    words: Pointer
    counts: Pointer
    run_component: Pointer
    component_parent: Pointer
    component_class: Pointer
    first_run: Pointer | None
    area: Pointer | None
    total: Pointer | None
    class_total: Pointer | None
    classes: int
    rank: Pointer | None
    strip_roots: Pointer | None
    arrivals: Pointer | None


@dataclass(frozen=True, kw_only=True)
class Masks(Struct):
    data: Pointer | None
    image_stride: int
    row_stride: int
    column_stride: int
    begin: Pointer | None
    end: Pointer | None
    dtype: int


@dataclass(frozen=True, kw_only=True)
class ComponentOptions(Struct):
    connectivity: int
    background: int
    has_ignore_index: int
    ignore_index: int
    error: Pointer | None


@dataclass(frozen=True, kw_only=True)
class Strips(Struct):
    labelling: Labelling
    masks: Masks
    options: ComponentOptions
    run_capacity: int


@dataclass(frozen=True, kw_only=True)
class Merge(Struct):
    labelling: Labelling
    connectivity: int


@dataclass(frozen=True, kw_only=True)
class Flatten(Struct):
    labelling: Labelling
    count: Pointer | None


@dataclass(frozen=True, kw_only=True)
class FillLabels(Struct):
    labelling: Labelling
    word_capacity: int
    run_capacity: int
    labels: Pointer


@dataclass(frozen=True, kw_only=True)
class Tables(Struct):
    columns: int
    class_id: Pointer
    area: Pointer
    bbox: Pointer


@dataclass(frozen=True, kw_only=True)
class FillTables(Struct):
    labelling: Labelling
    count: Pointer
    tables: Tables


@dataclass(frozen=True, kw_only=True)
class FillBoxes(Struct):
    labelling: Labelling
    tables: Tables


@dataclass(frozen=True, kw_only=True)
class EmptyTables(Struct):
    count: Pointer
    tables: Tables


@dataclass(frozen=True, kw_only=True)
class FillWeights(Struct):
    labelling: Labelling
    tau: float
    word_capacity: int
    run_capacity: int
    weights: Pointer


@dataclass(frozen=True, kw_only=True)
class TraceContours(Struct):
    labelling: Labelling
    contour_parent: Pointer


@dataclass(frozen=True, kw_only=True)
class FindNeighbours(Struct):
    labelling: Labelling
    contour_parent: Pointer
    sibling: Pointer
    enclosing: Pointer


@dataclass(frozen=True, kw_only=True)
class FindOutermost(Struct):
    labelling: Labelling
    sibling: Pointer
    enclosing: Pointer
