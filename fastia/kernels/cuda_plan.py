"""What the CUDA kernels are to be called with: from shapes to scratch memory and a list of launches, as data.

Pure arithmetic, without a GPU and without CuPy, so that `cuda.py` on a GPU and `tests/cuda_on_cpu` on a CPU run the
same plan. Conventions:

- Every argument of a kernel has 8 bytes: an address, an integer or a double.
- Buffers go by name: `masks` is the address of the first element (strides may be negative), outputs are C-contiguous
  (`labels`, `weights`, `count`, `class_id`, `area`, `bbox`), `error` is int64 [2], zeroed before, and set to (1, id)
  by an id that is not allowed; `scratch` holds `Plan.scratch_bytes` of any content, aligned to 256 bytes.
- Launches run one after the other, in blocks of one dimension. Large batches go in chunks that use the same scratch.
- Sources lie in `csrc/cuda`, one module each; `KERNELS` names the kernels of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MASK_DTYPES = {"bool": "uint8"} | {name: name for name in ("uint8", "int16", "uint16", "int32", "int64")}
WEIGHT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
KERNELS = {
    source: [f"fastia_{name}_{bits}" for name in names for bits in (32, 64)]
    for source, names in {
        "strips.cu": [f"strips_{dtype}" for dtype in dict.fromkeys(MASK_DTYPES.values())],
        "merge.cu": ["merge"],
        "flatten.cu": ["flatten"],
        "labels.cu": ["fill_labels", "fill_tables", "fill_boxes"],
        "weights.cu": [f"fill_weights_{dtype}" for dtype in WEIGHT_BYTES],
    }.items()
}
KERNELS["labels.cu"].append("fastia_empty_tables")

_RANGES = {"uint8": (0, 2**8 - 1), "uint16": (0, 2**16 - 1)}
_RANGES |= {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64)}
ID_BYTES = {"uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "int64": 8}
SUMS_BYTES = 32 * 4  # kSumsBytes of runs.cuh
_BINS_BYTES = 256 * 4  # kBins of flatten.cu


class Maps(NamedTuple):
    """A batch of maps of ids, `[B, H, W]`, in place."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: str


class Pointer(NamedTuple):
    """The address of a byte of a buffer."""

    buffer: str
    offset: int = 0


Argument = Pointer | int | float | None  # None: a null pointer


class Launch(NamedTuple):
    """One kernel launch."""

    source: str
    kernel: str
    grid: int
    block: int
    shared_bytes: int
    arguments: tuple[Argument, ...]


class Plan(NamedTuple):
    """The launches of one operation, and the scratch memory that they share."""

    scratch_bytes: int
    launches: list[Launch]


class Tuning(NamedTuple):
    """What no result depends on; `docs/kernels.md` says where the figures come from."""

    block: int = 256  # threads, a multiple of 32
    strips: int = 528  # wanted in a batch: 4 on each of 132 multiprocessors
    strip_words: tuple[int, int] = (256, 1024)  # fewest and most words of 32 pixels in a strip, but for whole rows
    capacity: int = 2720  # runs of a strip that shared memory has room for
    scratch_bytes: int = 2**31  # for the images that share one set of launches; one image may need more
    wide: bool = False  # 64-bit numbers of components for small images too


class Options(NamedTuple):
    """What forms components; with `validate`, ids that are not allowed are told in `error`."""

    connectivity: int
    background: int | None
    ignore_index: int | None
    validate: bool = False


TUNING = Tuning()


def label(masks: Maps, options: Options, tuning: Tuning = TUNING) -> Plan:
    """Fills `labels`."""
    needs = Needs(labels=True)
    return _plan(masks, needs, tuning, lambda chunk: [*chunk.find_components(options), chunk.fill_labels()])


def components(masks: Maps, options: Options, max_components: int, tuning: Tuning = TUNING) -> Plan:
    """Fills `labels`, `count [B]`, `class_id [B, K]`, `area [B, K]` and `bbox [B, K, 4]`, where K is max_components."""

    def launches(chunk: Chunk) -> list[Launch]:
        count = chunk.output("count", 4)
        tables = [chunk.fill_tables(max_components, count), chunk.fill_boxes(max_components)] if max_components else []
        return [*chunk.find_components(options, count), chunk.fill_labels(), *tables]

    if masks.shape[0] and 0 in masks.shape[1:]:
        arguments = (Pointer("count"), max_components, Pointer("class_id"), Pointer("area"), Pointer("bbox"))
        return Plan(0, [Launch("labels.cu", "fastia_empty_tables", masks.shape[0], tuning.block, 0, arguments)])
    return _plan(masks, Needs(labels=True, areas=True), tuning, launches)


