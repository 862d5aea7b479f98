"""Ids in PNG files: read as they are stored, and no damaged file taken for a good one."""

import importlib.util
import io
import re
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from fastia.data import png


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["P", "L"])
def test_png_ids_of_1_to_8_bits_are_read_as_stored(tmp_path, bits, mode) -> None:
    ids = np.random.default_rng(bits).integers(0, 2**bits, (13, 21)).astype(np.uint8)
    path = tmp_path / "ids.png"
    path.write_bytes(encode(ids, bits, 3 if mode == "P" else 0))
    np.testing.assert_array_equal(png.read_ids(path), ids)


def test_without_zlib_ng_the_standard_zlib_serves(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    spec = importlib.util.spec_from_file_location("png_without_zlib_ng", png.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.zlib is zlib
    (tmp_path / "ids.png").write_bytes(GOOD)
    np.testing.assert_array_equal(module.read_ids(tmp_path / "ids.png"), IDS)
    (tmp_path / "ids.png").write_bytes(encode(IDS, 8, 3, compressed=b"no deflate stream"))
    with pytest.raises(ValueError, match="damaged PNG"):
        module.read_ids(tmp_path / "ids.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_filtered_and_16_bit_png_ids_are_read_as_stored(tmp_path, dtype) -> None:
    ids = np.add.outer(np.arange(60), np.arange(70)).astype(dtype) * (1 if dtype == np.uint8 else 400)
    path = tmp_path / "ids.png"
    Image.fromarray(ids).save(path)
    assert zlib.decompress(path.read_bytes()[41:-16])[::71].strip(b"\0")  # the rows are filtered
    read = png.read_ids(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, ids)


def test_interlaced_png_ids_are_read_as_stored(tmp_path) -> None:
    path = tmp_path / "ids.png"
    data = bytearray(encode(np.full((1, 1), 7, np.uint8), 8, 0))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert png.read_ids(path).tolist() == [[7]]


def encode(
    ids: np.ndarray, bits: int, colour: int, rows: bytes | None = None, compressed: bytes | None = None
) -> bytes:
    """A PNG of unfiltered rows, or of given ones."""
    if rows is None:
        packed = np.packbits(np.unpackbits(ids[..., None], axis=2)[..., 8 - bits :].reshape(len(ids), -1), axis=1)
        rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, colour, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", bytes(3 * 2**bits)),
        (b"IDAT", compressed or zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
        if kind != b"PLTE" or colour == 3
    )


IDS = np.arange(100, dtype=np.uint8).reshape(10, 10)
GOOD = encode(IDS, 8, 3)


def colours(mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (5, 5)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "not a PNG file"),
        (GOOD[:40], "truncated PNG"),
        (GOOD[:-1], "truncated PNG"),
        (encode(IDS, 8, 3, rows=bytes(60)), "truncated PNG"),
        (encode(np.broadcast_to(IDS[0, 0], (40000, 40000)), 8, 3, rows=bytes(60)), "truncated PNG"),
        (GOOD[:-30] + bytes([GOOD[-30] ^ 1]) + GOOD[-29:], "damaged PNG: wrong checksum of chunk 'IDAT'"),
        (GOOD[:8] + GOOD[-12:], "damaged PNG: no header or no image data"),
        (encode(IDS, 8, 3, rows=bytes([9, *range(10)] * 10)), "damaged PNG"),
        (encode(IDS, 8, 3, compressed=b"no deflate stream"), "damaged PNG"),
        (encode(IDS, 8, 5), "unknown image"),
        (colours("RGB"), "RGB image; ids need a palette or grey PNG"),
        (colours("RGBA"), "RGBA image"),
        (colours("LA"), "grey with alpha image"),
    ],
)
def test_unreadable_pngs_are_named(tmp_path, data, message) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        png.read_ids(path)


def test_any_flipped_bit_is_noticed(tmp_path) -> None:
    path = tmp_path / "flipped.png"
    for position in range(len(GOOD)):
        path.write_bytes(GOOD[:position] + bytes([GOOD[position] ^ 0x10]) + GOOD[position + 1 :])
        with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
            png.read_ids(path)


def test_too_many_values_for_16_bits_are_not_written(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"ids must be in 0..65535, got 0..65536"):
        png.write_ids(tmp_path / "ids.png", np.array([[0, 65536]]))
