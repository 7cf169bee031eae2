"""An engine in memory: tests say what its jobs do, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from upshot.backends.protocol import (
    ContainerRequest,
    ContainerStatus,
    EngineUnavailable,
    LogRead,
    OutputUnreadable,
    Phase,
    StartedContainer,
    StartRefused,
)
from upshot.clock import Clock
from upshot.domain.job import FailureKind

_TERMINATED, _KILLED = 143, 137  # what an engine reports of a job that was told to end, or was killed


@dataclass(frozen=True, slots=True)
class ScriptedExit:
    """How a job ends."""

    exit_code: int | None = 0
    outputs: bytes | None = None  #: content of its `outputs.json`; None: it wrote none
    log: bytes = b""  #: what it says before
    failure: FailureKind | None = None  #: where the engine knows more than the code
    note: str | None = None
    unreadable: str | None = None  #: why its outputs cannot be taken: a link, a folder


@dataclass(slots=True)
class MemoryJob:
    """A container that exists in this engine."""

    order: ContainerRequest
    phase: Phase = Phase.CREATED
    note: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    end: ScriptedExit | None = None
    log: bytearray = field(default_factory=bytearray)
    killed_at: datetime | None = None  #: when its grace is over; None: nobody told it to end

    def begin(self, now: datetime) -> None:
        """Run."""
        self.phase, self.note, self.started_at = Phase.RUNNING, None, now

    def finish(self, end: ScriptedExit, now: datetime) -> None:
        """End so."""
        self.phase, self.end, self.finished_at = Phase.EXITED, end, now
        self.log += end.log

    def catch_up(self, now: datetime, *, keeps_deadline: bool) -> None:
        """End it if its time was over before now."""
        if self.phase is not Phase.RUNNING or self.started_at is None:
            return
        deadline = self.started_at + timedelta(seconds=self.order.spec.timeout_seconds)
        if self.killed_at is not None and self.killed_at <= now:
            self.finish(ScriptedExit(_KILLED), self.killed_at)
        elif keeps_deadline and deadline <= now:
            self.finish(ScriptedExit(_KILLED, failure=FailureKind.TIMED_OUT), deadline)

    def sighting(self) -> ContainerStatus:
        """What the engine says of it."""
        return ContainerStatus(
            name=self.order.name,
            job_id=self.order.job_id,
            phase=self.phase,
            handle=f"memory-{self.order.name}",
            started_at=self.started_at,
            finished_at=self.finished_at,
            exit_code=self.end.exit_code if self.end else None,
            failure=self.end.failure if self.end else None,
            note=self.end.note if self.end else self.note,
        )


class MemoryBackend:
    """
    `Backend` whose jobs run until they are told otherwise.

        backend.finish(name, outputs=b'{"accuracy": 0.9}')     one that runs
        backend.plan = lambda order: Ends(exit_code=3)         each one, as it starts

    Args:
        clock: Tells the time.
        name: What it calls itself; two engines are two names.
    """

    def __init__(self, clock: Clock, name: str = "memory:engine") -> None:
        self.jobs: dict[str, MemoryJob] = {}  #: that exist now, by name
        self.begun: list[ContainerRequest] = []  #: of every job that ever began to run, in order
        self.plan: Callable[[ContainerRequest], ScriptedExit | None] = lambda _: (
            None
        )  #: how a job ends as it starts; None: it runs on
        self.ignores_stop = False  #: jobs end only when their grace is over
        self.keeps_deadlines = False  #: this engine ends what runs for too long by itself
        self.holds_back: str | None = None  #: why it begins nothing: started jobs are pending until `begin`
        #: Awaited where a start may break off: before the job is made, before it begins, before the answer.
        self.at_each_step: Callable[[], Awaitable[None]] | None = None
        self._clock = clock
        self._name = name
        self._is_away = False
        self._refusals: list[StartRefused] = []
        self._refuses: StartRefused | None = None
        self._watchers: list[asyncio.Queue[str | None]] = []

    # --- what a test says -------------------------------------------------------------------------

    @property
    def away(self) -> bool:
        """It does not answer; what it runs goes on."""
        return self._is_away

    @away.setter
    def away(self, is_away: bool) -> None:
        self._is_away = is_away
        if is_away:
            self._hint(None)

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the jobs that run now."""
        self._catch_up()
        return tuple(name for name, job in self.jobs.items() if job.phase is Phase.RUNNING)

    def refuse(self, error: StartRefused | None, *, times: int | None = None) -> None:
        """Refuse to start jobs: so often, or from now on; None: no longer."""
        self._refuses, self._refusals = None, []
        if error is not None and times is not None:
            self._refusals = [error] * times
        else:
            self._refuses = error

    def begin(self, name: str) -> None:
        """Let a job that is pending run."""
        job = self.jobs[name]
        if job.phase is not Phase.PENDING:
            raise AssertionError(f"{name} is {job.phase}, not pending")
        self._begin(job)

    def say(self, name: str, text: bytes) -> None:
        """Let a job say something."""
        self.jobs[name].log += text

    def finish(
        self,
        name: str,
        exit_code: int | None = 0,
        *,
        outputs: bytes | None = None,
        cause: FailureKind | None = None,
        note: str | None = None,
        unreadable: str | None = None,
    ) -> None:
        """Let a job that runs end; the arguments are those of `Ends`."""
        self._catch_up()
        job = self.jobs[name]
        if job.phase is not Phase.RUNNING:
            raise AssertionError(f"{name} is {job.phase}, not running")
        end = ScriptedExit(exit_code, outputs=outputs, failure=cause, note=note, unreadable=unreadable)
        job.finish(end, self._clock.now())
        self._hint(name)

    def lose(self, name: str) -> None:
        """Let a job vanish, as one that somebody removed by hand."""
        del self.jobs[name]
        self._hint(name)

    # --- Backend ----------------------------------------------------------------------------------

    async def engine_id(self) -> str:
        """Its name."""
        self._check()
        return self._name

    async def start(self, request: ContainerRequest) -> StartedContainer:
        """Make it and let it begin, if it is not there already."""
        self._check()
        await self._step()
        if request.name not in self.jobs:
            if refusal := self._refusals.pop() if self._refusals else self._refuses:
                raise refusal
            self.jobs[request.name] = MemoryJob(request)
        await self._step()
        job = self.jobs[request.name]
        if job.order.installation != request.installation:
            raise StartRefused(FailureKind.REFUSED, f"there is a job {request.name} of another installation")
        if job.phase is Phase.CREATED and self.holds_back is not None:
            job.phase, job.note = Phase.PENDING, self.holds_back
        elif job.phase is Phase.CREATED:
            self._begin(job)
        await self._step()
        return StartedContainer(f"memory-{request.name}", note=job.note)

    async def list_containers(self, installation: str) -> Mapping[str, ContainerStatus]:
        """What is there of the installation."""
        self._check()
        self._catch_up()
        return {name: job.sighting() for name, job in self.jobs.items() if job.order.installation == installation}

    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        """What was said since; a position is a number of bytes."""
        self._check()
        if name not in self.jobs:
            return LogRead(b"", position or "0")
        begin, said = int(position or 0), self.jobs[name].log
        kept = max(begin, len(said) - limit_bytes)
        return LogRead(bytes(said[kept:]), str(len(said)), skipped=kept > begin)

    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        """What the job's end holds."""
        self._check()
        job = self.jobs.get(name)
        if job is None or job.end is None:
            return None
        if job.end.unreadable is not None:
            raise OutputUnreadable(job.end.unreadable)
        if job.end.outputs is not None and len(job.end.outputs) > limit_bytes:
            raise OutputUnreadable(f"outputs.json has {len(job.end.outputs)} bytes; at most {limit_bytes} are taken")
        return job.end.outputs

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        """End it at once, or when its grace is over."""
        self._check()
        job = self.jobs.get(name)
        if job is None or job.phase is Phase.EXITED:
            return
        now = self._clock.now()
        if job.phase is not Phase.RUNNING or not self.ignores_stop:
            job.finish(ScriptedExit(_TERMINATED), now)
        else:
            killed_at = now + timedelta(seconds=grace_seconds)
            job.killed_at = killed_at if job.killed_at is None else min(killed_at, job.killed_at)
        self._hint(name)

    async def remove(self, name: str) -> None:
        """Forget it."""
        self._check()
        if self.jobs.pop(name, None) is not None:
            self._hint(name)

    async def watch_events(self, installation: str) -> AsyncIterator[str]:
        """Names, as something happens; of whatever installation."""
        self._check()
        hints: asyncio.Queue[str | None] = asyncio.Queue()
        self._watchers.append(hints)
        try:
            while (name := await hints.get()) is not None:
                yield name
        finally:
            self._watchers.remove(hints)
        self._check()

    async def close(self) -> None:
        """Nothing to let go of."""

    # ----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._is_away:
            raise EngineUnavailable("the engine in memory is away")

    async def _step(self) -> None:
        if self.at_each_step is not None:
            await self.at_each_step()

    def _begin(self, job: MemoryJob) -> None:
        job.begin(self._clock.now())
        self.begun.append(job.order)
        if (end := self.plan(job.order)) is not None:
            job.finish(end, self._clock.now())
        self._hint(job.order.name)

    def _catch_up(self) -> None:
        now = self._clock.now()
        for job in self.jobs.values():
            job.catch_up(now, keeps_deadline=self.keeps_deadlines)

    def _hint(self, name: str | None) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(name)
