"""Write PNG files with the standard library: eight bits a channel; grey, grey and alpha, RGB or RGBA."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels: https://www.w3.org/TR/png/#11IHDR
_HEADER = struct.Struct(">IIBBBBB")


def write_png(pixels: bytes, *, width: int, height: int, channels: int) -> bytes:
    """
    Return a PNG file.

    Args:
        pixels: Bytes of the rows from the top, channels interleaved.
        width: Pixels of a row.
        height: Number of rows.
        channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA).
    """
    row_bytes = width * channels
    # Each row begins with the number of its filter. 0 is none.
    rows = b"".join(b"\x00" + pixels[start : start + row_bytes] for start in range(0, row_bytes * height, row_bytes))
    header = _HEADER.pack(width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 4)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def size_of_png(content: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG file, or None if it is not one."""
    if not content.startswith(SIGNATURE) or content[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", content[16:24])
    return width, height
