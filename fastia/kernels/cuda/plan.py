"""What the CUDA kernels are to be called with: from shapes to scratch memory and a list of launches, as data.

Pure arithmetic, without a GPU and without CuPy, so that `launch` on a GPU and `tests/cuda_on_cpu` on a CPU run the
same plan. Conventions:

- A kernel takes one struct by value, of those in `structs`.
- Buffers go by name: `masks` is the address of the first element (strides may be negative), outputs are C-contiguous
  (`labels`, `weights`, `count`, `class_id`, `area`, `bbox`), `error` is int64 [2], zeroed before, and set to (1, id)
  by an id that is not allowed; `scratch` holds `Plan.scratch_bytes` of any content, aligned to 256 bytes.
- Launches run one after the other, in blocks of one dimension. Large batches go in chunks that use the same scratch.
- Sources lie in `csrc/cuda`, one module each; `KERNELS` of `plan_masks` and `plan_overlaps` name the kernels of each
  and what they take.
"""

from __future__ import annotations

from typing import NamedTuple

from fastia.kernels.cuda import structs
from fastia.kernels.cuda.structs import Pointer, Struct
from fastia.options import ComponentOptions

MASK_DTYPES = {"bool": "uint8"} | {name: name for name in ("uint8", "int16", "uint16", "int32", "int64")}
WEIGHT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_DTYPE_CODES = {name: code for code, name in enumerate(("uint8", "int16", "uint16", "int32", "int64"))}  # Dtype
_RANGES = {"uint8": (0, 2**8 - 1), "uint16": (0, 2**16 - 1)}
_RANGES |= {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64)}
ID_BYTES = {"uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "int64": 8}
SUMS_BYTES = 32 * 4  # kSumsBytes of runs.cuh
_BINS_BYTES = 256 * 4  # kBins of flatten.cu


class Masks(NamedTuple):
    """A batch of ids, `[B, H, W]`, in place."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: str


class Launch(NamedTuple):
    """One kernel launch."""

    source: str
    kernel: str
    grid: int
    block: int
    shared_bytes: int
    parameters: Struct


class Plan(NamedTuple):
    """The launches of one operation, and the scratch memory that they share."""

    scratch_bytes: int
    launches: list[Launch]


class Tuning(NamedTuple):
    """What no result depends on; `docs/kernels.md` says where the figures come from."""

    block: int = 256  # threads, a multiple of 32
    strips: int = 528  # wanted in a batch: 4 on each of 132 multiprocessors
    strip_words: tuple[int, int] = (256, 1024)  # fewest and most words of 32 pixels in a strip, but for whole rows
    run_capacity: int = 2720  # runs of a strip that shared memory has room for
    scratch_bytes: int = 2**31  # for the images that share one set of launches; one image may need more
    wide: bool = False  # 64-bit numbers of components for small images too


TUNING = Tuning()


class Needs(NamedTuple):
    """What an operation wants to know of components."""

    labels: bool = False
    areas: bool = False
    classes: int = 0  # whose pixels are added up: all together for 1


def parts(batch: int, image_bytes: int, tuning: Tuning) -> list[tuple[int, int]]:
    """First image and number of images of the chunks that a batch goes in, each of as many."""
    most = max(1, tuning.scratch_bytes // image_bytes)
    images = -(-batch // -(-batch // most))
    return [(first, min(images, batch - first)) for first in range(0, batch, images)]


def extent(masks: Masks) -> tuple[int, int]:
    """The bytes that the elements of masks span, from the first element on."""
    steps = [(size - 1) * stride for size, stride in zip(masks.shape, masks.strides, strict=True)]
    begin, end = sum(min(step, 0) for step in steps), sum(max(step, 0) for step in steps)
    return begin, end + ID_BYTES[MASK_DTYPES[masks.dtype]]


def masks_in_place(masks: Masks, buffer: str, first: int) -> structs.Masks:
    """The images from `first` on."""
    begin, end = extent(masks)
    image_stride, row_stride, column_stride = masks.strides
    return structs.Masks(
        data=Pointer(buffer, first * image_stride),
        image_stride=image_stride,
        row_stride=row_stride,
        column_stride=column_stride,
        begin=Pointer(buffer, begin),
        end=Pointer(buffer, end),
        dtype=_DTYPE_CODES[MASK_DTYPES[masks.dtype]],
    )


def output_tables(columns: int, first: int) -> structs.Tables:
    """The outputs of the images from `first` on."""
    rows = first * columns
    return structs.Tables(
        columns=columns,
        class_id=Pointer("class_id", 4 * rows),
        area=Pointer("area", 8 * rows),
        bbox=Pointer("bbox", 16 * rows),
    )


class Chunk:
    """Some images of a batch, how they are cut, and the scratch memory for them."""

    def __init__(
        self, masks: Masks, first: int, images: int, needs: Needs, tuning: Tuning, scratch_begin: int = 0
    ) -> None:
        self.masks, self.first, self.images, self.tuning = masks, first, images, tuning
        _, height, width = masks.shape
        self.pixels = height * width
        self.words_per_row = -(-width // 32)
        fewest, most = tuning.strip_words
        wanted = images * height * self.words_per_row // tuning.strips
        rows = max(1, min(height, max(fewest, min(most, wanted)) // self.words_per_row))
        self.strips = -(-height // rows)
        self.blocks = images * self.strips
        self.wide = tuning.wide or self.pixels >= 2**31

        self.scratch_bytes = scratch_begin
        index = 8 if self.wide else 4
        pixels = images * self.pixels
        self.labelling = structs.Labelling(
            division=structs.Division(height=height, width=width, rows=rows),
            words=self.scratch(8 * images * height * self.words_per_row),
            counts=self.scratch(8 * self.blocks),
            run_component=self.scratch(4 * pixels),
            component_parent=self.scratch(index * pixels),
            component_class=self.scratch(2 * pixels),
            rank=self.scratch(4 * pixels) if needs.labels else None,
            strip_roots=self.scratch(4 * self.blocks) if needs.labels else None,
            arrivals=self.scratch(4 * images) if needs.labels else None,
            area=self.scratch(4 * pixels) if needs.areas else None,
            total=self.scratch(index * pixels) if needs.areas else None,
            class_total=self.scratch(index * images * needs.classes) if needs.classes else None,
            classes=needs.classes,
            first_run=None,
        )

    def output(self, name: str, size: int) -> Pointer:
        """The part of an output that belongs to these images, of `size` bytes each."""
        return Pointer(name, self.first * size)

    def find_components(
        self, options: ComponentOptions, count: Pointer | None = None, buffer: str = "masks"
    ) -> list[Launch]:
        """Kernels 1 to 3: runs and their components, the components' roots, and what belongs to these."""
        dtype = MASK_DTYPES[self.masks.dtype]
        low, high = _RANGES[dtype]
        ignored = options.ignore_index
        if ignored is not None and not low <= ignored <= high:
            ignored = None
        strips = structs.Strips(
            labelling=self.labelling,
            masks=masks_in_place(self.masks, buffer, self.first),
            options=structs.ComponentOptions(
                connectivity=options.connectivity,
                background=-1 if options.background is None else options.background,
                has_ignore_index=ignored is not None,
                ignore_index=ignored or 0,
                error=Pointer("error") if options.validate else None,
            ),
            run_capacity=self.tuning.run_capacity,
        )
        flatten = structs.Flatten(labelling=self.labelling, count=count)
        return [
            self._launch("masks/strips.cu", f"strips_{dtype}", self.blocks, self.runs_bytes(), strips),
            *self.merge_strips(options.connectivity),
            self._launch("masks/flatten.cu", "flatten", self.blocks, SUMS_BYTES + _BINS_BYTES, flatten),
        ]

    def merge_strips(self, connectivity: int) -> list[Launch]:
        if self.strips == 1:
            return []
        words_per_block = self.tuning.block // 32
        blocks = -(-(self.strips - 1) * self.words_per_row // words_per_block)
        parameters = structs.Merge(labelling=self.labelling, connectivity=connectivity)
        return [self._launch("core/merge.cu", "merge", self.images * blocks, 0, parameters)]

    def fill_labels(self) -> Launch:
        parameters = structs.FillLabels(
            labelling=self.labelling,
            word_capacity=self.tuning.strip_words[1],
            run_capacity=self.tuning.run_capacity,
            labels=self.output("labels", 4 * self.pixels),
        )
        return self._launch("masks/labels.cu", "fill_labels", self.blocks, self._fill_bytes(4), parameters)

    def fill_tables(self, max_components: int, count: Pointer) -> Launch:
        tables = output_tables(max_components, self.first)
        parameters = structs.FillTables(labelling=self.labelling, count=count, tables=tables)
        return self._launch("masks/labels.cu", "fill_tables", self.blocks, 0, parameters)

    def fill_boxes(self, max_components: int) -> Launch:
        parameters = structs.FillBoxes(labelling=self.labelling, tables=output_tables(max_components, self.first))
        return self._launch("masks/labels.cu", "fill_boxes", self.blocks, 0, parameters)

    def fill_weights(self, tau: float, dtype: str) -> Launch:
        size = WEIGHT_BYTES[dtype]
        parameters = structs.FillWeights(
            labelling=self.labelling,
            tau=float(tau),
            word_capacity=self.tuning.strip_words[1],
            run_capacity=self.tuning.run_capacity,
            weights=self.output("weights", size * self.pixels),
        )
        return self._launch(
            "masks/weights.cu", f"fill_weights_{dtype}", self.blocks, self._fill_bytes(size), parameters
        )

    def runs_bytes(self) -> int:
        """Shared memory of kernel 1."""
        return SUMS_BYTES + 12 * self.tuning.run_capacity

    def _fill_bytes(self, value_bytes: int) -> int:
        return 8 * self.tuning.strip_words[1] + value_bytes * self.tuning.run_capacity

    def _launch(self, source: str, kernel: str, grid: int, shared_bytes: int, parameters: Struct) -> Launch:
        name = f"fastia_{kernel}_{64 if self.wide else 32}"
        return Launch(source, name, grid, self.tuning.block, shared_bytes, parameters)

    def scratch(self, size: int) -> Pointer:
        pointer = Pointer("scratch", self.scratch_bytes)
        self.scratch_bytes += -(-size // 256) * 256
        return pointer
