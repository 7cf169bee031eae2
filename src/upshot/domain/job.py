"""Container jobs: what a job runs, its states, and the record of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, get_args, get_type_hints

from upshot.domain.image import check_image
from upshot.domain.job_options import (
    Limit,
    LimitKind,
    Option,
    ValueKind,
    check_capability,
    check_file_name,
    check_label,
    check_path,
    check_user,
    check_variable,
)
from upshot.ids import DeliveryId, EventId, ExecutionId, JobId, WorkerId

DEFAULT_QUEUE = "default"
DEFAULT_TIMEOUT_SECONDS = 3600.0
DEFAULT_GRACE_SECONDS = 10.0  # between the signal and the kill; Docker's default
DEFAULT_PIDS = 1024  # processes and threads of one job: stops a fork bomb
DEFAULT_MAX_TIMEOUT_SECONDS = 86_400.0
MAX_TIMEOUT_SECONDS = 7 * 86_400.0
MAX_GRACE_SECONDS = 3600.0
MAX_GPUS = 1024
MAX_PIDS = 2**22  # Linux's own limit
ALL_GPUS = -1
MAX_OUTPUTS_BYTES = 1024 * 1024  # size of `outputs.json`
LOG_TAIL_BYTES = 64 * 1024  # stored with the job; the log itself is stored separately, with its own limit

INPUT_DIR = "/upshot/input"  #: the files of the event's version, read-only
EVENT_FILE = "/upshot/event.json"
SECRETS_DIR = "/upshot/secrets"
OUTPUT_DIR = "/upshot/output"
OUTPUTS_FILE = f"{OUTPUT_DIR}/outputs.json"

_MAXIMUM = Limit(LimitKind.MAXIMUM)


class JobState(StrEnum):
    """State of a job. The CLI, the API and the pages use these words."""

    QUEUED = "queued"  #: waits for capacity in its queue, or for its next attempt
    STARTING = "starting"  #: a worker has claimed it; its image is pulled and its container created
    RUNNING = "running"
    STOPPING = "stopping"  #: its container got a signal to stop; the grace period runs
    SUCCEEDED = "succeeded"  #: exit code 0, and its outputs are valid; final
    FAILED = "failed"  #: `failure` says why; final
    CANCELLED = "cancelled"  #: stopped by a person, or because its execution ended; final

    @property
    def is_final(self) -> bool:
        """Whether the job never changes again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)

    @property
    def is_active(self) -> bool:
        """Whether the job counts against the limits of its queue: it has a container, or may have one."""
        return self in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)


class FailureKind(StrEnum):
    """Why an attempt of a job did not succeed."""

    EXITED = "exited"  #: the command ended with an exit code other than 0
    TIMED_OUT = "timed-out"
    OUT_OF_MEMORY = "out-of-memory"
    EVICTED = "evicted"  #: the machine reclaimed the job's resources
    ENGINE_LOST = "engine-lost"  #: the engine stopped while the job ran, or was unreachable for too long
    INPUT_UNAVAILABLE = "input-unavailable"  #: the files for `INPUT_DIR` could not be downloaded
    IMAGE_MISSING = "image-missing"  #: the image is not on the machine, and it must not or cannot be pulled
    OUTPUT_INVALID = "output-invalid"  #: `outputs.json` is too large, not a JSON object, or not a regular file
    REFUSED = "refused"  #: the engine or the queue rejects the job, or a secret does not exist
    CANCELLED = "cancelled"

    @property
    def retryable(self) -> bool:
        """Whether the same attempt can succeed later. OUT_OF_MEMORY is retried only with more memory."""
        return self in (FailureKind.ENGINE_LOST, FailureKind.EVICTED, FailureKind.INPUT_UNAVAILABLE)


class Network(StrEnum):
    """What a job can reach."""

    NONE = "none"
    BRIDGE = "bridge"  #: what the engine's default network reaches
    HOST = "host"  #: the machine's own network


class InputFiles(StrEnum):
    """Whether a job gets the files of the version that its event is about."""

    AUTO = "auto"  #: if they are stored
    REQUIRED = "required"  #: the job fails if there are none
    NONE = "none"


class Pull(StrEnum):
    """When the image is pulled."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the machine, or a named volume, that a job sees. Its queue must allow it."""

    source: str  #: an absolute path, or the name of a volume
    target: str  #: absolute path in the container
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class ImagePullCredentials:
    """Credentials for pulling an image."""

    username: str
    password: str  #: holds a secret's placeholder until the job starts


@dataclass(frozen=True, slots=True)
class MemoryGrowth:
    """How memory grows for the next attempt after an attempt ran out of memory."""

    factor: float = 2.0
    up_to_bytes: int | None = None  #: None: the queue's limit


