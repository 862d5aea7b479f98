"""What the CUDA kernels of label, components and weights are to be called with; see `plan`."""

from __future__ import annotations

from collections.abc import Callable

from fastia.kernels.cuda import structs
from fastia.kernels.cuda.plan import (
    MASK_DTYPES,
    TUNING,
    WEIGHT_BYTES,
    Chunk,
    Launch,
    Masks,
    Needs,
    Plan,
    Tuning,
    output_tables,
    parts,
)
from fastia.kernels.cuda.structs import Pointer, Struct
from fastia.options import ComponentOptions

_STRUCTS: dict[str, dict[str, type[Struct]]] = {
    "masks/strips.cu": {f"strips_{dtype}": structs.Strips for dtype in dict.fromkeys(MASK_DTYPES.values())},
    "core/merge.cu": {"merge": structs.Merge},
    "masks/flatten.cu": {"flatten": structs.Flatten},
    "masks/labels.cu": {
        "fill_labels": structs.FillLabels,
        "fill_tables": structs.FillTables,
        "fill_boxes": structs.FillBoxes,
    },
    "masks/weights.cu": {f"fill_weights_{dtype}": structs.FillWeights for dtype in WEIGHT_BYTES},
}
KERNELS = {
    source: {f"fastia_{name}_{bits}": struct for name, struct in kernels.items() for bits in (32, 64)}
    for source, kernels in _STRUCTS.items()
}
KERNELS["masks/labels.cu"]["fastia_empty_tables"] = structs.EmptyTables


def label(masks: Masks, options: ComponentOptions, tuning: Tuning = TUNING) -> Plan:
    """Fills `labels`."""
    needs = Needs(labels=True)
    return _plan(masks, needs, tuning, lambda chunk: [*chunk.find_components(options), chunk.fill_labels()])


def components(masks: Masks, options: ComponentOptions, max_components: int, tuning: Tuning = TUNING) -> Plan:
    """Fills `labels`, `count [B]`, `class_id [B, K]`, `area [B, K]` and `bbox [B, K, 4]`, where K is max_components."""

    def launches(chunk: Chunk) -> list[Launch]:
        count = chunk.output("count", 4)
        tables = [chunk.fill_tables(max_components, count), chunk.fill_boxes(max_components)] if max_components else []
        return [*chunk.find_components(options, count), chunk.fill_labels(), *tables]

    if masks.shape[0] and 0 in masks.shape[1:]:
        parameters = structs.EmptyTables(count=Pointer("count"), tables=output_tables(max_components, 0))
        return Plan(0, [Launch("masks/labels.cu", "fastia_empty_tables", masks.shape[0], tuning.block, 0, parameters)])
    return _plan(masks, Needs(labels=True, areas=True), tuning, launches)


def weights(
    masks: Masks, options: ComponentOptions, tau: float, normalizer: str, dtype: str, tuning: Tuning = TUNING
) -> Plan:
    """Fills `weights`, of a dtype that `WEIGHT_BYTES` names."""
    classes = 1 if normalizer == "foreground" else 256 if MASK_DTYPES[masks.dtype] == "uint8" else 65536
    needs = Needs(areas=True, classes=classes)
    return _plan(masks, needs, tuning, lambda chunk: [*chunk.find_components(options), chunk.fill_weights(tau, dtype)])


def _plan(masks: Masks, needs: Needs, tuning: Tuning, launches_of: Callable[[Chunk], list[Launch]]) -> Plan:
    batch, height, width = masks.shape
    if batch * height * width == 0:
        return Plan(0, [])
    one = Chunk(masks, 0, 1, needs, tuning)
    chunks = [Chunk(masks, *part, needs, tuning) for part in parts(batch, one.scratch_bytes, tuning)]
    launches = [launch for chunk in chunks for launch in launches_of(chunk)]
    return Plan(max(chunk.scratch_bytes for chunk in chunks), launches)
