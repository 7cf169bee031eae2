"""Stage 2: from the stream to executions. The consumer matches and admits; the relay publishes again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.domain.execution import Execution
from upshot.errors import Unavailable
from upshot.ports import Admission, EventFeed, EventPublisher, EventStore, ExecutionStore, Offload, StreamEntry

log = structlog.get_logger("upshot.stream")

LARGEST_READ = 256
READ_WAIT_SECONDS = 2.0
ABANDONED_SECONDS = 60.0  # what a consumer read and did not acknowledge for so long is taken over
SMALL_ROOM = 64  # a full engine frees places one by one; wait a moment, so as not to commit events one by one
SMALL_ROOM_PAUSE_SECONDS = 0.01
LARGEST_RELAY = 500
LONGEST_PAUSE_SECONDS = 2.0  # between two tries while Redis or the database does not answer


class Reception(Protocol):
    """What the consumer needs of the engine."""

    @property
    def room(self) -> int:
        """How many more executions it takes."""
        ...

    async def wait_for_room(self) -> None:
        """Return when it takes more."""
        ...

    def answers(self, event: Event) -> tuple[Execution, ...]:
        """Match: the executions that answer the event, leased for this worker, not yet kept."""
        ...

    def take(self, admitted: Iterable[tuple[Execution, Event]]) -> None:
        """Carry out executions that are kept now."""
        ...


class Consumer:
    """
    Reads the stream in batches: match, commit the executions of the whole batch, hand over, acknowledge.

    An event that comes twice is admitted once; one whose worker dies before the acknowledgement
    comes again.
    """

    def __init__(
        self, feed: EventFeed, executions: ExecutionStore, reception: Reception, clock: Clock, offload: Offload
    ) -> None:
        self._feed = feed
        self._executions = executions
        self._reception = reception
        self._clock = clock
        self._offload = offload
        self.read_at: datetime | None = None  #: when the stream last answered

    async def run(self) -> None:
        """Consume until cancelled; an outage of Redis or the database delays and loses nothing."""
        pause_seconds = 0.1
        while True:
            try:
                await self._turn()
                pause_seconds = 0.1
            except Unavailable as error:
                log.warning("consumer.waits", error=str(error), pause_seconds=pause_seconds)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _turn(self) -> None:
        if self._reception.room == 0:
            await self._reception.wait_for_room()
        if self._reception.room < SMALL_ROOM:
            await asyncio.sleep(SMALL_ROOM_PAUSE_SECONDS)
        if (room := self._reception.room) == 0:
            return
        entries = await self._feed.read(limit=min(room, LARGEST_READ), wait_seconds=READ_WAIT_SECONDS)
        self.read_at = self._clock.now()
        await self.consume(entries)

    async def take_over_abandoned(self) -> None:
        """Consume what another worker read and did not acknowledge."""
        room = min(self._reception.room, LARGEST_READ)
        if room:
            await self.consume(await self._feed.take_over(idle_seconds=ABANDONED_SECONDS, limit=room))

    async def consume(self, entries: Sequence[StreamEntry]) -> None:
        """Turn entries into executions, durably, then hand them over and acknowledge."""
        if not entries:
            return
        events = {entry.event.id: entry.event for entry in entries if entry.event is not None}
        admissions = [Admission(event.id, self._reception.answers(event)) for event in events.values()]
        new = await self._offload(self._executions.admit, admissions, self._clock.now())
        self._reception.take(
            (execution, events[admission.event])
            for admission in admissions
            for execution in admission.executions
            if execution.id in new
        )
        await self._feed.acknowledge(entries)


class Relay:
    """
    Publishes accepted events again that the stream lost or never got.

    Only when the stream has nothing left to read: an event that waits there needs patience, not a copy.
    """

    def __init__(
        self,
        feed: EventFeed,
        events: EventStore,
        publisher: EventPublisher,
        clock: Clock,
        offload: Offload,
        *,
        after: timedelta,
    ) -> None:
        self._feed = feed
        self._events = events
        self._publisher = publisher
        self._clock = clock
        self._offload = offload
        self._after = after

    async def relay(self) -> int:
        """Publish what is due for it; returns how many events."""
        if not await self._feed.is_drained():
            return 0
        relayed = 0
        now = self._clock.now()
        while True:
            events = await self._offload(
                self._events.take_unmatched, published_before=now - self._after, now=now, limit=LARGEST_RELAY
            )
            if not events:
                return relayed
            if not await self._offload(self._publisher.publish, events):
                return relayed
            relayed += len(events)
            log.info("relay.published_again", events=len(events))
