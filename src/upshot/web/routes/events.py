"""Events: listed, explained, and accepted from outside."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.domain.event import Event
from upshot.errors import NotFound
from upshot.ids import execution_id
from upshot.ports import EventQuery
from upshot.web.access import API
from upshot.web.forms import (
    AcceptedForm,
    AnswerForm,
    EventForm,
    EventView,
    PageForm,
    accepted_form,
    event_form,
    event_view,
    json_response,
    page_form,
)
from upshot.web.house import House
from upshot.web.problems import responses
from upshot.web.records import EventsQuery, NewEvents
from upshot.web.routing import By, Here, Key, make_router

router = make_router("events")


@router.get("/events", responses={200: {"model": PageForm[EventForm]}, **responses()})
def list_events(house: Here, query: Annotated[EventsQuery, Query()]) -> Response:
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
def show_event(event: str, house: Here) -> Response:
    """One event, the executions that answer it, and why the other automations do not."""
    stored = house.events.find(event)
    if stored is None:
        raise NotFound(f"there is no event {event!r}; GET {API}/events lists those there are")
    return json_response(event_view(stored, _explain(house, stored.event, frozenset(stored.executions))))


def _explain(house: House, event: Event, answers: frozenset[str]) -> list[AnswerForm]:
    """What each automation made of the event; those that answered it and are gone have their executions alone."""
    explanation: list[AnswerForm] = []
    for automation, miss in house.automations.current.matcher.explain(event).items():
        execution = execution_id(event.id, automation)
        answered = execution in answers
        explanation.append(
            {
                "automation": automation,
                "answered": answered,
                "execution": execution if answered else None,
                "reason": None if answered else miss,
            }
        )
    return explanation


@router.post("/events", status_code=202, responses={202: {"model": AcceptedForm}, **responses()})
def emit(body: NewEvents, house: Here, actor: By, key: Key) -> Response:
    """Accept custom events: one, or a list; all of them or none."""
    accepted = house.registry.emit(
        [(event.name, event.data) for event in body.root],
        actor=actor,
        event_ids=key.event_ids(len(body.root)) if key else None,
    )
    return json_response(accepted_form(accepted), 202)
