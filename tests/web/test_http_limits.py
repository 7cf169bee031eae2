"""A client without a token cannot exhaust the server: heads, bodies, connections and silent clients have limits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_network
from typing import Any, cast

import httpx
import pytest
import uvicorn

from tests.web.conftest import API
from upshot.net import listen, url_of
from upshot.settings import Settings
from upshot.web import http_protocol
from upshot.web.body import MAX_BODY_BYTES
from upshot.web.http_protocol import (
    MAX_HEAD_BYTES,
    MAX_HEAD_FIELDS,
    MAX_PIPELINED,
    ConnectionCounter,
    LimitedHttpProtocol,
)
from upshot.web.serve import server_config

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = f"POST {API}/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()


@contextmanager
def connect(client: httpx.Client) -> Iterator[socket.socket]:
    """Open a connection to the client's server."""
    url = client.base_url
    with socket.create_connection((url.host, url.port), timeout=20) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass  # the server closed it while this side was still sending
    return received


def send_and_read(connection: socket.socket, data: bytes) -> bytes:
    """Send from another thread, because the server may stop reading, and return what it answers until it closes."""

    def send() -> None:
        try:
            connection.sendall(data)
        except OSError:
            return  # the server closed the connection

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = read_all(connection)
    connection.close()
    sender.join(20)
    return received


def fields(count: int) -> bytes:
    return b"".join(b"X-%d: 1\r\n" % number for number in range(count))


def filler(size: int) -> bytes:
    return b"X: " + b"x" * (size - 5) + b"\r\n"


HEAD_ROOM = MAX_HEAD_BYTES - len(HEAD) - 2


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(filler(HEAD_ROOM), id="32 KB in one field"),
        pytest.param(fields(MAX_HEAD_FIELDS - 1), id="100 fields"),
    ],
)
def test_a_head_within_the_limits_is_read(web, more):
    """The limits themselves are allowed."""
    with connect(web) as connection:
        connection.sendall(HEAD + more + b"Connection: close\r\n\r\n" if b"X-1" not in more else HEAD + more + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(filler(HEAD_ROOM + 1) + b"\r\n", id="one field"),
        pytest.param(filler(8 * 1024 * 1024) + b"\r\n", id="one field of megabytes"),
        pytest.param(b"X: " + b"x" * MAX_HEAD_BYTES, id="a field without end"),
        pytest.param(b"x" * MAX_HEAD_BYTES, id="a name without end"),
        pytest.param(fields(MAX_HEAD_FIELDS) + b"\r\n", id="101 fields"),
        pytest.param(fields(50_000), id="short fields without end"),
    ],
)
def test_a_larger_head_is_refused(web, more):
    """The server stops reading it, and the client learns why."""
    with connect(web) as connection:
        answer = send_and_read(connection, HEAD + more)

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"urn:upshot:problem:head-too-large" in answer
    assert b"connection: close" in answer.lower()
    assert b"nosniff" in answer


def test_a_long_request_line_counts_as_head(web):
    """A path without end is refused, too."""
    with connect(web) as connection:
        assert send_and_read(connection, b"GET /" + b"x" * 2_000_000).startswith(b"HTTP/1.1 431 ")


def test_the_next_head_on_a_connection_has_the_same_limits(web):
    """Each head is counted on its own: many small ones are fine, and one large one is not."""
    with connect(web) as connection:
        for _ in range(20):
            connection.sendall(HEAD + filler(20_000) + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert send_and_read(connection, HEAD + filler(MAX_HEAD_BYTES)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"2\r\n{}\r\n0\r\n" + fields(100_000), id="short trailers"),
        pytest.param(b"2\r\n{}\r\n0\r\nX: " + b"x" * 1_000_000, id="a long trailer"),
        pytest.param(b"2;" + b"x" * 1_000_000, id="a chunk extension"),
    ],
)
def test_what_surrounds_the_chunks_of_a_body_is_limited(web, body):
    """Trailers and chunk extensions cannot bypass the limits of heads."""
    with connect(web) as connection:
        answer = send_and_read(connection, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)

    assert b"HTTP/1.1 2" not in answer


def test_empty_lines_without_end_are_refused(web):
    """The parser passes over empty lines before a request, but not without end."""
    with connect(web) as connection:
        assert send_and_read(connection, b"\r\n" * 1_000_000).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_what_is_no_http_is_a_problem(web, data):
    """Even such an answer has the form of all errors."""
    with connect(web) as connection:
        answer = send_and_read(connection, data)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /heal", HEAD], ids=["nothing", "empty line", "line", "headers"])
def test_a_head_that_does_not_arrive_ends_the_connection(web, monkeypatch, sent):
    """A client that has begun a head learns why."""
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    with connect(web) as connection:
        connection.sendall(sent)
        answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 408 ") if sent.strip() else answer == b""


