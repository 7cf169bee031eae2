"""Stage 2: from the stream to executions. The consumer matches and admits; the relay publishes again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog

from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.domain.execution import Execution
from upshot.errors import Unavailable
from upshot.ports.concurrency import RunInThread
from upshot.ports.events import EventStore
from upshot.ports.executions import Admission, ExecutionStore
from upshot.ports.messaging import EventPublisher, EventStream, StreamEntry

log = structlog.get_logger("upshot.stream")

T = TypeVar("T")

LARGEST_READ = 256
READ_WAIT_SECONDS = 2.0
ABANDONED_SECONDS = 60.0  # what a consumer read and did not acknowledge for so long is taken over
SMALL_ROOM = 64  # a full engine frees places one by one; wait a moment, so as not to commit events one by one
SMALL_ROOM_PAUSE_SECONDS = 0.01
LARGEST_RELAY = 500
LONGEST_PAUSE_SECONDS = 2.0  # between two tries while Redis or the database does not answer


class Admitter(Protocol):
    """What the consumer needs of the engine."""

    @property
    def capacity(self) -> int:
        """How many more executions it takes."""
        ...

    async def wait_for_capacity(self) -> None:
        """Return when it takes more."""
        ...

    def admit(self, event: Event) -> Admission:
        """Match: the executions that answer the event, leased for this worker, not yet kept."""
        ...

    def start(self, admitted: Iterable[tuple[Execution, Event]]) -> None:
        """Carry out executions that are kept now."""
        ...

    async def publish(self, events: Sequence[Event]) -> None:
        """Publish events that were accepted with an admission."""
        ...


class Consumer:
    """
    Reads the stream in batches: match, commit the executions of the whole batch, hand over, acknowledge.

    An event that comes twice is admitted once; one whose worker dies before the acknowledgement
    comes again.
    """

    def __init__(
        self,
        feed: EventStream,
        executions: ExecutionStore,
        reception: Admitter,
        clock: Clock,
        run_in_thread: RunInThread,
    ) -> None:
        self._feed = feed
        self._executions = executions
        self._reception = reception
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._stopping = asyncio.Event()
        self.read_at: datetime | None = None  #: when the stream last answered

    async def run(self) -> None:
        """Consume until stopped; an outage of Redis or the database delays and loses nothing."""
        pause_seconds = 0.1
        while not self._stopping.is_set():
            try:
                await self._turn()
                pause_seconds = 0.1
            except Unavailable as error:
                log.warning("consumer.waits", error=str(error), pause_seconds=pause_seconds)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    def stop(self) -> None:
        """Read nothing more; `run` returns when what was read is handed over."""
        self._stopping.set()

    async def _turn(self) -> None:
        if self._reception.capacity == 0:
            await self._until_stopped(self._reception.wait_for_capacity())
        if self._reception.capacity < SMALL_ROOM:
            await asyncio.sleep(SMALL_ROOM_PAUSE_SECONDS)
        if (room := self._reception.capacity) == 0:
            return
        # Only the waiting is given up at a stop. What had been read by then is still this consumer's
        # to acknowledge, and comes again by the relay.
        entries = await self._until_stopped(
            self._feed.read(limit=min(room, LARGEST_READ), wait_seconds=READ_WAIT_SECONDS)
        )
        if entries is not None:
            self.read_at = self._clock.now()
            await self.consume(entries)

    async def _until_stopped(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """The result, or None when the consumer is stopped first."""
        work, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            stop.cancel()
            work.cancel()

    async def take_over_abandoned(self) -> None:
        """Consume what another worker read and did not acknowledge."""
        room = min(self._reception.capacity, LARGEST_READ)
        if room:
            await self.consume(await self._feed.take_over(idle_seconds=ABANDONED_SECONDS, limit=room))

    async def consume(self, entries: Sequence[StreamEntry]) -> None:
        """Turn entries into executions, durably, then hand them over and acknowledge."""
        if not entries:
            return
        try:
            await self._admit(entries)
        except Unavailable:
            raise
        except Exception:
            # One entry must not hold up those that came with it.
            log.exception("consumer.broke", entries=[entry.entry_id for entry in entries])
            if len(entries) > 1:
                for entry in entries:
                    await self.consume([entry])

    async def _admit(self, entries: Sequence[StreamEntry]) -> None:
        events = {entry.event.id: entry.event for entry in entries if entry.event is not None}
        admissions = [self._reception.admit(event) for event in events.values()]
        new = await self._run_in_thread(self._executions.admit, admissions, self._clock.now())
        self._reception.start(
            (execution, events[admission.event_id])
            for admission in admissions
            for execution in admission.executions
            if execution.id in new
        )
        await asyncio.sleep(0)  # what was handed over begins first; nobody waits for the acknowledgement
        await self._feed.acknowledge(entries)
        if caused := [event for admission in admissions for event in admission.events]:
            await self._reception.publish(caused)


class Relay:
    """
    Publishes accepted events again that the stream lost or never got.

    Only when the stream has nothing left to read: an event that waits there needs patience, not a copy.
    """

    def __init__(
        self,
        feed: EventStream,
        events: EventStore,
        publisher: EventPublisher,
        clock: Clock,
        run_in_thread: RunInThread,
        *,
        after: timedelta,
    ) -> None:
        self._feed = feed
        self._events = events
        self._publisher = publisher
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._after = after

    async def relay(self) -> int:
        """Publish what is due for it; returns how many events."""
        if not await self._feed.is_drained():
            return 0
        relayed = 0
        now = self._clock.now()
        while True:
            events = await self._run_in_thread(
                self._events.take_unmatched, published_before=now - self._after, now=now, limit=LARGEST_RELAY
            )
            if not events:
                return relayed
            if not await self._run_in_thread(self._publisher.publish, events):
                return relayed
            relayed += len(events)
            log.info("relay.published_again", events=len(events))
