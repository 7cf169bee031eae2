"""
What the API answers: the JSON form of every thing, each in one place.

Times are RFC 3339 in UTC with microseconds; what does not apply is null; a list is a page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NotRequired, TypeVar

import orjson
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.automations.parser.diagnostics import Diagnostic
from upshot.clock import format_time
from upshot.domain.automation import Automation, Step, Trigger
from upshot.domain.execution import Execution, Receipt, StepRecord
from upshot.domain.registry import (
    Artifact,
    ArtifactVersion,
    Change,
    Collection,
    HistoryEntry,
    RegistrySettings,
    Version,
)
from upshot.ports.events import StoredEvent
from upshot.ports.paging import Page
from upshot.ports.workers import WorkerRecord

T = TypeVar("T")
F = TypeVar("F")


def json_response(form: object, status: int = 200, *, location: str | None = None) -> Response:
    """The form as JSON, with the address of what was made."""
    headers = {"Location": location} if location else None
    return Response(orjson.dumps(form), status_code=status, headers=headers, media_type="application/json")


def optional_time(moment: datetime | None) -> str | None:
    """A time, or null."""
    return format_time(moment) if moment else None


# --- pages ----------------------------------------------------------------------------------------


class PageForm(TypedDict, Generic[F]):
    """One page of a list."""

    items: list[F]
    next: str | None  #: `cursor` of the page after this one; null when this is the last


def page_form(page: Page[T], form: Callable[[T], F]) -> PageForm[F]:
    """A page of forms."""
    return {"items": [form(item) for item in page.items], "next": page.next}


# --- registry -------------------------------------------------------------------------------------


class MutationResult(TypedDict):
    """What a mutation set going."""

    mutation_id: NotRequired[str | None]  #: shared by the mutation's events; null when nothing changed
    events: NotRequired[list[str]]  #: ids of the events that were accepted with it


class RegistryForm(TypedDict):
    """A registry and its rules."""

    name: str
    protected_aliases: list[str]  #: patterns; only an admin may add, move or remove these


class CollectionForm(MutationResult):
    """A registered model (or data set, …)."""

    registry: str
    name: str
    reference: str  #: `registry/collection`
    artifact_type: str
    description: str
    tags: list[str]
    aliases: dict[str, str]  #: alias → version
    created_at: str
    created_by: str


class LinkedArtifactForm(TypedDict):
    """The artifact version that a link points to."""

    project: str
    name: str
    type: str
    version: str
    reference: str  #: `project/name:v3`


class ArtifactForm(TypedDict):
    """What is logged again and again under one name in a project."""

    project: str
    name: str
    reference: str  #: `project/name`
    type: str
    aliases: dict[str, str]  #: in the project's scope: alias → version


class VersionForm(MutationResult):
    """One numbered entry of a collection."""

    version: str  #: `v3`
    reference: str  #: `registry/collection:v3`
    registry: str
    collection: str
    aliases: list[str]
    tags: list[str]
    description: str
    metadata: dict[str, Any]
    digest: str
    artifact: LinkedArtifactForm
    linked_at: str
    linked_by: str


class ArtifactVersionForm(MutationResult):
    """A logged thing: one numbered version of an artifact in a project."""

    reference: str  #: `project/name:v3`
    project: str
    name: str
    type: str
    version: str  #: `v3`
    digest: str
    metadata: dict[str, Any]
    description: str
    manifest: dict[str, str] | None  #: content digest by path; null when only a digest was given, and in lists
    aliases: list[str]
    tags: list[str]
    created_at: str
    created_by: str


class HistoryForm(TypedDict):
    """One mutation, as the append-only history keeps it."""

    id: str
    time: str
    actor: str
    action: str
    subject: str
    mutation_id: str
    registry: str | None
    collection: str | None
    before: dict[str, Any]
    after: dict[str, Any]


def effect_form(change: Change[Any]) -> MutationResult:
    """What a mutation set going."""
    mutation = change.events[0].mutation_id if change.events else None
    return {"mutation_id": mutation, "events": [event.id for event in change.events]}


def registry_form(registry: RegistrySettings) -> RegistryForm:
    """A registry."""
    return {"name": registry.name, "protected_aliases": list(registry.protected_aliases)}


def collection_form(collection: Collection) -> CollectionForm:
    """A collection."""
    return {
        "registry": collection.registry,
        "name": collection.name,
        "reference": collection.reference,
        "artifact_type": collection.artifact_type,
        "description": collection.description,
        "tags": list(collection.tags),
        "aliases": dict(collection.aliases),
        "created_at": format_time(collection.created_at),
        "created_by": collection.created_by,
    }


def version_form(version: Version) -> VersionForm:
    """A version, with what belongs to its artifact version."""
    artifact = version.artifact
    return {
        "version": version.name,
        "reference": version.reference,
        "registry": version.registry,
        "collection": version.collection,
        "aliases": list(version.aliases),
        "tags": list(artifact.tags),
        "description": artifact.description,
        "metadata": dict(artifact.metadata),
        "digest": artifact.digest,
        "artifact": {
            "project": artifact.project,
            "name": artifact.name,
            "type": artifact.type,
            "version": artifact.version,
            "reference": artifact.reference,
        },
        "linked_at": format_time(version.linked_at),
        "linked_by": version.linked_by,
    }


def artifact_form(artifact: Artifact) -> ArtifactForm:
    """An artifact with its aliases in the project."""
    return {
        "project": artifact.project,
        "name": artifact.name,
        "reference": artifact.reference,
        "type": artifact.type,
        "aliases": dict(artifact.aliases),
    }


def artifact_version_form(artifact: ArtifactVersion) -> ArtifactVersionForm:
    """An artifact version."""
    return {
        "reference": artifact.reference,
        "project": artifact.project,
        "name": artifact.name,
        "type": artifact.type,
        "version": artifact.version,
        "digest": artifact.digest,
        "metadata": dict(artifact.metadata),
        "description": artifact.description,
        "manifest": None if artifact.manifest is None else dict(artifact.manifest),
        "aliases": list(artifact.aliases),
        "tags": list(artifact.tags),
        "created_at": format_time(artifact.created_at),
        "created_by": artifact.created_by,
    }


def history_form(entry: HistoryEntry) -> HistoryForm:
    """An entry of the history."""
    return {
        "id": entry.id,
        "time": format_time(entry.time),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "mutation_id": entry.mutation_id,
        "registry": entry.registry,
        "collection": entry.collection,
        "before": dict(entry.before),
        "after": dict(entry.after),
    }


# --- events ---------------------------------------------------------------------------------------


class ActorForm(TypedDict):
    """Who did it."""

    name: str
    kind: str  #: user, service or automation


class CauseForm(TypedDict):
    """An execution that led to an event."""

    automation: str
    execution: str
    event: str
    version: str | None


class EventForm(TypedDict):
    """Something that happened."""

    id: str
    kind: str
    name: str | None  #: of a custom event
    time: str
    subject: str
    actor: ActorForm
    mutation_id: str
    sequence: int
    chain: list[CauseForm]  #: the executions that led here, oldest first
    data: dict[str, Any]
    matched_at: str | None  #: when a worker matched it; null while it waits for one


class AnswerForm(TypedDict):
    """What one automation made of an event."""

    automation: str
    answered: bool
    execution: str | None  #: id of the execution that answers it
    reason: str  #: why the automation answers it or does not, as it is loaded now


class EventView(EventForm):
    """An event with what has become of it."""

    executions: list[str]  #: ids of the executions that answer it
    explanation: list[AnswerForm]  #: one for each automation that is loaded, and for each that answered and is gone


class AcceptedEventForm(EventForm):
    """A custom event that was accepted; it is answered from now on."""

    ids: list[str]  #: its id alone, as the answer to a list has those of all


class AcceptedEventsForm(TypedDict):
    """Custom events that were accepted; they are answered from now on."""

    items: list[EventForm]  #: in the order of the request
    ids: list[str]  #: in the same order


def event_form(stored: StoredEvent) -> EventForm:
    """An event, as lists show it."""
    form: Any = stored.event.as_dict()
    form["matched_at"] = optional_time(stored.matched_at)
    return form  # type: ignore[no-any-return] # Event.as_dict says what is in it


def event_view(stored: StoredEvent, explanation: list[AnswerForm]) -> EventView:
    """An event with what has become of it."""
    return {**event_form(stored), "executions": list(stored.execution_ids), "explanation": explanation}


def accepted_event_form(stored: StoredEvent) -> AcceptedEventForm:
    """An event that was sent by itself, and accepted."""
    return {**event_form(stored), "ids": [stored.event.id]}


def accepted_events_form(stored: Sequence[StoredEvent]) -> AcceptedEventsForm:
    """Events that were sent as a list, and accepted."""
    return {"items": [event_form(one) for one in stored], "ids": [one.event.id for one in stored]}


# --- executions -----------------------------------------------------------------------------------


class AttemptForm(TypedDict):
    """The receipt of one attempt; secrets are masked."""

    number: int  #: counted from 1
    state: str
    request: dict[str, Any] | None
    response: dict[str, Any] | None
    error: str | None
    delivery_id: str  #: the same over all attempts
    started_at: str
    took_seconds: float
    wait_seconds: float | None  #: until the next attempt; null when there is none
    worker: str
    timings: dict[str, float] | None  #: seconds of each part


class StepForm(TypedDict):
    """Where one step of an execution stands."""

    id: str
    uses: str
    phase: str  #: main, or on-failure
    state: str
    reason: str | None
    attempt_count: int
    attempts: NotRequired[list[AttemptForm]]  #: in the view of one execution, not in lists
    outputs: dict[str, Any] | None
    job: str | None  #: id of the job that it waits for, or that it was
    started_at: str | None
    finished_at: str | None


class ExecutionForm(TypedDict):
    """One automation answering one event."""

    id: str
    automation: str
    revision: str
    event: str  #: id of the event
    state: str
    reason: str | None  #: why it waits, failed, was cancelled or skipped
    due_at: str | None  #: when a waiting execution goes on
    created_at: str
    finished_at: str | None
    steps: list[StepForm]


def _step_form(step: StepRecord) -> StepForm:
    return {
        "id": step.id,
        "uses": step.uses,
        "phase": step.phase,
        "state": step.state.value,
        "reason": step.reason,
        "attempt_count": step.attempts,
        "outputs": None if step.outputs is None else dict(step.outputs),
        "job": step.job_id,
        "started_at": optional_time(step.started_at),
        "finished_at": optional_time(step.finished_at),
    }


def _attempt_form(receipt: Receipt) -> AttemptForm:
    return {
        "number": receipt.attempt,
        "state": receipt.state.value,
        "request": None if receipt.request is None else dict(receipt.request),
        "response": None if receipt.response is None else dict(receipt.response),
        "error": receipt.error,
        "delivery_id": receipt.delivery_id,
        "started_at": format_time(receipt.started_at),
        "took_seconds": receipt.took_seconds,
        "wait_seconds": receipt.wait_seconds,
        "worker": receipt.worker_id,
        "timings": None if receipt.timings is None else dict(receipt.timings),
    }


def execution_form(execution: Execution) -> ExecutionForm:
    """An execution, as lists show it: without its receipts."""
    return {
        "id": execution.id,
        "automation": execution.automation,
        "revision": execution.revision,
        "event": execution.event_id,
        "state": execution.state.value,
        "reason": execution.reason,
        "due_at": optional_time(execution.due_at),
        "created_at": format_time(execution.created_at),
        "finished_at": optional_time(execution.finished_at),
        "steps": [_step_form(step) for step in execution.steps],
    }


def execution_view(execution: Execution, receipts: Iterable[Receipt]) -> ExecutionForm:
    """An execution with all its receipts."""
    by_step: dict[str, list[AttemptForm]] = defaultdict(list)
    for receipt in receipts:
        by_step[receipt.step_id].append(_attempt_form(receipt))
    form = execution_form(execution)
    for step in form["steps"]:
        step["attempts"] = by_step[step["id"]]
    return form


# --- automations ----------------------------------------------------------------------------------


class PatternForm(TypedDict):
    """One filter of a trigger (globs)."""

    any_of: list[str]  #: empty: anything
    none_of: list[str]


class TriggerForm(TypedDict):
    """One entry of `on`."""

    kind: str
    filters: dict[str, PatternForm]


class PlannedStepForm(TypedDict):
    """One item of `steps` or `on-failure`."""

    id: str
    uses: str


AutomationForm = TypedDict(
    "AutomationForm",
    {
        "name": str,
        "description": str,
        "enabled": bool,
        "path": str,
        "line": int,
        "revision": str,
        "on": list[TriggerForm],
        "if": str | None,
        "steps": list[PlannedStepForm],
        "on-failure": list[PlannedStepForm],
        "source": NotRequired[Mapping[str, Any]],
    },
)
"""An automation as it is loaded; `source`, the document as written, in the view of one."""


class BrokenForm(TypedDict):
    """What is wrong in a file of automations."""

    path: str
    line: int | None
    reason: str


class AutomationsForm(PageForm[AutomationForm]):
    """A page of automations, and all that is wrong in the folder."""

    broken: list[BrokenForm]


def _trigger_form(trigger: Trigger) -> TriggerForm:
    filters: dict[str, PatternForm] = {
        field: {"any_of": list(pattern.any_of), "none_of": list(pattern.none_of)}
        for field, pattern in trigger.filters.items()
    }
    return {"kind": trigger.kind.value, "filters": filters}


def _planned(steps: Iterable[Step]) -> list[PlannedStepForm]:
    return [{"id": step.id, "uses": step.uses} for step in steps]


def automation_form(automation: Automation) -> AutomationForm:
    """An automation, as lists show it."""
    return {
        "name": automation.name,
        "description": automation.description,
        "enabled": automation.enabled,
        "path": automation.path,
        "line": automation.line,
        "revision": automation.revision,
        "on": [_trigger_form(trigger) for trigger in automation.triggers],
        "if": automation.condition,
        "steps": _planned(automation.steps),
        "on-failure": _planned(automation.on_failure),
    }


def automation_view(automation: Automation) -> AutomationForm:
    """An automation with its document as it was written."""
    return {**automation_form(automation), "source": automation.source}


def broken_form(finding: Diagnostic) -> BrokenForm:
    """What is wrong in a file."""
    return {"path": finding.path, "line": finding.line, "reason": finding.reason}


# --- workers --------------------------------------------------------------------------------------


class WorkerForm(TypedDict):
    """A worker that is alive."""

    id: str
    host: str
    pid: int
    started_at: str
    seen_at: str
    in_hand: int  #: executions that it holds
    stream_read_at: str | None  #: when Redis last answered its read
    automations: int
    machine: str  #: that its jobs run on
    queues: list[str]  #: of jobs, that it takes; `events` among them: it answers events
    engines: dict[str, str]  #: that it reaches: identity by backend


def worker_form(worker: WorkerRecord) -> WorkerForm:
    """A worker."""
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "started_at": format_time(worker.started_at),
        "seen_at": format_time(worker.seen_at),
        "in_hand": worker.in_progress,
        "stream_read_at": optional_time(worker.stream_read_at),
        "automations": worker.automations,
        "machine": worker.machine,
        "queues": list(worker.queues),
        "engines": dict(worker.engines),
    }
