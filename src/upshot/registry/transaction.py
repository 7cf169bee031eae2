"""The base of all registry methods: one transaction for each mutation, whose events are published after the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from upshot.clock import Clock
from upshot.domain.event import Origin, Role
from upshot.domain.registry import Change
from upshot.errors import Forbidden
from upshot.ports.messaging import EventPublisher
from upshot.ports.registry import RegistryStore, RegistryTransaction
from upshot.registry.mutation import Mutation

T = TypeVar("T")


def collection_lock(registry: str, collection: str) -> str:
    """Return the key of the lock that a change of a collection, its links or its aliases holds."""
    return f"collection {registry}/{collection}"


def artifact_lock(project: str, artifact: str) -> str:
    """
    Return the key of the lock that a change of an artifact or its versions holds.

    The key sorts after the keys of collections, and the lock is taken after theirs, because a
    mutation learns from the collection which artifact it changes.
    """
    return f"project {project}/{artifact}"


def registry_lock(registry: str) -> str:
    """Return the key of the lock for the creation and the rules of a registry. It is taken after all other locks."""
    return f"registry {registry}"


class RegistryTransactions:
    """
    Runs mutations.

    Args:
        store: Stores state, events and history.
        publisher: Publishes events to the stream.
        clock: Provides the time of a mutation.
        base_url: Public address of the server, for links in events.
    """

    def __init__(
        self, store: RegistryStore, publisher: EventPublisher, clock: Clock, *, base_url: str | None = None
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._base_url = base_url

    def _change(self, work: Callable[[Mutation], T], *, origin: Origin, locks: Iterable[str] = ()) -> Change[T]:
        actor = origin.actor
        if actor.role not in (Role.ADMIN, Role.MEMBER):
            raise Forbidden(f"{actor.name} is a {actor.role} and may not change anything; ask a member or an admin")

        def attempt(tx: RegistryTransaction) -> Change[T]:
            mutation = Mutation(tx, self._clock.now(), origin, self._base_url)
            value = work(mutation)
            return Change(value, mutation.write(), created=mutation.created)

        change = self._store.transact(attempt, locks=locks)
        if change.events:
            self._publisher.publish(change.events)
        return change
