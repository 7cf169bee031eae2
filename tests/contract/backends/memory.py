"""The backend in memory. Real processes run its jobs, whose behaviour a test would otherwise script."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typing_extensions import override

from tests.contract.backends.harness import Capability
from tests.contract.backends.process import ProcessEngine, ProcessProvider
from tests.waiting import until
from upshot.adapters.memory.backend import MemoryBackend, MemoryContainer
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

_POLL_SECONDS = 0.02
_MAX_BYTES = 1024 * 1024


class _YieldingBackend(MemoryBackend):
    @override
    async def list_containers(self, installation_id: str) -> Mapping[str, ContainerStatus]:
        await asyncio.sleep(0)  # lets the processes' tasks run, as a request to a real engine does
        return await super().list_containers(installation_id)


class MemoryEngine:
    """
    One engine in memory.

    Args:
        processes: Runs the processes.
    """

    image = ""
    privileged_command = ""  # unused, see process.py

    def __init__(self, processes: ProcessEngine) -> None:
        self._processes = processes
        self._backend = _YieldingBackend(SystemClock())
        self._backend.ignores_stop = True  # the process decides
        self._backend.plan = self._start_process
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}  #: by installation

    def connect(self) -> Backend:
        """Return the one backend: there is no connection."""
        return self._backend

    def connect_to_unreachable_engines(self) -> Iterator[Backend]:
        """Yield a backend whose engine is down."""
        backend = MemoryBackend(SystemClock())
        backend.away = True
        yield backend

    async def create_without_starting(self, request: ContainerRequest) -> None:
        """Stop at the second step, before the job starts."""
        steps = iter((False, True))

        async def interrupt() -> None:
            if next(steps):
                raise EngineUnavailable("interrupted")

        self._backend.at_each_step = interrupt
        with pytest.raises(EngineUnavailable):
            await self._backend.start(request)
        self._backend.at_each_step = None

    def stored_log_bytes(self, name: str) -> int:
        """Return the size of the whole log."""
        return len(self._backend.containers[name].log)

    def remove_all(self, installation_id: str) -> None:
        """Remove the jobs, and wait until their processes have ended."""
        containers = self._backend.containers
        for name, container in tuple(containers.items()):
            if container.request.installation_id == installation_id:
                del containers[name]
        tasks = self._tasks.pop(installation_id, [])
        until(lambda: all(task.done() for task in tasks), "the end of the processes")
        self._processes.remove_all(installation_id)

    def _start_process(self, request: ContainerRequest) -> None:
        task = asyncio.get_running_loop().create_task(self._run_process(self._backend.containers[request.name]))
        self._tasks.setdefault(request.installation_id, []).append(task)

    async def _run_process(self, container: MemoryContainer) -> None:
        request, name, backend = container.request, container.request.name, self._processes.connect()
        await backend.remove(name)  # of an earlier job of this name
        try:
            await backend.start(request)
        except StartRefused:
            self._backend.finish(name, 127, note="its command does not exist")  # as engines with containers report it
        position, was_stopped = None, False
        while self._backend.containers.get(name) is container and container.phase is Phase.RUNNING:
            status = (await backend.list_containers(request.installation_id))[name]
            read = await backend.read_log(name, position, limit_bytes=_MAX_BYTES)
            position = read.position
            container.log += read.data
            if status.phase is Phase.EXITED and not read.data:
                await self._finish(container, status, backend)
            elif container.kill_at is not None and not was_stopped:
                was_stopped = True
                await backend.stop(name, grace_seconds=600)
            await asyncio.sleep(_POLL_SECONDS)
        await backend.close()

    async def _finish(self, container: MemoryContainer, status: ContainerStatus, backend: Backend) -> None:
        outputs, unreadable = None, None
        try:
            outputs = await backend.read_outputs(status.name, limit_bytes=_MAX_BYTES)
        except OutputUnreadable as error:
            unreadable = str(error)
        if self._backend.containers.get(status.name) is container and status.name in self._backend.running:
            self._backend.finish(status.name, status.exit_code, outputs=outputs, unreadable=unreadable)


class MemoryProvider:
    """The engine in memory has neither limits nor permissions."""

    name = "memory"
    lacks: Mapping[Capability, str] = {
        **ProcessProvider.lacks,
        Capability.PIDS: "a job in memory has no processes",
        Capability.BIG_LOGS: "a log in memory is kept whole",
    }

    @contextmanager
    def provide_engine(self) -> Iterator[MemoryEngine]:
        """Yield an engine, and a directory for its processes."""
        with TemporaryDirectory(prefix="upshot-memory-") as name:
            Path(name).chmod(0o711)
            yield MemoryEngine(ProcessEngine(Path(name), {}))