def weights(masks: Maps, options: Options, tau: float, normalizer: str, dtype: str, tuning: Tuning = TUNING) -> Plan:
    """Fills `weights`, of a dtype that `WEIGHT_BYTES` names."""
    classes = 1 if normalizer == "foreground" else 256 if MASK_DTYPES[masks.dtype] == "uint8" else 65536
    needs = Needs(areas=True, classes=classes)
    return _plan(masks, needs, tuning, lambda chunk: [*chunk.find_components(options), chunk.fill_weights(tau, dtype)])


class Needs(NamedTuple):
    """What an operation wants to know of components."""

    labels: bool = False
    areas: bool = False
    classes: int = 0  # whose pixels are added up: all together for 1


def _plan(masks: Maps, needs: Needs, tuning: Tuning, launches_of: Callable[[Chunk], list[Launch]]) -> Plan:
    batch, height, width = masks.shape
    if batch * height * width == 0:
        return Plan(0, [])
    one = Chunk(masks, 0, 1, needs, tuning)
    chunks = [Chunk(masks, *part, needs, tuning) for part in parts(batch, one.scratch_bytes, tuning)]
    launches = [launch for chunk in chunks for launch in launches_of(chunk)]
    return Plan(max(chunk.scratch_bytes for chunk in chunks), launches)


