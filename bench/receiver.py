"""
The receiver of all deliveries: a separate process that is as fast as possible and records every request.

Run as `python -m bench.receiver`. It prints its ports as one line of JSON, and serves until its standard
input ends. It records each POST and answers 200, on the slow ports after two seconds, on the steady port after
0.2 seconds, and on the large port with a megabyte of JSON. The hanging ports accept connections, and neither record
nor answer. `GET /count` returns the number of recorded requests. `GET /take` returns the recorded requests and
forgets them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop
from typing_extensions import override

FAST_PORTS = 19
SLOW_PORTS = 1  # of twenty: 5 % of the receivers
SLOW_SECONDS = 2.0
STEADY_SECONDS = 0.2
HANGING_PORTS = 50

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
# Many small values, and an integer beyond 64 bits, which the fastest parsers cannot keep.
_LARGE = b"[" + 200_000 * b'"a",' + b"123456789012345678901234567890]"
_LARGE_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_LARGE) + _LARGE


@dataclass(slots=True)
class ReceivedLog:
    """The recorded requests: time (seconds, CLOCK_MONOTONIC), delivery id, body."""

    requests: list[tuple[float, str, str]]


class Receiver(asyncio.Protocol):
    """One connection. Its requests come one after the other, with a Content-Length."""

    def __init__(self, log: ReceivedLog, wait_seconds: float, response: bytes = _OK) -> None:
        self._log = log
        self._response = response
        self._wait_seconds = wait_seconds
        self._unread = b""
        self._transport: Any = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[:end].split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in head[1:] if b": " in line)
            length = int(headers.get(b"content-length", b"0"))
            if len(self._unread) < end + 4 + length:
                return
            body = self._unread[end + 4 : end + 4 + length]
            self._unread = self._unread[end + 4 + length :]
            if head[0].startswith(b"POST"):
                self._log.requests.append((now, headers.get(b"webhook-id", b"").decode(), body.decode()))
                if self._wait_seconds:
                    asyncio.get_running_loop().call_later(self._wait_seconds, self._write, self._response)
                else:
                    self._write(self._response)
            else:
                self._report(head[0])

    def _write(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)

    def _report(self, request: bytes) -> None:
        if b" /take " in request:
            body = json.dumps(self._log.requests).encode()
            self._log.requests = []
        else:
            body = str(len(self._log.requests)).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._write(head.encode() + body)


async def serve() -> None:
    """Listen, print the ports, and serve until standard input ends."""
    loop = asyncio.get_running_loop()
    log = ReceivedLog([])
    waits = {"fast": [0.0] * FAST_PORTS, "slow": [SLOW_SECONDS] * SLOW_PORTS, "steady": [STEADY_SECONDS]}
    ports: dict[str, list[int]] = {name: [] for name in (*waits, "large", "hanging")}

    async def listen(name: str, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        server = await loop.create_server(make_protocol, "127.0.0.1", 0, backlog=4096)
        ports[name].append(server.sockets[0].getsockname()[1])

    for name, seconds in waits.items():
        for wait in seconds:
            await listen(name, partial(Receiver, log, wait))
    await listen("large", partial(Receiver, log, 0.0, _LARGE_OK))
    for _ in range(HANGING_PORTS):
        await listen("hanging", asyncio.Protocol)
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
