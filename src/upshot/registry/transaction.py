"""What all verbs of the registry share: one transaction, and its events published after the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from upshot.clock import Clock
from upshot.domain.event import Actor, Cause, Event
from upshot.errors import Forbidden
from upshot.ports.messaging import EventPublisher
from upshot.ports.registry import RegistryStore, RegistryTransaction
from upshot.registry.mutation import Mutation

T = TypeVar("T")

_READERS = ("viewer", "restricted-viewer")


def collection_lock(registry: str, collection: str) -> str:
    """Held while a collection, its links and its aliases change."""
    return f"collection {registry}/{collection}"


def artifact_lock(project: str, artifact: str) -> str:
    """
    Held while an artifact and its versions change.

    It sorts after the locks of collections, and is taken after them: a mutation learns from a
    collection which artifact it is about.
    """
    return f"project {project}/{artifact}"


def registry_lock(registry: str) -> str:
    """Held while a registry is made or its rules change; sorts after the others, and is taken after them."""
    return f"registry {registry}"


class RegistryTransactions:
    """
    Where mutations are made.

    Args:
        store: Keeps state, events and history.
        publisher: Puts events on the stream.
        clock: Tells the time of a mutation.
        base_url: Public address, for links in events.
    """

    def __init__(
        self, store: RegistryStore, publisher: EventPublisher, clock: Clock, *, base_url: str | None = None
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._base_url = base_url

    def _change(
        self, work: Callable[[Mutation], T], *, locks: Iterable[str] = (), actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> tuple[T, tuple[Event, ...]]:
        if actor.role in _READERS:
            raise Forbidden(f"{actor.name} is a {actor.role}, who may read but not change; ask a member or an admin")

        def attempt(tx: RegistryTransaction) -> tuple[T, tuple[Event, ...]]:
            mutation = Mutation(tx, self._clock.now(), actor, chain, self._base_url)
            return work(mutation), mutation.write()

        value, events = self._store.transact(attempt, locks=locks)
        if events:
            self._publisher.publish(events)
        return value, events
