"""Routes of events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.errors import NotFound
from upshot.ids import EventId, derive_execution_id
from upshot.ports.events import EventQuery, StoredEvent
from upshot.ports.executions import ExecutionQuery
from upshot.ports.paging import Page
from upshot.resources.urls import API_PREFIX, api_path
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, IdempotencyKeyDep, OriginDep, make_router
from upshot.web.schemas.events import (
    AcceptedEvent,
    AcceptedEvents,
    EventDetail,
    EventPage,
    EventsQuery,
    ExplanationJson,
    NewEvents,
    ReplayRequest,
    Replays,
    StoredEventJson,
    accepted_event,
    accepted_events,
    event_detail,
    replay_json,
    stored_event_json,
)
from upshot.web.schemas.requests import MAX_LIMIT
from upshot.web.schemas.responses import json_response, page_json

router = make_router("events")


@router.get("/events", responses={200: {"model": EventPage}, **problem_responses()})
def list_events(deps: Deps, query: Annotated[EventsQuery, Query()]) -> Response:
    """Return events, newest first; with `after`, later events, oldest first."""
    event_query = EventQuery(
        kind=query.kind and query.kind.value,
        subject=query.subject,
        name=query.name,
        mutation_id=query.mutation_id,
        after_id=query.after,
        since=query.since,
        id_part=query.id,
    )
    page = deps.events.page(event_query, cursor=query.cursor, limit=query.limit)
    return json_response(page_json(Page(_events_json(deps, page.items), page.next), lambda event: event))


@router.get("/events/{event_id}", responses={200: {"model": EventDetail}, **problem_responses(404)})
def get_event(event_id: EventId, deps: Deps) -> Response:
    """
    Return an event, the executions that answer it, and why the other automations do not answer it.

    `broken` has the automation files that had errors when the event was matched.
    """
    stored = _stored(deps, event_id)
    (event,) = _events_json(deps, [stored])
    faults = deps.revisions.faults_at(stored.matched_at or deps.clock.now())
    return json_response(event_detail(stored, event, _explain(deps, stored), faults))


def _stored(deps: WebDependencies, event_id: EventId) -> StoredEvent:
    stored = deps.events.find(event_id)
    if stored is None:
        raise NotFound(f"there is no event {event_id!r}; GET {API_PREFIX}/events lists events")
    return stored


def _events_json(deps: WebDependencies, events: Sequence[StoredEvent]) -> tuple[StoredEventJson, ...]:
    """Return the JSON objects of events, with the executions that answer them."""
    loaded = {automation.name for automation in deps.automations.current.automations}
    answers = deps.executions.answers([stored.event.id for stored in events])
    return tuple(stored_event_json(stored, answers.get(stored.event.id, ()), loaded) for stored in events)


def _explain(deps: WebDependencies, stored: StoredEvent) -> list[ExplanationJson]:
    unexplained = set(stored.execution_ids)
    explanations: list[ExplanationJson] = []
    for match in deps.automations.current.matcher.explain(stored.event):
        execution_id = derive_execution_id(stored.event.id, match.automation.name)
        answered = execution_id in unexplained
        unexplained.discard(execution_id)
        reason = match.reason
        if match.answers and not answered:
            reason = (
                "it will answer when a worker matches the event"
                if stored.matched_at is None
                else "it would answer now, but it was not loaded, or was different, when the event was matched"
            )
        explanations.append(
            {
                "automation": match.automation.name,
                "answered": answered,
                "execution_id": execution_id if answered else None,
                "reason": reason,
            }
        )
    if unexplained:  # of automations that were removed, and replays
        page = deps.executions.page(ExecutionQuery(event_id=stored.event.id), cursor=None, limit=MAX_LIMIT)
        explanations += [
            {
                "automation": execution.automation,
                "answered": True,
                "execution_id": execution.id,
                "reason": f"{'a replay with ' if execution.is_replay else ''}revision {execution.revision_id} "
                "answered it",
            }
            for execution in page.items
            if execution.id in unexplained
        ]
    return explanations


@router.post(
    "/events",
    status_code=201,
    responses={201: {"model": AcceptedEvent | AcceptedEvents}, **problem_responses()},
)
def emit_events(body: NewEvents, deps: Deps, origin: OriginDep, key: IdempotencyKeyDep) -> Response:
    """Accept one custom event or a list of them. Either all events of a list are accepted, or none."""
    event_ids = key.event_ids(len(body.root)) if key else None
    new = {
        event.id: StoredEvent(event, None)
        for event in deps.registry.emit(
            [(event.name, event.data) for event in body.root], event_ids=event_ids, origin=origin
        )
    }
    # A call that died after the commit has accepted the events already; then they are only in the store.
    accepted = [stored for event_id in event_ids or new if (stored := new.get(event_id) or deps.events.find(event_id))]
    events = _events_json(deps, accepted)
    if body.is_single:
        return json_response(accepted_event(events[0]), 201, location=api_path("events", events[0]["id"]))
    return json_response(accepted_events(events), 201)


@router.post("/replays", responses={200: {"model": Replays}, **problem_responses(404)})
def replay_events(body: ReplayRequest, deps: Deps, origin: OriginDep) -> Response:
    """
    Answer events again, with the automations that are loaded now.

    Each answer is a new execution with delivery ids of its own, and is marked as a replay.
    """
    # checked before the first event is replayed
    stored = {event_id: _stored(deps, event_id) for event_id in body.event_ids}
    now, user_name = deps.clock.now(), origin.actor.name
    replays: Replays = {
        "items": [
            replay_json(
                event_id,
                deps.requests.replay(event, now, user_name=user_name, automation=body.automation, dry_run=body.dry_run),
                dry_run=body.dry_run,
            )
            for event_id, event in stored.items()
        ]
    }
    return json_response(replays)