def parts(batch: int, image_bytes: int, tuning: Tuning) -> list[tuple[int, int]]:
    """First image and number of images of the chunks that a batch goes in, each of as many."""
    most = max(1, tuning.scratch_bytes // image_bytes)
    images = -(-batch // -(-batch // most))
    return [(first, min(images, batch - first)) for first in range(0, batch, images)]


def extent(maps: Maps) -> tuple[int, int]:
    """The bytes that the elements of maps span, from the first element on."""
    steps = [(size - 1) * stride for size, stride in zip(maps.shape, maps.strides, strict=True)]
    begin, end = sum(min(step, 0) for step in steps), sum(max(step, 0) for step in steps)
    return begin, end + ID_BYTES[MASK_DTYPES[maps.dtype]]


class Chunk:
    """Some images of a batch, how they are cut, and the scratch memory for them."""

    def __init__(
        self, masks: Maps, first: int, images: int, needs: Needs, tuning: Tuning, scratch_begin: int = 0
    ) -> None:
        self.masks, self.first, self.images, self.tuning = masks, first, images, tuning
        _, height, width = masks.shape
        self.pixels = height * width
        self.words_per_row = -(-width // 32)
        fewest, most = tuning.strip_words
        wanted = images * height * self.words_per_row // tuning.strips
        rows = max(1, min(height, max(fewest, min(most, wanted)) // self.words_per_row))
        self.strips = -(-height // rows)
        self.division = (height, width, rows)
        self.wide = tuning.wide or self.pixels >= 2**31

        self.scratch_bytes = scratch_begin
        index = 8 if self.wide else 4
        strips, pixels = self.images * self.strips, self.images * self.pixels
        self.words = self.scratch(8 * images * height * self.words_per_row)
        self.counts = self.scratch(8 * strips)
        self.run_component = self.scratch(4 * pixels)
        self.parent = self.scratch(index * pixels)
        self.component_class = self.scratch(2 * pixels)
        self.rank = self.scratch(4 * pixels) if needs.labels else None
        self.strip_roots = self.scratch(4 * strips) if needs.labels else None
        self.arrivals = self.scratch(4 * images) if needs.labels else None
        self.area = self.scratch(4 * pixels) if needs.areas else None
        self.total = self.scratch(index * pixels) if needs.areas else None
        self.class_total = self.scratch(index * images * needs.classes) if needs.classes else None
        self.classes = needs.classes

    def output(self, name: str, size: int) -> Pointer:
        """The part of an output that belongs to these images, of `size` bytes each."""
        return Pointer(name, self.first * size)

    def find_components(self, options: Options, count: Pointer | None = None, buffer: str = "masks") -> list[Launch]:
        """Kernels 1 to 3: runs and their components, the components' roots, and what belongs to these."""
        dtype = MASK_DTYPES[self.masks.dtype]
        low, high = _RANGES[dtype]
        ignored = options.ignore_index
        if ignored is not None and not low <= ignored <= high:
            ignored = None
        begin, end = extent(self.masks)
        diagonal, capacity = int(options.connectivity == 8), self.tuning.capacity
        measures = (self.total, self.class_total, self.classes)

        launches = [
            self._launch(
                "strips.cu",
                f"strips_{dtype}",
                self.images * self.strips,
                SUMS_BYTES + 12 * capacity,
                Pointer(buffer, self.first * self.masks.strides[0]),
                *self.masks.strides,
                Pointer(buffer, begin),
                Pointer(buffer, end),
                -1 if options.background is None else options.background,
                ignored is not None,
                ignored or 0,
                Pointer("error") if options.validate else None,
                diagonal,
                capacity,
                self.words,
                self.counts,
                self.run_component,
                self.parent,
                self.component_class,
                self.arrivals,
                self.area,
                *measures,
            )
        ]
        launches += self.merge_strips(diagonal)
        launches.append(
            self._launch(
                "flatten.cu",
                "flatten",
                self.images * self.strips,
                SUMS_BYTES + _BINS_BYTES,
                self.counts,
                self.parent,
                self.component_class,
                self.area,
                *measures,
                self.rank,
                self.strip_roots,
                self.arrivals,
                count,
            )
        )
        return launches

    def merge_strips(self, diagonal: int) -> list[Launch]:
        if self.strips == 1:
            return []
        words_per_block = self.tuning.block // 32
        blocks = -(-(self.strips - 1) * self.words_per_row // words_per_block)
        inputs = (diagonal, self.words, self.run_component, self.parent, self.component_class)
        return [self._launch("merge.cu", "merge", self.images * blocks, 0, *inputs)]

    def fill_labels(self) -> Launch:
        return self._launch(
            "labels.cu",
            "fill_labels",
            self.images * self.strips,
            self._fill_bytes(4),
            self.counts,
            self.words,
            self.run_component,
            self.parent,
            self.rank,
            self.strip_roots,
            self.tuning.strip_words[1],
            self.tuning.capacity,
            self.output("labels", 4 * self.pixels),
        )

    def fill_tables(self, max_components: int, count: Pointer) -> Launch:
        return self._launch(
            "labels.cu",
            "fill_tables",
            self.images * self.strips,
            0,
            self.counts,
            self.parent,
            self.component_class,
            self.total,
            self.rank,
            self.strip_roots,
            count,
            max_components,
            self.output("class_id", 4 * max_components),
            self.output("area", 8 * max_components),
            self.output("bbox", 16 * max_components),
        )

    def fill_boxes(self, max_components: int) -> Launch:
        return self._launch(
            "labels.cu",
            "fill_boxes",
            self.images * self.strips,
            0,
            self.words,
            self.run_component,
            self.parent,
            self.rank,
            self.strip_roots,
            max_components,
            self.output("bbox", 16 * max_components),
        )

    def fill_weights(self, tau: float, dtype: str) -> Launch:
        size = WEIGHT_BYTES[dtype]
        return self._launch(
            "weights.cu",
            f"fill_weights_{dtype}",
            self.images * self.strips,
            self._fill_bytes(size),
            self.counts,
            self.words,
            self.run_component,
            self.parent,
            self.component_class,
            self.total,
            self.class_total,
            self.classes,
            float(tau),
            self.tuning.strip_words[1],
            self.tuning.capacity,
            self.output("weights", size * self.pixels),
        )

    def _fill_bytes(self, value_bytes: int) -> int:
        return 8 * self.tuning.strip_words[1] + value_bytes * self.tuning.capacity

    def _launch(self, source: str, kernel: str, grid: int, shared_bytes: int, *arguments: Argument) -> Launch:
        name = f"fastia_{kernel}_{64 if self.wide else 32}"
        return Launch(source, name, grid, self.tuning.block, shared_bytes, (*self.division, *arguments))

    def scratch(self, size: int) -> Pointer:
        pointer = Pointer("scratch", self.scratch_bytes)
        self.scratch_bytes += -(-size // 256) * 256
        return pointer
