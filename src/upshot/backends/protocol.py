"""What a backend is: the one door to an engine that runs containers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from upshot.domain.job import FailureKind, JobSpec
from upshot.errors import UpshotError


class EngineUnavailable(UpshotError):
    """The engine does not answer; what it runs is not known for now. Tried again."""


class StartRefused(UpshotError):
    """
    The engine answered, and the job cannot be started.

    Args:
        cause: IMAGE_MISSING, REFUSED, …
        reason: Finding and remedy, for a person.
    """

    def __init__(self, cause: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.failure = cause


class Phase(StrEnum):
    """What the engine says of a container."""

    CREATED = "created"  #: made, and not started; whoever made it died, or is about to start it
    PENDING = "pending"  #: the engine has it and waits for a place, an image or a node
    RUNNING = "running"
    EXITED = "ended"


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """A try of a job, ready to be started: secrets filled in, kept nowhere."""

    name: str  #: of the container; unique, a DNS label
    installation: str  #: label `upshot.installation`
    job_id: str  #: label `upshot.job`
    spec: JobSpec  #: texts hold the secrets themselves
    env: Mapping[str, str]  #: all of it: the author's, and UPSHOT_URL, UPSHOT_TOKEN, UPSHOT_JOB, UPSHOT_EVENT
    event: bytes  #: content of `EVENT_FILE`
    fields: Mapping[str, Any]  #: what a template of the operator's may name: `job` (id, name, automation, step, …)


@dataclass(frozen=True, slots=True)
class StartedContainer:
    """A container that runs, or that the engine will run."""

    handle: str  #: the engine's own id
    image_digest: str | None = None
    note: str | None = None  #: why it does not run yet: "waits for a node with a GPU"


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What the engine says of one container of ours."""

    name: str
    job_id: str  #: its label
    phase: Phase
    handle: str
    image_digest: str | None = None
    started_at: datetime | None = None  #: by the engine's clock, here and below
    finished_at: datetime | None = None
    exit_code: int | None = None  #: of an ended one; None where the engine does not know
    failure: FailureKind | None = (
        None  #: where the engine knows more than the code: OUT_OF_MEMORY, EVICTED, TIMED_OUT, …
    )
    note: str | None = None  #: in the engine's words: why it is pending, or how it ended


@dataclass(frozen=True, slots=True)
class LogRead:
    """What a job has said since the position that was given."""

    data: bytes  #: both streams, in order as far as the engine knows it
    position: str  #: to go on from; in the backend's own form
    skipped: bool = False  #: older text was left out, for there was more than the limit


class OutputUnreadable(UpshotError):
    """`outputs.json` is there and cannot be taken: a link, a folder, larger than the limit."""


class Backend(Protocol):
    """
    Start, see, read, stop containers; nothing else.

    A backend keeps nothing that it cannot read off its engine again: whoever comes after a crash
    must see the same. It does not retry, schedule, or judge. Every verb may raise
    `EngineUnavailable`, within about ten seconds; none lets an error of its library through.
    """

    async def engine_id(self) -> str:
        """Names the engine itself, the same from every machine that reaches it: a daemon's id, a cluster's."""
        ...

    async def start(self, request: ContainerRequest) -> StartedContainer:
        """
        Pull as the spec says, make and start the container; one that has the name already is left as
        it is, started if it never was.

        Raises:
            StartRefused: It cannot be started; nothing of it is left behind.
        """
        ...

    async def list_containers(self, installation: str) -> Mapping[str, ContainerStatus]:
        """All containers of the installation, by name, ended ones included."""
        ...

    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        """
        Read on, also after the end.

        Args:
            name: The container's.
            position: From an earlier read; None: from the beginning.
            limit_bytes: At most so much; the newest, where there is more.

        A container that is not there has said nothing more.
        """
        ...

    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        """
        Content of `OUTPUTS_FILE` of an ended container; None when there is none.

        Raises:
            OutputUnreadable: It is no plain file, or larger than the limit; links are never followed.
        """
        ...

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        """
        Tell it to end, and kill it when its grace is over.

        Returns at once, and `look` shows the end; the kill comes though the caller dies meanwhile, as
        far as the engine can see to that. One that is not there has ended.
        """
        ...

    async def remove(self, name: str) -> None:
        """Remove the container and all that belongs to it, running or not; one that is not there is fine."""
        ...

    def watch_events(self, installation: str) -> AsyncIterator[str]:
        """
        Names of containers to which something happens, as it happens: hints, none of which has to arrive.

        Ends, or raises `EngineUnavailable`, when the connection does; the caller begins again.
        """
        ...

    async def close(self) -> None:
        """Hang up."""
        ...
