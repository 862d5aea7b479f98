"""What the CUDA kernels of instance_iou and of the metric's update are to be called with; see `plan`.

Buffers: `preds`, `target` and `instances`; outputs named as the fields of `InstanceIoU`, and `confusion`; for the
metric's update `tally` and `confusion`, its state, to which is added. `error` is int64 [3, 2], zeroed before, for the
three maps.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from fastia.kernels.cuda import structs
from fastia.kernels.cuda.plan import (
    SUMS_BYTES,
    TUNING,
    Chunk,
    Launch,
    Masks,
    Needs,
    Plan,
    Tuning,
    masks_in_place,
    parts,
)
from fastia.kernels.cuda.structs import Pointer, Struct
from fastia.options import ComponentOptions, OverlapOptions

KERNELS: dict[str, dict[str, type[Struct]]] = {
    "overlaps/overlap_strips.cu": {"fastia_overlap_strips": structs.OverlapStrips},
    "overlaps/contours.cu": {
        "fastia_trace_contours": structs.TraceContours,
        "fastia_find_neighbours": structs.FindNeighbours,
        "fastia_find_outermost": structs.FindOutermost,
    },
    "overlaps/overlap_count.cu": {
        "fastia_prepare_overlaps": structs.PrepareOverlaps,
        "fastia_count_overlaps_exact": structs.CountOverlaps,
        "fastia_count_overlaps_wacv2024": structs.CountOverlaps,
    },
    "overlaps/overlap_records.cu": {
        "fastia_match_components_exact": structs.MatchComponents,
        "fastia_match_components_wacv2024": structs.MatchComponents,
        "fastia_share_components_exact": structs.ShareComponents,
        "fastia_share_components_wacv2024": structs.ShareComponents,
        "fastia_fill_records": structs.FillRecords,
        "fastia_empty_records": structs.EmptyRecords,
    },
}

_MOST_PIXELS = 2**31 - 1  # of an image; its scratch memory would take more than 200 GB
_SORTED_KEYS = 1024  # instances of an image that are sorted in shared memory


class OverlapInputs(NamedTuple):
    """Predictions and ground truth; no instances: the components of the target serve."""

    preds: Masks
    target: Masks
    instances: Masks | None


def instance_iou(
    inputs: OverlapInputs, options: OverlapOptions, max_instances: int, max_unmatched: int, tuning: Tuning = TUNING
) -> Plan:
    """Fills the fields of InstanceIoU; with num_classes adds to `confusion [B, C, C + 1]`."""
    return _plan(inputs, options, _Outputs(max_instances, max_unmatched, tally=False), tuning)


def update(inputs: OverlapInputs, options: OverlapOptions, tuning: Tuning = TUNING) -> Plan:
    """Adds to the metric's `tally [3, C, 4]` and `confusion [C, C + 1]`; needs num_classes."""
    return _plan(inputs, options, _Outputs(0, 0, tally=True), tuning)


class _Outputs(NamedTuple):
    max_instances: int
    max_unmatched: int
    tally: bool


def _plan(inputs: OverlapInputs, options: OverlapOptions, outputs: _Outputs, tuning: Tuning) -> Plan:
    batch, height, width = inputs.preds.shape
    if height * width > _MOST_PIXELS:
        raise ValueError(f"an image must have at most {_MOST_PIXELS} pixels on a GPU, got {height} x {width}")
    if batch == 0 or (height * width == 0 and outputs.tally):
        return Plan(0, [])
    if height * width == 0:
        parameters = structs.EmptyRecords(
            count=Pointer("count"), unmatched_count=Pointer("unmatched_count"), records=_records(outputs, 0)
        )
        return Plan(
            0, [Launch("overlaps/overlap_records.cu", "fastia_empty_records", batch, tuning.block, 0, parameters)]
        )
    tuning = tuning._replace(wide=False)
    one = _OverlapChunk(inputs, options, outputs, 0, 1, tuning)
    chunks = [
        _OverlapChunk(inputs, options, outputs, *part, tuning) for part in parts(batch, one.scratch_bytes, tuning)
    ]
    return Plan(
        max(chunk.scratch_bytes for chunk in chunks), [launch for chunk in chunks for launch in chunk.launches()]
    )


