"""What publisher and feed promise, in memory and on a real Redis."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.waiting import until
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.redis import RedisEventStream, RedisPublisher
from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.errors import Unavailable
from upshot.ids import EventId, ExecutionId

EVENT = Event(
    id=EventId("evt_1"),
    kind=EventKind.CUSTOM,
    time=datetime(2026, 1, 1, tzinfo=UTC),
    subject="nightly",
    actor=Actor("ann"),
    mutation_id="mut_1",
    sequence=0,
    data={"text": 'a "quoted" – word', "number": 1.5, "nested": {"list": [1, None, True]}},
    name="nightly",
    chain=(Cause("promote", ExecutionId("exe_0"), EventId("evt_0"), "model/churn:v1"),),
)


class Wire:
    """A publisher, and a feed that is called from ordinary code."""

    def __init__(self, publisher, feed, runner):
        self.publish = publisher.publish
        self.feed = feed
        self._runner = runner

    def read(self, limit=100):
        async def read():
            while True:
                try:
                    return await self.feed.read(limit=limit, wait_seconds=0.05)
                except Unavailable:  # the group had to be made
                    await asyncio.sleep(0)

        return self._runner.run(read())

    def acknowledge(self, entries):
        self._runner.run(self.feed.acknowledge(entries))

    def take_over(self):
        return self._runner.run(self.feed.take_over(idle_seconds=0, limit=100))

    def is_drained(self):
        return self._runner.run(self.feed.is_drained())


@pytest.fixture(params=["memory", "redis"])
def wire(request):
    with asyncio.Runner() as runner:
        if request.param == "memory":
            stream = MemoryStream()
            yield Wire(stream, stream, runner)
            return
        server = request.getfixturevalue("redis_server")
        publisher, feed = RedisPublisher(server.url), RedisEventStream(server.url, "worker-1")
        yield Wire(publisher, feed, runner)
        runner.run(feed.close(leave=True))
        publisher.close()


def events(count):
    return [replace(EVENT, id=EventId(f"evt_{number}")) for number in range(count)]


def test_an_event_arrives_as_it_was_published(wire):
    """Every field survives the wire."""
    assert wire.publish([EVENT])
    (entry,) = wire.read()
    assert entry.event == EVENT


def test_events_come_in_order_and_in_batches(wire):
    """A read gives at most the limit, the oldest first."""
    wire.publish(events(5))
    assert [entry.event.id for entry in wire.read(limit=3)] == ["evt_0", "evt_1", "evt_2"]
    assert [entry.event.id for entry in wire.read(limit=3)] == ["evt_3", "evt_4"]
    assert wire.read() == ()


def test_what_is_not_acknowledged_can_be_taken_over(wire):
    """A consumer that died leaves its entries to the others; acknowledged ones are gone."""
    wire.publish(events(3))
    first, *_rest = wire.read()
    wire.acknowledge([first])
    assert [entry.event.id for entry in wire.take_over()] == ["evt_1", "evt_2"]


def test_a_stream_is_drained_when_nothing_waits_unread(wire):
    """Entries that were read do not count, whether acknowledged or not."""
    wire.read()
    assert wire.is_drained()
    wire.publish(events(2))
    assert not wire.is_drained()
    entries = wire.read()
    assert wire.is_drained()
    wire.acknowledge(entries)
    assert wire.is_drained()


def test_publishing_to_a_redis_that_is_away_says_so_and_does_not_raise(redis_server):
    """The mutation succeeds whatever Redis does."""
    publisher = RedisPublisher(redis_server.url)
    redis_server.kill()
    assert publisher.publish([EVENT]) is False
    redis_server.start()
    until(lambda: publisher.publish([EVENT]))


def test_a_redis_that_hangs_costs_one_time_out_and_one_caller_at_a_time(redis_server):
    """Whoever is accepted meanwhile goes on at once, so that a mutation stays quick; then it is published again."""
    publisher = RedisPublisher(redis_server.url)
    assert publisher.publish([EVENT])
    redis_server.pause()
    try:
        first = _seconds(lambda: publisher.publish([EVENT]))
        tried_again = threading.Event()

        def accept_until_one_tries_again(_):
            slow = 0
            while not tried_again.wait(0.02):
                slow += _seconds(lambda: publisher.publish([EVENT])) > 0.5
                if slow:
                    tried_again.set()
            return slow

        with ThreadPoolExecutor(8) as pool:
            slow = sum(pool.map(accept_until_one_tries_again, range(8)))
    finally:
        redis_server.resume()

    assert 1 < first < 3
    assert slow == 1
    until(lambda: publisher.publish([EVENT]))


def test_a_flushed_redis_gets_its_group_again_from_the_beginning(redis_server):
    """What was published before anybody made the group again is not passed over."""
    with asyncio.Runner() as runner:
        wire = Wire(RedisPublisher(redis_server.url), RedisEventStream(redis_server.url, "worker-1"), runner)
        wire.publish(events(1))
        assert len(wire.read()) == 1
        redis_server.flush()
        wire.publish(events(2))
        assert [entry.event.id for entry in wire.read()] == ["evt_0", "evt_1"]
        runner.run(wire.feed.close(leave=False))


def test_a_redis_that_is_away_is_unavailable_and_comes_back(redis_server):
    """The same feed goes on when Redis is there again."""
    with asyncio.Runner() as runner:
        wire = Wire(RedisPublisher(redis_server.url), RedisEventStream(redis_server.url, "worker-1"), runner)
        wire.publish(events(1))
        wire.read()
        redis_server.kill()
        with pytest.raises(Unavailable):
            runner.run(wire.feed.read(limit=1, wait_seconds=0.05))
        redis_server.start()
        until(lambda: wire.publish(events(1)))
        assert [entry.event.id for entry in wire.read()] == ["evt_0"]
        runner.run(wire.feed.close(leave=False))


def test_an_entry_that_is_not_ours_is_passed_on_as_unreadable(redis_server):
    """A stranger's entry is acknowledged like the others and holds up nothing."""
    import redis

    with asyncio.Runner() as runner, redis.Redis.from_url(redis_server.url) as client:
        wire = Wire(RedisPublisher(redis_server.url), RedisEventStream(redis_server.url, "worker-1"), runner)
        client.xadd("upshot:events", {"event": "{not json"})
        client.xadd("upshot:events", {"something": "else"})
        wire.publish([EVENT])
        entries = wire.read()
        assert [entry.event for entry in entries] == [None, None, EVENT]
        wire.acknowledge(entries)
        assert client.xlen("upshot:events") == 0
        runner.run(wire.feed.close(leave=True))
        assert client.xinfo_consumers("upshot:events", "upshot") == []


def _seconds(work):
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
