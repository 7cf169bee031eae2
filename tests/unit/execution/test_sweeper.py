"""What was left behind is found again, and what is only late is left alone."""

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


def waiting_world() -> World:
    """A world with one execution that waits for its second attempt, which is due."""
    world = World()
    world.apply(AUTOMATION)
    world.answer(status=503, times=1)
    world.emit("go")
    world.settle()
    world.clock.advance(seconds=5)
    return world


def test_after_an_outage_of_the_database_nothing_is_taken_at_once():
    """Leases ran out meanwhile whose workers live: they get the time to renew them."""
    world = waiting_world()
    away = True

    async def story() -> list[int]:
        async def run_in_thread(work, /, *args, **kwargs):
            if away:
                raise Unavailable("the database does not answer")
            return work(*args, **kwargs)

        nonlocal away
        engine = Worker(world, "worker-9").engine
        sweeper = Sweeper(
            engine, world.executions, world.notifier, world.clock, run_in_thread, after_outage=timedelta(seconds=6)
        )
        with pytest.raises(Unavailable):
            await sweeper.sweep()
        away = False
        found = [await sweeper.sweep()]
        world.clock.advance(seconds=5)
        found.append(await sweeper.sweep())
        world.clock.advance(seconds=2)
        found.append(await sweeper.sweep())
        return found

    assert asyncio.run(story()) == [0, 0, 1]


def test_a_ring_that_nobody_hears_is_answered_by_whoever_rang():
    """The broker takes the ring, and no task comes of it: some seconds later it is done without one."""
    world = waiting_world()

    async def story() -> None:
        worker = Worker(world, "worker-9")
        writing = asyncio.create_task(worker.engine.write_records())
        await worker.sweeper.sweep()
        assert world.notifier.notified == [world.execution().id]
        world.clock.advance(seconds=6)
        await worker.sweeper.sweep()
        await worker.engine.idle()
        writing.cancel()

    asyncio.run(story())
    assert world.execution().state == "succeeded"


def test_without_a_broker_the_sweeper_does_it_itself():
    """Celery is a doorbell, never the record."""
    world = waiting_world()
    world.notifier.is_down = True
    world.settle()
    assert world.execution().state == "succeeded"
