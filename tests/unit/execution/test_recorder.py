"""What happened is written down, whatever the database makes of one record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from upshot.domain.execution import Execution, ExecutionState
from upshot.errors import Unavailable
from upshot.execution.recorder import Recorder
from upshot.ports.executions import ExecutionUpdate

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def progress(name: str) -> ExecutionUpdate:
    return ExecutionUpdate(Execution(name, "promote", "r1", "evt_1", ExecutionState.SUCCEEDED, NOW, fence=1))


class Database:
    """Keeps what it is given, but for records that it will not take."""

    def __init__(self, *, refuses: Sequence[str] = (), never_takes: Sequence[str] = (), outages: int = 0) -> None:
        self.kept: dict[str, ExecutionUpdate] = {}
        self.batches: list[int] = []
        self._refuses, self._never_takes, self._outages = refuses, never_takes, outages

    async def write(self, batch: Sequence[ExecutionUpdate]) -> frozenset[str]:
        await asyncio.sleep(0)
        if self._outages:
            self._outages -= 1
            raise Unavailable("the database does not answer")
        for one in batch:
            state, name = one.execution.state, one.execution.id
            if name in self._never_takes or (name in self._refuses and state is ExecutionState.SUCCEEDED):
                raise TypeError("a text that cannot be kept")
        self.batches.append(len(batch))
        self.kept.update((one.execution.id, one) for one in batch)
        return frozenset()


def record(database: Database, *names: str) -> list[bool]:
    """Record all at once; whether each was held."""

    async def story() -> list[bool]:
        recorder = Recorder(database.write)
        writing = asyncio.create_task(recorder.run())
        held = await asyncio.wait_for(asyncio.gather(*(recorder.record(progress(name)) for name in names)), 10)
        assert not writing.done(), "it goes on for those who come later"
        writing.cancel()
        return held

    return asyncio.run(story())


def test_those_who_come_together_share_a_commit():
    """One batch for all of them."""
    database = Database()
    assert record(database, "a", "b", "c") == [True, True, True]
    assert database.batches == [3]


def test_an_outage_delays_and_loses_nothing():
    """It is written when the database is back."""
    database = Database(outages=2)
    assert record(database, "a", "b") == [True, True]
    assert set(database.kept) == {"a", "b"}


def test_a_record_that_cannot_be_kept_fails_its_execution_and_holds_up_no_other():
    """Unwritten it would be sent again for ever."""
    database = Database(refuses=["b"])
    assert record(database, "a", "b", "c") == [True, True, True]
    assert database.kept["b"].execution.state is ExecutionState.FAILED
    assert "could not be recorded" in (database.kept["b"].execution.reason or "")
    assert database.kept["a"].execution.state is database.kept["c"].execution.state is ExecutionState.SUCCEEDED


def test_one_that_cannot_even_fail_leaves_the_recorder_at_work():
    """The others are written, and those who come later, too."""
    database = Database(never_takes=["b"])
    assert record(database, "a", "b", "c") == [True, False, True]
    assert set(database.kept) == {"a", "c"}
