"""An event of another automation does not wait until a backlog is admitted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from upshot.domain.event import Event
from upshot.execution.admission import Admitter
from upshot.ids import EventId, WorkerId
from upshot.stream import BACKLOG_READS, MAX_READ, Consumer
from upshot.testing import Worker, World

AUTOMATION = """
name: {name}
on: {{custom: {{name: {name}}}}}
{condition}
steps: [{{uses: webhook, with: {{url: "https://hooks.example/{name}"}}}}]
"""


class Parts:
    """A worker's consumer, which the test drives read by read."""

    def __init__(self, world: World, name: str = "worker", events: Any = None) -> None:
        async def run_in_thread(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return work(*args, **kwargs)

        self.executor, admitter = world.make_executor(WorkerId(name), run_in_thread, Worker(world, name))
        # More room than the executor of a world has, so that it does not limit what is read.
        self.executor._max_in_progress = 100_000
        self.consumer = Consumer(
            stream=world.stream,
            events=world.events if events is None else events,
            executions=world.executions,
            admitter=admitter,
            executor=self.executor,
            counters=world.counters,
            publisher=world.stream,
            clock=world.clock,
            run_in_thread=run_in_thread,
        )

    async def read(self, times: int) -> None:
        """Read from the stream as often, and admit what is read."""
        for _ in range(times):
            await self.consumer._consume_next()


@pytest.fixture
def world() -> World:
    """Return a world with an automation that has a backlog, and another one."""
    world = World()
    for name, condition in {"crowd": "", "single": "", "broken": "if: event.data.missing.name"}.items():
        world.apply(AUTOMATION.format(name=name, condition=condition))
    return world


def emit_backlog(world: World) -> None:
    for number in range((BACKLOG_READS + 2) * MAX_READ):
        world.emit("crowd", n=number)


def is_matched(world: World, event: Event) -> bool:
    stored = world.events.find(event.id)
    return stored is not None and stored.matched_at is not None


def test_a_rare_event_is_admitted_before_its_turn(world):
    """It is delivered while the backlog still waits, and only once although its entry is read later."""

    async def scenario() -> None:
        parts = Parts(world)
        emit_backlog(world)
        event = world.emit("single")
        await parts.read(BACKLOG_READS)
        assert not is_matched(world, event)

        assert await parts.consumer.admit_rare() == 1
        assert is_matched(world, event)
        assert await parts.consumer.admit_rare() == 0
        await parts.read(3)
        executions = [each for each in world.all_executions() if each.automation == "single"]
        assert [each.event_id for each in executions] == [event.id]

    asyncio.run(scenario())


def test_two_workers_that_find_the_same_rare_event_admit_it_once(world):
    """The second worker starts nothing for it."""

    async def scenario() -> None:
        emit_backlog(world)
        emit_backlog(world)
        event = world.emit("single")
        found = world.events.find_rare(among=10_000, limit=10)
        assert [each.id for each in found] == [event.id]
        first, second = Parts(world, "first"), Parts(world, "second", _Found(found))
        await first.read(BACKLOG_READS)
        await second.read(BACKLOG_READS)

        assert await first.consumer.admit_rare() == 1
        before = len(second.executor.in_progress)
        await second.consumer.admit_rare()
        assert len(second.executor.in_progress) == before
        assert len([each for each in world.all_executions() if each.automation == "single"]) == 1

    asyncio.run(scenario())


def test_a_backlog_is_searched_again_only_when_events_were_accepted(world):
    """The search compares thousands of events. It finds nothing new while a backlog only becomes smaller."""
    searched: list[int] = []
    original: Callable[..., tuple[Event, ...]] = world.events.find_rare

    def find_rare(*, among: int, limit: int) -> tuple[Event, ...]:
        searched.append(among)
        return original(among=among, limit=limit)

    world.events.find_rare = find_rare

    async def scenario() -> None:
        parts = Parts(world)
        emit_backlog(world)
        await parts.read(BACKLOG_READS)
        assert await parts.consumer.admit_rare() == 0
        assert await parts.consumer.admit_rare() == 0
        assert len(searched) == 1

        event = world.emit("single")
        assert await parts.consumer.admit_rare() == 1
        assert is_matched(world, event)
        assert await parts.consumer.admit_rare() == 0
        assert await parts.consumer.admit_rare() == 0
        assert len(searched) == 3

    asyncio.run(scenario())


def test_without_a_backlog_nothing_is_searched(world):
    """Without a backlog, an event is read at once, so the search would only cost a query."""

    async def scenario() -> None:
        parts = Parts(world, events=object())  # any use of it fails
        world.emit("crowd", n=1)
        await parts.read(1)
        assert await parts.consumer.admit_rare() == 0

        emit_backlog(world)
        await parts.read(BACKLOG_READS + 3)  # the last read was not full, so the backlog has ended
        assert await parts.consumer.admit_rare() == 0

    asyncio.run(scenario())


def test_a_rare_event_that_cannot_be_matched_waits_for_its_turn(world, monkeypatch):
    """Other rare events are still admitted. The event itself gets its reason when it is read in turn."""
    original = Admitter.admit

    async def admit(self, event):
        if event.name == "poison":
            raise TypeError("poison")
        return await original(self, event)

    monkeypatch.setattr(Admitter, "admit", admit)

    async def scenario() -> None:
        parts = Parts(world)
        emit_backlog(world)
        poison, event = world.emit("poison"), world.emit("single")
        await parts.read(BACKLOG_READS)

        assert await parts.consumer.admit_rare() == 1
        assert is_matched(world, event)
        assert not is_matched(world, poison)
        await parts.read(3)
        assert "TypeError: poison" in world.events.find(poison.id).warning

    asyncio.run(scenario())


class _Found:
    """An event store whose search found these events before another worker admitted them."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        self._events = events

    def newest_unmatched(self) -> EventId | None:
        return self._events[0].id

    def find_rare(self, *, among: int, limit: int) -> tuple[Event, ...]:
        return self._events[: min(among, limit)]
