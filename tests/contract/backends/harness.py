"""The contract suite's view of a backend, its engine, and what the engine can do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from tests.container_requests import container_request
from tests.waiting import TIMEOUT_SECONDS
from upshot.backends.protocol import Backend, ContainerRequest, ContainerStatus, JobInput, LogRead, Phase
from upshot.domain.job import EVENT_FILE, INPUT_DIR, OUTPUT_DIR, SECRETS_DIR, Pull

OUTPUTS_LIMIT = 64 * 1024
LOG_LIMIT = 1024 * 1024
EVENT = {"kind": "alias-added"}


class Capability(StrEnum):
    """Something that some backends cannot do, or not on every machine."""

    IMAGES = "images"  #: run jobs from images, which may be missing
    OWN_ROOT = "own root"  #: give a job its own root file system, which may be read-only
    USERS = "users"  #: run a job as the user in its spec
    MEMORY = "memory"  #: enforce the memory limit of a job, and report that it was exceeded
    PIDS = "pids"  #: enforce the limit on a job's processes
    ISOLATION = "isolation"  #: keep a job from controlling the machine
    PRIVILEGED = "privileged"  #: let a privileged job control the machine
    CREATED_PHASE = "created phase"  #: keep a job that was created and not started
    BIG_LOGS = "big logs"  #: handle a log of a gigabyte, and limit how much of it the engine stores
    ORDERED_LOGS = "ordered logs"  #: keep the lines of both streams in the order in which they were written
    INDEPENDENT_KILL = "independent kill"  #: kill a job after its grace period even if all of Upshot is down
    SHORTER_GRACE = "shorter grace"  #: keep exit code and log of a job whose grace period is shortened
    LINKS = "links"  #: let a job replace its output directory with a link
    DETECTS_LINKS = "detects links"  #: report a link as a link; otherwise a link leads nowhere
    INPUT = "input"  #: give a job the files of a directory of this machine as its input
    RAW_TEXT = "raw text"  #: return very long lines, and lines without an end, as they were written


class EngineUnderTest(Protocol):
    """An engine for all tests of the suite."""

    image: str  #: image with /bin/sh and the usual tools; empty if jobs need no image
    privileged_command: str  #: shell command that succeeds only for a job that controls the machine

    def connect(self) -> Backend:
        """Return a backend with a new connection, like another worker's. The caller closes it."""
        ...

    def connect_to_unreachable_engines(self) -> Iterator[Backend]:
        """Yield backends whose engine cannot be reached, one for each possible reason."""
        ...

    async def create_without_starting(self, request: ContainerRequest) -> None:
        """Create the container as `start` does, and stop before it is started."""
        ...

    def stored_log_bytes(self, name: str) -> int:
        """Return how many bytes of a job's log the engine stores."""
        ...

    def remove_all(self, installation_id: str) -> None:
        """Remove all jobs of an installation."""
        ...


class Provider(Protocol):
    """One backend in the suite."""

    @property
    def name(self) -> str:
        """The name of the backend in the ids of the tests."""
        ...

    @property
    def lacks(self) -> Mapping[Capability, str]:
        """The capabilities that it lacks, and why."""
        ...

    def provide_engine(self) -> AbstractContextManager[EngineUnderTest]:
        """Start or find the engine. Skip if there is none, and explain how to get one."""
        ...


class BackendHarness:
    """
    A backend for one test, with its own installation.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: EngineUnderTest) -> None:
        self.engine = engine
        self.installation_id = f"test-{uuid4().hex[:12]}"
        self.backend: Backend

    async def __aenter__(self) -> Self:
        self.backend = self.engine.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.backend.close()
        finally:
            await asyncio.to_thread(self.engine.remove_all, self.installation_id)

    def request(
        self,
        script: str,
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        event: Mapping[str, Any] = EVENT,
        input_: JobInput | None = None,
        **spec: Any,
    ) -> ContainerRequest:
        """Return a request that runs a shell script as a job of this installation, by default under a new name."""
        own_env = {
            "UPSHOT_JOB": "job_1",
            "UPSHOT_EVENT_FILE": EVENT_FILE,
            "UPSHOT_INPUT": INPUT_DIR,
            "UPSHOT_OUTPUT": OUTPUT_DIR,
            "UPSHOT_SECRETS": SECRETS_DIR,
        }
        request = container_request(
            script,
            name=name or f"upshot-{uuid4().hex[:16]}-1",
            installation_id=self.installation_id,
            env={**(env or {}), **own_env},
            event=json.dumps(event).encode(),
            **{"image": self.engine.image, "pull": Pull.NEVER, **spec},
        )
        return replace(request, input=input_)

    async def start(self, script: str, **options: Any) -> str:
        """Start a script, and return the name of its container. The options are those of `request`."""
        request = self.request(script, **options)
        await self.backend.start(request)
        return request.name

    async def run(self, script: str, **options: Any) -> ContainerStatus:
        """Start a script, and return its status after it has exited. The options are those of `request`."""
        return await self.wait_for_exit(await self.start(script, **options))

    async def status(self, name: str) -> ContainerStatus | None:
        """Return the current status of a container."""
        return (await self.backend.list_containers(self.installation_id)).get(name)

    async def wait_for_exit(self, name: str) -> ContainerStatus:
        """Wait until a container has exited, and return its status."""
        return await self.wait_for_phase(name, Phase.EXITED)

    async def wait_for_phase(self, name: str, phase: Phase) -> ContainerStatus:
        """Wait until a container is in a phase, and return its status."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (status := await self.status(name)) is None or status.phase is not phase:
            assert time.monotonic() < deadline, f"{name} is not {phase} within {TIMEOUT_SECONDS:g} s: {status}"
            await asyncio.sleep(0.05)
        return status

    async def wait_for_log(self, name: str, text: bytes) -> None:
        """Wait until the log of a container contains a text."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while text not in (read := await self.read_log(name)).data:
            assert time.monotonic() < deadline, f"the log of {name} does not contain {text!r}: {read}"
            await asyncio.sleep(0.05)

    async def read_log(self, name: str, position: str | None = None, *, limit_bytes: int = LOG_LIMIT) -> LogRead:
        """Read the log of a container from a position on."""
        return await self.backend.read_log(name, position, limit_bytes=limit_bytes)

    async def read_log_until_exit(self, name: str) -> list[LogRead]:
        """Read the log of a container again and again until it has exited, each time from the last position on."""
        reads: list[LogRead] = []
        has_exited = False
        while not has_exited:
            has_exited = (status := await self.status(name)) is not None and status.phase is Phase.EXITED
            reads.append(await self.read_log(name, reads[-1].position if reads else None))
        return reads

    async def read_outputs(self, name: str, *, limit_bytes: int = OUTPUTS_LIMIT) -> bytes | None:
        """Return the content of a container's outputs.json."""
        return await self.backend.read_outputs(name, limit_bytes=limit_bytes)
