"""Accepted events, kept in the database with the mutation that made them."""

from __future__ import annotations

from collections.abc import Collection as AnyCollection
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from upshot.domain.event import Event
from upshot.ids import EventId, ExecutionId
from upshot.ports.paging import Page


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events to list; None means any."""

    kind: str | None = None
    subject: str | None = None  #: the whole subject, or its beginning up to a `:`
    name: str | None = None  #: of a custom event
    mutation_id: str | None = None
    after_id: EventId | None = None  #: an event's id: only later ones, and the page is then oldest first


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with what has become of it."""

    event: Event
    matched_at: datetime | None  #: when it was matched; None while it waits for a worker
    execution_ids: tuple[ExecutionId, ...] = ()  #: ids of the executions that answer it


class EventStore(Protocol):
    """Accepted events, kept in the database with the mutation that made them."""

    def get(self, event_ids: AnyCollection[EventId]) -> Mapping[EventId, Event]:
        """The events of these ids; those that do not exist are left out."""
        ...

    def find(self, event_id: EventId) -> StoredEvent | None:
        """One event with what has become of it."""
        ...

    def page(self, query: EventQuery, *, cursor: str | None, limit: int) -> Page[StoredEvent]:
        """
        Events, newest first (oldest first with `query.after`); `executions` is left empty in lists.

        Raises:
            InvalidInput: The cursor is not one that a page gave.
        """
        ...

    def take_unmatched(self, *, published_before: datetime, now: datetime, limit: int) -> tuple[Event, ...]:
        """Take for publishing again: unmatched events last published before then, oldest first; published now."""
        ...
