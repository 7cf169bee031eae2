"""
What the API answers about jobs: their JSON form.

Where a secret goes, a job holds a mark until it starts; people see the template that the mark came
from, and never the nonce that it is made with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_time
from upshot.domain.job import ImagePullCredentials, Job, JobSpec
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.masking import MASK
from upshot.ports.jobs import LogChunk, QueuePosition
from upshot.web.schemas.responses import optional_time


class JobForm(TypedDict):
    """A container job, as lists show it."""

    id: str
    name: str  #: as written, or the step's id
    automation: str
    execution: str  #: id of the execution whose step waits for it
    step: str
    event: str  #: id of the event that the execution answers
    version: str | None  #: reference of the version that the event is about
    queue: str
    backend: str
    image: str
    priority: int  #: higher first
    state: str
    cause: str | None  #: why the last try did not succeed: exited, timed-out, out-of-memory, …
    reason: str | None  #: why it waits, or how it ended
    try_number: int  #: of the present or last try
    machine: str | None  #: of the worker that started the try
    exit_code: int | None
    created_at: str
    due_at: str | None  #: a queued job may start then
    started_at: str | None
    finished_at: str | None


class MountForm(TypedDict):
    """A folder of the machine, or a volume, that a job sees."""

    source: str
    target: str
    read_only: bool


class RegistryAuthForm(TypedDict):
    """With what its image is pulled."""

    username: str
    password: str  #: the template that gives it; `***` where it was written out


class JobSpecForm(TypedDict):
    """What is to run, with the queue's defaults filled in; secrets as the templates that give them."""

    image: str
    command: list[str] | None  #: in place of the image's entry point
    args: list[str] | None
    env: dict[str, str]
    files: dict[str, str]  #: text of files under `/upshot/secrets`, by name
    workdir: str | None
    cpus: float | None  #: null: no limit, here and below
    memory_bytes: int | None
    gpus: int  #: -1: all of the machine
    shm_bytes: int | None
    pids: int
    timeout_seconds: float
    grace_seconds: float
    network: str
    user: str | None
    read_only: bool
    privileged: bool
    mounts: list[MountForm]
    pull: str
    registry_auth: RegistryAuthForm | None
    labels: dict[str, str]
    options: dict[str, Any]  #: what only its backend understands


class PlaceForm(TypedDict):
    """Where a queued job stands."""

    ahead: int  #: queued jobs of its queue that go first
    active: int  #: jobs of its queue that hold a place now


class MemoryGrowthForm(TypedDict):
    """More memory for another try, after a try ran out of it."""

    factor: float
    up_to_bytes: int | None  #: null: the queue's ceiling


class TriesForm(TypedDict):
    """How often it is tried where that is worth it."""

    most: int
    first_seconds: float  #: wait before the second try; doubles
    cap_seconds: float
    memory_growth: MemoryGrowthForm | None


class JobView(JobForm):
    """A container job with all that is known of it."""

    waits: str | None  #: in words, what a queued job waits for; null when it is not queued
    place: PlaceForm | None  #: of a queued job
    spec: JobSpecForm
    tries: TriesForm
    concurrency: int | None  #: jobs of this step that run at the same time; null: the queue's limits alone
    secrets: list[str]  #: names of those that are filled in where it starts
    save_metrics: bool  #: `metrics` of its outputs go to the version's metadata
    delivery_id: str
    container: str  #: name of the present try's container
    image_digest: str | None
    engine: str | None  #: identity of the engine that has it
    handle: str | None  #: the engine's own id of it
    seen_at: str | None  #: when its engine last answered for it
    stop_asked_at: str | None
    stop_asked_by: str | None
    outputs: dict[str, Any] | None
    log_tail: str  #: the last 64 KB of an ended try; `/log` has all that is kept, also while it runs


class LogPieceForm(TypedDict):
    """A piece of a log."""

    number: int  #: counted from 1 over the job; a gap is what the log's limit has removed
    text: str


class JobLogForm(TypedDict):
    """The next pieces of a log."""

    items: list[LogPieceForm]
    next: int  #: `after` of the question for the pieces after these
    done: bool  #: the job has ended, and these are its last pieces


def job_form(job: Job) -> JobForm:
    """A job, as lists show it."""
    form: JobForm = {
        "id": job.id,
        "name": job.name,
        "automation": job.automation,
        "execution": job.execution_id,
        "step": job.step_id,
        "event": job.event_id,
        "version": job.version_reference,
        "queue": job.queue,
        "backend": job.backend,
        "image": job.spec.image,
        "priority": job.priority,
        "state": job.state.value,
        "cause": job.failure and job.failure.value,
        "reason": job.reason,
        "try_number": job.attempt,
        "machine": job.machine,
        "exit_code": job.exit_code,
        "created_at": format_time(job.created_at),
        "due_at": optional_time(job.due_at),
        "started_at": optional_time(job.started_at),
        "finished_at": optional_time(job.finished_at),
    }
    return cast("JobForm", _shown(job, form))


def job_view(job: Job, place: QueuePosition | None, waits: str | None) -> JobView:
    """A job with all that people may see of it."""
    form: JobView = {
        **job_form(job),
        "waits": waits,
        "place": cast("PlaceForm", asdict(place)) if place else None,
        "spec": _spec_form(job.spec, SecretPlaceholders(job.nonce)),
        "tries": cast("TriesForm", asdict(job.retry)),
        "concurrency": job.concurrency,
        "secrets": list(job.secrets),
        "save_metrics": job.save_metrics,
        "delivery_id": job.delivery_id,
        "container": job.container,
        "image_digest": job.image_digest,
        "engine": job.engine_id,
        "handle": job.handle,
        "seen_at": optional_time(job.seen_at),
        "stop_asked_at": optional_time(job.stop_requested_at),
        "stop_asked_by": job.stop_requested_by,
        "outputs": None if job.outputs is None else dict(job.outputs),
        "log_tail": job.log_tail,
    }
    return cast("JobView", _shown(job, form))


def _shown(job: Job, form: Mapping[str, Any]) -> Any:
    """The form with every mark as its template, wherever one turns up."""
    return SecretPlaceholders(job.nonce).show(form)


def _spec_form(spec: JobSpec, marks: SecretPlaceholders) -> JobSpecForm:
    form = {field.name: getattr(spec, field.name) for field in fields(spec)}
    form["mounts"] = [asdict(mount) for mount in spec.mounts]
    form["registry_auth"] = spec.registry_auth and _auth_form(spec.registry_auth, marks)
    return cast("JobSpecForm", form)


def _auth_form(auth: ImagePullCredentials, marks: SecretPlaceholders) -> RegistryAuthForm:
    return {"username": auth.username, "password": auth.password if marks.names(auth.password) else MASK}


def log_form(pieces: Sequence[LogChunk], *, after: int, done: bool) -> JobLogForm:
    """The pieces after that number."""
    return {
        "items": [{"number": piece.number, "text": piece.text} for piece in pieces],
        "next": pieces[-1].number if pieces else after,
        "done": done,
    }
