"""Events in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import prod

from typing_extensions import override

from upshot.adapters.cursor import decode_event_cursor, make_cursor
from upshot.domain.event import ALIAS_KINDS, Event, alias_time
from upshot.ids import EventId, ExecutionId, first_id, has_part
from upshot.ports.events import RARE_FACTOR, EventQuery, EventStore, StoredEvent
from upshot.ports.paging import Page


@dataclass(frozen=True, slots=True)
class _Row:
    event: Event
    published_at: datetime
    matched_at: datetime | None = None
    execution_ids: tuple[ExecutionId, ...] = ()


@dataclass(slots=True)
class RootCounts:
    """What one event has led to."""

    executions: int
    events: int = 0
    warning: str | None = None


class MemoryEvents(EventStore):
    """`EventStore` in memory. The registry adds events to it, and `MemoryExecutions` marks them as matched."""

    def __init__(self) -> None:
        self._rows: dict[EventId, _Row] = {}
        self._roots: dict[EventId, RootCounts] = {}
        self.lock = threading.RLock()

    def add(self, events: Sequence[Event], now: datetime) -> tuple[EventId, ...]:
        """Accept events, published now, and return the ids of the new ones."""
        with self.lock:
            new = {event.id: _Row(event, now) for event in events if event.id not in self._rows}
            self._rows.update(new)
            return tuple(new)

    def discard(self, event_ids: Iterable[EventId]) -> None:
        """Remove the events of a transaction that failed."""
        with self.lock:
            for event_id in event_ids:
                del self._rows[event_id]

    def alias_changed_at(self, series_reference: str, alias: str) -> datetime | None:
        """Return the time of the last event of an alias, or None."""
        with self.lock:
            times = (
                alias_time(row.event.time, row.event.data)
                for row in self._rows.values()
                if row.event.kind in ALIAS_KINDS
                and row.event.data.get("alias") == alias
                and row.event.subject.partition(":")[0] == series_reference
            )
            return max(times, default=None)

    def mark_matched(self, execution_ids: Mapping[EventId, Iterable[ExecutionId]], now: datetime) -> None:
        """Mark events as matched, and store the ids of the executions that answer each."""
        with self.lock:
            for event_id, ids in execution_ids.items():
                if row := self._rows.get(event_id):
                    all_ids = tuple(sorted({*row.execution_ids, *ids}))
                    self._rows[event_id] = replace(row, matched_at=row.matched_at or now, execution_ids=all_ids)

    def root_counts(self, root_event_id: EventId) -> RootCounts:
        """Return the counts of an event. They begin with the executions that answer the event itself."""
        with self.lock:
            row = self._rows.get(root_event_id)
            return self._roots.setdefault(root_event_id, RootCounts(len(row.execution_ids) if row else 0))

    def set_warning(self, root_event_id: EventId, warning: str) -> bool:
        """Store a warning, or return False if the event has one."""
        counts = self.root_counts(root_event_id)
        is_first = counts.warning is None
        counts.warning = counts.warning or warning
        return is_first

    @override
    def get(self, event_ids: Collection[EventId]) -> Mapping[EventId, Event]:
        with self.lock:
            return {event_id: self._rows[event_id].event for event_id in event_ids if event_id in self._rows}

    @override
    def find(self, event_id: EventId) -> StoredEvent | None:
        with self.lock:
            row = self._rows.get(event_id)
            counts = self._roots.get(event_id)
        warning = counts.warning if counts else None
        return StoredEvent(row.event, row.matched_at, row.execution_ids, warning) if row else None

    @override
    def page(self, query: EventQuery, *, cursor: str | None, limit: int) -> Page[StoredEvent]:
        oldest_first = query.after_id is not None
        last = decode_event_cursor(cursor) if cursor is not None else None
        with self.lock:
            found = [row for row in self._rows.values() if _matches(row.event, query)]
        found.sort(key=lambda row: row.event.id, reverse=not oldest_first)
        if last is not None:
            found = [row for row in found if (row.event.id > last if oldest_first else row.event.id < last)]
        items = tuple(StoredEvent(row.event, row.matched_at) for row in found[:limit])
        return Page(items, make_cursor(items[-1].event.id) if len(found) > limit else None)

    @override
    def take_unmatched(self, *, published_before: datetime, now: datetime, limit: int) -> tuple[Event, ...]:
        with self.lock:
            waiting = [
                row for row in self._rows.values() if row.matched_at is None and row.published_at < published_before
            ]
            waiting.sort(key=lambda row: (row.published_at, row.event.id))
            for row in waiting[:limit]:
                self._rows[row.event.id] = replace(row, published_at=now)
            return tuple(row.event for row in waiting[:limit])

    @override
    def newest_unmatched(self) -> EventId | None:
        with self.lock:
            waiting = [row for row in self._rows.values() if row.matched_at is None]
        newest = max(waiting, key=lambda row: (row.published_at, row.event.id), default=None)
        return None if newest is None else newest.event.id

    @override
    def find_rare(self, *, among: int, limit: int) -> tuple[Event, ...]:
        with self.lock:
            waiting = [row for row in self._rows.values() if row.matched_at is None]
        waiting.sort(key=lambda row: row.published_at, reverse=True)
        compared = [row.event for row in waiting[:among]]
        counts = Counter(likeness for event in compared for likeness in _likenesses(event))
        scores = {event.id: prod(counts[likeness] for likeness in _likenesses(event)) for event in compared}
        largest = max(scores.values(), default=0)
        rare = [event for event in compared if scores[event.id] * RARE_FACTOR <= largest]
        rare.sort(key=lambda event: (scores[event.id], event.id))
        return tuple(rare[:limit])


def _likenesses(event: Event) -> tuple[tuple[object, ...], ...]:
    """Return what the event can have in common with others (see `EventStore.find_rare`)."""
    kind, name = event.kind, event.name
    alias = event.data.get("alias") if kind in ALIAS_KINDS else None
    subject = event.subject.partition(":")[0]
    return (kind,), (kind, name), (kind, name, "alias", alias), (kind, name, "subject", subject)


def _matches(event: Event, query: EventQuery) -> bool:
    return (
        query.subject in (None, event.subject, event.subject.partition(":")[0])
        and query.kind in (None, event.kind.value)
        and query.name in (None, event.name)
        and query.mutation_id in (None, event.mutation_id)
        and (query.after_id is None or event.id > query.after_id)
        and (query.since is None or event.id >= first_id("evt", query.since))
        and (query.id_part is None or has_part(event.id, query.id_part))
    )
