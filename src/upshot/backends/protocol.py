"""The protocol that every container backend implements, and the records that it exchanges with its caller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from upshot.domain.job import FailureKind, JobSpec
from upshot.errors import UpshotError
from upshot.ids import JobId

INSTALLATION_LABEL = "upshot.installation"
JOB_LABEL = "upshot.job"
CONTAINER_LABEL = "upshot.container"


class EngineUnavailable(UpshotError):
    """The engine does not answer, so the state of its containers is unknown for now. The caller tries again."""


class StartRefused(UpshotError):
    """
    The engine answered, and the job cannot be started.

    Args:
        failure: IMAGE_MISSING, REFUSED, …
        reason: Finding and remedy, for a person.
    """

    def __init__(self, failure: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


class OutputUnreadable(UpshotError):
    """`outputs.json` exists and cannot be read: it is a link or a directory, or it is larger than the limit."""


class Phase(StrEnum):
    """Phase of a container, as the engine reports it."""

    CREATED = "created"  #: created and not started; its creator died, or is about to start it
    PENDING = "pending"  #: accepted by the engine; waits for capacity, an image or a node
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class JobInput:
    """The files of the version that a job's event is about. The job finds them in `INPUT_DIR`."""

    reference: str  #: of the artifact version: `project/artifact:v3`
    file_count: int
    size: int  #: bytes of all files
    #: directory of this machine with the files; None for a backend that downloads them itself
    directory: Path | None = None
    #: bytes that a backend may copy to another machine; None: no limit
    transfer_limit: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """One attempt of a job, ready to be started. It contains secrets and is never stored."""

    name: str  #: of the container; unique, a DNS label
    installation_id: str
    job_id: JobId
    spec: JobSpec  #: with the secrets themselves in place of their placeholders
    env: Mapping[str, str]  #: complete: the author's, and UPSHOT_URL, UPSHOT_TOKEN, UPSHOT_JOB, UPSHOT_EVENT
    event: bytes  #: content of `EVENT_FILE`
    context: Mapping[str, Any]  #: what an operator's template may name: `job` (id, name, automation, step, …)
    input: JobInput | None = None  #: None: `INPUT_DIR` is empty

    @property
    def identity_labels(self) -> Mapping[str, str]:
        """The labels by which Upshot finds the container again."""
        return {INSTALLATION_LABEL: self.installation_id, JOB_LABEL: self.job_id, CONTAINER_LABEL: self.name}


@dataclass(frozen=True, slots=True)
class StartedContainer:
    """A container that runs, or that the engine has accepted and will run."""

    handle: str  #: the engine's own id
    image_digest: str | None = None
    note: str | None = None  #: why it does not run yet, such as "waits for a node with a GPU"


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What the engine reports about one container of an installation."""

    name: str
    job_id: JobId  #: from its label
    phase: Phase
    handle: str
    image_digest: str | None = None
    started_at: datetime | None = None  #: by the engine's clock
    finished_at: datetime | None = None  #: by the engine's clock
    exit_code: int | None = None  #: of an exited container; None if the engine does not know it
    #: Set if the engine knows more than the exit code: OUT_OF_MEMORY, EVICTED, TIMED_OUT, …
    failure: FailureKind | None = None
    note: str | None = None  #: in the engine's words: why it is pending, or how it ended


@dataclass(frozen=True, slots=True)
class LogRead:
    """What a job has written to its log since a given position."""

    data: bytes  #: both streams, in order as far as the engine knows it
    position: str  #: where the next read continues; its format is private to the backend
    skipped: bool = False  #: older text was left out because there was more than the limit


class Backend(Protocol):
    """
    Start, inspect, read and stop containers; nothing else.

    A backend keeps no state that it cannot read from its engine again: after a crash, its successor must
    see the same containers. It does not retry, schedule or decide. Every method may raise
    `EngineUnavailable`, within about ten seconds. No method lets an error of its client library through.
    """

    downloads_input: bool = False  #: the engine downloads the files of a `JobInput` itself

    async def engine_id(self) -> str:
        """Return the identity of the engine, which is the same from every machine that reaches it."""
        ...

    async def start(self, request: ContainerRequest) -> StartedContainer:
        """
        Pull the image as the spec says, then create and start the container.

        If a container of this name exists already, leave it as it is, but start it if it was never started.

        Raises:
            StartRefused: The container cannot be started. Nothing of it is left on the engine.
        """
        ...

    async def list_containers(self, installation_id: str) -> Mapping[str, ContainerStatus]:
        """Return all containers of the installation by name, including exited ones."""
        ...

    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        """
        Read the log from a position on. This also works after the container has exited.

        Args:
            name: Name of the container. A container that does not exist has nothing more to read.
            position: Position that an earlier read returned; None reads from the beginning.
            limit_bytes: Maximum size of the data. If there is more, the newest is returned.
        """
        ...

    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        """
        Return the content of `OUTPUTS_FILE` of an exited container; None if the file does not exist.

        Raises:
            OutputUnreadable: It is not a regular file, or it is larger than the limit. Links are never followed.
        """
        ...

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        """
        Signal the container to stop, and kill it when the grace period is over.

        This returns at once; `list_containers` shows the exit. As far as the engine allows it, the kill
        happens even if the caller dies in the meantime. A container that does not exist counts as exited.
        """
        ...

    async def remove(self, name: str) -> None:
        """Remove the container and all that belongs to it, running or not. It need not exist."""
        ...

    def watch_events(self, installation_id: str) -> AsyncIterator[str]:
        """
        Yield the names of containers as something happens to them. These are hints; any of them may be lost.

        The iterator ends, or raises `EngineUnavailable`, when the connection is lost. The caller starts again.
        """
        ...

    async def close(self) -> None:
        """Close the connection to the engine."""
        ...
