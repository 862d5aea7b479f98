"""What the CUDA kernels take: one struct by value each, with the fields that the structs of csrc/cuda have.

Every field has 8 bytes: an address, an integer or a double. What a field means stands beside the one in C++.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, get_type_hints

AnyStruct = TypeVar("AnyStruct", bound="Struct")


class Pointer(NamedTuple):
    """The address of a byte of a buffer."""

    buffer: str
    offset: int = 0


class Struct:
    """A struct of C++; a null pointer is None."""

    @classmethod
    def null(cls: type[AnyStruct]) -> AnyStruct:
        """What is absent: null pointers and zeros."""
        return cls(
            **{
                name: kind.null() if is_struct(kind) else 0 if kind is int else None
                for name, kind in get_type_hints(cls).items()
            }
        )

    def pack(self, addresses: dict[str, int]) -> bytes:
        """Its bytes, where buffers lie at these addresses."""
        return b"".join(_pack(value, addresses) for value in vars(self).values())


def is_struct(kind: Any) -> bool:
    """Whether a field of this type is a struct within a struct."""
    return isinstance(kind, type) and issubclass(kind, Struct)


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
    data: Pointer
    image_stride: int
    row_stride: int
    column_stride: int
    begin: Pointer
    end: Pointer
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
class OverlapOptions(Struct):
    exact: int
    background: int
    has_ignore_index: int
    ignore_index: int
    has_instance_ignore_index: int
    instance_ignore_index: int
    num_classes: int
    error: Pointer | None


@dataclass(frozen=True, kw_only=True)
class OverlapInputs(Struct):
    preds: Masks
    target: Masks
    instances: Masks
    options: OverlapOptions


@dataclass(frozen=True, kw_only=True)
class OverlapStrips(Struct):
    labelling: Labelling
    inputs: OverlapInputs
    run_capacity: int
    cuts: Pointer
    segments: Pointer


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


@dataclass(frozen=True, kw_only=True)
class Sizes(Struct):
    area: Pointer
    hit: Pointer
    unlabelled: Pointer
    void_area: Pointer
    matched: Pointer
    rank: Pointer


@dataclass(frozen=True, kw_only=True)
class OverlapTables(Struct):
    slots_per_image: int
    id: Pointer
    area: Pointer
    class_after: Pointer
    intersection: Pointer
    whole: Pointer
    fraction: Pointer
    order: Pointer
    key: Pointer
    pixels: Pointer
    hit: Pointer
    unlabelled: Pointer
    overlaps: Pointer


@dataclass(frozen=True, kw_only=True)
class Overlaps(Struct):
    sizes: Sizes
    image_counts: Pointer
    tables: OverlapTables


@dataclass(frozen=True, kw_only=True)
class PrepareOverlaps(Struct):
    labelling: Labelling
    segments: Pointer
    contour_parent: Pointer | None
    overlaps: Overlaps


@dataclass(frozen=True, kw_only=True)
class CountOverlaps(Struct):
    labelling: Labelling
    inputs: OverlapInputs
    cuts: Pointer
    target: Labelling
    overlaps: Overlaps
    confusion: Pointer | None
    confusion_stride: int


@dataclass(frozen=True, kw_only=True)
class MatchComponents(Struct):
    labelling: Labelling
    images: int
    background: int
    overlaps: Overlaps
    instance_capacity: int
    count: Pointer


@dataclass(frozen=True, kw_only=True)
class ShareComponents(Struct):
    labelling: Labelling
    background: int
    overlaps: Overlaps
    strip_unmatched: Pointer
    unmatched_count: Pointer


@dataclass(frozen=True, kw_only=True)
class Records(Struct):
    columns: int
    unmatched_columns: int
    class_id: Pointer
    instance_id: Pointer
    area: Pointer
    intersection: Pointer
    covered: Pointer
    iou: Pointer
    unmatched_class_id: Pointer
    unmatched_area: Pointer


@dataclass(frozen=True, kw_only=True)
class Tally(Struct):
    sums: Pointer | None
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class FillRecords(Struct):
    labelling: Labelling
    background: int
    overlaps: Overlaps
    strip_unmatched: Pointer
    count: Pointer
    unmatched_count: Pointer
    records: Records
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class EmptyRecords(Struct):
    count: Pointer
    unmatched_count: Pointer
    records: Records