def _records(outputs: _Outputs, first: int) -> structs.Records:
    """The outputs of the images from `first` on."""
    if outputs.tally:
        return structs.Records.null()
    rows, unmatched_rows = first * outputs.max_instances, first * outputs.max_unmatched
    return structs.Records(
        columns=outputs.max_instances,
        unmatched_columns=outputs.max_unmatched,
        class_id=Pointer("class_id", 4 * rows),
        instance_id=Pointer("instance_id", 4 * rows),
        area=Pointer("area", 8 * rows),
        intersection=Pointer("intersection", 8 * rows),
        covered=Pointer("covered", 8 * rows),
        iou=Pointer("iou", 8 * rows),
        unmatched_class_id=Pointer("unmatched_class_id", 4 * unmatched_rows),
        unmatched_area=Pointer("unmatched_area", 8 * unmatched_rows),
    )


class _OverlapChunk(Chunk):
    """Some images of a batch; the components are those of the prediction."""

    def __init__(
        self, inputs: OverlapInputs, options: OverlapOptions, outputs: _Outputs, first: int, images: int, tuning: Tuning
    ) -> None:
        super().__init__(inputs.preds, first, images, Needs(), tuning)
        self.options, self.outputs = options, outputs
        self.background = -1 if options.background is None else options.background
        pixels, slots = images * self.pixels, self.pixels + self.pixels // 4 + 1
        arrivals = self.scratch(4 * images)
        self.cuts = self.scratch(4 * images * inputs.preds.shape[1] * self.words_per_row)
        self.segments = self.scratch(4 * self.blocks)
        self.overlaps = structs.Overlaps(
            sizes=structs.Sizes(
                area=self.scratch(4 * pixels),
                hit=self.scratch(4 * pixels),
                unlabelled=self.scratch(4 * pixels),
                void_area=self.scratch(4 * pixels),
                matched=self.scratch(4 * pixels),
                rank=self.scratch(4 * pixels),
            ),
            image_counts=self.scratch(28 * images),
            tables=structs.OverlapTables(
                slots_per_image=slots,
                id=self.scratch(4 * images * slots),
                area=self.scratch(4 * images * slots),
                class_after=self.scratch(4 * images * slots),
                intersection=self.scratch(4 * images * slots),
                whole=self.scratch(8 * images * slots),
                fraction=self.scratch(8 * images * slots),
                order=self.scratch(8 * images * slots),
                key=self.scratch(8 * images * slots),
                pixels=self.scratch(4 * images * slots),
                hit=self.scratch(4 * images * slots),
                unlabelled=self.scratch(4 * images * slots),
                overlaps=self.scratch(4 * images * slots),
            ),
        )
        self.strip_unmatched = self.scratch(4 * self.blocks)
        self.count = self.scratch(4 * images) if outputs.tally else self.output("count", 4)
        self.unmatched_count = self.scratch(4 * images) if outputs.tally else self.output("unmatched_count", 4)
        # Contours are done with before these parts of the tables are first written.
        tables = self.overlaps.tables
        filled = options.protocol == "wacv2024"
        self.contour_parent = tables.order if filled else None
        first_run = tables.intersection if filled else None
        self.labelling = dataclasses.replace(self.labelling, arrivals=arrivals, first_run=first_run)
        self.target = None
        if inputs.instances is None:
            self.target = Chunk(inputs.target, first, images, Needs(labels=True), tuning, self.scratch_bytes)
            self.scratch_bytes = self.target.scratch_bytes
        self.inputs = self._inputs(inputs)

    def launches(self) -> list[Launch]:
        options, protocol = self.options, self.options.protocol
        launches: list[Launch] = []
        if self.target is not None:
            ids = ComponentOptions(8, options.background, options.ignore_index)
            launches += self.target.find_components(ids, buffer="target")
        strips = structs.OverlapStrips(
            labelling=self.labelling,
            inputs=self.inputs,
            run_capacity=self.tuning.run_capacity,
            cuts=self.cuts,
            segments=self.segments,
        )
        launches += [
            self._kernel("overlaps/overlap_strips.cu", "overlap_strips", self.blocks, self.runs_bytes(), strips),
            *self.merge_strips(8),
            self._prepare_overlaps(),
        ]
        if protocol == "wacv2024":
            launches += self._fill_holes()
        match = structs.MatchComponents(
            labelling=self.labelling,
            images=self.images,
            background=self.background,
            overlaps=self.overlaps,
            instance_capacity=_SORTED_KEYS,
            count=self.count,
        )
        share = structs.ShareComponents(
            labelling=self.labelling,
            background=self.background,
            overlaps=self.overlaps,
            strip_unmatched=self.strip_unmatched,
            unmatched_count=self.unmatched_count,
        )
        fill = structs.FillRecords(
            labelling=self.labelling,
            background=self.background,
            overlaps=self.overlaps,
            strip_unmatched=self.strip_unmatched,
            count=self.count,
            unmatched_count=self.unmatched_count,
            records=_records(self.outputs, self.first),
            tally=structs.Tally(
                sums=Pointer("tally") if self.outputs.tally else None, num_classes=options.num_classes or 0
            ),
        )
        source, sorting = "overlaps/overlap_records.cu", SUMS_BYTES + 8 * _SORTED_KEYS
        return [
            *launches,
            self._count_overlaps(),
            self._kernel(source, f"match_components_{protocol}", self.images + self.blocks, sorting, match),
            self._kernel(source, f"share_components_{protocol}", self.blocks, SUMS_BYTES, share),
            self._kernel(source, "fill_records", self.blocks, 0, fill),
        ]

    def _prepare_overlaps(self) -> Launch:
        parameters = structs.PrepareOverlaps(
            labelling=self.labelling,
            segments=self.segments,
            contour_parent=self.contour_parent,
            overlaps=self.overlaps,
        )
        return self._kernel("overlaps/overlap_count.cu", "prepare_overlaps", self.blocks, SUMS_BYTES, parameters)

    def _count_overlaps(self) -> Launch:
        classes = self.options.num_classes or 0
        stride = 0 if self.outputs.tally else classes * (classes + 1)
        parameters = structs.CountOverlaps(
            labelling=self.labelling,
            inputs=self.inputs,
            cuts=self.cuts,
            target=structs.Labelling.null() if self.target is None else self.target.labelling,
            overlaps=self.overlaps,
            confusion=self.output("confusion", 8 * stride) if classes else None,
            confusion_stride=stride,
        )
        return self._kernel(
            "overlaps/overlap_count.cu", f"count_overlaps_{self.options.protocol}", self.blocks, 0, parameters
        )

    def _fill_holes(self) -> list[Launch]:
        """In `component_parent`, from roots to the outermost components that enclose them."""
        assert self.contour_parent is not None
        chains = {"sibling": self.overlaps.tables.whole, "enclosing": self.overlaps.tables.fraction}
        trace = structs.TraceContours(labelling=self.labelling, contour_parent=self.contour_parent)
        neighbours = structs.FindNeighbours(labelling=self.labelling, contour_parent=self.contour_parent, **chains)
        outermost = structs.FindOutermost(labelling=self.labelling, **chains)
        return [
            self._kernel("overlaps/contours.cu", "trace_contours", self.blocks, 0, trace),
            self._kernel("overlaps/contours.cu", "find_neighbours", self.blocks, 0, neighbours),
            self._kernel("overlaps/contours.cu", "find_outermost", self.blocks, 0, outermost),
        ]

    def _inputs(self, inputs: OverlapInputs) -> structs.OverlapInputs:
        def of(name: str, masks: Masks | None) -> structs.Masks:
            return structs.Masks.null() if masks is None else masks_in_place(masks, name, self.first)

        options = self.options
        has_ignore_index, ignore_index = _id(options.ignore_index)
        has_instance_ignore_index, instance_ignore_index = _id(options.instance_ignore_index)
        return structs.OverlapInputs(
            preds=of("preds", inputs.preds),
            target=of("target", inputs.target),
            instances=of("instances", inputs.instances),
            options=structs.OverlapOptions(
                exact=options.protocol == "exact",
                background=self.background,
                has_ignore_index=has_ignore_index,
                ignore_index=ignore_index,
                has_instance_ignore_index=has_instance_ignore_index,
                instance_ignore_index=instance_ignore_index,
                num_classes=options.num_classes or 2**16,
                error=Pointer("error") if options.validate else None,
            ),
        )

    def _kernel(self, source: str, kernel: str, grid: int, shared_bytes: int, parameters: Struct) -> Launch:
        return Launch(source, f"fastia_{kernel}", grid, self.tuning.block, shared_bytes, parameters)


def _id(value: int | None) -> tuple[bool, int]:
    """Whether there is such an id, which no map can hold beyond 64 bits, and the id."""
    held = value is not None and -(2**63) <= value < 2**63
    return held, value if held and value is not None else 0
