"""What the CUDA kernels of instance_iou and of the metric's update are to be called with; see `cuda_plan`.

Buffers: `preds`, `target` and `instances`; outputs named as the fields of `InstanceIoU`, and `confusion`; for the
metric's update `tally` and `confusion`, its state, to which is added. `error` is int64 [3, 2], zeroed before, for the
three maps.
"""

from __future__ import annotations

from typing import NamedTuple

from fastia.kernels.cuda_plan import (
    MASK_DTYPES,
    SUMS_BYTES,
    TUNING,
    Argument,
    Chunk,
    Launch,
    Maps,
    Needs,
    Options,
    Plan,
    Pointer,
    Tuning,
    extent,
    parts,
)

_PROTOCOLS = ("exact", "wacv2024")
KERNELS = {
    "overlap_strips.cu": ["fastia_overlap_strips"],
    "contours.cu": ["fastia_trace_contours", "fastia_find_neighbours", "fastia_find_outermost"],
    "overlap_count.cu": ["fastia_prepare_overlaps"] + [f"fastia_count_overlaps_{protocol}" for protocol in _PROTOCOLS],
    "overlap_records.cu": [
        f"fastia_{name}_{protocol}" for name in ("match_components", "share_components") for protocol in _PROTOCOLS
    ]
    + ["fastia_fill_records", "fastia_empty_records"],
}

_DTYPE_CODES = {name: code for code, name in enumerate(("uint8", "int16", "uint16", "int32", "int64"))}
_MOST_PIXELS = 2**31 - 1  # of an image; its scratch memory would take more than 200 GB
_SORTED_KEYS = 1024  # instances of an image that are sorted in shared memory


class Scene(NamedTuple):
    """Predictions and ground truth; no instances: the components of the target serve."""

    preds: Maps
    target: Maps
    instances: Maps | None


class SceneOptions(NamedTuple):
    """What `instance_iou` and the metric are called with."""

    protocol: str
    background: int | None
    ignore_index: int | None
    instance_ignore_index: int | None
    num_classes: int | None = None
    validate: bool = False


def instance_iou(
    scene: Scene, options: SceneOptions, max_instances: int, max_unmatched: int, tuning: Tuning = TUNING
) -> Plan:
    """Fills the fields of InstanceIoU; with num_classes adds to `confusion [B, C, C + 1]`."""
    return _plan(scene, options, _Outputs(max_instances, max_unmatched, tally=False), tuning)


def update(scene: Scene, options: SceneOptions, tuning: Tuning = TUNING) -> Plan:
    """Adds to the metric's `tally [3, C, 4]` and `confusion [C, C + 1]`; needs num_classes."""
    return _plan(scene, options, _Outputs(0, 0, tally=True), tuning)


class _Outputs(NamedTuple):
    max_instances: int
    max_unmatched: int
    tally: bool


def _plan(scene: Scene, options: SceneOptions, outputs: _Outputs, tuning: Tuning) -> Plan:
    batch, height, width = scene.preds.shape
    if height * width > _MOST_PIXELS:
        raise ValueError(f"an image must have at most {_MOST_PIXELS} pixels on a GPU, got {height} x {width}")
    if batch == 0 or (height * width == 0 and outputs.tally):
        return Plan(0, [])
    if height * width == 0:
        arguments = (Pointer("count"), Pointer("unmatched_count"), *_records(outputs, 0))
        return Plan(0, [Launch("overlap_records.cu", "fastia_empty_records", batch, tuning.block, 0, arguments)])
    tuning = tuning._replace(wide=False)
    one = _SceneChunk(scene, options, outputs, 0, 1, tuning)
    chunks = [_SceneChunk(scene, options, outputs, *part, tuning) for part in parts(batch, one.scratch_bytes, tuning)]
    return Plan(
        max(chunk.scratch_bytes for chunk in chunks), [launch for chunk in chunks for launch in chunk.launches()]
    )