def test_a_second_head_that_does_not_arrive_ends_the_connection(web, monkeypatch):
    """The limit holds for every head of a connection."""
    with connect(web) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
        connection.sendall(HEAD)
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")


def test_a_body_without_progress_ends_the_request(web, monkeypatch):
    """The request has no effect, and the server continues."""
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.2)
    with connect(web) as connection:
        connection.sendall(POST + b'Content-Length: 100\r\n\r\n{"name": "x"')
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")

    assert web.get(f"{API}/events").json()["items"] == []


def test_the_body_of_an_answered_request_is_limited(web, monkeypatch):
    """A request that is refused at once cannot keep its connection by sending a body without end."""
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.2)
    with connect(web) as connection:
        connection.sendall(POST.replace(b"localhost", b"evil.example") + b"Content-Length: 1000000000\r\n\r\nx")
        assert read_all(connection).startswith(b"HTTP/1.1 403 ")
    monkeypatch.undo()
    with connect(web) as connection:
        data = POST.replace(b"localhost", b"evil.example") + b"Content-Length: 1000000000\r\n\r\n"
        assert send_and_read(connection, data + b"x" * (MAX_BODY_BYTES + 1_000_000)).startswith(b"HTTP/1.1 403 ")


def test_a_refused_request_with_a_small_body_keeps_its_connection(web):
    """Clients send the body before they read the response, and use the connection again."""
    with connect(web) as connection:
        request = POST.replace(b"localhost", b"evil.example") + b"Content-Length: 5\r\n\r\n"
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")
        connection.sendall(b"12345" + HEAD + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_requests_that_wait_on_one_connection_are_limited(web):
    """Each costs memory, and a client can send thousands in one packet."""
    with connect(web) as connection:
        answer = send_and_read(connection, (HEAD + b"\r\n") * 50 + HEAD + b"Connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 ") == 51
    with connect(web) as connection:
        answer = send_and_read(connection, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n" * (MAX_PIPELINED * 10))
        assert answer.count(b"HTTP/1.1 200 ") < MAX_PIPELINED * 10


def test_the_server_refuses_more_connections_than_its_maximum():
    """The refused client learns why; a place that becomes free is used again."""

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = server_config(app, Settings())
    config.http = cast("Any", partial(LimitedHttpProtocol, counter=ConnectionCounter(total=2)))
    server = uvicorn.Server(config)
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=url_of(listener), timeout=20, trust_env=False) as client:
            assert client.get("/").status_code == 204
            with connect(client) as second:
                second.sendall(HEAD + b"\r\n")
                assert second.recv(65536).startswith(b"HTTP/1.1 204 ")
                with connect(client) as third:
                    answer = read_all(third)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"too-many-connections" in answer
                assert client.get("/").status_code == 204
                second.sendall(HEAD + b"Connection: close\r\n\r\n")
                read_all(second)
            with connect(client) as fourth:
                fourth.sendall(HEAD + b"Connection: close\r\n\r\n")
                assert read_all(fourth).startswith(b"HTTP/1.1 204 ")
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("address", "other"),
    [
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8:0:1::1"),
        ("::ffff:192.0.2.1", "192.0.2.2"),
    ],
)
def test_one_address_has_a_share_of_the_connections(address, other):
    """Another address still gets in; a connection that ends makes room."""
    counter = ConnectionCounter(per_address=3)
    for _ in range(3):
        assert counter.add(address) is None

    assert "UPSHOT_TRUSTED_PROXIES" in (counter.add(address) or "")
    assert counter.add(other) is None
    counter.remove(address)
    assert counter.add(address) is None


def test_an_ipv6_site_counts_as_one_address():
    """Its owner chooses the last 64 bits."""
    counter = ConnectionCounter(per_address=2)

    assert counter.add("2001:db8::1") is None
    assert counter.add("2001:db8::ffff:1") is None
    assert counter.add("2001:db8::2")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", ""])
def test_this_machine_and_trusted_proxies_have_only_the_limit_of_all(address):
    """A proxy passes on the requests of many clients. A Unix socket has no address."""
    counter = ConnectionCounter([ip_network("10.1.0.0/16")], total=5, per_address=2)
    for _ in range(5):
        assert counter.add(address) is None

    assert "maximum" in (counter.add(address) or "")


def test_the_settings_name_the_trusted_proxies():
    """Addresses and networks, separated by commas."""
    settings = Settings(trusted_proxies="10.0.0.5, 10.1.0.0/16,")

    assert settings.trusted_proxy_networks == (ip_network("10.0.0.5"), ip_network("10.1.0.0/16"))
