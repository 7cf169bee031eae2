"""Receivers that break the rules: each ends in a known class, in bounded time, without holding the loop up."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import pytest

from tests.flow.actions.raw_http import door, listening, post, read_request, run
from upshot.errors import Ambiguous, Refused

DEADLINE = 1.0  # for those who would never end: all of it is waited for
PATIENCE = 30.0  # for those who come to an end, or to a bound of ours: a slow machine must not end them first
# Bounds far from what is measured (a stall of 0.05 s at most), for the machine may be busy; the rude server
# runs on the same loop.
LONGEST_STALL = 2.0
LONGEST_OVERTIME = 2.0

HEAD = b"HTTP/1.1 200 OK\r\n"


async def _forever(writer, piece, pause=None):
    while True:
        writer.write(piece)
        await writer.drain()
        if pause:
            await asyncio.sleep(pause)


def _after_request(*pieces, repeat=None, pause=None):
    async def talk(reader, writer):
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
        if repeat:
            await _forever(writer, repeat, pause)
        await writer.drain()

    return talk


async def _never_answer(reader, writer):
    await asyncio.sleep(60)


async def _cut(reader, writer):
    await read_request(reader)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def _hang_up_at_once(reader, writer):
    writer.close()


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

ENDLESS = {
    "hangs": _never_answer,
    "trickles a head": _after_request(HEAD + b"X: ", repeat=b"x", pause=0.02),
    "trickles a body": _after_request(HEAD + b"Content-Length: 100000\r\n\r\n", repeat=b"x", pause=0.02),
    "never ends a chunk's extension": _after_request(CHUNKED + b"1;", repeat=b"x" * 65536),
    "sends interim answers only": _after_request(repeat=b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.1),
}
BROKEN = {
    "hangs up before reading": _hang_up_at_once,
    "hangs up after reading": _after_request(),
    "cuts the connection": _cut,
    "hangs up within the head": _after_request(HEAD + b"X-A"),
    "hangs up within the body": _after_request(HEAD + b"Content-Length: 10\r\n\r\nabc"),
    "hangs up within a chunk": _after_request(CHUNKED + b"5\r\nab"),
}
REFUSED = {
    "answers garbage": _after_request(b"\x16\x03\x01 nonsense\r\n\r\n"),
    "answers HTTP/0.9": _after_request(b"hello"),
    "answers HTTP/2": _after_request(b"\x00\x00\x12\x04" + b"\x00" * 24),
    "never ends its head": _after_request(HEAD, repeat=b"X-A: b\r\n" * 100),
    "never ends a header": _after_request(HEAD + b"X: ", repeat=b"x" * 65536),
    "has a head of many long lines": _after_request(
        HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(20)) + b"Content-Length: 0\r\n\r\n"
    ),
    "never ends its trailers": _after_request(CHUNKED + b"0\r\n", repeat=b"A: b\r\n" * 100),
    "floods with interim answers": _after_request(repeat=b"HTTP/1.1 100 Continue\r\n\r\n" * 5000),
    "gives two lengths": _after_request(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
    "gives a negative length": _after_request(HEAD + b"Content-Length: -1\r\n\r\n"),
    "has NUL in a header": _after_request(HEAD + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n"),
}
ANSWERS = {
    "never ends its body": (_after_request(HEAD + b"\r\n", repeat=b"x" * 65536), 200, True),
    "never ends its chunks": (_after_request(CHUNKED, repeat=b"1000\r\n" + b"x" * 4096 + b"\r\n"), 200, True),
    "announces a terabyte": (
        _after_request(HEAD + b"Content-Length: 1000000000000\r\n\r\n", repeat=b"x" * 65536),
        200,
        True,
    ),
    "answers a little more than is kept": (_after_request(HEAD + b"\r\n" + b"x" * 20_000), 200, True),
    "lies about its encoding": (
        _after_request(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
        200,
        False,
    ),
    "gives early hints": (
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
    "has bytes that are no text": (_after_request(HEAD + b"Content-Length: 3\r\n\r\n\xff\xfe\x00"), 200, False),
    "has a status of its own": (_after_request(b"HTTP/1.1 799 Whatever\r\nContent-Length: 0\r\n\r\n"), 799, False),
}


async def _watched(coroutine):
    """Await it, and give its result or error, how long it took, and the longest stall of the loop meanwhile."""
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


async def _let_it_arrive():
    """Give the loop, which serves both sides, several turns: on a busy machine one long sleep is one turn."""
    for _ in range(10):
        await asyncio.sleep(0.005)


def _ask(talk, body=b"{}", *, deadline=PATIENCE):
    async def story():
        async with door() as egress, listening(talk) as url:
            return await _watched(post(egress, url, body, timeout_seconds=deadline))

    result, took, longest = run(story())
    assert took < deadline + LONGEST_OVERTIME
    assert longest < LONGEST_STALL
    return result


@pytest.mark.parametrize(
    ("talk", "deadline"),
    [pytest.param(talk, DEADLINE, id=name) for name, talk in ENDLESS.items()]
    + [pytest.param(talk, PATIENCE, id=name) for name, talk in BROKEN.items()],
)
def test_no_whole_answer_is_ambiguous(talk, deadline):
    """The receiver may have acted: sent again with the same delivery id, and the receipt has what was sent."""
    error = _ask(talk, deadline=deadline)

    assert type(error) is Ambiguous
    assert ("no whole answer within" in str(error)) is (deadline is DEADLINE)
    assert error.request is not None
    assert error.request["body"] == "{}"


@pytest.mark.parametrize("talk", [pytest.param(talk, id=name) for name, talk in REFUSED.items()])
def test_an_answer_that_is_no_http_is_refused(talk):
    """Who does not speak HTTP within bounds will not next time, either."""
    error = _ask(talk)

    assert type(error) is Refused
    assert error.request is not None
    assert error.request["body"] == "{}"


@pytest.mark.parametrize(
    ("talk", "status", "truncated"), [pytest.param(*expected, id=name) for name, expected in ANSWERS.items()]
)
def test_an_odd_answer_is_an_answer(talk, status, truncated):
    """What is within HTTP's rules counts; of a body, 16 KB are kept, and reading ends at a bound."""
    answer = _ask(talk)

    assert not isinstance(answer, Exception), answer
    assert (answer.status, answer.truncated) == (status, truncated)
    assert len(answer.body) <= 16 * 1024
    assert answer.body_bytes < 4 * 1024 * 1024


def test_an_answer_before_the_body_was_read_counts():
    """An early 200 and a cut connection while we still send: the answer came, whole."""

    async def talk(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    answer = _ask(talk, b"x" * 3_000_000)

    assert answer.status == 200


def test_rudeness_costs_the_next_request_nothing():
    """What a receiver sent too much before the next request is never taken for its answer."""

    async def story():
        forged = asyncio.Event()

        async def talk(reader, writer):
            while True:
                await read_request(reader)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
                await writer.drain()
                await asyncio.sleep(0.02)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
                await writer.drain()
                forged.set()

        async with door() as egress, listening(talk) as url:
            for _ in range(3):
                forged.clear()
                assert (await post(egress, url)).text == "a"
                await forged.wait()
                await _let_it_arrive()

    run(story())


def test_a_kept_connection_that_the_receiver_closes_is_not_used_again():
    """A receiver that closes idle connections costs a new connection, not a failed attempt."""

    async def story():
        async def talk(reader, writer):
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

        async with door() as egress, listening(talk) as url:
            for _ in range(3):
                assert (await post(egress, url)).status == 200
                await _let_it_arrive()

    run(story())
