"""Executions that wait in the database until their destination has room."""

import asyncio

import pytest
from typing_extensions import override

from upshot.actions.protocol import HttpResponse
from upshot.domain.execution import ExecutionState
from upshot.testing import RecordingEgress, Worker, World

AUTOMATIONS = """
name: notify
on: {custom: {name: busy}}
steps: [{uses: webhook, with: {url: "https://busy.example/hook", json: {number: "{{= event.data.number }}"}}}]
---
name: healthy
on: {custom: {name: healthy}}
steps: [{uses: webhook, with: {url: "https://healthy.example/hook"}}]
"""
BUSY = "https://busy.example:443"


class HangingEgress(RecordingEgress):
    """Answers requests to `busy.example` only after a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    @override
    async def send(self, method: str, url: str, **options) -> HttpResponse:
        answer = await super().send(method, url, **options)
        if url.startswith("https://busy."):
            await self.release.wait()
        return answer


@pytest.fixture
def world() -> World:
    world = World()
    world.apply(AUTOMATIONS)
    return world


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition is still false")


def test_what_waits_for_a_hanging_destination_holds_up_nobody(world):
    """Twenty attempts hang. The others wait for a visible reason, without a worker, and a healthy step is sent."""
    egress = world.egress = HangingEgress()
    for number in range(50):
        world.emit("busy", number=number)
    world.emit("healthy")

    async def run() -> None:
        worker = asyncio.ensure_future(Worker(world, "worker").run_until_idle())
        await until(lambda: any("healthy" in request.url for request in egress.sent))
        await until(lambda: sum(execution.waits_for == BUSY for execution in world.all_executions()) == 30)
        waiting = [execution for execution in world.all_executions() if execution.waits_for]
        assert {execution.state for execution in waiting} == {ExecutionState.WAITING}
        assert waiting[0].reason == f"{BUSY} has its maximum of attempts in progress"
        assert not waiting[0].lease_owner_id
        egress.release.set()
        await worker

    asyncio.run(run())
    assert {execution.state for execution in world.all_executions()} == {ExecutionState.SUCCEEDED}


def test_waiting_executions_return_with_the_oldest_event_first(world):
    """Each execution is sent once, in the order of the events."""
    egress = world.egress = HangingEgress()
    for number in range(100):
        world.emit("busy", number=number)

    async def run() -> None:
        worker = asyncio.ensure_future(Worker(world, "worker").run_until_idle())
        await until(lambda: sum(execution.waits_for == BUSY for execution in world.all_executions()) == 80)
        egress.release.set()
        await worker

    asyncio.run(run())
    assert [request.json["number"] for request in egress.sent] == list(range(100))


def test_another_worker_returns_what_a_dead_worker_left_waiting(world):
    """A worker that knows nothing of the waiting executions finds them in the database."""
    world.egress = HangingEgress()
    for number in range(30):
        world.emit("busy", number=number)

    async def die() -> None:
        worker = asyncio.ensure_future(Worker(world, "dead").run_until_idle())
        await until(lambda: sum(execution.waits_for == BUSY for execution in world.all_executions()) == 10)
        worker.cancel()

    asyncio.run(die())
    world.egress = RecordingEgress()
    world.run_until_idle()
    assert len(world.sent) == 10
    world.clock.advance(31)
    world.run_until_idle()
    assert {execution.state for execution in world.all_executions()} == {ExecutionState.SUCCEEDED}


def test_a_waiting_execution_can_be_cancelled(world):
    """A cancelled execution waits for nothing and is not sent."""
    egress = world.egress = HangingEgress()
    for number in range(21):
        world.emit("busy", number=number)

    async def run() -> None:
        worker = asyncio.ensure_future(Worker(world, "worker").run_until_idle())
        await until(lambda: any(execution.waits_for for execution in world.all_executions()))
        waiting = next(execution for execution in world.all_executions() if execution.waits_for)
        world.cancel(waiting.id)
        egress.release.set()
        await worker
        assert world.executions.find(waiting.id)[0].waits_for is None

    asyncio.run(run())
    assert len(egress.sent) == 20


def test_each_credential_is_a_destination_of_its_own():
    """Steps that use different secrets at one host do not wait for each other."""
    world = World(secrets={"FIRST": "one", "SECOND": "two"})
    world.egress = HangingEgress()
    for name in ("first", "second"):
        world.apply(f"""
name: {name}
on: {{custom: {{name: {name}}}}}
steps: [{{uses: webhook, with: {{url: "https://busy.example/", headers: {{a: "{{{{ secrets.{name.upper()} }}}}"}}}}}}]
""")
    for number in range(21):
        world.emit("first", number=number)
    world.emit("second")

    async def run() -> None:
        worker = asyncio.ensure_future(Worker(world, "worker").run_until_idle())
        await until(lambda: len(world.egress.sent) == 21)
        await until(lambda: any(execution.waits_for for execution in world.all_executions()))
        assert {execution.waits_for for execution in world.all_executions()} == {None, f"{BUSY} FIRST"}
        worker.cancel()

    asyncio.run(run())
