"""
The event stream on Redis or Valkey: one stream, one consumer group, one consumer per worker.

Acknowledged entries are deleted, so the stream holds only events that are not matched yet.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import orjson
import redis
import redis.asyncio
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import override

from upshot.adapters.hold_off import HoldOff
from upshot.domain.event import Event
from upshot.errors import ConfigError, Unavailable
from upshot.execution.loop_pause import LoopPause
from upshot.ports.messaging import EventPublisher, EventStream, StreamEntry
from upshot.resources.event import event_from_json, event_json

log = structlog.get_logger("upshot.stream")

T = TypeVar("T")

FORMER_STREAM = "upshot:events"  #: of versions before one Redis could serve several installations
_FORMER_SECONDS = 5.0  # age of entries there that are removed; the relay of an older version has published them again
_FIELD = b"event"
_PROTOCOL = 2  # RESP2: the shape of XREADGROUP's reply differs between versions of RESP3 clients
_CONNECT_SECONDS = 2.0
_RESPONSE_SECONDS = 2.0
_REDIS_ERRORS = (redis.RedisError, OSError, TimeoutError)


def validate_redis_url(url: str) -> str:
    """
    Return the URL if it is usable.

    Raises:
        ConfigError: redis-py does not support this URL.
    """
    try:
        pool = redis.ConnectionPool.from_url(url)
        pool.make_connection()  # does not connect; raises TypeError for an unknown parameter
        is_usable = url.startswith("unix:") or re.fullmatch(r"(/[0-9]*)?", urlsplit(url).path) is not None
    except (ValueError, TypeError):
        is_usable = False
    if not is_usable:  # the message contains no part of the URL, because each can be a part of a password
        raise ConfigError(
            "UPSHOT_REDIS_URL is not the URL of a Redis; write redis://:PASSWORD@HOST:6379/0, rediss:// for TLS, or "
            "unix:///PATH, and in the password %40 for `@`, %2F for `/`, %23 for `#`, %3F for `?` and %25 for `%`"
        )
    return url


def stream_name(installation_id: str) -> str:
    """Return the key of an installation's stream."""
    return f"upshot:{installation_id}:events"


def group_name(installation_id: str) -> str:
    """Return the name of the consumer group of an installation's workers."""
    return f"upshot:{installation_id}"


def ping(url: str) -> bool:
    """Return whether Redis answers within two seconds."""
    try:
        with redis.Redis.from_url(
            url, protocol=_PROTOCOL, socket_timeout=_RESPONSE_SECONDS, socket_connect_timeout=_CONNECT_SECONDS
        ) as client:
            return bool(client.ping())
    except _REDIS_ERRORS:
        return False


