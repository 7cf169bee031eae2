"""Requests and responses about events."""

from __future__ import annotations

from collections.abc import Collection as AnyCollection
from collections.abc import Iterable, Sequence
from typing import Any, Self

from pydantic import (
    AwareDatetime,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    RootModel,
    model_validator,
)
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_optional_time, format_time
from upshot.domain.automation import FileFault
from upshot.domain.event import EventKind
from upshot.execution.user_requests import Replay
from upshot.ids import EventId
from upshot.ports.events import StoredEvent
from upshot.ports.executions import Answer
from upshot.resources.event import EventJson, event_json
from upshot.web.schemas.requests import IdPart, JsonObject, PageQuery, RequestBody, StoredName
from upshot.web.schemas.responses import NextPage

MAX_EVENTS = 1_000  #: of one request
MAX_REPLAYED = 100  #: of one request


class NewEvent(RequestBody):
    """A custom event."""

    name: str
    data: JsonObject = Field({}, description="Any JSON object; templates read it as `event.data`.")


def _allow_single(schema: dict[str, Any]) -> None:
    many = {key: schema.pop(key) for key in ("type", "items", "minItems", "maxItems")}
    schema["anyOf"] = [many["items"], many]


class NewEvents(RootModel[list[NewEvent]]):
    """One custom event, or a list of them."""

    model_config = ConfigDict(frozen=True, json_schema_extra=_allow_single)

    root: list[NewEvent] = Field(min_length=1, max_length=MAX_EVENTS)
    _is_single: bool = PrivateAttr(default=False)

    @model_validator(mode="wrap")
    @classmethod
    def _wrap_single(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        # Validated outside the list, so that errors are located at `body`, not at `body.0`.
        events = handler([NewEvent.model_validate(data)])
        events._is_single = True  # noqa: SLF001 - an object of this class
        return events

    @property
    def is_single(self) -> bool:
        """Whether the request sent one event rather than a list."""
        return self._is_single


class EventsQuery(PageQuery):
    """Query parameters of the list of events."""

    kind: EventKind | None = None
    subject: StoredName | None = Field(None, max_length=300, description="The whole subject, or its part before a `:`.")
    name: StoredName | None = Field(None, max_length=128, description="Name of custom events.")
    mutation_id: str | None = Field(None, max_length=40, description="The mutation that caused the events.")
    since: AwareDatetime | None = Field(None, description="Only events since this time.")
    id: IdPart
    after: EventId | None = Field(
        None,
        pattern=r"^evt_[0-9a-hjkmnp-tv-z]{26}$",
        description="Only events later than this event id, oldest first. Events of concurrent mutations can become "
        "visible out of order, by as long as a mutation takes. To follow events, ask again from a few seconds back "
        "and drop events that you have seen.",
    )


class ReplayRequest(RequestBody):
    """Events to answer again."""

    event_ids: list[EventId] = Field(min_length=1, max_length=MAX_REPLAYED, description="Ids of events.")
    automation: str | None = Field(None, max_length=128, description="Only this automation.")
    dry_run: bool = Field(default=False, description="Only return what would happen.")


class ReplayAnswerJson(TypedDict):
    """The answer of one automation to a replayed event."""

    automation: str
    revision: str | None  #: the revision that answers the event; null if it does not answer it
    execution_id: str | None  #: null in a dry run, or if it does not answer the event
    reason: str | None  #: why it does not answer the event; null if it does


class ReplayedEventJson(TypedDict):
    """The replay of one event."""

    event_id: str
    answers: list[ReplayAnswerJson]
    reason: str | None  #: why nothing answers the event; null if something does


class Replays(TypedDict):
    """Replayed events, in the order of the request."""

    items: list[ReplayedEventJson]


def replay_json(event_id: EventId, replay: Replay, *, dry_run: bool) -> ReplayedEventJson:
    """Return the JSON object of a replayed event."""
    return {
        "event_id": event_id,
        "answers": [
            {
                "automation": answer.automation,
                "revision": answer.execution.revision_id if answer.execution else None,
                "execution_id": answer.execution.id if answer.execution and not dry_run else None,
                "reason": answer.reason,
            }
            for answer in replay.answers
        ],
        "reason": replay.reason,
    }


class AnswerJson(TypedDict):
    """An execution that answers an event."""

    automation: str
    execution_id: str


class StoredEventJson(EventJson):
    """An event, when it was matched, and what answers it."""

    matched_at: str | None  #: when a worker matched it; null while it waits for a worker
    answered_by: list[AnswerJson]
    automations: int  #: number of automations that could answer: those loaded now, and removed ones that did answer


class EventPage(NextPage):
    """A page of events, newest first."""

    items: list[StoredEventJson]


class ExplanationJson(TypedDict):
    """Why an automation answers an event, or why it does not."""

    automation: str
    answered: bool
    execution_id: str | None  #: the execution that answers the event
    reason: str  #: according to the automation as it is loaded now


class FileFaultJson(TypedDict):
    """An automation file that had errors when the event was matched, or has them now if the event waits."""

    path: str
    line: int | None  #: line of the first error; null if it concerns the whole file
    reason: str  #: of the first error
    error_count: int
    kept: list[str]  #: automations of the file whose last sound revision was in force
    since: str
    until: str | None  #: null while the file has these errors


class EventDetail(StoredEventJson):
    """An event with its executions."""

    warning: str | None  #: why some of what the event led to was not carried out, such as an exhausted budget
    execution_ids: list[str]  #: executions that answer the event
    explanation: list[ExplanationJson]  #: of each loaded automation, and of each removed one that answered
    broken: list[FileFaultJson]  #: automation files that had errors when the event was matched


class AcceptedEvent(StoredEventJson):
    """A custom event that was accepted."""

    event_ids: list[str]  #: the event's id; present because the response to a list has it too


class AcceptedEvents(TypedDict):
    """Custom events that were accepted."""

    items: list[StoredEventJson]  #: in the order of the request
    event_ids: list[str]  #: in the same order


def stored_event_json(stored: StoredEvent, answers: Iterable[Answer], loaded: AnyCollection[str]) -> StoredEventJson:
    """
    Return the JSON object of an event.

    Args:
        stored: The event.
        answers: The executions that answer it.
        loaded: Names of the automations that are loaded.
    """
    answered_by: list[AnswerJson] = [
        {"automation": answer.automation, "execution_id": answer.execution_id} for answer in answers
    ]
    return {
        **event_json(stored.event),
        "matched_at": format_optional_time(stored.matched_at),
        "answered_by": answered_by,
        "automations": len({*loaded, *(answer["automation"] for answer in answered_by)}),
    }


def event_detail(
    stored: StoredEvent, event: StoredEventJson, explanation: list[ExplanationJson], faults: Iterable[FileFault]
) -> EventDetail:
    """Return the JSON object of an event with its executions."""
    return {
        **event,
        "warning": stored.warning,
        "execution_ids": list(stored.execution_ids),
        "explanation": explanation,
        "broken": [
            {
                "path": fault.path,
                "line": fault.line,
                "reason": fault.reason,
                "error_count": fault.error_count,
                "kept": list(fault.kept),
                "since": format_time(fault.since),
                "until": format_optional_time(fault.until),
            }
            for fault in faults
        ],
    }


def accepted_event(event: StoredEventJson) -> AcceptedEvent:
    """Return the JSON object of an event that was sent by itself."""
    return {**event, "event_ids": [event["id"]]}


def accepted_events(events: Sequence[StoredEventJson]) -> AcceptedEvents:
    """Return the JSON object of events that were sent as a list."""
    return {"items": list(events), "event_ids": [event["id"] for event in events]}
