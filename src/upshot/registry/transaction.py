"""The base of all registry methods: one transaction for each mutation, whose events are published after the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from upshot.clock import Clock
from upshot.domain.event import Origin, Role
from upshot.domain.registry import Change
from upshot.errors import BudgetExhausted, Forbidden
from upshot.ids import EventId
from upshot.ports.messaging import EventPublisher
from upshot.ports.metric_watches import MetricWatches, NoMetricWatches
from upshot.ports.registry import RegistryStore, RegistryTransaction
from upshot.registry.mutation import Mutation
from upshot.unicode_text import to_nfc

T = TypeVar("T")

log = structlog.get_logger("upshot.registry")

DEFAULT_MAX_ROOT_EVENTS = 1_000


def collection_lock(registry: str, collection: str) -> str:
    """Return the key of the lock that a change of a collection, its links or its aliases holds."""
    return to_nfc(f"collection {registry}/{collection}")


def artifact_lock(project: str, artifact: str) -> str:
    """
    Return the key of the lock that a change of an artifact or its versions holds.

    The key sorts after the keys of collections, and the lock is taken after theirs, because a
    mutation learns from the collection which artifact it changes.
    """
    return to_nfc(f"project {project}/{artifact}")


def run_lock(project: str, run_id: str) -> str:
    """Return the key of the lock that a change of a run holds. It is taken after the lock of an artifact."""
    return to_nfc(f"run {project}/{run_id}")


def scope_lock(name: str) -> str:
    """
    Return the key of the lock for the creation of a registry or a project, and for the rules of a registry.

    Registries and projects share their names. The lock is taken after all other locks.
    """
    return to_nfc(f"scope {name}")


class RegistryTransactions:
    """
    Runs mutations.

    Args:
        store: Stores state, events and history.
        publisher: Publishes events to the stream.
        clock: Provides the time of a mutation.
        base_url: Public address of the server, for links in events.
        max_root_events: Number of events that automations and jobs may add because of one event.
        metric_watches: Finds the automations that watch metrics of runs; None means that none does.
    """

    def __init__(
        self,
        store: RegistryStore,
        publisher: EventPublisher,
        clock: Clock,
        *,
        base_url: str | None = None,
        max_root_events: int = DEFAULT_MAX_ROOT_EVENTS,
        metric_watches: MetricWatches | None = None,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._base_url = base_url
        self._max_root_events = max_root_events
        self._metric_watches = metric_watches or NoMetricWatches()

    def _change(self, work: Callable[[Mutation], T], *, origin: Origin, locks: Iterable[str] = ()) -> Change[T]:
        actor = origin.actor
        if actor.role not in (Role.ADMIN, Role.MEMBER):
            raise Forbidden(f"{actor.name} is a {actor.role} and may not change anything; ask a member or an admin")

        def attempt(tx: RegistryTransaction) -> Change[T]:
            now = self._clock.now()
            mutation = Mutation(tx, now, origin, self._base_url, max_root_events=self._max_root_events)
            value = work(mutation)
            return Change(
                value,
                mutation.write(),
                created=mutation.created,
                metadata_ignored=mutation.metadata_ignored,
                kept_aliases=mutation.kept_aliases,
            )

        try:
            change = self._store.transact(attempt, locks=locks)
        except BudgetExhausted as error:
            self._warn_once(error)
            raise
        if change.events:
            self._publisher.publish(change.events)
        return change

    def _warn_once(self, error: BudgetExhausted) -> None:
        """Store the warning with the event that led to all others, and log it the first time."""
        warning = (
            f"automations and jobs have added {error.limit} events because of this event, which is the maximum "
            "(UPSHOT_ROOT_EVENTS); steps that would add more fail"
        )
        if self._store.add_warning(EventId(error.root_event_id), warning):
            log.warning("event.budget_exhausted", root_event_id=error.root_event_id, warning=warning)