@dataclass(frozen=True, slots=True)
class JobSpec:
    """
    What a job runs, with its queue's defaults applied.

    The fields declare the options of a job, each once. To add an option, add a field, and handle it in
    the backends that support it; `domain.job_options` lists what is derived from the declaration.

    Until a job starts, texts in options with `holds_secrets` contain placeholders
    (`domain.secret_placeholders`). The secrets themselves are filled in on the worker, and never stored.
    """

    #: name of the image; empty for a backend that runs no containers
    image: Annotated[
        str,
        Option(
            "image", ValueKind.TEXT, check=check_image, needs_container=True, limit=Limit(LimitKind.IMAGES, "images")
        ),
    ] = ""
    #: replaces the image's entry point
    command: Annotated[
        tuple[str, ...] | None, Option("command", ValueKind.WORDS, can_be_empty=False, holds_secrets=True)
    ] = None
    #: replaces the image's default arguments
    args: Annotated[tuple[str, ...] | None, Option("args", ValueKind.WORDS, holds_secrets=True)] = None
    env: Annotated[
        Mapping[str, str], Option("env", ValueKind.TEXTS, check=check_variable, holds_secrets=True, in_defaults=True)
    ] = field(default_factory=dict)
    #: contents of files in `SECRETS_DIR`, by file name
    secret_files: Annotated[
        Mapping[str, str],
        Option("secret-files", ValueKind.TEXTS, check=check_file_name, can_hold_nul=True, holds_secrets=True),
    ] = field(default_factory=dict)
    #: whether the job gets the files of the event's version in `INPUT_DIR`
    input: Annotated[InputFiles, Option("input", ValueKind.CHOICE, choices=InputFiles, in_defaults=True)] = (
        InputFiles.AUTO
    )
    workdir: Annotated[str | None, Option("workdir", ValueKind.TEXT, check=check_path)] = None
    #: None: no limit
    cpus: Annotated[float | None, Option("resources.cpus", ValueKind.CPUS, in_defaults=True, limit=_MAXIMUM)] = None
    #: None: no limit
    memory_bytes: Annotated[
        int | None, Option("resources.memory", ValueKind.BYTES, in_defaults=True, limit=_MAXIMUM)
    ] = None
    #: `ALL_GPUS`: all GPUs of the machine
    gpus: Annotated[
        int,
        Option("resources.gpus", ValueKind.GPUS, smallest=ALL_GPUS, largest=MAX_GPUS, in_defaults=True, limit=_MAXIMUM),
    ] = 0
    #: size of /dev/shm; None: the engine's default
    shm_bytes: Annotated[
        int | None,
        Option("resources.shm", ValueKind.BYTES, in_defaults=True, limit=Limit(LimitKind.MAXIMUM, caps_unset=False)),
    ] = None
    #: maximum number of processes and threads
    pids: Annotated[
        int,
        Option(
            "resources.pids",
            ValueKind.COUNT,
            smallest=1,
            largest=MAX_PIDS,
            unit="processes",
            in_defaults=True,
            limit=_MAXIMUM,
        ),
    ] = DEFAULT_PIDS
    #: maximum duration of one attempt, counted from the start of its container
    timeout_seconds: Annotated[
        float,
        Option(
            "timeout",
            ValueKind.SECONDS,
            smallest=1,
            largest=MAX_TIMEOUT_SECONDS,
            in_defaults=True,
            limit=Limit(LimitKind.MAXIMUM, default=DEFAULT_MAX_TIMEOUT_SECONDS),
        ),
    ] = DEFAULT_TIMEOUT_SECONDS
    #: time between the signal to stop and the kill
    grace_seconds: Annotated[
        float, Option("grace", ValueKind.SECONDS, largest=MAX_GRACE_SECONDS, in_defaults=True, limit=_MAXIMUM)
    ] = DEFAULT_GRACE_SECONDS
    network: Annotated[
        Network,
        Option(
            "network",
            ValueKind.CHOICE,
            choices=Network,
            in_defaults=True,
            limit=Limit(LimitKind.CHOICES, "networks", default=frozenset({Network.NONE, Network.BRIDGE})),
        ),
    ] = Network.BRIDGE
    #: `uid`, `uid:gid` or a name of the image; None: the image's user
    user: Annotated[
        str | None,
        Option(
            "user",
            ValueKind.TEXT,
            check=check_user,
            in_defaults=True,
            limit=Limit(LimitKind.NON_ROOT, "non-root", default=False),
        ),
    ] = None
    #: whether the root file system is read-only; `/upshot/output` and `/tmp` stay writable
    read_only: Annotated[bool, Option("read-only", ValueKind.FLAG, needs_container=True, in_defaults=True)] = False
    privileged: Annotated[
        bool,
        Option(
            "privileged",
            ValueKind.FLAG,
            needs_container=True,
            limit=Limit(LimitKind.PERMISSION, default=False, reason="a privileged job is root on the machine"),
        ),
    ] = False
    #: what root in the container may do beyond reading and writing its own files; every other capability is dropped
    capabilities: Annotated[
        tuple[str, ...],
        Option(
            "capabilities",
            ValueKind.NAMES,
            check=check_capability,
            needs_container=True,
            in_defaults=True,
            limit=Limit(LimitKind.NAMES, default=frozenset()),
        ),
    ] = ()
    mounts: Annotated[
        tuple[Mount, ...],
        Option(
            "mounts",
            ValueKind.MOUNTS,
            needs_container=True,
            in_defaults=True,
            limit=Limit(LimitKind.MOUNTS, default=()),
        ),
    ] = ()
    pull: Annotated[
        Pull,
        Option(
            "pull",
            ValueKind.CHOICE,
            choices=Pull,
            in_defaults=True,
            limit=Limit(LimitKind.CHOICES, default=frozenset(Pull)),
        ),
    ] = Pull.MISSING
    registry_auth: Annotated[
        ImagePullCredentials | None, Option("registry-auth", ValueKind.CREDENTIALS, holds_secrets=True)
    ] = None
    #: labels of the container
    labels: Annotated[Mapping[str, str], Option("labels", ValueKind.TEXTS, check=check_label, in_defaults=True)] = (
        field(default_factory=dict)
    )
    kubernetes: Annotated[
        Mapping[str, Any], Option("kubernetes", ValueKind.KUBERNETES, in_defaults=True, limit=Limit(LimitKind.KEYS))
    ] = field(default_factory=dict)