class RedisPublisher(EventPublisher):
    """
    Appends committed events to the stream.

    While Redis is down or hangs, one mutation at a time tries to publish and waits for one timeout at
    most. All others leave their events to the relay at once.

    Args:
        url: Redis.
        installation_id: Whose stream it is. Several installations can share a Redis.
    """

    def __init__(self, url: str, installation_id: str) -> None:
        self._stream = stream_name(installation_id)
        self._redis = redis.Redis.from_url(
            url,
            protocol=_PROTOCOL,
            socket_timeout=_RESPONSE_SECONDS,
            socket_connect_timeout=_CONNECT_SECONDS,
            # One retry for a connection that broke when Redis restarted. No retry after a timeout.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._hold_off = HoldOff(_REDIS_ERRORS, try_seconds=_CONNECT_SECONDS + _RESPONSE_SECONDS)

    @override
    def publish(self, events: Sequence[Event]) -> bool:
        if not events:
            return True

        def append() -> None:
            with self._redis.pipeline(transaction=False) as pipe:
                for event in events:
                    pipe.xadd(self._stream, {_FIELD: orjson.dumps(event_json(event))})
                pipe.execute()

        return self._hold_off.attempt(
            append, lambda error: log.warning("publisher.failed", events=len(events), error=str(error))
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


class RedisEventStream(EventStream):
    """
    The stream, as one consumer of the group reads it on the worker's event loop.

    Args:
        url: Redis.
        installation_id: Whose stream it is. Several installations can share a Redis.
        consumer: Name of this worker in the group.
    """

    def __init__(self, url: str, installation_id: str, consumer: str) -> None:
        self._url = url
        self._stream = stream_name(installation_id)
        self._group = group_name(installation_id)
        self._consumer = consumer
        self._client: redis.asyncio.Redis | None = None

    @property
    def _redis(self) -> redis.asyncio.Redis:
        if self._client is None:  # created on the event loop that uses it
            self._client = redis.asyncio.Redis.from_url(
                self._url,
                protocol=_PROTOCOL,
                socket_connect_timeout=_CONNECT_SECONDS,
                # Longer than any read waits. A Redis that hangs is noticed after this time.
                socket_timeout=2 * _RESPONSE_SECONDS,
            )
        return self._client

    async def _reply_to(self, command: Awaitable[T]) -> T:
        """Return the reply to a command. If the stream or its group is missing, create it and raise Unavailable."""
        try:
            return await command
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise Unavailable(f"Redis: {error}") from error
        except _REDIS_ERRORS as error:
            raise Unavailable(f"Redis does not answer: {error or type(error).__name__}") from error
        await self.create_group()
        raise Unavailable("Redis: the stream was missing and is created again")

    async def create_group(self) -> None:
        """
        Create the stream and its group if they do not exist.

        The group starts at the first entry, because after a flush or a loss of data no entry may be skipped.

        Raises:
            Unavailable: Redis does not answer.
        """
        try:
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise Unavailable(f"Redis: {error}") from error
        except _REDIS_ERRORS as error:
            raise Unavailable(f"Redis does not answer: {error or type(error).__name__}") from error
        else:
            log.info("stream.created", stream=self._stream, group=self._group)

    @override
    async def read(self, *, limit: int, wait_seconds: float) -> tuple[StreamEntry, ...]:
        block = max(1, int(wait_seconds * 1000))
        command = self._redis.xreadgroup(self._group, self._consumer, {self._stream: ">"}, count=limit, block=block)
        reply = await self._reply_to(cast("Awaitable[list[Any] | None]", command))
        return await _entries(reply[0][1]) if reply else ()

    @override
    async def take_over(self, *, idle_seconds: float, limit: int) -> tuple[StreamEntry, ...]:
        reply = await self._reply_to(
            self._redis.xautoclaim(
                self._stream, self._group, self._consumer, min_idle_time=int(idle_seconds * 1000), count=limit
            )
        )
        return await _entries(reply[1])

    @override
    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        if not entries:
            return
        ids = [entry.entry_id for entry in entries]
        pipe = self._redis.pipeline(transaction=False)
        pipe.xack(self._stream, self._group, *ids)
        pipe.xdel(self._stream, *ids)
        await self._reply_to(pipe.execute())

    @override
    async def remove_former(self) -> int:
        seconds, _ = await self._reply_to(self._redis.time())
        oldest = int((seconds - _FORMER_SECONDS) * 1000)  # ids of entries are times in milliseconds
        return int(await self._reply_to(self._redis.xtrim(FORMER_STREAM, minid=oldest, approximate=False)))

    @override
    async def is_drained(self) -> bool:
        groups = await self._reply_to(self._redis.xinfo_groups(self._stream))
        group = next((group for group in groups if group["name"] == self._group.encode()), None)
        if group is None:
            await self.create_group()
            return True
        command = self._redis.xrange(self._stream, min=f"({group['last-delivered-id'].decode()}", count=1)
        return not await self._reply_to(cast("Awaitable[list[Any]]", command))

    @override
    async def close(self, *, leave_group: bool) -> None:
        if self._client is None:
            return
        if leave_group:
            with suppress(*_REDIS_ERRORS):
                pending = await self._client.xpending_range(
                    self._stream, self._group, "-", "+", 1, consumername=self._consumer
                )
                if not pending:
                    await self._client.xgroup_delconsumer(self._stream, self._group, self._consumer)
        with suppress(*_REDIS_ERRORS):
            await self._client.aclose()
        self._client = None


async def _entries(raw: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> tuple[StreamEntry, ...]:
    entries = []
    pause = LoopPause()
    for entry_id, fields in raw:
        await pause.if_due()  # an event can have 64 KB
        entries.append(StreamEntry(entry_id.decode(), _event(entry_id, fields)))
    return tuple(entries)


def _event(entry_id: bytes, fields: dict[bytes, bytes] | None) -> Event | None:
    try:
        return event_from_json(orjson.loads((fields or {})[_FIELD]))
    except Exception as error:  # noqa: BLE001 - one entry must not keep the others from being read, whatever is in it
        # Another program wrote it, or another release of Upshot. If it is an accepted event, the relay publishes
        # it again from SQL.
        log.error("stream.unreadable_entry", entry_id=entry_id.decode(), error=repr(error))  # noqa: TRY400 - no trace needed
        return None
