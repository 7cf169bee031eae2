"""What a backend brings to its contract, and what a test holds in its hands."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from tests.waiting import PATIENCE_SECONDS
from upshot.backends.protocol import Backend, ContainerRequest, ContainerStatus, LogRead, Phase, StartedContainer
from upshot.domain.job import EVENT_FILE, INPUT_FOLDER, OUTPUT_FOLDER, SECRETS_FOLDER, JobSpec, Pull

OUTPUTS_LIMIT = 64 * 1024
LOG_LIMIT = 1024 * 1024


class Can(StrEnum):
    """What not every backend can do, or not wherever the suite runs."""

    IMAGES = "images"  #: jobs come out of images, which may be missing
    OWN_ROOT = "own root"  #: a job has a root file system of its own, which may be read-only
    USERS = "users"  #: a job runs as the user that its spec names
    MEMORY = "memory"  #: a job is held to its memory, and it is told when it ran out
    PIDS = "pids"  #: a job is held to its number of processes
    PRIVILEGES = "privileges"  #: a job is kept from power over the machine
    ALL_POWER = "all power"  #: a job can be given it
    LEFT_CREATED = "left created"  #: what was made, and not started, stays
    BIG_LOGS = "big logs"  #: a gigabyte of log is bearable, and bounded in the engine
    LOSES_NO_LINE = "loses no line"  #: both streams are read in the order in which they were written
    KILLS_ALONE = "kills alone"  #: the kill after the grace comes though all of ours is down
    SHORTENS_GRACE = "shortens grace"  #: what is told to end sooner than its spec says keeps its code and its log
    LINKS = "links"  #: a job could replace what we read by a link
    TELLS_LINKS = "tells links"  #: a link is told from what it leads to; without that, it leads nowhere
    RAW_TEXT = "raw text"  #: very long lines, and those without an end, are read as they were said


class Ground(Protocol):
    """An engine that the suite runs on; for as long as the tests run."""

    image: str  #: with /bin/sh and what belongs to it; empty where jobs need none
    use_of_power: str  #: a line of shell that succeeds with power over the machine, and fails without

    def connect(self) -> Backend:
        """A backend on the engine, as another worker has it; whoever asks closes it."""
        ...

    def connect_to_nothing(self) -> Iterator[Backend]:
        """Backends whose engine cannot be reached, in each way that there is."""
        ...

    async def leave_created(self, order: ContainerRequest) -> None:
        """Make what `start` makes, and die before it is started."""
        ...

    def log_bytes_kept(self, name: str) -> int:
        """How much of a job's log lies in the engine."""
        ...

    def clean(self, installation: str) -> None:
        """Remove what is left of the jobs of an installation."""
        ...


class Provider(Protocol):
    """One backend of the suite."""

    @property
    def name(self) -> str:
        """As the tests' names have it."""
        ...

    @property
    def lacks(self) -> Mapping[Can, str]:
        """What it cannot do, and why that is; everything else, it can."""
        ...

    def ready(self) -> AbstractContextManager[Ground]:
        """Start or find the engine; skips where there is none, and says how to have one."""
        ...


class Bench:
    """
    A backend for one test, with an installation of its own.

    Args:
        ground: The engine.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.installation = f"test-{uuid4().hex[:12]}"
        self.backend: Backend

    async def __aenter__(self) -> Self:
        self.backend = self.ground.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.backend.close()
        finally:
            await asyncio.to_thread(self.ground.clean, self.installation)

    def order(
        self,
        script: str,
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        event: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> ContainerRequest:
        """An order for a shell script; everything else as a job has it that asks for nothing."""
        given = {"image": self.ground.image, "command": ("/bin/sh", "-c", script), "pull": Pull.NEVER, **spec}
        ours = {
            "UPSHOT_JOB": "job_1",
            "UPSHOT_EVENT_FILE": EVENT_FILE,
            "UPSHOT_INPUT": INPUT_FOLDER,
            "UPSHOT_OUTPUT": OUTPUT_FOLDER,
            "UPSHOT_SECRETS": SECRETS_FOLDER,
        }
        name = name or f"upshot-{uuid4().hex[:16]}-1"
        return ContainerRequest(
            name=name,
            installation=self.installation,
            job_id=f"job_{name}",
            spec=JobSpec(**given),
            env={**(env or {}), **ours},
            event=json.dumps(event or {"kind": "alias-added"}).encode(),
            fields={"job": {"id": f"job_{name}", "name": "test", "container": name}},
        )

    async def start(self, script: str, **how: Any) -> str:
        """Start a script; the job's name."""
        order = self.order(script, **how)
        await self.backend.start(order)
        return order.name

    async def started(self, script: str, **how: Any) -> tuple[ContainerRequest, StartedContainer]:
        """Start a script; the order, and what the backend said."""
        order = self.order(script, **how)
        return order, await self.backend.start(order)

    async def run(self, script: str, **how: Any) -> ContainerStatus:
        """Start a script and wait for its end."""
        return await self.ended(await self.start(script, **how))

    async def seen(self, name: str) -> ContainerStatus | None:
        """What the engine says of a job now."""
        return (await self.backend.list_containers(self.installation)).get(name)

    async def ended(self, name: str) -> ContainerStatus:
        """What the engine says of a job when it has ended."""
        return await self.seen_as(name, Phase.EXITED)

    async def seen_as(self, name: str, phase: Phase) -> ContainerStatus:
        """What the engine says of a job as soon as it is so far."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (sighting := await self.seen(name)) is None or sighting.phase is not phase:
            assert time.monotonic() < deadline, f"{name} is not {phase} within {PATIENCE_SECONDS:g} s: {sighting}"
            await asyncio.sleep(0.05)
        return sighting

    async def said(self, name: str, text: bytes) -> None:
        """Return as soon as the job has said it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in (read := await self.log(name)).data:
            assert time.monotonic() < deadline, f"{name} does not say {text!r}: {read}"
            await asyncio.sleep(0.05)

    async def log(self, name: str, position: str | None = None, *, limit_bytes: int = LOG_LIMIT) -> LogRead:
        """What the job has said since."""
        return await self.backend.read_log(name, position, limit_bytes=limit_bytes)

    async def outputs(self, name: str, *, limit_bytes: int = OUTPUTS_LIMIT) -> bytes | None:
        """Content of its outputs.json."""
        return await self.backend.read_outputs(name, limit_bytes=limit_bytes)
