"""The engine in memory: real processes play its jobs, which are otherwise what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.contract.backends.harness import Can
from tests.contract.backends.process import ProcessGround, ProcessProvider
from tests.waiting import until
from upshot.adapters.memory.backend import MemoryBackend, MemoryJob
from upshot.backends.protocol import (
    Backend,
    ContainerRequest,
    ContainerStatus,
    EngineUnavailable,
    OutputUnreadable,
    Phase,
    StartRefused,
)
from upshot.clock import SystemClock

_TURN_SECONDS = 0.02
_MANY_BYTES = 1024 * 1024


class _Engine(MemoryBackend):
    async def look(self, installation: str) -> Mapping[str, ContainerStatus]:
        """Give the players a turn, as a question to a real engine does."""
        await asyncio.sleep(0)
        return await super().list_containers(installation)


class MemoryGround:
    """
    One engine in memory.

    Args:
        players: Where the processes run.
    """

    image = ""
    use_of_power = ""  # there is none, see process

    def __init__(self, players: ProcessGround) -> None:
        self._stage = players
        self._engine = _Engine(SystemClock())
        self._engine.ignores_stop = True  # whether it does, the player decides
        self._engine.plan = self._enter
        self._playing: dict[str, list[asyncio.Task[None]]] = {}  #: by installation

    def connect(self) -> Backend:
        """The engine itself: there is nothing between."""
        return self._engine

    def connect_to_nothing(self) -> Iterator[Backend]:
        """An engine that is away."""
        away = MemoryBackend(SystemClock())
        away.away = True
        yield away

    async def leave_created(self, order: ContainerRequest) -> None:
        """Break off before the job begins."""
        steps = iter((False, True))

        async def break_off() -> None:
            if next(steps):
                raise EngineUnavailable("broke off")

        self._engine.at_each_step = break_off
        with pytest.raises(EngineUnavailable):
            await self._engine.start(order)
        self._engine.at_each_step = None

    def log_bytes_kept(self, name: str) -> int:
        """All of it."""
        return len(self._engine.jobs[name].log)

    def clean(self, installation: str) -> None:
        """Forget its jobs, and send the players home."""
        for name in [name for name, job in self._engine.jobs.items() if job.order.installation == installation]:
            del self._engine.jobs[name]
        playing = self._playing.pop(installation, [])
        until(lambda: all(one.done() for one in playing), "the players leave the stage")
        self._stage.clean(installation)

    # --- a job, played by a process ---------------------------------------------------------------

    def _enter(self, order: ContainerRequest) -> None:
        playing = self._play(self._engine.jobs[order.name])
        task = asyncio.get_running_loop().create_task(playing)
        self._playing.setdefault(order.installation, []).append(task)

    async def _play(self, job: MemoryJob) -> None:
        name, player, position, is_told = job.order.name, self._stage.connect(), None, False
        await player.remove(name)  # of an earlier job of the name
        try:
            await player.start(job.order)
        except StartRefused:
            self._engine.finish(name, 127, note="its command is not there")  # in the words of containers
        while self._engine.jobs.get(name) is job and job.phase is Phase.RUNNING:
            seen = (await player.list_containers(job.order.installation))[name]
            read = await player.read_log(name, position, limit_bytes=_MANY_BYTES)
            position = read.position
            job.log += read.data
            if seen.phase is Phase.EXITED and not read.data:
                await self._leave(job, seen, player)
            elif job.killed_at is not None and not is_told:
                is_told = True
                await player.stop(name, grace_seconds=600)
            await asyncio.sleep(_TURN_SECONDS)
        await player.close()

    async def _leave(self, job: MemoryJob, seen: ContainerStatus, player: Backend) -> None:
        outputs, unreadable = None, None
        try:
            outputs = await player.read_outputs(seen.name, limit_bytes=_MANY_BYTES)
        except OutputUnreadable as error:
            unreadable = str(error)
        if self._engine.jobs.get(seen.name) is job and seen.name in self._engine.running:
            self._engine.finish(seen.name, seen.exit_code, outputs=outputs, unreadable=unreadable)


class MemoryProvider:
    """The engine in memory, which knows nothing of limits and rights."""

    name = "memory"
    lacks: Mapping[Can, str] = {
        **ProcessProvider.lacks,
        Can.PIDS: "a job in memory has no processes",
        Can.BIG_LOGS: "a log in memory is kept whole",
    }

    @contextmanager
    def ready(self) -> Iterator[MemoryGround]:
        """An engine, and a folder for the players."""
        with TemporaryDirectory(prefix="upshot-players-") as folder:
            Path(folder).chmod(0o711)
            yield MemoryGround(ProcessGround(Path(folder), {}))
