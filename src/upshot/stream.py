"""Stage 2: from the stream to executions. The consumer matches and admits events; the relay publishes lost ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog

from upshot.automations.expressions.budget import TooCostly
from upshot.automations.rendering import MAX_PROCESSES
from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.errors import Unavailable
from upshot.execution.admission import AdmittedEvent, Admitter
from upshot.execution.executor import Executor
from upshot.execution.loop_pause import LoopPause
from upshot.execution.root_budget import warning_text
from upshot.execution.turns import EventTurns
from upshot.ids import EventId
from upshot.ports.counters import IGNORED_ENTRIES, CounterStore
from upshot.ports.events import EventStore
from upshot.ports.executions import ExecutionStore
from upshot.ports.messaging import EventPublisher, EventStream, StreamEntry
from upshot.ports.run_in_thread import RunInThread

log = structlog.get_logger("upshot.stream")

T = TypeVar("T")

MAX_READ = 256
MAX_EXECUTIONS = 1_000  # a batch is stored in parts of this size, so that the event loop is never blocked for long
MAX_HELD = 4_096  # entries that were read and wait for the turn of their root event
READ_WAIT_SECONDS = 2.0
STANDBY_SECONDS = 0.2  # between two checks whether this worker may match events
ABANDONED_SECONDS = 60.0  # an entry that a consumer has not acknowledged for this time is taken over
# A full executor frees its capacity one by one. Below this capacity the consumer pauses, so that it does not
# commit events one by one.
LOW_CAPACITY = 64
LOW_CAPACITY_PAUSE_SECONDS = 0.01
MAX_RELAY = 500
MAX_REASON = 500  # characters of the reason why an event could not be matched
MAX_SLOW_EVENTS = 1_000  # events that may wait for their conditions; the relay publishes further events again
BACKLOG_READS = 4  # full reads in a row that count as a backlog
RARE_SECONDS = 0.3  # between two searches for rare events during a backlog
MAX_COMPARED = 5_000  # unmatched events that a search compares; more than arrive between two searches
MAX_RARE = 100  # events that are admitted before their turn after one search
MAX_PAUSE_SECONDS = 2.0  # between two attempts while Redis or the database does not answer


class Consumer:
    """
    Reads the stream in batches: match, commit the executions of the whole batch, start them, acknowledge.

    An event that arrives twice is admitted once. An event whose worker dies before the acknowledgement
    arrives again.

    Args:
        stream: Where events arrive.
        events: Stores events.
        executions: Stores executions.
        admitter: Matches events.
        executor: Carries executions out.
        publisher: Publishes the events of executions that failed from the start.
        counters: Counts ignored entries.
        clock: Returns the current time.
        run_in_thread: Runs blocking calls.
        may_match: Whether this worker's automations are in force. Otherwise it leaves the events to other workers.
    """

    def __init__(
        self,
        *,
        stream: EventStream,
        events: EventStore,
        executions: ExecutionStore,
        admitter: Admitter,
        executor: Executor,
        publisher: EventPublisher,
        counters: CounterStore,
        clock: Clock,
        run_in_thread: RunInThread,
        may_match: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_match = may_match
        self._stream = stream
        self._events = events
        self._executions = executions
        self._counters = counters
        self._admitter = admitter
        self._executor = executor
        self._publisher = publisher
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._turns = EventTurns()
        self._stopping = asyncio.Event()
        self._slow: dict[EventId, asyncio.Task[None]] = {}  #: events with expensive conditions
        self._full_reads = 0  # in a row
        self._compared_until: EventId | None = None  #: newest unmatched event when no event was rare
        self._slow_slots = asyncio.Semaphore(MAX_PROCESSES)
        self.read_at: datetime | None = None  #: when the stream last answered

    async def run(self) -> None:
        """Consume until stopped. An outage of Redis or of the database only delays events."""
        pause_seconds = 0.1
        while not self._stopping.is_set():
            try:
                await self._consume_next()
                pause_seconds = 0.1
            except Unavailable as error:
                log.warning("consumer.waiting", error=str(error), pause_seconds=pause_seconds)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)
        for task in self._slow.values():
            task.cancel()  # its entry stays pending, and another worker takes it over

    def stop(self) -> None:
        """Read nothing more. `run` returns once the entries that are being admitted are stored."""
        self._stopping.set()

    async def _consume_next(self) -> None:
        if not self._may_match():
            # Entries that were read stay pending for this consumer; the relay publishes their events again.
            self._turns = EventTurns()
            await self._until_stopped(asyncio.sleep(STANDBY_SECONDS))
            return
        if self._executor.capacity == 0:
            await self._until_stopped(self._executor.wait_for_capacity())
        if self._executor.capacity < LOW_CAPACITY:
            await asyncio.sleep(LOW_CAPACITY_PAUSE_SECONDS)
        if (capacity := self._executor.capacity) == 0:
            return
        # A stop ends only the waiting. Entries that Redis delivered by then, and entries that wait for their turn,
        # stay pending for this consumer; the relay publishes their events again.
        wait_seconds = 0.0 if self._turns else READ_WAIT_SECONDS
        if limit := min(capacity, MAX_READ, MAX_HELD - len(self._turns)):
            entries = await self._until_stopped(self._stream.read(limit=limit, wait_seconds=wait_seconds))
            if entries is None:
                return
            self.read_at = self._clock.now()
            self._full_reads = self._full_reads + 1 if len(entries) == limit else 0
            self._turns.add(entries)
        if self._may_match():  # it may have changed during the read
            await self.consume(self._turns.take(min(capacity, MAX_READ)))

    async def _until_stopped(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of the coroutine, or None if the consumer is stopped first."""
        work, stop = asyncio.ensure_future(coroutine), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            stop.cancel()
            work.cancel()

    async def take_over_abandoned(self) -> None:
        """Consume the entries that another worker read and did not acknowledge."""
        if (limit := min(self._executor.capacity, MAX_READ)) and self._may_match():
            await self.consume(await self._stream.take_over(idle_seconds=ABANDONED_SECONDS, limit=limit))
        await self._count_ignored(former=await self._stream.remove_former())

    async def admit_rare(self) -> int:
        """
        Admit rare events before their turn, if there is a backlog, and return their number.

        So a few events of one automation do not wait behind thousands of another automation. Their entries in the
        stream are read later, and an event is admitted only once.
        """
        if self._full_reads < BACKLOG_READS or not self._executor.capacity or not self._may_match():
            return 0
        newest = await self._run_in_thread(self._events.newest_unmatched)
        if newest is None or newest == self._compared_until:  # nothing was accepted since then
            return 0
        events = await self._run_in_thread(
            self._events.find_rare, among=MAX_COMPARED, limit=min(MAX_RARE, self._executor.capacity)
        )
        self._compared_until = None if events else newest
        admitted: list[AdmittedEvent] = []
        pause = LoopPause()
        for event in events:
            await pause.if_due()
            with suppress(Exception):  # admitted or rejected when it is its turn
                admitted.append(await self._admitter.admit(event))
        if admitted:
            await self._store(admitted, ())
        return len(admitted)

    async def consume(self, entries: Sequence[StreamEntry]) -> None:
        """Store the executions that answer these entries, then start them and acknowledge the entries."""
        if not entries:
            return
        try:
            await self._admit(entries)
        except Unavailable:
            raise
        except Exception as error:
            log.exception("consumer.batch_failed", entry_ids=[entry.entry_id for entry in entries])
            if len(entries) > 1:  # one bad entry must not block the others of its batch
                for entry in entries:
                    await self.consume([entry])
            elif entries[0].event is not None:
                await self._reject(entries[0].event, error)
                await self._stream.acknowledge(entries)

    async def _admit(self, entries: Sequence[StreamEntry]) -> None:
        admitted: list[AdmittedEvent] = []
        done: list[StreamEntry] = []
        seen: set[EventId] = set()
        executions = 0
        pause = LoopPause()
        for entry in entries:
            event = entry.event
            if event is not None and event.id not in seen:
                seen.add(event.id)
                await pause.if_due()
                try:
                    admitted.append(await self._admitter.admit(event))
                    executions += len(admitted[-1].admission.executions)
                except TooCostly:
                    # An event that cannot be started is only acknowledged. The relay publishes it again.
                    if self._start_slowly(event, entry):
                        continue
                except Unavailable:
                    raise
                except Exception as error:
                    log.exception("event.match_failed", event_id=event.id)
                    await self._reject(event, error)
            done.append(entry)
            if executions >= MAX_EXECUTIONS:
                await self._store(admitted, done)
                admitted, done, executions = [], [], 0
        if done:
            await self._store(admitted, done)

    def _start_slowly(self, event: Event, entry: StreamEntry) -> bool:
        """Admit an event with expensive conditions beside the others. Return False if it cannot be started now."""
        if event.id in self._slow or len(self._slow) >= MAX_SLOW_EVENTS:
            return False
        self._slow[event.id] = asyncio.create_task(self._admit_slowly(event, entry))
        return True

    async def _admit_slowly(self, event: Event, entry: StreamEntry) -> None:
        try:
            async with self._slow_slots:
                admitted = await self._admitter.admit_slowly(event)
            await self._store([admitted], [entry])
        except Unavailable as error:  # the entry stays pending, and the relay publishes its event again
            log.warning("consumer.slow_event_waits", event_id=event.id, error=str(error))
        except Exception as error:
            log.exception("event.match_failed", event_id=event.id)
            await self._reject_slowly(event, entry, error)
        finally:
            self._slow.pop(event.id, None)

    async def wait_for_slow_events(self) -> None:
        """Return when the events with expensive conditions are admitted."""
        if self._slow:
            await asyncio.wait(list(self._slow.values()))

    async def _store(self, admitted: Sequence[AdmittedEvent], entries: Sequence[StreamEntry]) -> None:
        """Store admissions, start their executions and acknowledge the entries."""
        admissions = [event.admission for event in admitted]
        result = await self._run_in_thread(self._executions.admit, admissions, self._clock.now())
        new = result.accepted
        pause = LoopPause()
        for event in admitted:
            await pause.if_due()
            self._executor.start(claimed for claimed in event.claimed if claimed.execution.id in new)
        await asyncio.sleep(0)  # start the executions first; the acknowledgement is not urgent
        await self._stream.acknowledge(entries)
        await self._count_ignored(unreadable=sum(entry.event is None for entry in entries), unknown=len(result.unknown))
        for budget in result.exhausted:
            log.warning("event.budget_exhausted", root_event_id=budget.root_event_id, warning=warning_text(budget))
        if accepted := [event for admission in admissions for event in admission.events]:
            await self._run_in_thread(self._publisher.publish, accepted)

    async def _reject(self, event: Event, error: Exception) -> None:
        """Give up on an event. Matching it again would fail again, and the relay would publish it without end."""
        reason = f"the event could not be matched because of an error in Upshot: {type(error).__name__}: {error}"
        await self._run_in_thread(self._executions.reject, event.id, reason[:MAX_REASON], self._clock.now())

    async def _reject_slowly(self, event: Event, entry: StreamEntry, error: Exception) -> None:
        try:
            await self._reject(event, error)
            await self._stream.acknowledge([entry])
        except Unavailable as outage:
            log.warning("consumer.slow_event_waits", event_id=event.id, error=str(outage))

    async def _count_ignored(self, **counts: int) -> None:
        """Count entries that belong to no accepted event."""
        if sum(counts.values()):
            log.warning("stream.entries_ignored", **counts)
            await self._run_in_thread(self._counters.increment, IGNORED_ENTRIES, sum(counts.values()))


class Relay:
    """
    Publishes accepted events again that the stream lost or never got.

    The relay acts only when the stream has no unread entry. An event that is still in the stream does not
    need a second copy.
    """

    def __init__(
        self,
        stream: EventStream,
        events: EventStore,
        publisher: EventPublisher,
        clock: Clock,
        run_in_thread: RunInThread,
        *,
        after: timedelta,
    ) -> None:
        self._stream = stream
        self._events = events
        self._publisher = publisher
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._after = after

    async def relay(self) -> int:
        """Publish the unmatched events whose last publication is long enough ago, and return their number."""
        if not await self._stream.is_drained():
            return 0
        relayed = 0
        now = self._clock.now()
        while True:
            events = await self._run_in_thread(
                self._events.take_unmatched, published_before=now - self._after, now=now, limit=MAX_RELAY
            )
            if not events or not await self._run_in_thread(self._publisher.publish, events):
                return relayed
            relayed += len(events)
            log.info("relay.published_again", events=len(events))
