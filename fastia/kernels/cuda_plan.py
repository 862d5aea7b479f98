"""What the CUDA kernels are to be called with: from shapes to scratch memory and a list of launches, as data.

Pure arithmetic, without a GPU and without CuPy, so that `cuda.py` on a GPU and `tests/cuda_on_cpu` on a CPU run the
same plan. Conventions:

- Every argument of a kernel has 8 bytes: an address, an integer or a double.
- Buffers go by name: `masks` is the address of the first element (strides may be negative), outputs are C-contiguous
  (`labels`, `weights`, `count`, `class_id`, `area`, `bbox`), `error` is int64 [2], zeroed before, and set to (1, id)
  by an id that is not allowed; `scratch` holds `Plan.scratch_bytes` of any content, aligned to 256 bytes.
- Launches run one after the other, in blocks of one dimension. Large batches go in chunks that use the same scratch.
- Sources lie in `csrc/cuda`, one module each; the names of all their kernels are in `KERNELS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MASK_DTYPES = {"bool": "uint8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32"}
MASK_DTYPES["int64"] = "int64"
KERNELS = {
    "strips.cu": [f"fastia_strips_{name}_{bits}" for name in sorted(set(MASK_DTYPES.values())) for bits in (32, 64)],
    "merge.cu": ["fastia_merge_32", "fastia_merge_64"],
    "flatten.cu": ["fastia_flatten_32", "fastia_flatten_64"],
    "fill.cu": ["fastia_fill_labels_32", "fastia_fill_labels_64"],
}
_MASK_RANGES = {"uint8": (0, 2**8 - 1), "uint16": (0, 2**16 - 1)}
_MASK_RANGES |= {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64)}
_SUMS_BYTES = 32 * 4  # kSumsBytes of runs.cuh
_BINS = 256  # kBins of flatten.cu


class Maps(NamedTuple):
    """A batch of maps of ids, `[B, H, W]`, in place."""

    shape: tuple[int, int, int]
    strides: tuple[int, int, int]  # bytes
    dtype: str


class Pointer(NamedTuple):
    """The address of a byte of a buffer."""

    buffer: str
    offset: int = 0


class Launch(NamedTuple):
    """One kernel launch; None among the arguments is a null pointer."""

    source: str
    kernel: str
    grid: int
    block: int
    shared_bytes: int
    arguments: tuple[Pointer | int | float | None, ...]


class Plan(NamedTuple):
    """The launches of one operation, and the scratch memory that they share."""

    scratch_bytes: int
    launches: list[Launch]


class Tuning(NamedTuple):
    """What results do not depend on."""

    block: int = 256  # threads, a multiple of 32
    strip_words: int = 256  # words of 32 pixels in a strip, where a row has no more
    capacity: int = 4096  # runs of a strip that shared memory has room for
    chunk_pixels: int = 2**25  # of images that share one set of launches
    wide: bool = False  # 64-bit component numbers for small images too


def label(
    masks: Maps,
    *,
    connectivity: int,
    background: int | None,
    ignore_index: int | None,
    validate: bool = False,
    tuning: Tuning = Tuning(),  # noqa: B008
) -> Plan:
    """`labels` of `masks`; with `count [B]` int32 not wanted."""
    options = _Options(connectivity, background, ignore_index, validate, tuning)
    scratch, launches = 0, []
    for chunk in _chunks(masks, tuning):
        launches += chunk.find_components(options)
        launches.append(chunk.fill_labels())
        scratch = max(scratch, chunk.scratch_bytes)
    return Plan(scratch, launches)


class _Options(NamedTuple):
    connectivity: int
    background: int | None
    ignore_index: int | None
    validate: bool
    tuning: Tuning


class _Chunk:
    """Some images of a batch, and the scratch memory for them."""

    def __init__(self, masks: Maps, first: int, images: int, tuning: Tuning) -> None:
        self.masks, self.first, self.images, self.tuning = masks, first, images, tuning
        _, self.height, self.width = masks.shape
        self.pixels = self.height * self.width
        self.words_per_row = -(-self.width // 32)
        self.rows = max(1, min(self.height, tuning.strip_words // self.words_per_row))
        self.strips = -(-self.height // self.rows)
        self.wide = tuning.wide or self.pixels >= 2**31
        self.index_bytes = 8 if self.wide else 4
        self.scratch_bytes = 0

        elements = images * self.pixels
        self.words = self.scratch(8 * images * self.height * self.words_per_row)
        self.counts = self.scratch(8 * images * self.strips)
        self.run_component = self.scratch(4 * elements)
        self.parent = self.scratch(self.index_bytes * elements)
        self.component_class = self.scratch(2 * elements)
        self.rank = self.scratch(4 * elements)
        self.strip_roots = self.scratch(4 * images * self.strips)
        self.arrivals = self.scratch(4 * images)

    def scratch(self, size: int) -> Pointer:
        pointer = Pointer("scratch", self.scratch_bytes)
        self.scratch_bytes += -(-size // 256) * 256
        return pointer

    def output(self, name: str, size: int) -> Pointer:
        """The part of an output that belongs to these images, of `size` bytes each."""
        return Pointer(name, self.first * size)

    @property
    def division(self) -> tuple[int, int, int]:
        return self.height, self.width, self.rows

    def launch(
        self, source: str, kernel: str, grid: int, shared_bytes: int, *arguments: Pointer | float | None
    ) -> Launch:
        name = f"fastia_{kernel}_{64 if self.wide else 32}"
        return Launch(source, name, grid, self.tuning.block, shared_bytes, arguments)

    def find_components(self, options: _Options) -> list[Launch]:
        dtype = MASK_DTYPES[self.masks.dtype]
        low, high = _MASK_RANGES[dtype]
        ignored = options.ignore_index
        has_ignored = ignored is not None and low <= ignored <= high
        capacity = self.tuning.capacity
        diagonal = int(options.connectivity == 8)
        strips = self.launch(
            "strips.cu",
            f"strips_{dtype}",
            self.images * self.strips,
            _SUMS_BYTES + 8 * capacity,
            Pointer("masks", self.first * self.masks.strides[0]),
            *self.masks.strides,
            *self.division,
            -1 if options.background is None else options.background,
            int(has_ignored),
            ignored if has_ignored and ignored is not None else 0,
            Pointer("error") if options.validate else None,
            diagonal,
            capacity,
            self.words,
            self.counts,
            self.run_component,
            self.parent,
            self.component_class,
            self.arrivals,
            None,
            None,
            None,
            1,
            None,
            0,
        )
        launches = [strips]
        if self.strips > 1:
            blocks = -(-(self.strips - 1) * self.words_per_row // self.tuning.block)
            launches.append(
                self.launch(
                    "merge.cu",
                    "merge",
                    self.images * blocks,
                    0,
                    *self.division,
                    diagonal,
                    self.words,
                    self.run_component,
                    self.parent,
                    self.component_class,
                )
            )
        launches.append(
            self.launch(
                "flatten.cu",
                "flatten",
                self.images * self.strips,
                _SUMS_BYTES + 4 * _BINS,
                *self.division,
                self.counts,
                self.parent,
                self.component_class,
                None,
                None,
                None,
                1,
                None,
                0,
                self.rank,
                self.strip_roots,
                self.arrivals,
                None,
            )
        )
        return launches

    def fill_labels(self) -> Launch:
        return self.launch(
            "fill.cu",
            "fill_labels",
            self.images * self.strips,
            4 * self.tuning.capacity,
            *self.division,
            self.counts,
            self.words,
            self.run_component,
            self.parent,
            self.rank,
            self.strip_roots,
            self.tuning.capacity,
            self.output("labels", 4 * self.pixels),
        )


def _chunks(masks: Maps, tuning: Tuning) -> Iterator[_Chunk]:
    batch, height, width = masks.shape
    if height * width == 0:
        return
    images = max(1, tuning.chunk_pixels // (height * width))
    for first in range(0, batch, images):
        yield _Chunk(masks, first, min(images, batch - first), tuning)
