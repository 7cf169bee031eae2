"""Read the body of a response at the speed of the connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

_CHUNK_BYTES = 1024 * 1024
LARGE_BYTES = 16 * 1024 * 1024  #: a larger body is worth a connection of its own, which cannot be used again
_READ_SECONDS = 600.0  # without a byte


def body_chunks(response: httpx.Response) -> Iterator[bytes]:
    """
    Yield the bytes of a response as they arrive, encoded as they are.

    httpx parses a body in pieces of 64 KiB, which takes as long as to hash it. So a large body of known length is read
    from the connection itself after its first piece. Such a connection is closed at the end.

    Raises:
        httpx.TransportError: The connection broke.
    """
    length = response.headers.get("Content-Length", "")
    left = int(length) if length.isdecimal() else 0
    stream = response.extensions.get("network_stream")
    is_plain = response.http_version == "HTTP/1.1" and "Transfer-Encoding" not in response.headers
    if left < LARGE_BYTES or stream is None or not is_plain:
        yield from response.iter_raw(_CHUNK_BYTES)
        return
    pieces = response.iter_raw()
    # A piece is all that was received so far, so what the connection has next continues it.
    chunk = next(pieces)
    yield chunk
    while left := left - len(chunk):
        chunk = _read(stream, min(_CHUNK_BYTES, left))
        yield chunk


def _read(stream: Any, size: int) -> bytes:
    try:
        chunk: bytes = stream.read(size, timeout=_READ_SECONDS)
    except Exception as error:
        raise httpx.ReadError(str(error)) from error
    if not chunk:
        raise httpx.RemoteProtocolError("the server closed the connection before the end of the body")
    return chunk
