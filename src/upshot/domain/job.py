"""Jobs: containers that a `launch` step asks for, from the queue to what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

DEFAULT_QUEUE = "default"
DEFAULT_TIMEOUT_SECONDS = 3600.0
DEFAULT_GRACE_SECONDS = 10.0  # between the signal and the kill; Docker's default
DEFAULT_PIDS = 1024  # processes and threads of one job: a fork bomb ends there
MAX_OUTPUTS_BYTES = 1024 * 1024  # of `outputs.json`
LOG_TAIL_BYTES = 64 * 1024  # kept with the job; the whole log, capped, is apart

INPUT_FOLDER = "/upshot/input"  #: a version's files, read-only
EVENT_FILE = "/upshot/event.json"
SECRETS_FOLDER = "/upshot/secrets"
OUTPUT_FOLDER = "/upshot/output"
OUTPUTS_FILE = f"{OUTPUT_FOLDER}/outputs.json"


class JobState(StrEnum):
    """Where a job stands. CLI, API and pages print these words."""

    QUEUED = "queued"  #: waits for its place in the queue, or for its next try
    STARTING = "starting"  #: a worker has taken it: the image is pulled, the container made
    RUNNING = "running"
    STOPPING = "stopping"  #: told to stop; its grace runs
    SUCCEEDED = "succeeded"  #: exit code 0, and its outputs could be read; final
    FAILED = "failed"  #: `cause` says how; final
    CANCELLED = "cancelled"  #: a person stopped it, or the execution that it belonged to; final

    @property
    def is_final(self) -> bool:
        """Nothing moves it on."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)

    @property
    def is_active(self) -> bool:
        """It holds a place: a container exists, or may."""
        return self in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)


class FailureKind(StrEnum):
    """Why a try of a job did not succeed."""

    EXITED = "exited"  #: the command ended with another code than 0
    TIMED_OUT = "timed-out"
    OUT_OF_MEMORY = "out-of-memory"
    EVICTED = "evicted"  #: the machine took the place back
    ENGINE_LOST = "engine-lost"  #: the engine stopped under it, or was not reached for too long
    IMAGE_MISSING = "image-missing"  #: not there, and may not or cannot be pulled
    OUTPUT_INVALID = "output-invalid"  #: `outputs.json` is too large, no JSON object, no plain file
    REFUSED = "refused"  #: the engine would not make it, a rule of its queue forbids it, a secret is not there
    CANCELLED = "cancelled"

    @property
    def is_worth_retrying(self) -> bool:
        """Another try may go well; running out of memory is, too, where more memory is asked for then."""
        return self in (FailureKind.ENGINE_LOST, FailureKind.EVICTED)


class Network(StrEnum):
    """What a job reaches."""

    NONE = "none"
    BRIDGE = "bridge"  #: what the engine's default network reaches
    HOST = "host"  #: the machine's own network; off unless its queue allows it


class Pull(StrEnum):
    """When the image is pulled."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the machine, or a named volume, that a job sees; only where its queue allows it."""

    source: str  #: an absolute path, or a volume's name
    target: str  #: absolute, in the container
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class ImagePullCredentials:
    """With what an image is pulled."""

    username: str
    password: str  #: holds a secret's mark until the job starts


@dataclass(frozen=True, slots=True)
class MemoryGrowth:
    """More memory for another try, after a try ran out of it."""

    factor: float = 2.0
    up_to_bytes: int | None = None  #: None: the queue's ceiling


@dataclass(frozen=True, slots=True)
class JobSpec:
    """
    What is to run, with the queue's defaults filled in and within its ceilings.

    Texts of `env`, `files` and `registry_auth` may hold marks in place of secrets (see
    `launch.secrets`); the secrets themselves are filled in where the job starts, and kept nowhere.
    """

    image: str = ""  #: empty for a backend that needs none
    command: tuple[str, ...] | None = None  #: in place of the image's entry point
    args: tuple[str, ...] | None = None  #: in place of the image's default arguments
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  #: text of secret files by name in `SECRETS_FOLDER`
    workdir: str | None = None
    cpus: float | None = None  #: None: no limit, here and below
    memory_bytes: int | None = None
    gpus: int = 0  #: -1: all of the machine
    shm_bytes: int | None = None
    pids: int = DEFAULT_PIDS
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS  #: from the container's start; a longer run is stopped
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    network: Network = Network.BRIDGE
    user: str | None = None  #: `uid`, `uid:gid` or a name of the image; None: the image's
    read_only: bool = False  #: of the root file system; `/upshot/output` and `/tmp` stay writable
    privileged: bool = False
    mounts: tuple[Mount, ...] = ()
    pull: Pull = Pull.MISSING
    registry_auth: ImagePullCredentials | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  #: what only its backend understands


@dataclass(frozen=True, slots=True)
class JobRetryPolicy:
    """How often a job is tried where that is worth it, and what the next try gets."""

    max_attempts: int = 3
    first_seconds: float = 1.0  #: wait before the second try; doubles
    cap_seconds: float = 3600.0
    memory_growth: MemoryGrowth | None = None  #: None: running out of memory is not tried again


@dataclass(frozen=True, slots=True)
class Job:
    """
    One container job: made with the step that asks for it, in the same transaction.

    A try is one container. Its name is derived from the step's delivery id and the try's number, so
    whoever takes the job up again after a crash finds the container that is there.
    """

    id: str
    name: str  #: as written, or the step's id: under it metrics go to the version
    automation: str
    execution_id: str
    step_id: str
    event_id: str  #: id of the event that the execution answers
    delivery_id: str
    queue: str
    backend: str
    spec: JobSpec
    created_at: datetime
    priority: int = 0  #: higher first
    concurrency: int | None = None  #: jobs of this step that run at the same time; None: the queue's limits alone
    retry: JobRetryPolicy = JobRetryPolicy()
    save_metrics: bool = False  #: `metrics` of the outputs go to the version's metadata
    version_reference: str | None = None  #: reference of the version that the event is about
    secrets: tuple[str, ...] = ()  #: names of the secrets that marks stand for
    nonce: str = ""  #: part of every mark of this job, so that no event can forge one

    state: JobState = JobState.QUEUED
    failure: FailureKind | None = None
    reason: str | None = None  #: why it waits, or how it ended
    attempt: int = 1  #: of the present or last try
    due_at: datetime | None = None  #: a queued job may start then; None when it is not queued
    machine: str | None = None  #: of the worker that started the try
    engine_id: str | None = None  #: identity of the engine that has it: only who reaches that engine can watch it
    handle: str | None = None  #: the engine's own id of it
    image_digest: str | None = None
    started_at: datetime | None = None  #: by the engine's clock
    finished_at: datetime | None = None
    exit_code: int | None = None
    outputs: Mapping[str, Any] | None = None
    log_tail: str = ""  #: the last 64 KB, secrets masked
    stop_requested_at: datetime | None = None
    stop_requested_by: str | None = None
    seen_at: datetime | None = None  #: when its engine last answered for it
    lease_owner: str | None = None  #: worker that watches it
    lease_until: datetime | None = None
    fence: int = 0  #: grows with every claim; a write with an older one is refused

    @property
    def container(self) -> str:
        """Name of the present try's container; a DNS label, as Kubernetes asks."""
        return f"upshot-{self.id.removeprefix('job_')}-{self.attempt}"

    @property
    def deadline(self) -> datetime | None:
        """When the present try has run for too long; None before it started."""
        return None if self.started_at is None else self.started_at + timedelta(seconds=self.spec.timeout_seconds)