def _records(outputs: _Outputs, first: int) -> tuple[Argument, ...]:
    """The outputs of the images from `first` on."""
    instances, unmatched = outputs.max_instances, outputs.max_unmatched
    sizes = {"class_id": 4, "instance_id": 4, "area": 8, "intersection": 8, "covered": 8, "iou": 8}
    unmatched_sizes = {"unmatched_class_id": 4, "unmatched_area": 8}
    if outputs.tally:
        return (0, 0) + (None,) * 8
    return (
        instances,
        unmatched,
        *(Pointer(name, first * instances * size) for name, size in sizes.items()),
        *(Pointer(name, first * unmatched * size) for name, size in unmatched_sizes.items()),
    )


class _SceneChunk(Chunk):
    """Some images of a batch; the components are those of the prediction."""

    def __init__(
        self, scene: Scene, options: SceneOptions, outputs: _Outputs, first: int, images: int, tuning: Tuning
    ) -> None:
        super().__init__(scene.preds, first, images, Needs(), tuning)
        self.scene, self.options, self.outputs = scene, options, outputs
        pixels, strips = images * self.pixels, images * self.strips
        self.arrivals = self.scratch(4 * images)
        self.cuts = self.scratch(4 * images * scene.preds.shape[1] * self.words_per_row)
        self.segments = self.scratch(4 * strips)
        # area, hit, unlabelled, void_area, matched, rank
        self.sizes = tuple(self.scratch(4 * pixels) for _ in range(6))
        self.image_counts = self.scratch(28 * images)
        self.strip_unmatched = self.scratch(4 * strips)
        self.count = self.scratch(4 * images)
        self.unmatched_count = self.scratch(4 * images)
        slots = self.pixels + self.pixels // 4 + 1
        # id, area, class, intersection, covered (whole, fraction), order; key, pixels, hit, unlabelled, overlaps
        widths = (4, 4, 4, 4, 8, 8, 8, 8, 4, 4, 4, 4)
        tables = [self.scratch(width * images * slots) for width in widths]
        self.tables: tuple[Argument, ...] = (slots, *tables)
        # Contours are done with before these parts of the tables are first written.
        first_run, self.sibling, self.enclosing, contour = tables[3:7]
        filled = options.protocol == "wacv2024"
        self.first_run: Argument = first_run if filled else None
        self.contour: Argument = contour if filled else None
        self.target = None
        if scene.instances is None:
            self.target = Chunk(scene.target, first, images, Needs(labels=True), tuning, self.scratch_bytes)
            self.scratch_bytes = self.target.scratch_bytes
        if not outputs.tally:
            self.count, self.unmatched_count = self.output("count", 4), self.output("unmatched_count", 4)

    def launches(self) -> list[Launch]:
        options, blocks = self.options, self.images * self.strips
        background = -1 if options.background is None else options.background
        classes = options.num_classes or 0
        cells = classes * (classes + 1)
        confusion: tuple[Argument, ...] = (None, 0)
        if classes:
            stride = 0 if self.outputs.tally else cells
            confusion = (self.output("confusion", 8 * stride), stride)

        launches: list[Launch] = []
        labels: list[Argument] = [None] * 5
        if (chunk := self.target) is not None:
            ids = Options(8, options.background, options.ignore_index)
            launches += chunk.find_components(ids, buffer="target")
            labels = [chunk.words, chunk.run_component, chunk.parent, chunk.rank, chunk.strip_roots]
        launches.append(
            self._kernel(
                "overlap_strips.cu",
                "overlap_strips",
                blocks,
                SUMS_BYTES + 12 * self.tuning.capacity,
                *self._scene(),
                self.tuning.capacity,
                self.words,
                self.counts,
                self.run_component,
                self.parent,
                self.component_class,
                self.arrivals,
                self.first_run,
                self.cuts,
                self.segments,
            )
        )
        launches += self.merge_strips(1)
        launches.append(
            self._kernel(
                "overlap_count.cu",
                "prepare_overlaps",
                blocks,
                SUMS_BYTES,
                self.counts,
                self.parent,
                self.segments,
                self.contour,
                *self.sizes,
                self.image_counts,
                *self.tables,
            )
        )
        if options.protocol == "wacv2024":
            launches += self._fill_holes()
        launches.append(
            self._kernel(
                "overlap_count.cu",
                f"count_overlaps_{options.protocol}",
                blocks,
                0,
                *self._scene(),
                self.words,
                self.run_component,
                self.parent,
                self.cuts,
                *labels,
                *self.sizes,
                self.image_counts,
                *self.tables,
                *confusion,
            )
        )
        launches.append(
            self._kernel(
                "overlap_records.cu",
                f"match_components_{options.protocol}",
                self.images + blocks,
                SUMS_BYTES + 8 * _SORTED_KEYS,
                self.images,
                background,
                *self.sizes,
                self.component_class,
                self.image_counts,
                *self.tables,
                _SORTED_KEYS,
                self.count,
            )
        )
        launches.append(
            self._kernel(
                "overlap_records.cu",
                f"share_components_{options.protocol}",
                blocks,
                SUMS_BYTES,
                background,
                self.counts,
                self.parent,
                self.component_class,
                *self.sizes,
                self.image_counts,
                *self.tables,
                self.strip_unmatched,
                self.arrivals,
                self.unmatched_count,
            )
        )
        launches.append(
            self._kernel(
                "overlap_records.cu",
                "fill_records",
                blocks,
                0,
                background,
                self.counts,
                self.component_class,
                *self.sizes,
                self.image_counts,
                *self.tables,
                self.strip_unmatched,
                self.count,
                self.unmatched_count,
                *_records(self.outputs, self.first),
                Pointer("tally") if self.outputs.tally else None,
                classes,
            )
        )
        return launches

    def _fill_holes(self) -> list[Launch]:
        """In `parent`, from roots to the outermost components that enclose them."""
        source, grid = "contours.cu", self.images * self.strips
        runs = (self.words, self.run_component, self.parent, self.component_class, self.contour)
        links = (self.sibling, self.enclosing)
        return [
            self._kernel(source, "trace_contours", grid, 0, *runs),
            self._kernel(source, "find_neighbours", grid, 0, *runs, self.first_run, *links),
            self._kernel(source, "find_outermost", grid, 0, self.counts, self.parent, *links),
        ]

    def _scene(self) -> tuple[Argument, ...]:
        """FASTIA_SCENE_PARAMETERS of scene.cuh."""
        options = self.options
        ignored, void = _id(options.ignore_index), _id(options.instance_ignore_index)
        return (
            *self._map("preds", self.scene.preds),
            *self._map("target", self.scene.target),
            *self._map("instances", self.scene.instances),
            options.protocol == "exact",
            -1 if options.background is None else options.background,
            *ignored,
            *void,
            options.num_classes or 2**16,
            Pointer("error") if options.validate else None,
        )

    def _map(self, name: str, maps: Maps | None) -> tuple[Argument, ...]:
        if maps is None:
            return (None, 0, 0, 0, None, None, 0)
        begin, end = extent(maps)
        code = _DTYPE_CODES[MASK_DTYPES[maps.dtype]]
        data = Pointer(name, self.first * maps.strides[0])
        return (data, *maps.strides, Pointer(name, begin), Pointer(name, end), code)

    def _kernel(self, source: str, kernel: str, grid: int, shared_bytes: int, *arguments: Argument) -> Launch:
        arguments = (*self.division, *arguments)
        return Launch(source, f"fastia_{kernel}", grid, self.tuning.block, shared_bytes, arguments)


def _id(value: int | None) -> tuple[bool, int]:
    """Whether there is such an id, which no map can hold beyond 64 bits, and the id."""
    held = value is not None and -(2**63) <= value < 2**63
    return held, value if held and value is not None else 0
