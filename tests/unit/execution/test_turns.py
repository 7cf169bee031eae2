"""Root events take turns when a consumer admits the events that it has read."""

from dataclasses import replace

from tests.contract.test_executions import event
from upshot.domain.event import Cause
from upshot.execution.turns import MAX_CAUSED_PER_BATCH, EventTurns
from upshot.ids import EventId, ExecutionId
from upshot.ports.messaging import StreamEntry


def entry(number, root=None):
    chain = (Cause("fan-out", ExecutionId("exe_1"), EventId(root), None),) if root else ()
    return StreamEntry(f"{root or 'new'}-{number}", replace(event(f"evt_{number}"), chain=chain))


def take(turns, limit=256):
    return [taken.entry_id for taken in turns.take(limit)]


def test_a_new_event_does_not_wait_for_the_descendants_of_another():
    """It is admitted with the next batch, although it was read last."""
    turns = EventTurns()
    turns.add([entry(number, "evt_a") for number in range(1000)])
    turns.add([entry(1)])

    assert take(turns)[0] == "new-1"
    assert len(turns) == 1000 - MAX_CAUSED_PER_BATCH


def test_root_events_take_turns():
    """The descendants of each root event keep their order."""
    turns = EventTurns()
    turns.add([entry(number, "evt_a") for number in range(5)])
    turns.add([entry(number, "evt_b") for number in range(2)])
    assert take(turns, 3) == ["evt_a-0", "evt_b-0", "evt_a-1"]
    assert take(turns) == ["evt_b-1", "evt_a-2", "evt_a-3", "evt_a-4"]
    assert len(turns) == 0


def test_an_entry_that_cannot_be_read_is_taken_too():
    """It must be acknowledged like the others, and nothing exceeds the limit."""
    turns = EventTurns()
    turns.add([StreamEntry("broken", None), entry(1), entry(2)])
    assert take(turns, 2) == ["broken", "new-1"]
    assert take(turns) == ["new-2"]
    assert take(turns) == []
