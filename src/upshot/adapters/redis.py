"""
The event stream on Redis (or Valkey): one stream, one consumer group, one consumer for each worker.

Acknowledged entries are deleted, so the stream holds what is still to be matched and no more.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import orjson
import redis
import redis.asyncio
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from upshot.clock import stopwatch
from upshot.domain.event import Event
from upshot.errors import ConfigError, Unavailable
from upshot.ports.messaging import StreamEntry

log = structlog.get_logger("upshot.stream")

T = TypeVar("T")

STREAM = "upshot:events"
GROUP = "upshot"
_FIELD = b"event"
_PROTOCOL = 2  # RESP2: the shape of XREADGROUP's reply differs between versions of RESP3 clients
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 2.0
_HOLD_OFF_SECONDS = 0.5  # after a failure, or as long as it took: what is accepted meanwhile is left to the relay
_REDIS_ERRORS = (redis.RedisError, OSError, TimeoutError)


def check_redis_url(url: str) -> str:
    """
    Let a usable URL through.

    Raises:
        ConfigError: It is none that redis-py knows.
    """
    try:
        redis.ConnectionPool.from_url(url)
    except ValueError as error:
        raise ConfigError(f"UPSHOT_REDIS_URL: {url!r} cannot be used: {error}") from error
    return url


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        protocol=_PROTOCOL,
        socket_timeout=_ANSWER_SECONDS,
        socket_connect_timeout=_CONNECT_SECONDS,
        # Once more where a connection went stale while Redis restarted; not where Redis hangs: it hung long enough.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


def redis_answers(url: str) -> bool:
    """Tell whether Redis answers within two seconds."""
    try:
        with redis.Redis.from_url(
            url, protocol=_PROTOCOL, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_CONNECT_SECONDS
        ) as client:
            return bool(client.ping())
    except _REDIS_ERRORS:
        return False


class RedisPublisher:
    """
    Puts committed events on the stream.

    While Redis is away or hangs, one mutation at a time finds out whether it is back, and waits for
    one time-out at most; all others leave their events to the relay at once.
    """

    def __init__(self, url: str) -> None:
        self._redis = _client(url)
        self._failed = False
        self._held_off_until = 0.0
        self._lock = threading.Lock()

    def publish(self, events: Sequence[Event]) -> bool:
        """Tell whether the stream took them."""
        if not events:
            return True
        if not self._may_try():
            return False
        begun = stopwatch()
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for event in events:
                    pipe.xadd(STREAM, {_FIELD: orjson.dumps(event.as_dict())})
                pipe.execute()
        except _REDIS_ERRORS as error:
            with self._lock:
                now = stopwatch()
                self._failed = True
                self._held_off_until = now + max(_HOLD_OFF_SECONDS, now - begun)
            log.warning("publisher.failed", events=len(events), error=str(error))
            return False
        self._failed = False
        return True

    def _may_try(self) -> bool:
        if not self._failed:
            return True
        with self._lock:
            now = stopwatch()
            if now < self._held_off_until:
                return False
            self._held_off_until = now + _CONNECT_SECONDS + _ANSWER_SECONDS  # this one tries; the others need not wait
            return True

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()


class RedisEventStream:
    """
    The consumer group's side, on the engine's loop.

    Args:
        url: Redis.
        consumer: This worker's name in the group.
    """

    def __init__(self, url: str, consumer: str) -> None:
        self._url = url
        self._consumer = consumer
        self._client: redis.asyncio.Redis | None = None

    @property
    def _redis(self) -> redis.asyncio.Redis:
        if self._client is None:  # made on the loop that uses it
            self._client = redis.asyncio.Redis.from_url(
                self._url,
                protocol=_PROTOCOL,
                socket_connect_timeout=_CONNECT_SECONDS,
                # Longer than any read waits; a Redis that hangs is noticed after this.
                socket_timeout=2 * _ANSWER_SECONDS,
            )
        return self._client

    async def _ask(self, question: Awaitable[T]) -> T:
        try:
            return await question
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise Unavailable(f"Redis: {error}") from error
        except _REDIS_ERRORS as error:
            raise Unavailable(f"Redis does not answer: {error or type(error).__name__}") from error
        # New, restarted empty or flushed: begin at the beginning, nothing may be passed over.
        await self._make_group()
        raise Unavailable("Redis: the stream was gone and is made again")

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise Unavailable(f"Redis: {error}") from error
        except _REDIS_ERRORS as error:
            raise Unavailable(f"Redis does not answer: {error or type(error).__name__}") from error
        else:
            log.info("stream.made", stream=STREAM, group=GROUP)

    async def prepare(self) -> None:
        """Make the group where there is none, and take up what this consumer's name left pending."""
        await self._make_group()

    async def read(self, *, limit: int, wait_seconds: float) -> tuple[StreamEntry, ...]:
        """The next entries for this consumer, waiting for the first; makes the group if it is gone."""
        reply = await self._ask(
            cast(
                "Awaitable[list[Any] | None]",
                self._redis.xreadgroup(
                    GROUP, self._consumer, {STREAM: ">"}, count=limit, block=max(1, int(wait_seconds * 1000))
                ),
            )
        )
        return _entries(reply[0][1]) if reply else ()

    async def take_over(self, *, idle_seconds: float, limit: int) -> tuple[StreamEntry, ...]:
        """Entries that another consumer read and did not acknowledge for so long."""
        reply = await self._ask(
            self._redis.xautoclaim(STREAM, GROUP, self._consumer, min_idle_time=int(idle_seconds * 1000), count=limit)
        )
        return _entries(reply[1])

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        """Say that these are matched and committed; they are removed from the stream."""
        if not entries:
            return
        ids = [entry.entry_id for entry in entries]
        pipe = self._redis.pipeline(transaction=False)
        pipe.xack(STREAM, GROUP, *ids)
        pipe.xdel(STREAM, *ids)
        await self._ask(pipe.execute())

    async def is_drained(self) -> bool:
        """Nothing waits unread: what is accepted and still unmatched must be published again."""
        groups = await self._ask(self._redis.xinfo_groups(STREAM))
        group = next((one for one in groups if one["name"] == GROUP.encode()), None)
        if group is None:
            await self._make_group()
            return True
        unread = await self._ask(
            cast(
                "Awaitable[list[Any]]",
                self._redis.xrange(STREAM, min=f"({group['last-delivered-id'].decode()}", count=1),
            )
        )
        return not unread

    async def close(self, *, leave: bool) -> None:
        """Let go; `leave` also takes this consumer out of the group if nothing of its is pending."""
        if self._client is None:
            return
        if leave:
            with suppress(*_REDIS_ERRORS):
                pending = await self._client.xpending_range(STREAM, GROUP, "-", "+", 1, consumername=self._consumer)
                if not pending:
                    await self._client.xgroup_delconsumer(STREAM, GROUP, self._consumer)
        with suppress(*_REDIS_ERRORS):
            await self._client.aclose()
        self._client = None


def _entries(raw: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> tuple[StreamEntry, ...]:
    return tuple(StreamEntry(entry_id.decode(), _event(entry_id, fields)) for entry_id, fields in raw)


def _event(entry_id: bytes, fields: dict[bytes, bytes] | None) -> Event | None:
    try:
        return Event.from_dict(orjson.loads((fields or {})[_FIELD]))
    except (KeyError, ValueError, TypeError) as error:
        # Not ours, or of a release that we do not know: if it is an accepted event, the relay brings it from SQL.
        log.error("stream.unreadable_entry", entry=entry_id.decode(), error=repr(error))  # noqa: TRY400 - no trace of ours
        return None
