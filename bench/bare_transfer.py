"""
The yardstick of transfers: move a large file over loopback HTTP with the standard library alone, and do the same work.

An upload hashes the file, sends it in parts, four at a time, to another process that hashes and writes them, makes the
file durable, and reads it back to compare its digest. A download fetches the file from that process in one request, and
hashes and writes it while it arrives. Neither of the two downloads makes the file durable or reads it back: the bytes
that are written are those that were hashed. Not counted is the start of the two processes. The SDK's time contains what
it does besides: it loads its HTTP library, and asks the server for the artifact and its files.

Run as `python -m bench.bare_transfer upload SOURCE TARGET` or `download SOURCE TARGET`. The result is JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, Protocol

PART_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_THREADS = 4  # as the SDK


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Handler(BaseHTTPRequestHandler):
    """Keeps one file, whose path is the target of the request, after the position of the part."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Hash and write a part."""
        path, start = self._target()
        with path.open("r+b") as file:
            file.seek(start)
            _copy(self.rfile, file, int(self.headers["Content-Length"]))
        self._answer(b"")

    def do_POST(self) -> None:
        """Make the file durable, read it back and return its digest."""
        path, _ = self._target()
        self._answer(_keep(path).encode())

    def do_GET(self) -> None:
        """Send a part."""
        path, start = self._target()
        size = int(self.headers["Part-Size"])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            while size:
                chunk = file.read(min(_CHUNK_BYTES, size))
                self.wfile.write(chunk)
                size -= len(chunk)

    def _target(self) -> tuple[Path, int]:
        path, _, start = self.path.partition("?")
        return Path(path), int(start or 0)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def _copy(source: _Source, target: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size:
        chunk = source.read(min(_CHUNK_BYTES, size))
        if not chunk:
            raise EOFError
        digest.update(chunk)
        target.write(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(path: Path) -> str:
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    return _hash(path)


def upload(port: int, source: Path, target: Path) -> None:
    """Send a file in parts."""
    digest = _hash(source)
    target.touch()

    def send(start: int) -> None:
        size = min(PART_BYTES, source.stat().st_size - start)
        connection = HTTPConnection("127.0.0.1", port)
        connection.connect()
        with source.open("rb") as file:
            file.seek(start)
            connection.putrequest("PUT", f"{target}?{start}")
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            while size:
                chunk = file.read(min(_CHUNK_BYTES, size))
                connection.send(chunk)
                size -= len(chunk)
        connection.getresponse().read()
        connection.close()

    _in_threads(send, range(0, source.stat().st_size, PART_BYTES))
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("POST", str(target))
    if connection.getresponse().read().decode() != digest:
        raise ValueError("another digest")


def download(port: int, source: Path, target: Path) -> None:
    """Fetch a file, and hash and write it while it arrives."""
    size = source.stat().st_size
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", str(source), headers={"Part-Size": str(size)})
    response: HTTPResponse = connection.getresponse()
    with target.open("xb") as file:
        print(_copy(response, file, size), file=sys.stderr)
    connection.close()


def _in_threads(work: Callable[[int], object], starts: Iterable[int]) -> None:
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(work, starts))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        print(server.server_port, flush=True)
        server.serve_forever()
    process = subprocess.Popen([sys.executable, "-m", "bench.bare_transfer", "serve"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    started = time.monotonic()
    {"upload": upload, "download": download}[sys.argv[1]](port, Path(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({"seconds": time.monotonic() - started}))
    process.kill()
