"""Poll one engine for all its jobs at once: every two seconds, and as soon as the engine reports an event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from upshot.backends.protocol import Backend, ContainerStatus, EngineUnavailable
from upshot.clock import Clock

log = structlog.get_logger("upshot.jobs")


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """How often the supervisor polls engines and checks jobs."""

    engine_seconds: float = 2.0  #: time between two polls of an engine, unless it reports an event
    min_engine_seconds: float = 0.1  #: minimum time between two polls of an engine, even if it reports many events
    unreachable_seconds: float = 2.0  #: time between two polls of an engine that does not answer
    idle_seconds: float = 30.0  #: time between two polls of an engine without supervised jobs
    event_delay_seconds: float = 0.5  #: delay after an event, until the engine's list of containers includes it
    job_seconds: float = 1.0  #: time between two checks of a job's deadline, stop request and log
    error_seconds: float = 5.0  #: wait after an error in Upshot, before a job is supervised again


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """What an engine reported in one poll."""

    number: int  #: counted from 1
    polled_at: datetime
    outages: int  #: how often the engine has been unreachable so far
    statuses: Mapping[str, ContainerStatus] = field(default_factory=dict)  #: by container name
    error: str | None = None  #: why the engine did not answer


class EngineMonitor:
    """
    The engine of one backend of this worker.

    Args:
        name: Name of the backend, which queues use.
        backend: Reaches the engine.
        installation_id: Label of the containers to watch.
        clock: Gives the time of each snapshot.
        intervals: How often to poll.
    """

    def __init__(
        self, name: str, backend: Backend, installation_id: str, clock: Clock, intervals: PollIntervals
    ) -> None:
        self.name = name
        self.backend = backend
        self.engine_id: str | None = None  #: None until the engine has answered for the first time
        self.supervised_jobs = 0
        self.last = EngineSnapshot(0, clock.now(), 0, error="it has not been polled yet")
        self.reached_at: datetime | None = None  #: when the engine last answered
        self._installation_id = installation_id
        self._clock = clock
        self._intervals = intervals
        self._poll_requested = asyncio.Event()
        self._snapshot_taken = asyncio.Condition()

    @property
    def is_reachable(self) -> bool:
        """Whether the engine answered the last poll."""
        return self.engine_id is not None and self.last.error is None

    def poll_now(self) -> None:
        """Poll the engine soon."""
        self._poll_requested.set()

    async def next_snapshot(self, after: int, *, within_seconds: float) -> EngineSnapshot:
        """Return the first snapshot with a higher number, or the last snapshot if there is none in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds), self._snapshot_taken:
                await self._snapshot_taken.wait_for(lambda: self.last.number > after)
        return self.last

    async def run(self, until: asyncio.Event) -> None:
        """Poll the engine again and again until stopped."""
        events = asyncio.create_task(self._follow_events())
        try:
            while not until.is_set():
                await self._poll()
                await self._pause(until)
        finally:
            events.cancel()
            await asyncio.wait([events])

    async def _poll(self) -> None:
        self._poll_requested.clear()
        before, now = self.last, self._clock.now()
        try:
            if self.engine_id is None or before.error is not None:
                # Another engine may answer at the same address after an outage.
                self.engine_id = await self.backend.engine_id()
            statuses = await self.backend.list_containers(self._installation_id)
        except EngineUnavailable as error:
            if before.error is None:
                log.warning("engine.unreachable", backend=self.name, error=str(error))
            outages = before.outages + (before.error is None)
            snapshot = EngineSnapshot(before.number + 1, now, outages, before.statuses, error=str(error))
        else:
            if before.error is not None:
                log.info("engine.reachable", backend=self.name, engine_id=self.engine_id)
            self.reached_at = now
            snapshot = EngineSnapshot(before.number + 1, now, before.outages, statuses)
        async with self._snapshot_taken:
            self.last = snapshot
            self._snapshot_taken.notify_all()

    async def _pause(self, until: asyncio.Event) -> None:
        seconds = self._intervals.engine_seconds if self.supervised_jobs else self._intervals.idle_seconds
        if self.last.error is not None:
            seconds = self._intervals.unreachable_seconds
        waits = [asyncio.ensure_future(until.wait()), asyncio.ensure_future(self._poll_requested.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not until.is_set():
            await asyncio.sleep(self._intervals.min_engine_seconds)

    async def _follow_events(self) -> None:
        """Poll as soon as the engine reports an event. Regular polls make up for events that are lost."""
        while True:
            try:
                if self.is_reachable:
                    async with aclosing(self.backend.watch_events(self._installation_id)) as events:  # type: ignore[type-var]
                        async for _ in events:
                            if self.supervised_jobs:
                                self.poll_now()
                                # Docker reports an exit 0.2 s and more before its list of containers shows it.
                                asyncio.get_running_loop().call_later(
                                    self._intervals.event_delay_seconds, self.poll_now
                                )
            except EngineUnavailable:
                self.poll_now()
            except Exception:
                log.exception("engine.events_failed", backend=self.name)
            await asyncio.sleep(
                self._intervals.engine_seconds if self.is_reachable else self._intervals.unreachable_seconds
            )
