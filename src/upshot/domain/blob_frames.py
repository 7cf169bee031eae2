"""Many small blobs in one body: a line `DIGEST SIZE` before the bytes of each."""

from __future__ import annotations

from upshot.errors import InvalidInput

_MAX_LINE = 120


def frame(digest: str, content: bytes) -> bytes:
    """Return the frame of a blob."""
    return f"{digest} {len(content)}\n".encode() + content


def parse_frames(body: bytes) -> list[tuple[str, bytes]]:
    """
    Return the digests and contents of a body.

    Raises:
        InvalidInput: The body is not a sequence of frames.
    """
    frames: list[tuple[str, bytes]] = []
    position = 0
    while position < len(body):
        end = body.find(b"\n", position, position + _MAX_LINE)
        digest, _, size = body[position:end].decode("ascii", "replace").partition(" ") if end >= 0 else ("", "", "")
        if not size.isdecimal() or end + 1 + int(size) > len(body):
            raise InvalidInput(f"body: byte {position} does not begin a frame: a line `DIGEST SIZE`, and SIZE bytes")
        start = end + 1
        position = start + int(size)
        frames.append((digest, body[start:position]))
    return frames
