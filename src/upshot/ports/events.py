"""Accepted events, stored in the database together with the mutation that created them."""

from __future__ import annotations

from collections.abc import Collection as AnyCollection
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from upshot.domain.event import Event
from upshot.ids import EventId, ExecutionId
from upshot.ports.paging import Page

RARE_FACTOR = 8  #: how much smaller the score of a rare event is than the largest score


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events to list; None means any."""

    kind: str | None = None
    subject: str | None = None  #: the whole subject, or its beginning up to a `:`
    name: str | None = None  #: name of a custom event
    mutation_id: str | None = None
    after_id: EventId | None = None  #: list only later events, the oldest first
    since: datetime | None = None  #: list only events since then
    id_part: str | None = None  #: the beginning or the end of the id


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its match."""

    event: Event
    matched_at: datetime | None  #: None while the event waits for a worker
    execution_ids: tuple[ExecutionId, ...] = ()  #: the executions that answer it
    warning: str | None = None  #: why some of what the event led to was not carried out; None if nothing was left out


class EventStore(Protocol):
    """Accepted events."""

    def get(self, event_ids: AnyCollection[EventId]) -> Mapping[EventId, Event]:
        """Return the events with these ids. Leave out ids that do not exist."""
        ...

    def find(self, event_id: EventId) -> StoredEvent | None:
        """Return an event with the executions that answer it, and its warning."""
        ...

    def page(self, query: EventQuery, *, cursor: str | None, limit: int) -> Page[StoredEvent]:
        """
        Return a page of events, newest first; oldest first with `query.after_id`. `execution_ids` stays empty.

        Raises:
            InvalidInput: No page has returned this cursor.
        """
        ...

    def take_unmatched(self, *, published_before: datetime, now: datetime, limit: int) -> tuple[Event, ...]:
        """Take unmatched events that were last published before then, oldest first, and mark them as published now."""
        ...

    def newest_unmatched(self) -> EventId | None:
        """Return the unmatched event that was published last, or None. This is much cheaper than `find_rare`."""
        ...

    def find_rare(self, *, among: int, limit: int) -> tuple[Event, ...]:
        """
        Return unmatched events that are unlike most others, the rarest first, then the oldest first.

        The score of an event is the product of four counts: the events of its kind, those of them with its name,
        and of these those with its alias, and those with its subject up to the first `:`. An event is rare if the
        largest score is at least `RARE_FACTOR` times its own.

        Args:
            among: Number of unmatched events to compare, the last published ones.
            limit: Maximum number of returned events.
        """
        ...
