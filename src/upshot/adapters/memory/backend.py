"""An engine in memory. Tests decide what its containers do, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from typing_extensions import override

from upshot.backends.protocol import (
    Backend,
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

_TERMINATED, _KILLED = 143, 137  # exit codes of a container that SIGTERM or SIGKILL ended


@dataclass(frozen=True, slots=True)
class ScriptedExit:
    """How a container exits."""

    exit_code: int | None = 0
    outputs: bytes | None = None  #: content of its `outputs.json`; None: it wrote no file
    log: bytes = b""  #: written before the exit
    failure: FailureKind | None = None  #: set if the engine knows more than the exit code
    note: str | None = None
    unreadable: str | None = None  #: why the outputs cannot be read, such as "it is a link"


@dataclass(slots=True)
class MemoryContainer:
    """A container that exists in this engine."""

    request: ContainerRequest
    phase: Phase = Phase.CREATED
    note: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit: ScriptedExit | None = None
    log: bytearray = field(default_factory=bytearray)
    kill_at: datetime | None = None  #: when its grace period is over; None: nobody stopped it

    def start(self, now: datetime) -> None:
        """Start running."""
        self.phase, self.note, self.started_at = Phase.RUNNING, None, now

    def finish(self, scripted_exit: ScriptedExit, now: datetime) -> None:
        """Exit."""
        self.phase, self.exit, self.finished_at = Phase.EXITED, scripted_exit, now
        self.log += scripted_exit.log

    def advance(self, now: datetime, *, enforces_timeout: bool) -> None:
        """Exit if the container should have been killed by now."""
        if self.phase is not Phase.RUNNING or self.started_at is None:
            return
        deadline = self.started_at + timedelta(seconds=self.request.spec.timeout_seconds)
        if self.kill_at is not None and self.kill_at <= now:
            self.finish(ScriptedExit(_KILLED), self.kill_at)
        elif enforces_timeout and deadline <= now:
            self.finish(ScriptedExit(_KILLED, failure=FailureKind.TIMED_OUT), deadline)

    def status(self) -> ContainerStatus:
        """Return what the engine reports."""
        return ContainerStatus(
            name=self.request.name,
            job_id=self.request.job_id,
            phase=self.phase,
            handle=f"memory-{self.request.name}",
            started_at=self.started_at,
            finished_at=self.finished_at,
            exit_code=self.exit.exit_code if self.exit else None,
            failure=self.exit.failure if self.exit else None,
            note=self.exit.note if self.exit else self.note,
        )


class MemoryBackend(Backend):
    """
    A backend whose containers run until a test ends them.

        backend.finish(name, outputs=b'{"accuracy": 0.9}')                  ends a running container
        backend.plan = lambda request: ScriptedExit(exit_code=3)            ends each container as it starts

    Args:
        clock: Gives the current time.
        engine_id: Identity of the engine. Two engines have two identities.
    """

    def __init__(self, clock: Clock, engine_id: str = "memory:engine") -> None:
        self.containers: dict[str, MemoryContainer] = {}  #: existing containers, by name
        self.started: list[ContainerRequest] = []  #: the requests of all containers that ever ran, in order
        #: How a container exits as it starts; None: it runs on.
        self.plan: Callable[[ContainerRequest], ScriptedExit | None] = lambda _: None
        self.ignores_stop = False  #: containers exit only when their grace period is over
        self.enforces_timeout = False  #: the engine itself ends a container that runs for too long
        self.pending_reason: str | None = None  #: if set, containers stay pending until `begin`
        #: Awaited where a start can be interrupted: before creating, before starting, and before the answer.
        self.at_each_step: Callable[[], Awaitable[None]] | None = None
        self._clock = clock
        self._engine_id = engine_id
        self._is_away = False
        self._next_refusals: list[StartRefused] = []
        self._refusal: StartRefused | None = None
        self._watchers: list[asyncio.Queue[str | None]] = []

    # --- for tests --------------------------------------------------------------------------------

    @property
    def away(self) -> bool:
        """Whether the engine is unreachable. Its containers run on."""
        return self._is_away

    @away.setter
    def away(self, is_away: bool) -> None:
        self._is_away = is_away
        if is_away:
            self._publish(None)

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the containers that run now."""
        self._advance()
        return tuple(name for name, container in self.containers.items() if container.phase is Phase.RUNNING)

    def refuse(self, error: StartRefused | None, *, times: int | None = None) -> None:
        """Refuse to start containers from now on, or `times` times. None accepts containers again."""
        self._refusal, self._next_refusals = None, []
        if error is not None and times is not None:
            self._next_refusals = [error] * times
        else:
            self._refusal = error

    def begin(self, name: str) -> None:
        """Start a pending container."""
        container = self.containers[name]
        if container.phase is not Phase.PENDING:
            raise AssertionError(f"{name} is {container.phase}, not pending")
        self._start(container)

    def write_log(self, name: str, text: bytes) -> None:
        """Let a container write to its log."""
        self.containers[name].log += text

    def finish(
        self,
        name: str,
        exit_code: int | None = 0,
        *,
        outputs: bytes | None = None,
        failure: FailureKind | None = None,
        note: str | None = None,
        unreadable: str | None = None,
    ) -> None:
        """Let a running container exit. The arguments are those of `ScriptedExit`."""
        self._advance()
        container = self.containers[name]
        if container.phase is not Phase.RUNNING:
            raise AssertionError(f"{name} is {container.phase}, not running")
        scripted_exit = ScriptedExit(exit_code, outputs=outputs, failure=failure, note=note, unreadable=unreadable)
        container.finish(scripted_exit, self._clock.now())
        self._publish(name)

    def lose(self, name: str) -> None:
        """Remove a container as a person would, by hand."""
        del self.containers[name]
        self._publish(name)

    # --- Backend ----------------------------------------------------------------------------------

    @override
    async def engine_id(self) -> str:
        self._check_reachable()
        return self._engine_id

    @override
    async def start(self, request: ContainerRequest) -> StartedContainer:
        self._check_reachable()
        await self._step()
        if request.name not in self.containers:
            if refusal := self._next_refusals.pop() if self._next_refusals else self._refusal:
                raise refusal
            self.containers[request.name] = MemoryContainer(request)
        await self._step()
        container = self.containers[request.name]
        if container.request.installation_id != request.installation_id:
            raise StartRefused(FailureKind.REFUSED, f"{request.name} is a container of another installation")
        if container.phase is Phase.CREATED and self.pending_reason is not None:
            container.phase, container.note = Phase.PENDING, self.pending_reason
        elif container.phase is Phase.CREATED:
            self._start(container)
        await self._step()
        return StartedContainer(f"memory-{request.name}", note=container.note)

    @override
    async def list_containers(self, installation_id: str) -> Mapping[str, ContainerStatus]:
        self._check_reachable()
        self._advance()
        return {
            name: container.status()
            for name, container in self.containers.items()
            if container.request.installation_id == installation_id
        }

    @override
    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        self._check_reachable()
        if name not in self.containers:
            return LogRead(b"", position or "0")
        start, log = int(position or 0), self.containers[name].log
        first = max(start, len(log) - limit_bytes)
        return LogRead(bytes(log[first:]), str(len(log)), skipped=first > start)

    @override
    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        self._check_reachable()
        container = self.containers.get(name)
        if container is None or container.exit is None:
            return None
        if container.exit.unreadable is not None:
            raise OutputUnreadable(container.exit.unreadable)
        outputs = container.exit.outputs
        if outputs is not None and len(outputs) > limit_bytes:
            raise OutputUnreadable(f"outputs.json has {len(outputs)} bytes; the limit is {limit_bytes}")
        return outputs

    @override
    async def stop(self, name: str, *, grace_seconds: float) -> None:
        self._check_reachable()
        container = self.containers.get(name)
        if container is None or container.phase is Phase.EXITED:
            return
        now = self._clock.now()
        if container.phase is not Phase.RUNNING or not self.ignores_stop:
            container.finish(ScriptedExit(_TERMINATED), now)
        else:
            kill_at = now + timedelta(seconds=grace_seconds)
            container.kill_at = kill_at if container.kill_at is None else min(kill_at, container.kill_at)
        self._publish(name)

    @override
    async def remove(self, name: str) -> None:
        self._check_reachable()
        if self.containers.pop(name, None) is not None:
            self._publish(name)

    @override
    async def watch_events(self, installation_id: str) -> AsyncIterator[str]:
        self._check_reachable()
        events: asyncio.Queue[str | None] = asyncio.Queue()
        self._watchers.append(events)
        try:
            while (name := await events.get()) is not None:
                yield name
        finally:
            self._watchers.remove(events)
        self._check_reachable()

    @override
    async def close(self) -> None:
        pass

    # ----------------------------------------------------------------------------------------------

    def _check_reachable(self) -> None:
        if self._is_away:
            raise EngineUnavailable("the engine in memory is unreachable")

    async def _step(self) -> None:
        if self.at_each_step is not None:
            await self.at_each_step()

    def _start(self, container: MemoryContainer) -> None:
        container.start(self._clock.now())
        self.started.append(container.request)
        if (scripted_exit := self.plan(container.request)) is not None:
            container.finish(scripted_exit, self._clock.now())
        self._publish(container.request.name)

    def _advance(self) -> None:
        now = self._clock.now()
        for container in self.containers.values():
            container.advance(now, enforces_timeout=self.enforces_timeout)

    def _publish(self, name: str | None) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(name)
