"""Attempts are counted for metrics, whatever the database does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from upshot.adapters.memory.deliveries import MemoryDeliveries
from upshot.domain.execution import AttemptState, Receipt
from upshot.errors import Unavailable, Unreachable
from upshot.execution.delivery_meter import MAX_DESTINATIONS, OTHER, DeliveryMeter
from upshot.ids import DeliveryId, ExecutionId, WorkerId
from upshot.ports.deliveries import BUCKETS_SECONDS, DeliveryCount, DeliveryKey
from upshot.testing import World


async def run_in_place(work, /, *args, **kwargs):
    return work(*args, **kwargs)


def receipt(seconds, state=AttemptState.SUCCEEDED):
    return Receipt(
        execution_id=ExecutionId("exe_1"),
        step_id="say",
        attempt=1,
        state=state,
        delivery_id=DeliveryId("dlv_1"),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        took_seconds=seconds,
        worker_id=WorkerId("w1"),
    )


class FailingDeliveries(MemoryDeliveries):
    """A store that is unavailable while `is_down` is true."""

    is_down = True

    def add(self, counts):
        if self.is_down:
            raise Unavailable("the database does not answer")
        super().add(counts)


def test_durations_are_counted_by_class():
    """A duration that equals a bound belongs to it. A longer one than all bounds is only in the total."""
    store = MemoryDeliveries()
    meter = DeliveryMeter(store, run_in_place)
    for seconds in (0.0, BUCKETS_SECONDS[0], 0.3, 1e6):
        meter.count(receipt(seconds), "webhook", "https://a")
    asyncio.run(meter.flush())

    assert store.read() == {
        DeliveryKey("webhook", "https://a", "succeeded"): DeliveryCount(4, 1e6 + 0.4, (2, 0, 1, 0, 0, 0, 0, 0))
    }


def test_an_outage_loses_no_count():
    """Counts that could not be stored are stored later, together with newer counts."""
    store = FailingDeliveries()
    meter = DeliveryMeter(store, run_in_place)
    meter.count(receipt(1.0), "webhook", "https://a")
    with pytest.raises(Unavailable):
        asyncio.run(meter.flush())
    meter.count(receipt(1.0), "webhook", "https://a")
    store.is_down = False
    asyncio.run(meter.flush())
    asyncio.run(meter.flush())

    assert store.read()["webhook", "https://a", "succeeded"].attempts == 2


def test_destinations_have_a_maximum():
    """A template can produce any number of hosts. A worker that starts again knows those that are stored."""
    store = MemoryDeliveries()
    for _ in range(2):
        meter = DeliveryMeter(store, run_in_place)
        for number in range(MAX_DESTINATIONS + 50):
            meter.count(receipt(1.0), "webhook", f"https://{number}")
        asyncio.run(meter.flush())

    assert len({key.destination for key in store.read()}) == MAX_DESTINATIONS + 1
    assert store.read()["webhook", OTHER, "succeeded"].attempts == 100


def test_an_execution_is_counted_by_its_attempts():
    """A retried request counts once for each attempt. A step that sends nothing has no destination."""
    world = World()
    world.apply(
        "name: deliver\non: {custom: {name: go}}\nsteps:\n"
        "  - uses: webhook\n    with: {url: 'https://hooks.example/x', json: {}}\n"
        "  - uses: require\n    with: {that: event.kind == 'custom'}\n"
    )
    world.respond(times=1, error=Unreachable("503"))
    world.emit("go")
    world.run_until_idle()
    world.clock.advance(seconds=60)
    world.run_until_idle()

    counts = {tuple(key): count.attempts for key, count in world.deliveries.read().items()}
    assert counts == {
        ("webhook", "https://hooks.example:443", "unreachable"): 1,
        ("webhook", "https://hooks.example:443", "succeeded"): 1,
        ("require", "", "succeeded"): 1,
    }
