"""Routes whose bodies are bytes: they are streamed, and wait in no queue of mutations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import anyio
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from upshot.ports.blobs import PART_BYTES
from upshot.resources.urls import API_PREFIX
from upshot.web.problems import Problem

MAX_TRANSFER_BYTES = PART_BYTES  #: of the largest body with blobs
TRANSFER_THREADS = 16  #: requests whose bodies are written at the same time; the others wait
_CHUNK_BYTES = 1024 * 1024


def make_transfer_router(tag: str) -> APIRouter:
    """Return a router for routes whose bodies are bytes."""
    return APIRouter(prefix=API_PREFIX, tags=[tag], generate_unique_id_function=lambda route: route.name)


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


async def write_body(
    request: Request, write: Callable[[bytes], object], *, size: int, threads: anyio.CapacityLimiter
) -> None:
    """
    Pass the body of a request to a blocking function while it arrives.

    Args:
        request: The request.
        write: Called in a thread with one MiB after the other.
        size: Number of bytes that the body must have.
        threads: Limits the number of threads.

    Raises:
        Problem: 400 if the body has another number of bytes.
    """
    received, buffer = 0, bytearray()
    async for chunk in request.stream():
        received += len(chunk)
        if received > size:
            break
        buffer += chunk
        if len(buffer) >= _CHUNK_BYTES:
            await anyio.to_thread.run_sync(write, bytes(buffer), limiter=threads)
            buffer.clear()
    if received != size:
        raise Problem(
            400, "malformed-body", f"body: {received:,} bytes have arrived, and {size:,} are expected; send it again"
        )
    if buffer:
        await anyio.to_thread.run_sync(write, bytes(buffer), limiter=threads)


async def stream_from_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks that a blocking iterator returns."""
    while (chunk := await run_in_threadpool(next, chunks, None)) is not None:
        yield chunk


def too_large(limit: int) -> Problem:
    """Return the error for a body with too many bytes."""
    return Problem(413, "body-too-large", f"body: more than {limit:,} bytes; send less in one request")
