"""The sweeper finds executions that are due, and leaves alone those that are only late."""

import asyncio
from datetime import timedelta

import pytest

from upshot.errors import Unavailable
from upshot.execution.sweeper import Sweeper
from upshot.testing import Worker, World

AUTOMATION = """
name: go
on: {custom: {name: go}}
steps: [{uses: webhook, with: {url: "https://example.com"}, retry: {first: 1s}}]
"""


@pytest.fixture
def world() -> World:
    """Return a world with one execution whose second attempt is due."""
    world = World()
    world.apply(AUTOMATION)
    world.respond(status=503, times=1)
    world.emit("go")
    world.run_until_idle()
    world.clock.advance(seconds=5)
    return world


async def test_nothing_is_taken_just_after_an_outage_of_the_database(world):
    """Leases expired meanwhile although their workers are alive. These workers get time to renew them."""
    is_down = True

    async def run_in_thread(work, /, *args, **kwargs):
        if is_down:
            raise Unavailable("the database does not answer")
        return work(*args, **kwargs)

    sweeper = Sweeper(
        Worker(world, "worker-9").executor,
        world.executions,
        world.notifier,
        world.clock,
        run_in_thread,
        after_outage=timedelta(seconds=6),
    )
    with pytest.raises(Unavailable):
        await sweeper.sweep()
    is_down = False
    assert await sweeper.sweep() == 0
    world.clock.advance(seconds=5)
    assert await sweeper.sweep() == 0
    world.clock.advance(seconds=2)
    assert await sweeper.sweep() == 1


async def test_a_worker_executes_what_no_worker_claims_after_its_notification(world):
    """The broker accepts the notification, and no task results from it. A few seconds later the worker acts itself."""
    worker = Worker(world, "worker-9")
    recorder = asyncio.create_task(worker.executor.recorder.run())
    await worker.sweeper.sweep()
    assert world.notifier.notified == [world.execution().id]
    world.clock.advance(seconds=6)
    await worker.sweeper.sweep()
    await worker.executor.wait_until_idle()
    recorder.cancel()
    assert world.execution().state == "succeeded"


def test_without_a_broker_the_worker_executes_what_is_due(world):
    """Celery only notifies workers. The due times are in the database."""
    world.notifier.is_down = True
    world.run_until_idle()
    assert world.execution().state == "succeeded"
