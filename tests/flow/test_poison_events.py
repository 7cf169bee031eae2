"""An event that cannot be matched costs nobody else anything, and says why."""

import pytest

from upshot.adapters.memory.executions import MemoryExecutions
from upshot.execution.admission import Admitter
from upshot.testing import World

TICK = """
name: tick
on: {custom: {name: tick}}
steps:
  - uses: webhook
    with: {url: https://example.com/hook, json: {n: "{{ event.data.n }}"}}
"""


@pytest.fixture
def world():
    world = World()
    world.apply(TICK)
    return world


def assert_only_the_poison_is_left_out(world, poison):
    """Check that the other events are delivered once, and that the poison has ended with a reason."""
    assert sorted(request.json["n"] for request in world.sent) == ["0", "2"]
    found = world.events.find(poison.id)
    assert found.matched_at is not None
    assert "an error in Upshot: TypeError: poison" in found.warning


def test_an_error_while_matching_ends_only_that_event(world, monkeypatch):
    """The neighbours of its batch are answered, and it is not tried again."""
    original = Admitter.admit

    async def admit(self, event):
        if event.data["n"] == 1:
            raise TypeError("poison")
        return await original(self, event)

    monkeypatch.setattr(Admitter, "admit", admit)
    _, poison, _ = [world.emit("tick", n=number) for number in range(3)]
    world.run_until_idle()
    assert_only_the_poison_is_left_out(world, poison)


def test_an_admission_that_cannot_be_stored_ends_only_that_event(world, monkeypatch):
    """The store rejects the whole batch. Then each event has an attempt of its own."""
    _, poison, _ = [world.emit("tick", n=number) for number in range(3)]
    original = MemoryExecutions.admit

    def admit(self, admissions, now):
        if any(admission.event_id == poison.id for admission in admissions):
            raise TypeError("poison")
        return original(self, admissions, now)

    monkeypatch.setattr(MemoryExecutions, "admit", admit)
    world.run_until_idle()
    assert_only_the_poison_is_left_out(world, poison)


def test_an_event_that_was_never_accepted_is_counted(world):
    """It is not answered, whatever else its batch holds."""
    foreign = World().emit("tick", n=1)
    world.emit("tick", n=0)
    world.stream.publish([foreign])
    world.emit("tick", n=2)
    world.run_until_idle()
    assert sorted(request.json["n"] for request in world.sent) == ["0", "2"]
    assert world.counters.read() == {"ignored-entries": 1}
