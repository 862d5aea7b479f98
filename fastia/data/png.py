"""Class and instance ids in PNG files: palette indices and grey values as they are stored, no palette applied.

Writers leave the rows of palette images unfiltered. Such a file is its inflated bytes without the first of each row, so
inflating is all the decoding there is; zlib-ng does it several times faster than any PNG library and the standard zlib
(which serves where zlib-ng is not installed) twice as fast. Pillow decodes all other files.
"""

from __future__ import annotations

import os
import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.typing import PathLike

zlib: Any
try:
    from zlib_ng import zlib_ng as zlib
except ImportError:
    import zlib

Ids = NDArray[Any]  # [H, W] uint8 or uint16

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_COLOUR_NAMES = {2: "RGB", 4: "grey with alpha", 6: "RGBA"}
_GREY_STEPS = {1: 255, 2: 85, 4: 17}  # Pillow stretches grey values of less than 8 bits to 0..255
_LARGEST_DEFLATE_RATIO = 1032


def read_ids(path: PathLike) -> Ids:
    """Read the ids of a palette or grey PNG.

    Args:
        path: a PNG of 1, 2, 4, 8 or 16 bits a pixel.

    Returns:
        Palette indices or grey values ``[H, W]``, uint8, or uint16 for 16 bits. May be a strided view.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no PNG, is truncated or damaged, or holds colours. The text begins with the path.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from fastia.data.png import read_ids, write_ids
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_ids(f"{folder}/mask.png", np.array([[0, 15, 255]], np.uint8))
        ...     read_ids(f"{folder}/mask.png")
        array([[  0,  15, 255]], dtype=uint8)

    Source: Portable Network Graphics (PNG) Specification, third edition.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        return _decode(data)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def write_ids(path: PathLike, ids: Ids, palette: NDArray[np.uint8] | None = None) -> None:
    """Write ids as a PNG: uint8 as a palette image, other integers as 16-bit grey.

    Args:
        path: where to write.
        ids: ``[H, W]``, uint8, or integers in 0..65535.
        palette: RGB colours ``[256, 3]`` of uint8 ids; None: :func:`fastia.data.voc.palette`.

    Raises:
        ValueError: an id that 16 bits do not hold.
    """
    from PIL import Image

    from fastia.data import voc

    if ids.dtype == np.uint8:
        image = Image.fromarray(ids)
        image.putpalette((voc.palette() if palette is None else palette).tobytes())
    elif ids.size and not 0 <= ids.min() <= ids.max() <= 65535:
        raise ValueError(f"ids must be in 0..65535, got {ids.min()}..{ids.max()}")
    else:
        image = Image.fromarray(ids.astype(np.uint16))
    image.save(path, format="PNG")


def _decode(data: bytes) -> Ids:
    chunks = _chunks(data)
    header = b"".join(chunks.get(b"IHDR", []))
    if len(header) != 13 or b"IDAT" not in chunks:
        raise ValueError("damaged PNG: no header or no image data")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if colour not in (_GREY, _PALETTE):
        raise ValueError(f"{_COLOUR_NAMES.get(colour, 'unknown')} image; ids need a palette or grey PNG")
    if depth == 8 and not interlace:
        rows = _inflate(b"".join(chunks[b"IDAT"]), height, width + 1)
        if not rows[:, 0].any():
            return rows[:, 1:]
    ids = _decode_with_pillow(data)
    return ids.view(np.uint8) // np.uint8(_GREY_STEPS[depth]) if colour == _GREY and depth < 8 else ids


def _chunks(data: bytes) -> dict[bytes, list[bytes]]:
    """The bytes of the chunks of each kind."""
    if data[:8] != _SIGNATURE:
        raise ValueError("empty file" if not data else "not a PNG file")
    chunks: dict[bytes, list[bytes]] = {}
    begin, kind = 8, b""
    while kind != b"IEND":
        length = int.from_bytes(data[begin : begin + 4], "big")
        end = begin + 8 + length
        if end + 4 > len(data):
            raise ValueError("truncated PNG")
        kind = data[begin + 4 : begin + 8]
        if zlib.crc32(data[begin + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"damaged PNG: wrong checksum of chunk {kind.decode('latin-1')!r}")
        chunks.setdefault(kind, []).append(data[begin + 8 : end])
        begin = end + 4
    return chunks


def _inflate(compressed: bytes, height: int, row_bytes: int) -> NDArray[np.uint8]:
    """The rows of an 8-bit image, each after the byte that names its filter (0: none)."""
    size = height * row_bytes
    if size > len(compressed) * _LARGEST_DEFLATE_RATIO:
        raise ValueError("truncated PNG")
    try:
        inflated = zlib.decompress(compressed, bufsize=size)
    except zlib.error as error:
        raise ValueError(f"damaged PNG: {error}") from None
    if len(inflated) < size:
        raise ValueError("truncated PNG")
    return np.frombuffer(inflated, np.uint8, size).reshape(height, row_bytes)


def _decode_with_pillow(data: bytes) -> Ids:
    from PIL import Image

    try:
        return np.asarray(Image.open(BytesIO(data), formats=["PNG"]))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, zlib.error, its own and more
        raise ValueError(f"damaged PNG: {error}") from None
