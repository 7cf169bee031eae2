"""The recorder writes every update, whatever the database does with one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from tests.run_in_place import run_in_place
from tests.unit.automations.factories import make_event
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.stream import MemoryStream
from upshot.domain.execution import Execution, ExecutionState
from upshot.errors import Unavailable
from upshot.execution.recorder import Recorder
from upshot.ids import EventId, ExecutionId, RevisionId
from upshot.ports.executions import ExecutionUpdate

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def update(execution_id: str) -> ExecutionUpdate:
    return ExecutionUpdate(
        Execution(
            ExecutionId(execution_id),
            "promote",
            RevisionId("r1"),
            EventId("evt_1"),
            ExecutionState.SUCCEEDED,
            NOW,
            fence=1,
        )
    )


class Executions(MemoryExecutions):
    """Accepts every update, except those that the test wants it to reject."""

    def __init__(self, *, rejects: Sequence[str] = (), never_accepts: Sequence[str] = (), outages: int = 0) -> None:
        super().__init__(MemoryEvents())
        self.written: dict[str, Execution] = {}
        self.batches: list[int] = []
        self._rejects, self._never_accepts, self._outages = rejects, never_accepts, outages

    def record(self, updates: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        if self._outages:
            self._outages -= 1
            raise Unavailable("the database does not answer")
        for execution in (update.execution for update in updates):
            rejects = execution.id in self._rejects and execution.state is ExecutionState.SUCCEEDED
            if rejects or execution.id in self._never_accepts:
                raise TypeError("a text that cannot be stored")
        self.batches.append(len(updates))
        self.written.update((update.execution.id, update.execution) for update in updates)
        return frozenset()


async def record(executions: Executions, *execution_ids: str) -> list[bool]:
    """Record an update of each execution at the same time, and return whether each was accepted."""
    recorder = Recorder(executions, MemoryStream(), run_in_place)
    running = asyncio.create_task(recorder.run())
    updates = [recorder.record(update(execution_id), make_event()) for execution_id in execution_ids]
    accepted = await asyncio.wait_for(asyncio.gather(*updates), 10)
    assert not running.done(), "the recorder must continue with later updates"
    running.cancel()
    return accepted


async def test_updates_at_the_same_time_share_a_commit():
    """They are written in one batch."""
    executions = Executions()
    assert await record(executions, "a", "b", "c") == [True, True, True]
    assert executions.batches == [3]


async def test_an_outage_only_delays_updates():
    """They are written when the database answers again."""
    executions = Executions(outages=2)
    assert await record(executions, "a", "b") == [True, True]
    assert set(executions.written) == {"a", "b"}


async def test_an_update_that_cannot_be_stored_fails_its_execution_alone():
    """Left unwritten, it would be sent again each time its lease expires."""
    executions = Executions(rejects=["b"])
    assert await record(executions, "a", "b", "c") == [True, True, True]
    assert executions.written["b"].state is ExecutionState.FAILED
    assert "could not be recorded" in (executions.written["b"].reason or "")
    assert executions.written["a"].state is executions.written["c"].state is ExecutionState.SUCCEEDED


async def test_the_recorder_survives_an_execution_that_cannot_even_fail():
    """The other updates are written, and so are later ones."""
    executions = Executions(never_accepts=["b"])
    assert await record(executions, "a", "b", "c") == [True, False, True]
    assert set(executions.written) == {"a", "c"}
