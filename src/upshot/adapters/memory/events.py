"""Events in memory."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from upshot.adapters.cursor import event_after_cursor, make_cursor
from upshot.domain.event import Event
from upshot.ids import EventId, ExecutionId
from upshot.ports.events import EventQuery, StoredEvent
from upshot.ports.paging import Page


@dataclass(frozen=True, slots=True)
class _Stored:
    event: Event
    published_at: datetime
    matched_at: datetime | None = None
    executions: tuple[ExecutionId, ...] = ()


class MemoryEvents:
    """`EventStore` in memory; the registry adds to it, and the executions say what is matched."""

    def __init__(self) -> None:
        self._kept: dict[EventId, _Stored] = {}
        self.lock = threading.RLock()

    def add(self, events: Sequence[Event], now: datetime) -> tuple[EventId, ...]:
        """Accept events, published as of now; returns the ids of those that were not accepted before."""
        with self.lock:
            new = {event.id: _Stored(event, now) for event in events if event.id not in self._kept}
            self._kept.update(new)
            return tuple(new)

    def take_back(self, event_ids: Iterable[EventId]) -> None:
        """Forget events whose transaction failed."""
        with self.lock:
            for event_id in event_ids:
                del self._kept[event_id]

    def mark_matched(self, answers: Mapping[EventId, Iterable[ExecutionId]], now: datetime) -> None:
        """Mark events as matched, and keep the ids of the executions that answer each."""
        with self.lock:
            for one, executions in answers.items():
                if kept := self._kept.get(one):
                    everything = tuple(sorted({*kept.executions, *executions}))
                    self._kept[one] = replace(kept, matched_at=kept.matched_at or now, executions=everything)

    def get(self, event_ids: Collection[EventId]) -> Mapping[EventId, Event]:
        """The events of these ids; those that do not exist are left out."""
        with self.lock:
            return {one: self._kept[one].event for one in event_ids if one in self._kept}

    def find(self, event_id: EventId) -> StoredEvent | None:
        """One event with what has become of it."""
        with self.lock:
            kept = self._kept.get(event_id)
        return StoredEvent(kept.event, kept.matched_at, kept.executions) if kept else None

    def page(self, query: EventQuery, *, cursor: str | None, limit: int) -> Page[StoredEvent]:
        """Events, newest first; oldest first with `query.after`."""
        oldest_first = query.after_id is not None
        last = event_after_cursor(cursor) if cursor is not None else None
        with self.lock:
            found = [kept for kept in self._kept.values() if _fits(kept.event, query)]
        found.sort(key=lambda kept: kept.event.id, reverse=not oldest_first)
        if last is not None:
            found = [kept for kept in found if (kept.event.id > last if oldest_first else kept.event.id < last)]
        items = tuple(StoredEvent(kept.event, kept.matched_at) for kept in found[:limit])
        return Page(items, make_cursor(items[-1].event.id) if len(found) > limit else None)

    def take_unmatched(self, *, published_before: datetime, now: datetime, limit: int) -> tuple[Event, ...]:
        """Take for publishing again: unmatched events last published before then, oldest first; published now."""
        with self.lock:
            waiting = [
                kept for kept in self._kept.values() if kept.matched_at is None and kept.published_at < published_before
            ]
            waiting.sort(key=lambda kept: (kept.published_at, kept.event.id))
            for kept in waiting[:limit]:
                self._kept[kept.event.id] = replace(kept, published_at=now)
            return tuple(kept.event for kept in waiting[:limit])


def _fits(event: Event, query: EventQuery) -> bool:
    if (
        query.subject is not None
        and event.subject != query.subject
        and event.subject.partition(":")[0] != query.subject
    ):
        return False
    return (
        query.kind in (None, event.kind.value)
        and query.name in (None, event.name)
        and query.mutation_id in (None, event.mutation_id)
        and (query.after_id is None or event.id > query.after_id)
    )
