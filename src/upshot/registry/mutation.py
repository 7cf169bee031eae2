"""One attempt at a mutation: its changes, and the events and history entries that record them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from upshot.domain.event import Event, EventKind, Origin
from upshot.domain.registry import Collection, HistoryEntry, Series
from upshot.errors import BudgetExhausted
from upshot.ids import EventId, new_id
from upshot.ports.registry import RegistryTransaction


class Mutation:
    """
    Collects events and history entries in order, and writes them at the end.

    Args:
        tx: Transaction of the mutation.
        now: Time of the mutation.
        origin: Who makes the change, and what led to it.
        base_url: Public address of the server, for links in events.
        max_root_events: Number of events that automations and jobs may add because of one event.
    """

    def __init__(
        self, tx: RegistryTransaction, now: datetime, origin: Origin, base_url: str | None, *, max_root_events: int
    ) -> None:
        self.tx = tx
        self.now = now
        self.actor = origin.actor
        self.base_url = base_url
        self.created = False  #: set if the mutation creates the record that it returns
        self.metadata_ignored = False  #: set if metadata of the request is not stored
        self.kept_aliases: tuple[str, ...] = ()  #: requested aliases that do not move, see `move_aliases`
        self._chain = origin.chain
        self._max_root_events = max_root_events
        self._id = new_id("mut", now)
        self._events: list[Event] = []
        self._history: list[HistoryEntry] = []

    def add_event(
        self,
        kind: EventKind,
        subject: str,
        data: Mapping[str, Any],
        *,
        name: str | None = None,
        event_id: EventId | None = None,
    ) -> None:
        """Add an event."""
        self._events.append(
            Event(
                id=event_id or EventId(new_id("evt", self.now)),
                kind=kind,
                time=self.now,
                subject=subject,
                actor=self.actor,
                mutation_id=self._id,
                sequence=len(self._events),
                data=data,
                name=name,
                chain=self._chain,
            )
        )

    def add_history(
        self,
        action: str,
        subject: str,
        series: Series | None = None,
        *,
        registry: str | None = None,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an entry to the history of a collection, of a registry, or of an artifact in its project."""
        collection = series if isinstance(series, Collection) else None
        self._history.append(
            HistoryEntry(
                id=new_id("his", self.now),
                time=self.now,
                actor=self.actor.name,
                action=action,
                subject=subject,
                mutation_id=self._id,
                registry=collection.registry if collection else registry,
                collection=collection.name if collection else None,
                before=before or {},
                after=after or {},
            )
        )

    def write(self) -> tuple[Event, ...]:
        """
        Write the events and history entries, and return the events.

        Raises:
            BudgetExhausted: The event that led to this mutation has led to too many events.
        """
        if self._events:
            if self._chain:
                root_event_id, limit = self._chain[0].event_id, self._max_root_events
                if not self.tx.count_events(root_event_id, len(self._events), limit=limit):
                    raise BudgetExhausted(root_event_id, limit)
            self.tx.add_events(self._events, self.now)
        if self._history:
            self.tx.add_history(self._history)
        return tuple(self._events)
