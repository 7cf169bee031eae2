"""Watches one engine for all its jobs at once: one question every two seconds, or as soon as something happens."""

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
    """How often things are looked at, in seconds."""

    look: float = 2.0  #: between two looks at an engine, unless it says that something happens
    shortest: float = 0.1  #: between two looks, however much happens
    unreached: float = 2.0  #: between two tries at an engine that does not answer
    idle: float = 30.0  #: between two looks while nothing is watched: for what others left behind
    settled: float = 0.5  #: after its word that something happens: then what it says of it is true
    turn: float = 1.0  #: of a watch: the deadline, a wish to stop, what the job says
    after_trouble: float = 5.0  #: of our own, before a job is followed again


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """What an engine said at one time."""

    number: int  #: counted from 1
    begun_at: datetime
    outages: int  #: how often the engine had been away until then
    statuses: Mapping[str, ContainerStatus] = field(default_factory=dict)  #: by container
    error: str | None = None  #: it did not answer, and this is why


class EngineMonitor:
    """
    One backend of this worker.

    Args:
        name: As the queues name it.
        backend: Its engine.
        installation: Label of our containers.
        clock: Tells the time.
        pace: How often it looks.
    """

    def __init__(self, name: str, backend: Backend, installation: str, clock: Clock, pace: PollIntervals) -> None:
        self.name = name
        self.backend = backend
        self.engine_id: str | None = None  #: of the engine, once it has answered
        self.supervised_jobs = 0  #: jobs that are followed now
        self.last = EngineSnapshot(0, clock.now(), 0, error="it has not been asked yet")
        self.reached_at: datetime | None = None  #: when it last answered
        self._installation = installation
        self._clock = clock
        self._pace = pace
        self._wanted = asyncio.Event()
        self._arrived = asyncio.Condition()

    @property
    def is_reached(self) -> bool:
        """It answered when it was last asked."""
        return self.engine_id is not None and self.last.error is None

    def poll_now(self) -> None:
        """Ask soon, for something has happened."""
        self._wanted.set()

    async def next_snapshot(self, after: int, *, within_seconds: float) -> EngineSnapshot:
        """The next look beyond that number; the last one again, if none comes in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds), self._arrived:
                await self._arrived.wait_for(lambda: self.last.number > after)
        return self.last

    async def run(self, until: asyncio.Event) -> None:
        """Look again and again until stopped."""
        hints = asyncio.create_task(self._follow_events())
        try:
            while not until.is_set():
                await self._poll()
                await self._pause(until)
        finally:
            hints.cancel()
            await asyncio.wait([hints])

    async def _poll(self) -> None:
        self._wanted.clear()
        before, begun = self.last, self._clock.now()
        try:
            if self.engine_id is None or before.error is not None:
                # Another engine may answer at the same address after an outage.
                self.engine_id = await self.backend.engine_id()
            sightings = await self.backend.list_containers(self._installation)
        except EngineUnavailable as error:
            if before.error is None:
                log.warning("engine.away", backend=self.name, error=str(error))
            outages = before.outages + (before.error is None)
            look = EngineSnapshot(before.number + 1, begun, outages, before.statuses, error=str(error))
        else:
            if before.error is not None:
                log.info("engine.reached", backend=self.name, engine=self.engine_id)
            self.reached_at = begun
            look = EngineSnapshot(before.number + 1, begun, before.outages, sightings)
        async with self._arrived:
            self.last = look
            self._arrived.notify_all()

    async def _pause(self, until: asyncio.Event) -> None:
        usual = self._pace.look if self.supervised_jobs else self._pace.idle
        if self.last.error is not None:
            usual = self._pace.unreached
        waits = [asyncio.ensure_future(until.wait()), asyncio.ensure_future(self._wanted.wait())]
        await asyncio.wait(waits, timeout=usual, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not until.is_set():
            await asyncio.sleep(self._pace.shortest)

    async def _follow_events(self) -> None:
        """Look as soon as the engine says that something happens; without its word, every two seconds do."""
        while True:
            try:
                if self.is_reached:
                    async with aclosing(self.backend.watch_events(self._installation)) as hints:  # type: ignore[type-var]
                        async for _ in hints:
                            if self.supervised_jobs:
                                self.poll_now()
                                # An engine may tell of an end before its own list knows (Docker: by 0.2 s and more).
                                asyncio.get_running_loop().call_later(self._pace.settled, self.poll_now)
            except EngineUnavailable:
                self.poll_now()
            except Exception:
                log.exception("engine.hints_broke", backend=self.name)
            await asyncio.sleep(self._pace.look if self.is_reached else self._pace.unreached)
