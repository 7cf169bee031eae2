"""The registry: each method is one transaction that writes the new state and its events together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

from upshot.domain.event import Actor, Event, EventKind, Origin
from upshot.domain.reference import check_name, spellings
from upshot.domain.registry import CardRevision, HistoryEntry, RegistrySettings
from upshot.ids import EventId, new_id
from upshot.ports.paging import Page
from upshot.ports.registry import RegistryView
from upshot.registry.aliases import Aliases
from upshot.registry.artifacts import Artifacts
from upshot.registry.collections import Collections
from upshot.registry.comments import Comments
from upshot.registry.diffs import Diffs
from upshot.registry.expiry import Expiry
from upshot.registry.inputs import check_automations, check_emitted, check_patterns
from upshot.registry.lineage import LineageQueries
from upshot.registry.lookup import find_version_anywhere
from upshot.registry.metadata import Metadata
from upshot.registry.mutation import Mutation
from upshot.registry.pending_versions import PendingVersions
from upshot.registry.projects import Projects
from upshot.registry.protection import require_admin
from upshot.registry.run_files import RunFiles
from upshot.registry.run_lists import RunLists
from upshot.registry.run_log import RunLog
from upshot.registry.run_metrics import RunMetrics
from upshot.registry.run_packing import RunPacking
from upshot.registry.run_removal import RunRemoval
from upshot.registry.run_rows import RunRows
from upshot.registry.runs import Runs
from upshot.registry.scopes import check_scope_is_free
from upshot.registry.stages import Stages
from upshot.registry.tags import Tags
from upshot.registry.transaction import scope_lock
from upshot.registry.versions import Versions

MAX_CARD_REVISIONS = 1_000
_EXPORT_BATCH = 1_000
_CARD_ACTIONS = frozenset({"create-collection", "update-collection"})


class Registry(
    Collections,
    Projects,
    Artifacts,
    PendingVersions,
    Runs,
    RunLists,
    RunLog,
    RunMetrics,
    RunRows,
    RunFiles,
    RunPacking,
    RunRemoval,
    Comments,
    LineageQueries,
    Diffs,
    Expiry,
    Versions,
    Aliases,
    Tags,
    Metadata,
    Stages,
):
    """
    Reads and changes the registry. Events are published after the commit; if that fails, the relay publishes them.

    Methods that take a version accept its name (`v3`) or an alias. A mutation that changes nothing
    makes no events. Every method may raise `InvalidInput` (a name, reference, text or data is
    invalid), `NotFound` (with a suggestion), `Forbidden` (the actor's role does not allow the
    change) and `Unavailable`.

    The parent classes hold the methods, one file for each subject. They share the transactions of
    `RegistryTransactions`, keep no state and do not override one another.
    """

    def registries(self) -> tuple[RegistrySettings, ...]:
        """Return all registries, by name."""
        return self._store.read(lambda view: view.registries())

    def protect_aliases(
        self, registry: str, patterns: Sequence[str], *, automations: Sequence[str] = (), origin: Origin
    ) -> RegistrySettings:
        """
        Set which aliases only an admin and some automations may add, move or remove.

        A registry that does not exist is created. The new values replace the earlier ones.

        Args:
            registry: Name of the registry.
            patterns: Globs such as `prod*`.
            automations: Names of the automations that may also move these aliases.
            origin: Who makes the change.

        Raises:
            Forbidden: The actor is not an admin.
        """
        registry = check_name(registry, "registry")
        after = RegistrySettings(registry, check_patterns(patterns), check_automations(automations))
        require_admin(origin.actor, f"protect aliases of registry {registry!r}")

        def work(mutation: Mutation) -> None:
            before = mutation.tx.registry(registry)
            if before == after:
                return
            if before is None:
                check_scope_is_free(mutation.tx, registry, "registry")
            mutation.tx.save_registry(after)
            mutation.add_history(
                "protect-aliases",
                registry,
                registry=registry,
                before=_rules(before or RegistrySettings(registry)),
                after=_rules(after),
            )

        self._change(work, locks=[scope_lock(registry)], origin=origin)
        return after

    def emit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        origin: Origin,
        event_ids: Sequence[EventId] | None = None,
    ) -> tuple[Event, ...]:
        """
        Accept 1 to 1,000 custom events, all or none.

        Args:
            events: Pairs of name and data (a JSON object).
            origin: Who emits the events.
            event_ids: Ids of the events, if the caller derives them.

        Returns:
            The accepted events. An event whose id was accepted before is left out.
        """
        checked = check_emitted(events, event_ids)

        def work(mutation: Mutation) -> None:
            already_accepted = mutation.tx.accepted_ids(event_ids or ())
            for index, (name, data) in enumerate(checked):
                event_id = event_ids[index] if event_ids else None
                if event_id not in already_accepted:
                    mutation.add_event(EventKind.CUSTOM, name, data, name=name, event_id=event_id)

        return self._change(work, origin=origin).events

    def linked_projects(self, registry: str) -> frozenset[str]:
        """Return the projects with artifact versions that are linked into a registry."""
        return self._store.read(lambda view: view.linked_projects(registry))

    def digests_in(self, projects: Iterable[str], digests: Iterable[str]) -> frozenset[str]:
        """Return which of the digests belong to files of artifact versions in the projects."""
        return self._store.read(lambda view: view.digests_in(projects, digests))

    def project_of_version(self, reference: str, default_scope: str | None = None) -> str:
        """
        Return the project of the artifact version that a reference or an id leads to, through a link or directly.

        Args:
            reference: See `find_version_anywhere`.
            default_scope: The project of a name without a scope.

        Raises:
            NotFound: The version does not exist.
        """

        def work(view: RegistryView) -> str:
            return find_version_anywhere(view, reference, default_scope=default_scope).artifact_version.project

        return self._store.read(work)

    def record_access(
        self,
        actor: Actor,
        action: str,
        subject: str,
        *,
        registry: str | None = None,
        collection: str | None = None,
        after: Mapping[str, Any],
    ) -> None:
        """
        Record something about access in the history: a token that was made or revoked, or a change that was refused.

        Args:
            actor: Who did it.
            action: `create-token`, `revoke-token` or `refused`.
            subject: The token, or what somebody tried to change.
            registry: Registry of the subject, if it has one.
            collection: Collection of the subject, if it has one.
            after: Details.
        """
        now = self._clock.now()
        entry = HistoryEntry(
            id=new_id("his", now),
            time=now,
            actor=actor.name,
            action=action,
            subject=subject,
            mutation_id=new_id("mut", now),
            registry=registry,
            collection=collection,
            after=after,
        )
        self._store.transact(lambda tx: tx.add_history([entry]), locks=())

    def history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        """Return history entries, newest first: all, or those of a registry or of a collection, even a deleted one."""
        registries = (None,) if registry is None else spellings(registry, "registry")
        collections = (None,) if collection is None else spellings(collection, "collection")

        def work(view: RegistryView) -> Page[HistoryEntry]:
            pages = (
                view.page_history(stored_registry, stored_collection, cursor=cursor, limit=limit)
                for stored_registry, stored_collection in product(registries, collections)
            )
            page = next(pages)
            return page if page.items else next((other for other in pages if other.items), page)

        return self._store.read(work)

    def export_history(self, registry: str | None, collection: str | None) -> Iterator[HistoryEntry]:
        """Yield all history entries, newest first: all, or those of a registry or of a collection."""
        cursor = None
        while True:
            page = self.history(registry, collection, cursor=cursor, limit=_EXPORT_BATCH)
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def card_revisions(self, registry: str, collection: str) -> list[CardRevision]:
        """
        Return up to 1,000 descriptions that a collection has had, newest first. They are read from the history.

        Raises:
            NotFound: The collection does not exist.
        """
        found = self.collection(registry, collection)
        revisions = (
            CardRevision(entry.after["description"], entry.time, entry.actor)
            for entry in self.export_history(found.registry, found.name)
            if entry.action in _CARD_ACTIONS and "description" in entry.after and entry.time >= found.created_at
        )
        return list(islice(revisions, MAX_CARD_REVISIONS))


def _rules(settings: RegistrySettings) -> dict[str, list[str]]:
    return {
        "protected_aliases": list(settings.protected_aliases),
        "allowed_automations": list(settings.allowed_automations),
    }
