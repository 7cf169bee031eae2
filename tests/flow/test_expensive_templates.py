"""Expensive templates and conditions delay neither the event loop nor the events of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from upshot import stream
from upshot.automations.rendering import ProcessRenderer, render_cheaply
from upshot.domain.event import Event
from upshot.domain.execution import ExecutionState
from upshot.execution.admission import Admitter
from upshot.execution.loop_pause import MAX_SECONDS, LoopPause
from upshot.ids import WorkerId
from upshot.resources.event import event_json
from upshot.stream import Consumer
from upshot.testing import Worker, World

CHEAP = """
name: cheap
on: {custom: {name: drift}}
if: event.data.quick
steps: [{uses: webhook, with: {url: "https://hooks.example/cheap"}}]
"""
COSTLY = """
name: costly
on: {custom: {name: drift}}
if: (event.data.values | sort | first) == 0
steps: [{uses: webhook, with: {url: "https://hooks.example/{{ event.data.id | upper }}"}}]
"""
VALUES = list(range(5_000, -1, -1))


class SlowRenderer(ProcessRenderer):
    """Waits with expensive renders until the test allows them."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = asyncio.Event()
        self.waiting = 0

    async def render(self, compiled: Any, context: Mapping[str, Any]) -> Any:
        self.waiting += 1
        await self.allowed.wait()
        return await super().render(compiled, context)


