"""Routes whose bodies are bytes: they are streamed, and wait in no queue of mutations."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import anyio
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse

from upshot.blobs.service import Blobs
from upshot.ports.blobs import PART_BYTES, StoredBlob
from upshot.resources.urls import API_PREFIX
from upshot.web.problems import Problem
from upshot.web.routing import CheckedRoute

MAX_TRANSFER_BYTES = PART_BYTES  #: of the largest body with blobs
TRANSFER_THREADS = 16  #: requests whose bodies are written at the same time; the others wait
_CHUNK_BYTES = 1024 * 1024
_BINARY = "application/octet-stream"
#: The content of a body or response with bytes, in the OpenAPI document.
BYTES: dict[str, Any] = {_BINARY: {"schema": {"type": "string", "format": "binary"}}}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def make_transfer_router(tag: str) -> APIRouter:
    """Return a router for routes whose bodies are bytes."""
    return APIRouter(
        prefix=API_PREFIX, route_class=CheckedRoute, tags=[tag], generate_unique_id_function=lambda route: route.name
    )


async def read_all(request: Request, *, limit: int) -> bytes:
    """
    Return the body of a request.

    Raises:
        Problem: 413 if it has more bytes than the limit.
    """
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            raise too_large(limit)
    return bytes(received)


class Receiver(Protocol):
    """What the body of a request is passed to. Its methods block."""

    def write_all(self, chunks: Sequence[bytes]) -> None:
        """Append bytes."""
        ...

    def finish(self) -> None:
        """Keep what was written."""
        ...

    def abort(self) -> None:
        """Forget what was written."""
        ...


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """
    Return start and end of the one range that a `Range` header asks for.

    Returns:
        None if everything is to be sent: there is no header, or one that this server may ignore.

    Raises:
        Problem: 416 if the range is outside.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise Problem(416, "range-not-satisfiable", f"Range: the blob has {size:,} bytes; ask for some of them")
    return start, end


async def receive(request: Request, receiver: Receiver, *, limit: int, size: int | None = None) -> int:
    """
    Pass the body of a request to a receiver while it arrives.

    Args:
        request: The request.
        receiver: Its methods are called in a thread, with one MiB after the other.
        limit: Number of bytes that the body may have.
        size: Number of bytes that the body must have; None if any number will do.

    Returns:
        The number of bytes.

    Raises:
        Problem: 413 if the body has more bytes than the limit, 400 if it has another size.
    """
    threads = request.app.state.transfer_threads
    received, waiting_bytes = 0, 0
    chunks: list[bytes] = []
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise too_large(limit)
            waiting_bytes += len(chunk)
            chunks.append(chunk)
            if waiting_bytes >= _CHUNK_BYTES:
                await anyio.to_thread.run_sync(receiver.write_all, chunks, limiter=threads)
                waiting_bytes, chunks = 0, []
        if size is not None and received != size:
            raise Problem(
                400,
                "malformed-body",
                f"body: {received:,} bytes have arrived, and {size:,} are expected; send it again",
            )
        if chunks:
            await anyio.to_thread.run_sync(receiver.write_all, chunks, limiter=threads)
    except BaseException:
        receiver.abort()
        raise
    await anyio.to_thread.run_sync(receiver.finish, limiter=threads)
    return received


async def stream_from_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """
    Yield chunks that a blocking iterator returns.

    The first one is read at once, so that an error of the store becomes an error response.
    """
    first = await run_in_threadpool(next, chunks, None)

    async def stream() -> AsyncIterator[bytes]:
        chunk = first
        while chunk is not None:
            yield chunk
            chunk = await run_in_threadpool(next, chunks, None)

    return stream()


async def blob_response(
    blobs: Blobs, blob: StoredBlob, *, filename: str | None = None, requested: str | None = None
) -> Response:
    """
    Return the bytes of a blob, or a redirection to where they are. A browser neither shows nor runs them.

    Args:
        blobs: Reads the blob.
        blob: The blob.
        filename: Name under which a browser saves the bytes.
        requested: The `Range` header of the request.
    """
    if address := await run_in_threadpool(blobs.sign_download, blob):
        return RedirectResponse(address, 307)
    headers = {"Content-Security-Policy": "sandbox"}  # the server adds nosniff to every response
    if path := await run_in_threadpool(blobs.local_path, blob):
        response = FileResponse(path, media_type=_BINARY, headers=headers, filename=filename)
        response.chunk_size = _CHUNK_BYTES
        return response
    span = byte_range(requested, blob.size)
    start, end = span or (0, blob.size)
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
    if filename is not None:
        headers["Content-Disposition"] = f"attachment; filename*=utf-8''{quote(filename, safe='')}"
    chunks = blobs.read(blob, start, end) if span else blobs.read(blob)
    status = 206 if span else 200
    return StreamingResponse(await stream_from_thread(chunks), status, headers=headers, media_type=_BINARY)


def too_large(limit: int) -> Problem:
    """Return the error for a body with too many bytes."""
    return Problem(413, "body-too-large", f"body: more than {limit:,} bytes; send less in one request")
