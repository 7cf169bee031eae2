"""Home: what needs attention, what is live, and what happened in the last day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from upshot.automations.triggers import is_glob
from upshot.domain.event import EventKind
from upshot.domain.execution import Execution, ExecutionState
from upshot.domain.job import Job, JobState
from upshot.domain.reference import LATEST
from upshot.domain.registry import Collection
from upshot.ports.destinations import Destination
from upshot.ports.events import EventQuery
from upshot.ports.executions import ExecutionQuery
from upshot.ports.jobs import JobQuery
from upshot.registry.protection import is_protected
from upshot.unicode_text import to_nfc
from upshot.web.dependencies import WORKER_TIMEOUT_SECONDS, WebDependencies
from upshot.web.pages.page_route import make_page_router
from upshot.web.pages.rendering import render
from upshot.web.routing import Deps
from upshot.web.visibility import Visibility, VisibilityDep

router = make_page_router()

DAY = timedelta(days=1)
BUCKET = timedelta(minutes=30)
BUCKETS = DAY // BUCKET
MAX_ALIASES = 25  #: rows of what is live
MAX_FAILURES = 5
MAX_JOBS = 10
_MAX_COLLECTIONS = 200  # of a registry that are searched for aliases
_MAX_ANSWERS = 4  # of one alias
_EVENTS = 10  # of a version, among which the last move of an alias is searched
_ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})
_STRIP_HEIGHT = 52
_BAR_WIDTH = 24
#: The states of the strip and its links. A running execution is one that waits for its receiver.
_SHOWN = {
    ExecutionState.SUCCEEDED: "succeeded",
    ExecutionState.WAITING: "waiting",
    ExecutionState.RUNNING: "waiting",
    ExecutionState.FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class LiveAlias:
    """A row of *What is live*."""

    collection: Collection
    alias: str
    version: str
    is_protected: bool
    since: datetime | None  #: None if the event of the move is no longer stored
    by: str | None
    answers: Sequence[Execution]


@dataclass(frozen=True, slots=True)
class Bar:
    """Half an hour of the strip. Numbers are those of its SVG."""

    title: str
    x: int
    succeeded: float
    waiting: float
    failed: float


@dataclass(frozen=True, slots=True)
class Strip:
    """The executions of the last day over time."""

    bars: Sequence[Bar]
    totals: Mapping[str, int]
    largest: int
    label: str
    ticks: Sequence[str]


@router.get("/")
def show_home(request: Request, deps: Deps, visibility: VisibilityDep) -> Response:
    """Show what needs attention, what is live, the executions of the last day, jobs, workers and destinations."""
    now = deps.clock.now()
    live = list(islice(live_aliases(deps, visibility), MAX_ALIASES + 1))
    context: dict[str, Any] = {} if visibility.registry else _installation(deps, now)
    return render(
        request,
        "home.html",
        is_limited=visibility.registry is not None,
        registry=visibility.registry,
        is_empty=visibility.registry is None and _is_empty(deps),
        live=live[:MAX_ALIASES],
        has_more=len(live) > MAX_ALIASES,
        **context,
    )


def _is_empty(deps: WebDependencies) -> bool:
    return not deps.registry.registries() and not deps.events.page(EventQuery(), cursor=None, limit=1).items


def _installation(deps: WebDependencies, now: datetime) -> dict[str, Any]:
    """Return what concerns the whole installation, which a token for one registry does not see."""
    loaded = deps.automations.current
    known = deps.automation_sets.read()
    workers = deps.live_workers()
    destinations = deps.destinations.list(seen_since=now - timedelta(seconds=WORKER_TIMEOUT_SECONDS))
    failed = deps.executions.page(
        ExecutionQuery(states=frozenset({ExecutionState.FAILED}), since=now - DAY), cursor=None, limit=MAX_FAILURES
    )
    subjects = {event.id: event.subject for event in deps.events.get([item.event_id for item in failed.items]).values()}
    jobs: Sequence[Job] = deps.jobs.page(JobQuery(states=_ACTIVE), cursor=None, limit=MAX_JOBS).items
    down: list[Destination] = [destination for destination in destinations if destination.is_down]
    return {
        "failed": [(execution, subjects.get(execution.event_id)) for execution in failed.items],
        "broken": [(mistake, file.kept) for file in loaded.broken for mistake in file.errors],
        "workers": [(worker, known.holdings.get(worker.id)) for worker in workers],
        "destinations": destinations,
        "down": down,
        "jobs": jobs,
        "strip": make_strip(deps.executions.count_by_time(start_of_strip(now), BUCKET), start_of_strip(now)),
    }


def live_aliases(deps: WebDependencies, visibility: Visibility) -> Iterator[LiveAlias]:
    """Yield the protected aliases, and those that a filter of an active automation names, but never `latest`."""
    watched = {
        to_nfc(name)
        for automation in deps.automations.current.automations
        if automation.enabled
        for trigger in automation.triggers
        if "alias" in trigger.filters
        for name in trigger.filters["alias"].any_of
        if not is_glob(name)
    }
    for registry in deps.registry.registries():
        if not visibility.sees_registry(registry.name):
            continue
        page = deps.registry.collections(registry.name, cursor=None, limit=_MAX_COLLECTIONS)
        for collection in page.items:
            for alias, version in sorted(collection.aliases.items()):
                protected = is_protected(registry, alias)
                if alias != LATEST and (protected or to_nfc(alias) in watched):
                    yield _live_alias(deps, visibility, collection, alias, version, protected=protected)


def _live_alias(
    deps: WebDependencies, visibility: Visibility, collection: Collection, alias: str, version: str, *, protected: bool
) -> LiveAlias:
    query = EventQuery(kind=EventKind.ALIAS_ADDED.value, subject=f"{collection.reference}:{version}")
    moves = deps.events.page(query, cursor=None, limit=_EVENTS).items
    move = next((stored.event for stored in moves if stored.event.data.get("alias") == alias), None)
    answers: Sequence[Execution] = ()
    if move is not None and visibility.registry is None:
        answers = deps.executions.page(ExecutionQuery(event_id=move.id), cursor=None, limit=_MAX_ANSWERS).items
    return LiveAlias(
        collection,
        alias,
        version,
        protected,
        since=move.time if move else None,
        by=move.actor.name if move else None,
        answers=answers,
    )


def start_of_strip(now: datetime) -> datetime:
    """Return the full half hour at which the last 24 hours begin, so that bars have round times."""
    of_day = now - now.replace(hour=0, minute=0, second=0, microsecond=0)
    return now - of_day % BUCKET + BUCKET - DAY


def make_strip(counted: Mapping[tuple[int, ExecutionState], int], start: datetime) -> Strip:
    """Return the strip of a day: succeeded and waiting above the line, failed below it."""
    counts: dict[int, Counter[str]] = {number: Counter() for number in range(BUCKETS)}
    for (number, state), count in counted.items():
        if state in _SHOWN:
            counts[min(max(number, 0), BUCKETS - 1)][_SHOWN[state]] += count
    largest = max(found["succeeded"] + found["waiting"] for found in counts.values())
    most_failed = max(found["failed"] for found in counts.values())
    times = [f"{start + number * BUCKET:%H:%M}" for number in range(BUCKETS)]
    bars = [
        Bar(
            title=f"{times[number]}: "
            + (", ".join(f"{count} {state}" for state, count in found.items() if count) or "0"),
            x=2 + _BAR_WIDTH * number,
            succeeded=round(_STRIP_HEIGHT * found["succeeded"] / max(largest, 1), 1),
            waiting=round(_STRIP_HEIGHT * found["waiting"] / max(largest, 1), 1),
            failed=round(20 * found["failed"] / max(most_failed, 1), 1),
        )
        for number, found in counts.items()
    ]
    totals = {state: sum(found[state] for found in counts.values()) for state in ("succeeded", "waiting", "failed")}
    said = ", ".join(f"{total} {state}" for state, total in totals.items())
    return Strip(
        bars=bars,
        totals=totals,
        largest=largest,
        label=f"Executions by half hour, at most {largest}. In 24 hours: {said}.",
        ticks=[*(times[number] for number in range(0, BUCKETS, 8)), "now"],
    )
