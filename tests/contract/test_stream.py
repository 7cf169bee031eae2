"""Contract of the event publishers and event streams: in memory and on a real Redis."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import orjson
import pytest
import redis

from tests.waiting import until
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.redis import FORMER_STREAM, RedisEventStream, RedisPublisher, group_name, stream_name
from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.errors import Unavailable
from upshot.ids import EventId, ExecutionId
from upshot.ports.messaging import EventPublisher, EventStream, StreamEntry
from upshot.resources.event import event_json

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


@dataclass
class Transport:
    """A publisher, and the stream that it publishes to."""

    publisher: EventPublisher
    stream: EventStream

    def publish(self, events) -> bool:
        return self.publisher.publish(events)

    async def read(self, limit: int = 100) -> tuple[StreamEntry, ...]:
        while True:
            try:
                return await self.stream.read(limit=limit, wait_seconds=0.05)
            except Unavailable:  # the read had to create the group
                await asyncio.sleep(0)


@pytest.fixture
async def redis_transport(redis_server):
    publisher, stream = (
        RedisPublisher(redis_server.url, "ins_1"),
        RedisEventStream(redis_server.url, "ins_1", "worker-1"),
    )
    yield Transport(publisher, stream)
    await stream.close(leave_group=True)
    publisher.close()


@pytest.fixture(params=["memory", "redis"])
def transport(request):
    if request.param == "redis":
        return request.getfixturevalue("redis_transport")
    stream = MemoryStream()
    return Transport(stream, stream)


def events(count):
    return [replace(EVENT, id=EventId(f"evt_{number}")) for number in range(count)]


def ids(entries):
    return [entry.event.id for entry in entries]


async def test_an_event_arrives_as_it_was_published(transport):
    """Every field arrives unchanged."""
    assert transport.publish([EVENT])
    (entry,) = await transport.read()
    assert entry.event == EVENT


async def test_events_are_read_in_order_and_in_batches(transport):
    """A read returns at most the limit, the oldest event first."""
    transport.publish(events(5))
    assert ids(await transport.read(limit=3)) == ["evt_0", "evt_1", "evt_2"]
    assert ids(await transport.read(limit=3)) == ["evt_3", "evt_4"]
    assert await transport.read() == ()


async def test_an_unacknowledged_entry_can_be_taken_over(transport):
    """Another consumer can read the entries of a dead one. Acknowledged entries are deleted."""
    transport.publish(events(3))
    first, *_rest = await transport.read()
    await transport.stream.acknowledge([first])
    assert ids(await transport.stream.take_over(idle_seconds=0, limit=100)) == ["evt_1", "evt_2"]


async def test_a_stream_is_drained_when_no_entry_is_unread(transport):
    """Entries that were read do not count, whether they are acknowledged or not."""
    await transport.read()
    assert await transport.stream.is_drained()
    transport.publish(events(2))
    assert not await transport.stream.is_drained()
    entries = await transport.read()
    assert await transport.stream.is_drained()
    await transport.stream.acknowledge(entries)
    assert await transport.stream.is_drained()


def test_publishing_to_a_redis_that_is_down_returns_false(redis_server):
    """`publish` raises nothing, because a mutation succeeds whatever Redis does."""
    publisher = RedisPublisher(redis_server.url, "ins_1")
    redis_server.kill()
    assert publisher.publish([EVENT]) is False
    redis_server.start()
    until(lambda: publisher.publish([EVENT]))


def test_a_redis_that_hangs_delays_one_caller_by_one_timeout(redis_server):
    """All other callers continue at once. Publishing succeeds again when Redis answers."""
    publisher = RedisPublisher(redis_server.url, "ins_1")
    assert publisher.publish([EVENT])
    redis_server.pause()
    try:
        first = measure_seconds(lambda: publisher.publish([EVENT]))
        tried_again = threading.Event()

        def publish_until_a_caller_tries_again(_):
            slow = 0
            while not tried_again.wait(0.02):
                slow += measure_seconds(lambda: publisher.publish([EVENT])) > 0.5
                if slow:
                    tried_again.set()
            return slow

        with ThreadPoolExecutor(8) as pool:
            slow = sum(pool.map(publish_until_a_caller_tries_again, range(8)))
    finally:
        redis_server.resume()

    assert 1 < first < 3
    assert slow == 1
    until(lambda: publisher.publish([EVENT]))


async def test_a_flushed_redis_gets_its_group_again_from_the_first_entry(redis_server, redis_transport):
    """Events that were published before the group was created again are read."""
    redis_transport.publish(events(1))
    assert len(await redis_transport.read()) == 1
    redis_server.flush()
    redis_transport.publish(events(2))
    assert ids(await redis_transport.read()) == ["evt_0", "evt_1"]


async def test_the_stream_is_unavailable_while_redis_is_down(redis_server, redis_transport):
    """The same object works again when Redis is up."""
    redis_transport.publish(events(1))
    await redis_transport.read()
    redis_server.kill()
    with pytest.raises(Unavailable):
        await redis_transport.stream.read(limit=1, wait_seconds=0.05)
    redis_server.start()
    until(lambda: redis_transport.publish(events(1)))
    assert ids(await redis_transport.read()) == ["evt_0"]


async def test_an_entry_of_another_program_is_read_as_unreadable(redis_server, redis_transport):
    """The entry is acknowledged like the others, and does not block them."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.xadd(stream_name("ins_1"), {"event": "{not json"})
        client.xadd(stream_name("ins_1"), {"something": "else"})
        redis_transport.publish([EVENT])
        entries = await redis_transport.read()
        assert [entry.event for entry in entries] == [None, None, EVENT]
        await redis_transport.stream.acknowledge(entries)
        assert client.xlen(stream_name("ins_1")) == 0
        await redis_transport.stream.close(leave_group=True)
        assert client.xinfo_consumers(stream_name("ins_1"), group_name("ins_1")) == []


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "1", '"text"', '{"id": 1}', '{"chain": ["x"]}', "[" * 5000, '{"kind": {}}'],
    ids=lambda text: text[:20],
)
async def test_an_entry_of_any_shape_is_read(redis_server, redis_transport, text):
    """Whatever an entry holds, the other entries of its batch are read."""
    whole = orjson.loads(orjson.dumps(event_json(EVENT)))
    entry = whole | loaded if isinstance(loaded := try_to_load(text), dict) else text
    with redis.Redis.from_url(redis_server.url) as client:
        client.xadd(stream_name("ins_1"), {"event": entry if isinstance(entry, str) else orjson.dumps(entry)})
    redis_transport.publish([EVENT])
    _first, second = await redis_transport.read()
    assert second.event == EVENT


