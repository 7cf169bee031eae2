"""Receivers that are written byte by byte, for responses that no server library would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from upshot.actions.egress_rules import EgressRules
from upshot.actions.protocol import HttpResponse
from upshot.adapters.egress import GuardedEgress

ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def listening(handle: ConnectionHandler) -> AsyncIterator[str]:
    """Start a server that calls `handle` for each connection, and yield its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handle(reader, writer)
        with suppress(ConnectionError, RuntimeError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request, and return its head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
    )
    return head + await reader.readexactly(length)


@asynccontextmanager
async def open_egress(allow: str = "127.0.0.0/8,::1/128", proxy: str | None = None) -> AsyncIterator[GuardedEgress]:
    """Yield an egress that can reach loopback addresses."""
    egress = GuardedEgress(EgressRules.parse(allow), proxy)
    try:
        yield egress
    finally:
        await egress.close()


async def post(
    egress: GuardedEgress, url: str, body: bytes = b"{}", *, timeout_seconds: float = 10, **more: Any
) -> HttpResponse:
    """Send one POST request."""
    return await egress.send("POST", url, headers={}, body=body, timeout_seconds=timeout_seconds, **more)
