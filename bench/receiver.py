"""
The receiver of all deliveries, in a process of its own: as fast as can be, and it forgets nothing.

Run as `python -m bench.receiver`. It prints one line of JSON with its ports, then serves until its
standard input ends. A POST is noted and answered 200, on the slow ports only after two seconds;
`GET /count` and `GET /take` (what came since the last taking) are for the bench.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

FAST_PORTS = 19
SLOW_PORTS = 1  # of twenty: 5 % of the receivers
SLOW_SECONDS = 2.0

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


@dataclass(slots=True)
class Notes:
    """What was received: when (seconds, CLOCK_MONOTONIC), delivery id, body."""

    received: list[tuple[float, str, str]]


class Receiver(asyncio.Protocol):
    """One connection; requests come one after another, with a Content-Length."""

    def __init__(self, notes: Notes, wait_seconds: float) -> None:
        self._notes = notes
        self._wait_seconds = wait_seconds
        self._unread = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Note and answer each whole request."""
        now = time.monotonic()
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[:end].split(b"\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head[1:] if b": " in line)
            length = int(fields.get(b"content-length", b"0"))
            if len(self._unread) < end + 4 + length:
                return
            body = self._unread[end + 4 : end + 4 + length]
            self._unread = self._unread[end + 4 + length :]
            if head[0].startswith(b"POST"):
                self._notes.received.append((now, fields.get(b"webhook-id", b"").decode(), body.decode()))
                self._answer(_OK)
            else:
                self._report(head[0])

    def _answer(self, answer: bytes) -> None:
        if self._wait_seconds:
            asyncio.get_running_loop().call_later(self._wait_seconds, self._write, answer)
        else:
            self._write(answer)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)

    def _report(self, request: bytes) -> None:
        if b" /take " in request:
            body = json.dumps(self._notes.received).encode()
            self._notes.received = []
        else:
            body = str(len(self._notes.received)).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._write(head.encode() + body)


async def serve() -> None:
    """Listen, say where, and go on until standard input ends."""
    loop = asyncio.get_running_loop()
    notes = Notes([])
    ports: list[int] = []
    for number in range(FAST_PORTS + SLOW_PORTS):
        wait = 0.0 if number < FAST_PORTS else SLOW_SECONDS
        server = await loop.create_server(partial(Receiver, notes, wait), "127.0.0.1", 0, backlog=4096)
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps({"fast": ports[:FAST_PORTS], "slow": ports[FAST_PORTS:]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