def try_to_load(text):
    try:
        return orjson.loads(text)
    except ValueError:
        return None


async def test_two_installations_on_one_redis_do_not_see_each_other(redis_server, redis_transport):
    """Each installation has its own stream and its own group."""
    other_publisher = RedisPublisher(redis_server.url, "ins_2")
    other_stream = RedisEventStream(redis_server.url, "ins_2", "worker-1")
    other = Transport(other_publisher, other_stream)
    first, second = events(2)
    await other.read()
    redis_transport.publish([first])
    other.publish([second])
    assert ids(await redis_transport.read()) == [first.id]
    assert ids(await other.read()) == [second.id]
    assert await other_stream.take_over(idle_seconds=0, limit=10) != ()
    await other_stream.close(leave_group=False)
    other_publisher.close()


async def test_entries_of_the_stream_that_installations_shared_are_removed(redis_server, redis_transport):
    """An upgrade leaves no stream behind that grows or stays. New ones stay for now."""
    await redis_transport.read()
    assert await redis_transport.stream.remove_former() == 0
    with redis.Redis.from_url(redis_server.url) as client:
        seconds, _ = client.time()
        client.xadd(FORMER_STREAM, {"event": "{}"}, id=f"{(seconds - 20) * 1000}-0")
        client.xadd(FORMER_STREAM, {"event": "{}"})
        assert await redis_transport.stream.remove_former() == 1
        assert client.xlen(FORMER_STREAM) == 1


def measure_seconds(work):
    started = time.monotonic()
    work()
    return time.monotonic() - started
