"""The registry's verbs: each is one transaction that writes the new state and its events together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.domain.reference import check_name
from upshot.domain.registry import HistoryEntry, RegistrySettings
from upshot.errors import Forbidden
from upshot.ids import EventId
from upshot.ports.paging import Page
from upshot.registry.artifacts import Artifacts
from upshot.registry.collections import Collections
from upshot.registry.inputs import check_emitted, check_patterns
from upshot.registry.mutation import Mutation
from upshot.registry.tags import Tags
from upshot.registry.transaction import registry_lock
from upshot.registry.versions import Versions


class Registry(Collections, Artifacts, Versions, Tags):
    """
    Answers and changes; events are published after the commit, and again by the relay if that failed.

    `vN` and aliases both name a version. A mutation that changes nothing gives no events. Every
    verb may raise `InvalidInput` (a name, reference, text or data breaks a rule), `NotFound` (with
    the nearest right name), `Forbidden` (the actor's role does not suffice) and `Unavailable`.

    One object for callers, its verbs in a file for each subject: the parents add verbs to the desk
    that they share, keep no state and override nothing of each other's.
    """

    def registries(self) -> tuple[RegistrySettings, ...]:
        """All registries, by name."""
        return self._store.read(lambda view: view.registries())

    def protect_aliases(self, registry: str, patterns: Sequence[str], *, actor: Actor) -> RegistrySettings:
        """
        Say which aliases only an admin may add, move or remove; the registry is made if it does not exist.

        Args:
            registry: Its name.
            patterns: Globs such as `prod*`; they replace those that were set.
            actor: An admin.

        Raises:
            Forbidden: The actor is no admin.
        """
        wanted = RegistrySettings(check_name(registry, "registry"), check_patterns(patterns))
        if actor.role != "admin":
            raise Forbidden(f"registry {registry!r}: only an admin may protect aliases; {actor.name} is a {actor.role}")

        def work(mutation: Mutation) -> None:
            before = mutation.tx.registry(registry)
            if before == wanted:
                return
            mutation.tx.save_registry(wanted)
            earlier = before.protected_aliases if before else ()
            mutation.note(
                "protect-aliases",
                registry,
                registry=registry,
                before={"protected_aliases": list(earlier)},
                after={"protected_aliases": list(wanted.protected_aliases)},
            )

        self._change(work, locks=[registry_lock(registry)], actor=actor)
        return wanted

    def emit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
        event_ids: Sequence[EventId] | None = None,
    ) -> tuple[Event, ...]:
        """
        Accept custom events: 1 to 1,000 pairs of name and data, all or none.

        Args:
            events: Pairs of name and data (a JSON object).
            actor: Who emits.
            chain: What led here.
            event_ids: The events' ids, where the caller derives them.

        Returns:
            The events that were accepted; one whose id was accepted before is left out.
        """
        checked = check_emitted(events, event_ids)

        def work(mutation: Mutation) -> None:
            known = mutation.tx.accepted(event_ids or ())
            for index, (name, data) in enumerate(checked):
                event_id = event_ids[index] if event_ids else None
                if event_id not in known:
                    mutation.say(EventKind.CUSTOM, name, data, name=name, event_id=event_id)

        _, accepted = self._change(work, actor=actor, chain=chain)
        return accepted

    def history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        """What was done, newest first: everywhere, in a registry, or to a collection, even one that is gone."""
        for name, what in ((registry, "registry"), (collection, "collection")):
            if name is not None:
                check_name(name, what)
        return self._store.read(lambda view: view.page_history(registry, collection, cursor=cursor, limit=limit))