class Parts:
    """A consumer whose expensive conditions wait, and its stores."""

    def __init__(self, world: World) -> None:
        async def run_in_thread(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return work(*args, **kwargs)

        self.world = world
        self.renderer = SlowRenderer()
        self.executor, plain = world.make_executor(WorkerId("worker"), run_in_thread, Worker(world, "worker"))
        self.admitter = Admitter(self.executor, plain._matcher, world.clock, renderer=self.renderer)
        self.consumer = Consumer(
            stream=world.stream,
            events=world.events,
            executions=world.executions,
            admitter=self.admitter,
            executor=self.executor,
            counters=world.counters,
            publisher=world.stream,
            clock=world.clock,
            run_in_thread=run_in_thread,
        )
        plain._matcher().prepare()

    async def consume(self) -> None:
        """Consume what is in the stream."""
        await self.consumer.consume(await self.world.stream.read(limit=100, wait_seconds=0))

    def matched(self) -> set[str]:
        """Return the ids in the data of the events that are matched."""
        return {stored.event.data["id"] for stored in self.world.all_events() if stored.matched_at is not None}


@pytest.fixture
def world() -> World:
    """Return a world with a cheap and an expensive condition."""
    world = World()
    world.apply(CHEAP)
    world.apply(COSTLY)
    return world


def test_an_expensive_condition_does_not_delay_other_events(world):
    """An event is admitted although an event before it, in the same batch, waits for its condition."""

    async def scenario() -> None:
        parts = Parts(world)
        world.emit("drift", id="large", quick=False, values=VALUES)
        world.emit("drift", id="small", quick=True, values=[0])

        await parts.consume()
        assert parts.matched() == {"small"}
        await asyncio.sleep(0)
        assert parts.renderer.waiting

        parts.renderer.allowed.set()
        await parts.consumer.wait_for_slow_events()
        assert parts.matched() == {"small", "large"}
        parts.renderer.close()

    asyncio.run(scenario())


def test_an_event_that_waits_for_its_condition_is_admitted_once(world):
    """A second copy from the relay is dropped while the first one waits."""

    async def scenario() -> None:
        parts = Parts(world)
        event = world.emit("drift", id="large", quick=False, values=VALUES)
        await parts.consume()
        world.stream.publish([event])
        await parts.consume()
        await asyncio.sleep(0)

        assert len(parts.consumer._slow) == 1
        parts.renderer.allowed.set()
        await parts.consumer.wait_for_slow_events()
        assert len(world.all_executions()) == 1
        parts.renderer.close()

    asyncio.run(scenario())


def test_the_loop_gets_control_between_two_pieces_of_work():
    """Work pauses as soon as it has taken two milliseconds, however many pieces there are."""

    async def scenario() -> list[int]:
        now, turns = 0.0, []

        async def other() -> None:
            while True:
                turns.append(done)
                await asyncio.sleep(0)

        done = 0
        task = asyncio.create_task(other())
        pause = LoopPause(lambda: now)
        for done in range(20):  # noqa: B007 - `other` reads it
            await pause.if_due()
            now += MAX_SECONDS / 2
        task.cancel()
        return turns

    assert asyncio.run(scenario()) == list(range(2, 20, 2))


def test_control_returns_between_the_events_of_a_batch(world, monkeypatch):
    """Before each event of a batch, and before each automation of an event, the loop can take over."""
    asked = []

    async def if_due(self: LoopPause) -> None:
        asked.append(self)

    monkeypatch.setattr(LoopPause, "if_due", if_due)
    for number in range(3):
        world.emit("drift", id=str(number), quick=True, values=[0])

    world.run_until_idle()

    assert len(asked) == 3 * (1 + 2 + 2 + 1)  # the event, two conditions, two executions, their start


def test_a_batch_with_many_executions_is_stored_in_parts(world, monkeypatch):
    """No part holds more events than it needs for its executions, and every event is admitted."""
    stored = []
    original = world.executions.admit

    def admit(admissions, now):
        stored.append(len(admissions))
        return original(admissions, now)

    monkeypatch.setattr(world.executions, "admit", admit)
    monkeypatch.setattr(stream, "MAX_EXECUTIONS", 4)
    for number in range(5):
        world.emit("drift", id=str(number), quick=True, values=[0])  # two executions each

    world.run_until_idle()

    assert stored == [2, 2, 1]
    assert len(world.sent) == 10


def test_a_large_response_is_masked_beside_the_event_loop(monkeypatch):
    """It is stored without the secret. A small one is not worth a thread."""
    world = World(secrets={"TOKEN": "t0p-s3cret"})
    world.apply(
        """
name: large
on: {custom: {name: drift}}
steps:
  - uses: webhook
    with: {url: "https://hooks.example/{{ event.data.id }}", headers: {Authorization: "Bearer {{ secrets.TOKEN }}"}}
"""
    )
    threads = []
    original = asyncio.to_thread

    async def to_thread(work, *args):
        threads.append(work.__name__)
        return await original(work, *args)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    world.respond("https://hooks.example/small", body=b'{"items": ["t0p-s3cret"]}')
    world.respond("https://hooks.example/large", body=b'{"items": [%s"t0p-s3cret"]}' % (5_000 * b'"t0p-s3cret",'))
    world.emit("drift", id="small")
    world.run_until_idle()
    assert threads == []

    world.emit("drift", id="large")
    world.run_until_idle()
    assert "store_and_mask" in threads
    small, large = (execution.steps[0].outputs["body"]["items"] for execution in world.all_executions())
    assert set(small) == set(large) == {"***"}


def test_automations_are_compiled_before_the_first_event(world):
    """After `prepare`, conditions and templates are cheap at once."""

    async def scenario() -> None:
        parts = Parts(world)
        parts.executor.revisions.prepare(world._automations)
        event: Event = world.emit("drift", id="small", quick=True, values=[0])

        admitted = await parts.admitter.admit(event)  # would raise TooCostly

        assert len(admitted.claimed) == 2
        for claimed in admitted.claimed:
            for step in claimed.compiled.steps.values():
                render_cheaply(step.tree, {"event": event_json(event)})  # the same

    asyncio.run(scenario())


def test_a_template_that_needs_too_much_fails_its_attempt(world):
    """The execution says why. Executions of other automations are not affected."""
    world.replace(CHEAP)
    world.apply(
        """
name: amplifier
on: {custom: {name: drift}}
steps:
  - uses: webhook
    with: {url: "https://hooks.example/{% set a = [1, 2] %}AGAIN{{ a | tojson }}"}
""".replace("AGAIN", "{% set a = [a, a] %}" * 45)
    )

    world.emit("drift", id="1", quick=True)
    world.run_until_idle()

    assert world.execution("amplifier").state is ExecutionState.FAILED
    assert "too much work for a template" in world.execution("amplifier").reason
    assert world.execution("cheap").state is ExecutionState.SUCCEEDED