#: Declaration of each option, by field of `JobSpec`.
JOB_OPTIONS: Mapping[str, Option] = {
    name: get_args(hint)[1] for name, hint in get_type_hints(JobSpec, include_extras=True).items()
}


@dataclass(frozen=True, slots=True)
class JobRetryPolicy:
    """How often a job is attempted while its failures are retryable, and what changes for the next attempt."""

    max_attempts: int = 3
    first_seconds: float = 1.0  #: wait before the second attempt; each further wait is twice as long
    cap_seconds: float = 3600.0
    memory_growth: MemoryGrowth | None = None  #: None: running out of memory is not retried


@dataclass(frozen=True, slots=True)
class Job:
    """
    A container job, stored in the same transaction as the step that launches it.

    Each attempt is one container. Its name is derived from the step's delivery id and the number of the
    attempt, so that a worker that takes over the job after a crash finds the existing container.
    """

    id: JobId
    name: str  #: set by the step, or the step's id; metrics are saved under this name
    automation: str
    execution_id: ExecutionId
    step_id: str
    event_id: EventId  #: the event that the execution answers
    delivery_id: DeliveryId
    queue: str
    backend: str
    spec: JobSpec
    created_at: datetime
    priority: int = 0  #: higher priorities start first
    concurrency: int | None = None  #: maximum number of active jobs of this step; None: only the queue's limits
    retry: JobRetryPolicy = JobRetryPolicy()
    save_metrics: bool = False  #: save the `metrics` among the outputs in the version's metadata
    version_reference: str | None = None  #: the version that the event is about
    secrets: tuple[str, ...] = ()  #: names of the secrets that the placeholders stand for
    nonce: str = ""  #: part of every placeholder of this job, so that no event can forge a placeholder

    state: JobState = JobState.QUEUED
    failure: FailureKind | None = None
    reason: str | None = None  #: why it waits, or how it ended
    attempt: int = 1  #: number of the current or last attempt
    due_at: datetime | None = None  #: when a queued job may start; None if it is not queued
    machine: str | None = None  #: the machine of the worker that started the attempt
    engine_id: str | None = None  #: identity of the engine that runs it; only workers that reach it can supervise it
    handle: str | None = None  #: the engine's own id of the container
    image_digest: str | None = None
    started_at: datetime | None = None  #: by the engine's clock
    finished_at: datetime | None = None
    exit_code: int | None = None
    outputs: Mapping[str, Any] | None = None
    log_tail: str = ""  #: last 64 KB of the log, with secrets masked
    stop_requested_at: datetime | None = None
    stop_requested_by: str | None = None
    seen_at: datetime | None = None  #: when its engine last reported on it
    lease_owner_id: WorkerId | None = None  #: the worker that supervises it
    lease_until: datetime | None = None
    fence: int = 0  #: grows with every claim; a write with a smaller number is refused

    @property
    def container_name(self) -> str:
        """Name of the current attempt's container; a DNS label, as Kubernetes requires."""
        return container_name(self.id, self.attempt)

    @property
    def deadline(self) -> datetime | None:
        """When the current attempt times out; None before it has started."""
        return None if self.started_at is None else self.started_at + timedelta(seconds=self.spec.timeout_seconds)


def container_name(job_id: JobId, attempt: int) -> str:
    """Return the name of the container of a job's attempt."""
    return f"upshot-{job_id.removeprefix('job_')}-{attempt}"
