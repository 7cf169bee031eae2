"""Receivers that break the rules: each leads to a known error, in bounded time, without blocking the event loop."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import time
import zlib

import orjson
import pytest

from tests.flow.actions.raw_http import listening, open_egress, post, read_request
from upshot.actions.http_responses import response_json
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
    "sends its status line slowly": _after_request(b"HTTP/1.1 200 ", repeat=b"x", pause=0.02),
    "sends only interim responses": _after_request(repeat=b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.1),
}
BROKEN = {
    "closes before reading": _close_at_once,
    "closes after reading": _after_request(),
    "closes within the status line": _after_request(b"HTTP/1.1 200 O"),
    "resets the connection": _reset,
}
REFUSED = {
    "sends garbage": _after_request(b"\x16\x03\x01 nonsense\r\n\r\n"),
    "sends HTTP/0.9": _after_request(b"hello"),
    "sends HTTP/2": _after_request(b"\x00\x00\x12\x04" + b"\x00" * 24),
    "sends an endless status line": _after_request(b"HTTP/1.1 200 ", repeat=b"x" * 65536),
    "sends a flood of interim responses": _after_request(repeat=b"HTTP/1.1 100 Continue\r\n\r\n" * 5000),
}
#: What follows a status line, a part of the stored headers or body, and whether the receiver never finishes.
AFTER_A_STATUS_LINE = {
    "two equal lengths": ([b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"], [], "ok", False),
    "two lengths": ([b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"], [], "abc", False),
    "a negative length": ([b"Content-Length: -1\r\n\r\nabc"], [], "abc", False),
    "a length and chunks": (
        [b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
        [],
        "ok",
        False,
    ),
    "NUL in a header": ([b"X: a\x00b\r\nContent-Length: 0\r\n\r\n"], ["x"], "", False),
    "a header without a colon": ([b"X-A: b\r\nnonsense\r\n\r\nok"], ["x-a"], "ok", False),
    "an end within the headers": ([b"X-A: b\r\nX-B"], ["x-a"], "", False),
    "an end within the body": ([b"Content-Length: 10\r\n\r\nabc"], ["content-length"], "abc", False),
    "an end within a chunk": ([b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"], ["transfer-encoding"], "ab", False),
    "an invalid chunk": ([b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab"], ["transfer-encoding"], "ab", False),
    "endless headers": ([b"X-A: b\r\n" * 100_000], ["x-a"], "", False),
    "an endless header": ([b"X-A: b\r\nX: ", b"x" * 1_000_000], ["x-a"], "", False),
    "headers that are too long together": (
        [b"X-%d: %s\r\n" % (n, b"x" * 60_000) for n in range(20)],
        ["x-0"],
        "",
        False,
    ),
    "endless trailers": ([b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", b"A: b\r\n" * 1000], [], "ok", False),
    "slow headers": ([b"X-A: b\r\nX: ", ...], ["x-a"], "", True),
    "a slow body": ([b"Content-Length: 100000\r\n\r\n", ...], ["content-length"], "xx", True),
    "a body that never ends": ([b"\r\nabc", None], [], "abc", True),
    "an endless chunk extension": ([b"Transfer-Encoding: chunked\r\n\r\n1;", ...], ["transfer-encoding"], "", True),
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
async def test_no_status_line_is_ambiguous(handle, timeout):  # noqa: ASYNC109 - a parameter of the test
    """Without a status line, the receiver may have acted. The error contains the request."""
    error = await _send(handle, timeout=timeout)

    assert type(error) is Ambiguous
    assert ("no complete response within" in str(error)) is (timeout is SHORT_TIMEOUT)
    assert error.request is not None
    assert error.request["body"] == "{}"


@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"404 Not Found", b"503 Busy"])
@pytest.mark.parametrize(
    ("parts", "header_names", "body", "endless"),
    [pytest.param(*expected, id=name) for name, expected in AFTER_A_STATUS_LINE.items()],
)
async def test_the_status_counts_whatever_follows_it(status, parts, header_names, body, endless):
    """A status line is an answer. What follows it is kept as far as it came, with the reason why it ends there."""

    async def handle(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 " + status + b"\r\n")
        for part in parts:
            if part is ...:
                await _repeat(writer, b"x", 0.02)
            if part is None:
                await asyncio.sleep(60)
            writer.write(part)
        await writer.drain()

    response = await _send(handle, timeout=SHORT_TIMEOUT if endless else LONG_TIMEOUT)

    assert not isinstance(response, Exception), response
    assert response.status == int(status[:3])
    if status.startswith(b"200"):
        assert response.headers.keys() >= set(header_names)
        assert body in response.text
        assert response.stopped
        assert response.truncated
    receipt = response.receipt_json()
    assert receipt.get("stopped") == response.stopped
    assert orjson.dumps(receipt)


async def test_a_body_after_204_is_kept():
    """A response without a body that has one all the same is a success."""
    response = await _send(_after_request(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n{}"))

    assert (response.status, response.headers["x-a"], response.text) == (204, "b", "{}")
    assert response.stopped


@pytest.mark.parametrize("length", [8 * 1024, 60 * 1024])
async def test_a_long_header_is_valid(length):
    """A header line can have 64 KB, as some gateways send."""
    response = await _send(_after_request(HEAD + b"X: " + b"x" * length + b"\r\nContent-Length: 2\r\n\r\nok"))

    assert (response.status, response.text, response.stopped) == (200, "ok", None)
    assert len(response.receipt_json()["headers"]["x"]) == length


async def test_a_receipt_leaves_out_headers_beyond_a_limit():
    """All headers are read, and the receipt says how many it leaves out."""
    headers = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 30_000) for number in range(5))
    response = await _send(_after_request(HEAD + headers + b"Content-Length: 0\r\n\r\n"))

    assert len(response.headers) == 6
    assert response.receipt_json()["headers_left_out"] == 3


async def test_a_header_that_is_not_utf_8_is_read_as_latin_1():
    """The receipt can be stored, and it shows what the receiver meant."""
    response = await _send(_after_request(HEAD + b"Server: Bj\xf8rn\r\nX: \xc3\xbc\r\nContent-Length: 0\r\n\r\n"))

    assert response.headers["server"] == "Bjørn"
    assert response.headers["x"] == "ü"
    assert orjson.dumps(response.receipt_json())


DATA = b'{"id": 7, "pad": "' + b"x" * 200_000 + b'"}'


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param(b"", DATA, id="long"),
        pytest.param(b"", b"\xef\xbb\xbf" + DATA, id="with a byte order mark"),
        pytest.param(b"Content-Encoding: gzip\r\n", gzip.compress(DATA), id="compressed with gzip"),
        pytest.param(b"", gzip.compress(DATA), id="compressed with gzip without a header"),
        pytest.param(b"Content-Encoding: deflate\r\n", zlib.compress(DATA), id="compressed with zlib"),
    ],
)
async def test_json_is_read_up_to_a_limit(headers, body):
    """JSON of up to 1 MB is kept as a whole, without its compression. The receipt stores the first 16 KB."""
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    response = await _send(_after_request(HEAD + headers + length + body))

    assert response_json(response).value["id"] == 7
    assert not response.truncated
    assert response.body_bytes == len(body)
    assert response.receipt_json()["truncated"]
    assert len(response.receipt_json()["body"].encode()) <= 16 * 1024


async def test_a_small_body_cannot_become_a_large_one():
    """Decompression stops at 1 MB."""
    bomb = gzip.compress(b"[" + b" " * 200_000_000)
    response = await _send(_after_request(HEAD + b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb))

    assert len(response.body) <= 1024 * 1024
    assert response.truncated


@pytest.mark.parametrize("handle", [pytest.param(handle, id=name) for name, handle in REFUSED.items()])
async def test_a_response_that_is_not_http_is_refused(handle):
    """Data that does not begin with a status line is final. The error contains the request."""
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
