"""Events: listed, explained, and accepted from outside."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.domain.event import Event
from upshot.errors import NotFound
from upshot.ids import execution_id
from upshot.ports.events import EventQuery, StoredEvent
from upshot.ports.executions import ExecutionQuery
from upshot.web.auth import API
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import responses
from upshot.web.routing import CallerDep, Deps, IdempotencyKeyDep, make_router
from upshot.web.schemas.requests import MAX_LIMIT, EventsQuery, NewEvents
from upshot.web.schemas.responses import (
    AcceptedEventForm,
    AcceptedEventsForm,
    AnswerForm,
    EventForm,
    EventView,
    PageForm,
    accepted_event_form,
    accepted_events_form,
    event_form,
    event_view,
    json_response,
    page_form,
)

router = make_router("events")


@router.get("/events", responses={200: {"model": PageForm[EventForm]}, **responses()})
def list_events(house: Deps, query: Annotated[EventsQuery, Query()]) -> Response:
    """Events, newest first; with `after`, those that came later, oldest first."""
    wanted = EventQuery(
        kind=query.kind and query.kind.value,
        subject=query.subject,
        name=query.name,
        mutation_id=query.mutation,
        after=query.after,
    )
    return json_response(page_form(house.events.page(wanted, cursor=query.cursor, limit=query.limit), event_form))


@router.get("/events/{event}", responses={200: {"model": EventView}, **responses(404)})
def show_event(event: str, house: Deps) -> Response:
    """One event, the executions that answer it, and why the other automations do not."""
    stored = house.events.find(event)
    if stored is None:
        raise NotFound(f"there is no event {event!r}; GET {API}/events lists those there are")
    return json_response(event_view(stored, _explain(house, stored)))


def _explain(house: WebDependencies, stored: StoredEvent) -> list[AnswerForm]:
    left = set(stored.execution_ids)
    explanation: list[AnswerForm] = []
    for one in house.automations.current.matcher.explain(stored.event):
        execution = execution_id(stored.event.id, one.automation.name)
        answered = execution in left
        left.discard(execution)
        explanation.append(
            {
                "automation": one.automation.name,
                "answered": answered,
                "execution": execution if answered else None,
                "reason": _not_yet(stored) if one.answers and not answered else one.reason,
            }
        )
    return explanation + _others(house, stored, left)


def _not_yet(stored: StoredEvent) -> str:
    if stored.matched_at is None:
        return "it answers, as soon as a worker has matched the event"
    return "it would answer now; it was not loaded, or not like this, when the event was matched"


def _others(house: WebDependencies, stored: StoredEvent, executions: Collection[str]) -> list[AnswerForm]:
    """Executions of automations that are gone, and replays."""
    if not executions:
        return []
    page = house.executions.page(ExecutionQuery(event_id=stored.event.id), cursor=None, limit=MAX_LIMIT)
    return [
        {
            "automation": one.automation,
            "answered": True,
            "execution": one.id,
            "reason": f"answered in revision {one.revision}",
        }
        for one in page.items
        if one.id in executions
    ]


@router.post(
    "/events", status_code=201, responses={201: {"model": AcceptedEventForm | AcceptedEventsForm}, **responses()}
)
def emit(body: NewEvents, house: Deps, by: CallerDep, key: IdempotencyKeyDep) -> Response:
    """Accept custom events: one, which is the answer, or a list; all of them or none."""
    ids = key.event_ids(len(body.root)) if key else None
    accepted = house.registry.emit([(event.name, event.data) for event in body.root], event_ids=ids, **by)
    stored = _all_accepted(house, accepted, ids)
    if body.is_one:
        return json_response(accepted_event_form(stored[0]), 201, location=f"{API}/events/{stored[0].event.id}")
    return json_response(accepted_events_form(stored), 201)


def _all_accepted(house: WebDependencies, accepted: Sequence[Event], ids: Sequence[str] | None) -> list[StoredEvent]:
    """
    The events that were asked for, in the order of the request.

    Those of a call that died after accepting them are not accepted again, and yet are among them.
    """
    new = {event.id: StoredEvent(event, None) for event in accepted}
    return [found for one in ids or new if (found := new.get(one) or house.events.find(one))]
