"""The recorder writes every update, whatever the database does with one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from tests.run_in_place import run_in_place
from tests.unit.automations.factories import make_event
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.stream import MemoryStream
from upshot.domain.execution import AttemptState, Execution, ExecutionState, Receipt
from upshot.errors import Unavailable
from upshot.execution.recorder import Recorder
from upshot.ids import DeliveryId, EventId, ExecutionId, RevisionId, WorkerId
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
        ),
        (
            Receipt(
                execution_id=ExecutionId(execution_id),
                step_id="step-1",
                attempt=1,
                state=AttemptState.SUCCEEDED,
                delivery_id=DeliveryId("dlv_1"),
                started_at=NOW,
                took_seconds=0.1,
                worker_id=WorkerId("worker-1"),
                request={},
                response={"headers": {"server": "Bj\udcf8rn"}, "number": 2**70},
            ),
        ),
    )


class Executions(MemoryExecutions):
    """Accepts every update, except those that the test wants it to reject."""

    def __init__(
        self,
        *,
        rejects: Sequence[str] = (),
        never_accepts: Sequence[str] = (),
        outages: int = 0,
        storable_only: bool = False,
    ) -> None:
        super().__init__(MemoryEvents())
        self.written: dict[str, Execution] = {}
        self.receipts: dict[str, tuple[Receipt, ...]] = {}
        self.batches: list[int] = []
        self._storable_only = storable_only
        self._rejects, self._never_accepts, self._outages = rejects, never_accepts, outages

    def record(self, updates: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        if self._outages:
            self._outages -= 1
            raise Unavailable("the database does not answer")
        for execution in (update.execution for update in updates):
            if execution.id in self._never_accepts:
                raise TypeError("a text that cannot be stored")
        for receipt in (receipt for update in updates for receipt in update.receipts):
            if receipt.execution_id in self._rejects and receipt.response is not None:
                raise TypeError("a text that cannot be stored")
            if self._storable_only:
                orjson.dumps(receipt)
        self.batches.append(len(updates))
        self.written.update((update.execution.id, update.execution) for update in updates)
        self.receipts.update((update.execution.id, tuple(update.receipts)) for update in updates)
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


async def test_an_update_that_cannot_be_stored_continues_without_its_data():
    """What the attempt decided is kept: a delivered request is not sent again, and a retry remains a retry."""
    executions = Executions(rejects=["b"])
    assert await record(executions, "a", "b", "c") == [True, True, True]
    assert {execution.state for execution in executions.written.values()} == {ExecutionState.SUCCEEDED}
    (receipt,) = executions.receipts["b"]
    assert (receipt.request, receipt.response) == (None, None)
    assert "left out" in (receipt.error or "")


async def test_data_that_cannot_be_stored_is_converted():
    """Only what the database cannot keep is replaced."""
    executions = Executions(storable_only=True)
    assert await record(executions, "a") == [True]
    (receipt,) = executions.receipts["a"]
    assert receipt.response == {"headers": {"server": "Bj\ufffdrn"}, "number": str(2**70)}


async def test_the_recorder_survives_an_update_that_is_never_accepted():
    """The other updates are written, and so are later ones."""
    executions = Executions(never_accepts=["b"])
    assert await record(executions, "a", "b", "c") == [True, False, True]
    assert set(executions.written) == {"a", "c"}
