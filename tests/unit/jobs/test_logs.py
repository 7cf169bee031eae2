"""The stored log of a job contains no part of a secret, wherever it is cut."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.job_records import make_job
from upshot.backends.protocol import LogRead
from upshot.domain.job import LOG_TAIL_BYTES
from upshot.jobs.logs import MAX_LINE_BYTES, LogCollector
from upshot.masking import Mask

TOKEN = "tok_" + "Zq9" * 20
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Engine:
    """A log that is read in the given parts."""

    def __init__(self, *parts: bytes, skipped: bool = False) -> None:
        self.parts = list(parts)
        self._skipped = skipped

    async def read_log(self, _name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        part = self.parts.pop(0) if self.parts else b""
        return LogRead(part[-limit_bytes:], str(len(self.parts)), skipped=self._skipped)


class Store:
    """The log as it is stored."""

    def __init__(self) -> None:
        self.text = ""

    def log_position(self, _job_id: str) -> None:
        return None

    def append_log(self, _job_id: str, text: str, **_: Any) -> None:
        self.text += text


async def run_in_place(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function."""
    return function(*args, **kwargs)


def collector(engine: Engine, store: Store) -> LogCollector:
    """Return a collector for a job with the secret."""
    return LogCollector(make_job("job_1", NOW), engine, store, Mask([TOKEN]), run_in_place, keep_bytes=10**6)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize("length", range(0, len(TOKEN) + 1, 7))
async def test_a_long_line_is_not_cut_within_a_secret(length):
    """A line without an end is stored in parts. The part of a secret waits for its rest."""
    store = Store()
    beginning = b"x" * MAX_LINE_BYTES + b" "
    log = collector(Engine(beginning + TOKEN[:length].encode(), TOKEN[length:].encode() + b" end\n"), store)
    await log.store_new(NOW)
    await log.store_rest(NOW)

    assert store.text == beginning.decode() + "*** end\n"


@pytest.mark.anyio
async def test_a_log_that_begins_within_a_line_loses_the_rest_of_the_line():
    """If older text was left out, the first line may begin within a secret."""
    store = Store()
    await collector(Engine(TOKEN[20:].encode() + b"\nnext\n", skipped=True), store).store_new(NOW)

    assert store.text.endswith("next\n")
    assert "Zq9" not in store.text


@pytest.mark.anyio
async def test_the_event_loop_does_not_wait_for_masking():
    """A hostile log takes long to mask, so a thread masks it, also when it is cut."""
    loop_thread = threading.get_ident()
    masked_in: set[int] = set()

    class RecordingMask(Mask):
        def text(self, text: str, *, is_cut: bool = False) -> str:
            masked_in.add(threading.get_ident())
            return super().text(text, is_cut=is_cut)

        def start_of_cut_secret(self, text: str) -> int:
            masked_in.add(threading.get_ident())
            return super().start_of_cut_secret(text)

    engine = Engine(b"x" * MAX_LINE_BYTES + b"x", b"line\n", b"rest")
    log = LogCollector(
        make_job("job_1", NOW),
        engine,  # type: ignore[arg-type]
        Store(),  # type: ignore[arg-type]
        RecordingMask([TOKEN]),
        asyncio.to_thread,
        keep_bytes=10**6,
    )
    await log.store_new(NOW)
    await log.store_rest(NOW)
    await log.tail()

    assert masked_in
    assert loop_thread not in masked_in


@pytest.mark.anyio
async def test_the_tail_begins_with_a_whole_line():
    """The last 64 KB of a log can begin within a secret."""
    lines = b"".join(b"line %d\n" % number for number in range(10_000))
    text = lines[-(LOG_TAIL_BYTES - 10) :]
    tail = await collector(Engine(TOKEN.encode() + text), Store()).tail()

    assert "Zq9" not in tail
    assert tail.endswith("line 9999\n")
