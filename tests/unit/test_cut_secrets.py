"""Wherever Upshot cuts a text, at most three characters of a secret stay: what is too short to be recognized."""

from __future__ import annotations

import asyncio
import html
import json
import threading
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.job_records import make_job
from upshot.actions.http_responses import excerpt
from upshot.actions.protocol import STORED_BODY_BYTES, HttpResponse
from upshot.backends.protocol import LogRead
from upshot.execution.attempt import MAX_CHARS_ON_LOOP, MAX_REASON_CHARS, mask_off_loop
from upshot.jobs import logs
from upshot.jobs.logs import LogCollector
from upshot.masking import MIN_SECRET_CHARS, Mask, cut_text

NOW = datetime(2026, 1, 1, tzinfo=UTC)
# The letters of the secrets are in nothing that surrounds them, and in no escape sequence.
SECRETS = st.text("ZQJ", min_size=4, max_size=6).flatmap(
    lambda start: st.text("ZQJ/+&'\"\\é 世", min_size=4, max_size=30).map(lambda rest: f"{start}{rest}J")
)
SPELLINGS = st.sampled_from([str, quote_plus, html.escape, lambda text: json.dumps(text)[1:-1]])


def letters_left(text: str) -> int:
    """Return how many letters of a secret are in a text."""
    return sum(text.count(letter) for letter in "ZQJ")


def response(body: str, *, kept_bytes: int) -> HttpResponse:
    """Return a response of which the first bytes are kept, as the egress keeps them."""
    raw = body.encode()
    kept = raw[:kept_bytes]
    return HttpResponse(400, {}, kept, len(raw), len(kept) < len(raw), {}, {})


@given(SECRETS, SPELLINGS, st.integers(0, 260), st.integers(0, 60), st.sampled_from(["x", "x ", " ", "\n"]))
def test_a_reason_and_a_body_that_are_cut_contain_no_part_of_a_secret(secret, spell, before, cut, filler):
    """The body is cut at 16 KB or where the connection ended, and the reason of a failure at about 200 characters."""
    mask, spelled = Mask([secret]), spell(secret)
    for padding in (before, STORED_BODY_BYTES - cut):
        body = (filler * padding)[:padding] + spelled + " and more"
        for kept_bytes in (padding + cut, STORED_BODY_BYTES, len(body.encode())):
            answer = response(body, kept_bytes=kept_bytes)
            reason = mask.text(f"answered 400 Bad Request{excerpt(answer)}")[:MAX_REASON_CHARS]
            stored = mask.response(answer.receipt_json())["body"]

            assert letters_left(reason) < MIN_SECRET_CHARS
            assert letters_left(stored) < MIN_SECRET_CHARS
    for max_chars in range(before + len(spelled)):
        masked = mask.text(cut_text(f"{'x' * before}{spelled}", max_chars))
        assert letters_left(masked) < MIN_SECRET_CHARS


class Engine:
    """A log that is read in the given parts."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    async def read_log(self, _name: str, _position: str | None, *, limit_bytes: int) -> LogRead:
        part = self._parts.pop(0) if self._parts else b""
        return LogRead(part, str(len(self._parts)), skipped=False)


class Store:
    """The log as it is stored."""

    def __init__(self) -> None:
        self.chunks: list[str] = []

    def log_position(self, _job_id: str) -> None:
        return None

    def append_log(self, _job_id: str, text: str, **_: Any) -> None:
        self.chunks.append(text)


async def run_in_place(function: Any, *args: Any) -> Any:
    """Call a function."""
    return function(*args)


@given(
    st.lists(st.tuples(SECRETS, SPELLINGS, st.integers(0, 90)), min_size=1, max_size=3),
    st.lists(st.integers(1, 70), min_size=1, max_size=12),
    st.integers(10, 80),
)
def test_a_log_contains_no_part_of_a_secret_however_it_is_read(lines, sizes, max_line_bytes):
    """A log arrives in parts of any size, and a line that is too long is stored in parts."""
    text = "".join(f"{'x' * before} {spell(secret)}\n" for secret, spell, before in lines).encode()
    parts: list[bytes] = []
    rest = text
    while rest:
        size = sizes[len(parts) % len(sizes)]
        parts.append(rest[:size])
        rest = rest[size:]
    store, mask = Store(), Mask(secret for secret, _, _ in lines)

    async def collect() -> None:
        engine, job = Engine(parts), make_job("job_1", NOW)
        collector = LogCollector(job, engine, store, mask, run_in_place, keep_bytes=10**6)  # type: ignore[arg-type]
        for _ in range(len(text)):
            await collector.store_new(NOW)
        await collector.store_rest(NOW)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logs, "MAX_LINE_BYTES", max_line_bytes)
        asyncio.run(collect())

    for chunk in ("".join(store.chunks), *store.chunks):
        assert all(letters_left(line) < MIN_SECRET_CHARS for line in chunk.splitlines())


@pytest.mark.anyio
async def test_what_takes_long_to_mask_does_not_hold_the_event_loop():
    """A body of a few KB is masked in a thread, and the event loop masks only short texts."""
    threads: list[int] = []

    def mask(text: str) -> str:
        threads.append(threading.get_ident())
        return text

    for chars in (10, MAX_CHARS_ON_LOOP + 1):
        assert len(await mask_off_loop(mask, "x" * chars, asyncio.Event())) == chars
    assert threads[0] == threading.get_ident() != threads[1]


@pytest.mark.anyio
async def test_an_outcome_is_recorded_although_the_worker_stops_while_it_is_masked():
    """The request was answered. If that were forgotten, it would be sent again."""
    is_masking, may_end = threading.Event(), threading.Event()

    def mask(text: str) -> str:
        is_masking.set()
        may_end.wait(10)
        return f"masked {len(text)}"

    stopping = asyncio.Event()
    stopping.set()
    task = asyncio.ensure_future(mask_off_loop(mask, "x" * (MAX_CHARS_ON_LOOP + 1), stopping))
    await asyncio.to_thread(is_masking.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()

    assert await task == f"masked {MAX_CHARS_ON_LOOP + 1}"
