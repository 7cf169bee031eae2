"""Large bodies are read from the connection itself: no byte is lost, and a broken connection is noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from upshot.client import response_body
from upshot.client.http import Client
from upshot.errors import Unavailable

CONTENT = os.urandom(3_000_001)


class Handler(BaseHTTPRequestHandler):
    """Sends the content from the start of the range, in pieces of another size than those that are read."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        is_chunked = self.path.endswith("/chunked")
        self.send_header(*(("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(len(body)))))
        self.end_headers()
        if self.path.endswith("/broken"):
            self.wfile.write(body[:2_000_000])
            self.close_connection = True
            return
        for at in range(0, len(body), 700_001):
            piece = body[at : at + 700_001]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Return a client for which the content is large."""
    monkeypatch.setattr(response_body, "LARGE_BYTES", 1_000_000)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}", None, is_local=True) as client:
            yield client
        server.shutdown()


@pytest.mark.parametrize("path", ["/whole", "/chunked"])
@pytest.mark.parametrize("start", [0, 1, 1_500_000, 3_000_000])
def test_every_byte_arrives_once(client, path, start):
    """From any position, with and without a length, and again with the same client."""
    for _ in range(2):
        with client.stream(path, start=start) as chunks:
            assert b"".join(chunks) == CONTENT[start:]


def test_a_connection_that_ends_early_is_an_error(client):
    """What has arrived before is passed on, so that the next request continues there."""
    received = bytearray()

    def read() -> None:
        with client.stream("/broken") as chunks:
            for chunk in chunks:
                received.extend(chunk)

    with pytest.raises(Unavailable, match="which resumes"):
        read()
    assert received == CONTENT[: len(received)]
    assert len(received) == 2_000_000
    with client.stream("/whole", start=len(received)) as chunks:
        assert bytes(received) + b"".join(chunks) == CONTENT


def test_the_rest_may_be_left(client):
    """A body that is not read to its end does not get into the next response."""
    with client.stream("/whole") as chunks:
        next(chunks)
    with client.stream("/whole") as chunks:
        assert b"".join(chunks) == CONTENT
