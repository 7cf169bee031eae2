"""One attempt at one mutation: what it changes, and the events and history that go with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.domain.registry import Collection, HistoryEntry
from upshot.ids import EventId, new_id
from upshot.ports.registry import RegistryTransaction


class Mutation:
    """
    Collects events and history, numbered in the order in which they are said, and writes them last.

    Args:
        tx: The transaction that all of it is part of.
        now: The moment of the mutation.
        actor: Who does it.
        chain: The executions that led here, oldest first.
        base_url: Public address, for the links in its events.
    """

    def __init__(
        self, tx: RegistryTransaction, now: datetime, actor: Actor, chain: tuple[Cause, ...], base_url: str | None
    ) -> None:
        self.tx = tx
        self.now = now
        self.actor = actor
        self.base_url = base_url
        self._chain = chain
        self._id = new_id("mut", now)
        self._events: list[Event] = []
        self._history: list[HistoryEntry] = []

    def say(
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

    def note(
        self,
        action: str,
        subject: str,
        *,
        of: Collection | None = None,
        registry: str | None = None,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an entry to the history of the collection `of`, or of the registry, or of neither."""
        self._history.append(
            HistoryEntry(
                id=new_id("his", self.now),
                time=self.now,
                actor=self.actor.name,
                action=action,
                subject=subject,
                mutation_id=self._id,
                registry=of.registry if of else registry,
                collection=of.name if of else None,
                before=before or {},
                after=after or {},
            )
        )

    def write(self) -> tuple[Event, ...]:
        """Write what was collected; returns the events."""
        if self._events:
            self.tx.add_events(self._events, self.now)
        if self._history:
            self.tx.add_history(self._history)
        return tuple(self._events)
