"""Receivers that break the rules: each leads to a known error, in bounded time, without blocking the event loop."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import pytest

from tests.flow.actions.raw_http import listening, open_egress, post, read_request
from upshot.errors import Ambiguous, Refused

SHORT_TIMEOUT = 1.0  # for receivers that never finish: the test waits for all of it
LONG_TIMEOUT = 30.0  # for receivers that finish or reach a limit: a slow machine must not reach the timeout first
# These limits are far above what is measured (a stall of at most 0.05 s), because the machine can be busy. The
# receiver runs on the same event loop.
LONGEST_STALL = 2.0
LONGEST_OVERTIME = 2.0

HEAD = b"HTTP/1.1 200 OK\r\n"


async def _repeat(writer, data, pause=None):
    while True:
        writer.write(data)
        await writer.drain()
        if pause:
            await asyncio.sleep(pause)


def _after_request(*chunks, repeat=None, pause=None):
    async def handle(reader, writer):
        await read_request(reader)
        for chunk in chunks:
            writer.write(chunk)
        if repeat:
            await _repeat(writer, repeat, pause)
        await writer.drain()

    return handle


async def _never_answer(reader, writer):
    await asyncio.sleep(60)


async def _reset(reader, writer):
    await read_request(reader)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def _close_at_once(reader, writer):
    writer.close()


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

ENDLESS = {
    "never answers": _never_answer,
    "sends its headers slowly": _after_request(HEAD + b"X: ", repeat=b"x", pause=0.02),
    "sends its body slowly": _after_request(HEAD + b"Content-Length: 100000\r\n\r\n", repeat=b"x", pause=0.02),
    "sends an endless chunk extension": _after_request(CHUNKED + b"1;", repeat=b"x" * 65536),
    "sends only interim responses": _after_request(repeat=b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.1),
}
BROKEN = {
    "closes before reading": _close_at_once,
    "closes after reading": _after_request(),
    "resets the connection": _reset,
    "closes within the headers": _after_request(HEAD + b"X-A"),
    "closes within the body": _after_request(HEAD + b"Content-Length: 10\r\n\r\nabc"),
    "closes within a chunk": _after_request(CHUNKED + b"5\r\nab"),
}
REFUSED = {
    "sends garbage": _after_request(b"\x16\x03\x01 nonsense\r\n\r\n"),
    "sends HTTP/0.9": _after_request(b"hello"),
    "sends HTTP/2": _after_request(b"\x00\x00\x12\x04" + b"\x00" * 24),
    "sends endless headers": _after_request(HEAD, repeat=b"X-A: b\r\n" * 100),
    "sends an endless header": _after_request(HEAD + b"X: ", repeat=b"x" * 65536),
    "sends many long headers": _after_request(
        HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(20)) + b"Content-Length: 0\r\n\r\n"
    ),
    "sends endless trailers": _after_request(CHUNKED + b"0\r\n", repeat=b"A: b\r\n" * 100),
    "sends a flood of interim responses": _after_request(repeat=b"HTTP/1.1 100 Continue\r\n\r\n" * 5000),
    "sends two lengths": _after_request(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
    "sends a negative length": _after_request(HEAD + b"Content-Length: -1\r\n\r\n"),
    "sends NUL in a header": _after_request(HEAD + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n"),
}
RESPONSES = {
    "sends an endless body": (_after_request(HEAD + b"\r\n", repeat=b"x" * 65536), 200, True),
    "sends endless chunks": (_after_request(CHUNKED, repeat=b"1000\r\n" + b"x" * 4096 + b"\r\n"), 200, True),
    "announces a terabyte": (
        _after_request(HEAD + b"Content-Length: 1000000000000\r\n\r\n", repeat=b"x" * 65536),
        200,
        True,
    ),
    "sends a little more than is stored": (_after_request(HEAD + b"\r\n" + b"x" * 20_000), 200, True),
    "declares a wrong encoding": (
        _after_request(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
        200,
        False,
    ),
    "sends early hints": (
        _after_request(
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
        ),
        202,
        False,
    ),
    "switches protocols": (
        _after_request(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        101,
        False,
    ),
    "sends bytes that are not text": (_after_request(HEAD + b"Content-Length: 3\r\n\r\n\xff\xfe\x00"), 200, False),
    "sends a status without a name": (
        _after_request(b"HTTP/1.1 799 Whatever\r\nContent-Length: 0\r\n\r\n"),
        799,
        False,
    ),
}


async def _measure(coroutine):
    """Return the result or exception of a coroutine, its duration, and the longest stall of the event loop."""
    longest = 0.0

    async def tick():
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - before)

    ticker = asyncio.create_task(tick())
    started = time.perf_counter()
    result = (await asyncio.gather(coroutine, return_exceptions=True))[0]
    took = time.perf_counter() - started
    ticker.cancel()
    return result, took, longest


async def _run_pending():
    """Let the event loop, which serves both sides, run several times. One long sleep may let it run only once."""
    for _ in range(10):
        await asyncio.sleep(0.005)


async def _send(handle, body=b"{}", *, timeout=LONG_TIMEOUT):  # noqa: ASYNC109 - passed on
    """Post to a receiver, and return the response or the error."""
    async with open_egress() as egress, listening(handle) as url:
        result, took, longest = await _measure(post(egress, url, body, timeout_seconds=timeout))
    assert took < timeout + LONGEST_OVERTIME
    assert longest < LONGEST_STALL
    return result


@pytest.mark.parametrize(
    ("handle", "timeout"),
    [pytest.param(handle, SHORT_TIMEOUT, id=name) for name, handle in ENDLESS.items()]
    + [pytest.param(handle, LONG_TIMEOUT, id=name) for name, handle in BROKEN.items()],
)
async def test_an_incomplete_response_is_ambiguous(handle, timeout):  # noqa: ASYNC109 - a parameter of the test
    """Without a complete response, the receiver may have acted. The error contains the request."""
    error = await _send(handle, timeout=timeout)

    assert type(error) is Ambiguous
    assert ("no complete response within" in str(error)) is (timeout is SHORT_TIMEOUT)
    assert error.request is not None
    assert error.request["body"] == "{}"


@pytest.mark.parametrize("handle", [pytest.param(handle, id=name) for name, handle in REFUSED.items()])
async def test_a_response_that_is_not_http_is_refused(handle):
    """A response that breaks HTTP or exceeds a limit is final. The error contains the request."""
    error = await _send(handle)

    assert type(error) is Refused
    assert error.request is not None
    assert error.request["body"] == "{}"


@pytest.mark.parametrize(
    ("handle", "status", "truncated"), [pytest.param(*expected, id=name) for name, expected in RESPONSES.items()]
)
async def test_an_unusual_response_is_valid(handle, status, truncated):
    """A response that follows HTTP is valid. The first 16 KB of a body are stored, and reading stops at a limit."""
    response = await _send(handle)

    assert not isinstance(response, Exception), response
    assert (response.status, response.truncated) == (status, truncated)
    assert len(response.body) <= 16 * 1024
    assert response.body_bytes < 4 * 1024 * 1024


async def test_an_early_response_counts():
    """A receiver can respond and reset the connection before it has read the whole request."""

    async def handle(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    response = await _send(handle, b"x" * 3_000_000)

    assert response.status == 200


async def test_extra_data_is_not_the_next_response():
    """Data that a receiver sends after its response is never treated as the response to the next request."""
    forged = asyncio.Event()

    async def handle(reader, writer):
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
            await writer.drain()
            forged.set()

    async with open_egress() as egress, listening(handle) as url:
        for _ in range(3):
            forged.clear()
            assert (await post(egress, url)).text == "a"
            await forged.wait()
            await _run_pending()


async def test_an_idle_connection_that_the_receiver_closed_is_not_used():
    """A receiver that closes idle connections causes a new connection, not a failed attempt."""

    async def handle(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with open_egress() as egress, listening(handle) as url:
        for _ in range(3):
            assert (await post(egress, url)).status == 200
            await _run_pending()
