"""Collections: made, described, deleted, listed."""

from __future__ import annotations

from dataclasses import replace

from upshot.domain.event import Actor, Cause, EventKind
from upshot.domain.reference import check_name
from upshot.domain.registry import Change, Collection, RegistrySettings
from upshot.errors import AlreadyExists
from upshot.ports.paging import Page
from upshot.ports.registry import RegistryView
from upshot.registry.aliases import check_may_touch
from upshot.registry.inputs import check_description
from upshot.registry.lookup import find_collection, find_registry
from upshot.registry.mutation import Mutation
from upshot.registry.snapshots import collection_context
from upshot.registry.transaction import RegistryTransactions, collection_lock, registry_lock


class Collections(RegistryTransactions):
    """The verbs that concern collections."""

    def create_collection(
        self,
        registry: str,
        name: str,
        artifact_type: str,
        *,
        description: str = "",
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Collection]:
        """
        Make a collection, and its registry if that does not exist.

        A collection that is made anew under the name of a deleted one counts on from its version
        numbers: what was said of `model/churn:v3` must not come to mean another version.

        Raises:
            AlreadyExists: There is a collection of this name.
        """
        check_name(registry, "registry")
        check_name(name, "collection")
        check_name(artifact_type, "artifact type")
        check_description(description, "collection")

        def work(mutation: Mutation) -> Collection:
            if mutation.tx.collection(registry, name):
                raise AlreadyExists(f"collection {registry}/{name} exists already; change it, or choose another name")
            return make_collection(mutation, registry, name, artifact_type, description)

        value, events = self._change(work, locks=[collection_lock(registry, name)], actor=actor, chain=chain)
        return Change(value, events, created=True)

    def update_collection(
        self, registry: str, name: str, *, description: str, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Collection]:
        """Give the collection another description (model card); the history keeps the earlier ones."""
        check_description(description, "collection")

        def work(mutation: Mutation) -> Collection:
            before = find_collection(mutation.tx, registry, name)
            return _describe(mutation, before, description) if before.description != description else before

        value, events = self._change(work, locks=[collection_lock(registry, name)], actor=actor, chain=chain)
        return Change(value, events)

    def delete_collection(
        self, registry: str, name: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[None]:
        """
        Delete a collection with its links and aliases; the artifacts stay in their projects.

        Raises:
            Forbidden: It has a protected alias, and the actor is no admin.
        """

        def work(mutation: Mutation) -> None:
            found = find_collection(mutation.tx, registry, name)
            rules = find_registry(mutation.tx, registry)
            check_may_touch(rules, found.aliases, actor, "delete its collection")
            mutation.tx.remove_collection(found)
            data = collection_context(found, mutation.base_url)
            mutation.say(EventKind.COLLECTION_DELETED, found.reference, data)
            mutation.note("delete-collection", found.reference, of=found, before=data["collection"])

        _, events = self._change(work, locks=[collection_lock(registry, name)], actor=actor, chain=chain)
        return Change(None, events)

    def collection(self, registry: str, name: str) -> Collection:
        """One collection."""
        return self._store.read(lambda view: find_collection(view, registry, name))

    def collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]:
        """The collections of a registry, by name."""

        def work(view: RegistryView) -> Page[Collection]:
            find_registry(view, registry)
            return view.page_collections(registry, cursor=cursor, limit=limit)

        return self._store.read(work)


def make_collection(
    mutation: Mutation, registry: str, name: str, artifact_type: str, description: str = ""
) -> Collection:
    """Make the collection as part of a mutation, and its registry if that does not exist."""
    _make_registry(mutation, registry)
    made = Collection(
        registry=registry,
        name=name,
        artifact_type=artifact_type,
        description=description,
        tags=(),
        aliases={},
        created_at=mutation.now,
        created_by=mutation.actor.name,
    )
    mutation.tx.save_collection(made)
    mutation.say(EventKind.COLLECTION_CREATED, made.reference, collection_context(made, mutation.base_url))
    after = {"artifact_type": artifact_type, "description": description}
    mutation.note("create-collection", made.reference, of=made, after=after)
    return made


def _make_registry(mutation: Mutation, name: str) -> None:
    """Make the registry if there is none."""
    if mutation.tx.registry(name) is None:
        mutation.tx.lock([registry_lock(name)])
        if mutation.tx.registry(name) is None:  # nobody made it, with rules of its own, in the meantime
            mutation.tx.save_registry(RegistrySettings(name))


def _describe(mutation: Mutation, before: Collection, description: str) -> Collection:
    after = replace(before, description=description)
    mutation.tx.save_collection(after)
    changes = {"description": {"before": before.description, "after": description}}
    data = {**collection_context(after, mutation.base_url), "changes": changes}
    mutation.say(EventKind.COLLECTION_UPDATED, after.reference, data)
    mutation.note(
        "update-collection",
        after.reference,
        of=after,
        before={"description": before.description},
        after={"description": description},
    )
    return after
