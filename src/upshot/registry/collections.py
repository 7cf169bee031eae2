"""Create, describe, delete and list collections."""

from __future__ import annotations

from dataclasses import replace

from upshot.domain.event import EventKind, Origin
from upshot.domain.reference import check_name
from upshot.domain.registry import Change, Collection, RegistrySettings
from upshot.errors import AlreadyExists
from upshot.ports.paging import Page
from upshot.ports.registry import RegistryView
from upshot.registry.inputs import check_description
from upshot.registry.lookup import find_collection, find_registry
from upshot.registry.mutation import Mutation
from upshot.registry.protection import require_alias_permission
from upshot.registry.snapshots import collection_context
from upshot.registry.transaction import RegistryTransactions, collection_lock, registry_lock


class Collections(RegistryTransactions):
    """Methods for collections."""

    def create_collection(
        self, registry: str, name: str, artifact_type: str, *, description: str = "", origin: Origin
    ) -> Change[Collection]:
        """
        Create a collection. A registry that does not exist is created, too.

        A collection with the name of a deleted collection continues its version numbers, so that
        `model/churn:v3` never refers to two different versions.

        Raises:
            AlreadyExists: The collection exists.
        """
        check_name(registry, "registry")
        check_name(name, "collection")
        check_name(artifact_type, "artifact type")
        check_description(description, "collection")

        def work(mutation: Mutation) -> Collection:
            if mutation.tx.collection(registry, name):
                raise AlreadyExists(f"collection {registry}/{name} already exists; update it, or choose another name")
            mutation.created = True
            return make_collection(mutation, registry, name, artifact_type, description)

        return self._change(work, locks=[collection_lock(registry, name)], origin=origin)

    def update_collection(self, registry: str, name: str, *, description: str, origin: Origin) -> Change[Collection]:
        """Change the description (model card) of a collection. The history keeps earlier descriptions."""
        check_description(description, "collection")

        def work(mutation: Mutation) -> Collection:
            before = find_collection(mutation.tx, registry, name)
            if before.description == description:
                return before
            after = replace(before, description=description)
            mutation.tx.save_collection(after)
            changes = {"description": {"before": before.description, "after": description}}
            data = {**collection_context(after, mutation.base_url), "changes": changes}
            mutation.add_event(EventKind.COLLECTION_UPDATED, after.reference, data)
            mutation.add_history(
                "update-collection",
                after.reference,
                after,
                before={"description": before.description},
                after={"description": description},
            )
            return after

        return self._change(work, locks=[collection_lock(registry, name)], origin=origin)

    def delete_collection(self, registry: str, name: str, *, origin: Origin) -> Change[None]:
        """
        Delete a collection with its links and aliases. The artifacts stay in their projects.

        Raises:
            Forbidden: The collection has a protected alias, and the actor is not an admin.
        """

        def work(mutation: Mutation) -> None:
            found = find_collection(mutation.tx, registry, name)
            settings = find_registry(mutation.tx, registry)
            require_alias_permission(settings, found.aliases, origin.actor, "delete its collection")
            mutation.tx.remove_collection(found)
            data = collection_context(found, mutation.base_url)
            mutation.add_event(EventKind.COLLECTION_DELETED, found.reference, data)
            mutation.add_history("delete-collection", found.reference, found, before=data["collection"])

        return self._change(work, locks=[collection_lock(registry, name)], origin=origin)

    def collection(self, registry: str, name: str) -> Collection:
        """Return a collection."""
        return self._store.read(lambda view: find_collection(view, registry, name))

    def collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]:
        """Return collections of a registry, by name."""

        def work(view: RegistryView) -> Page[Collection]:
            find_registry(view, registry)
            return view.page_collections(registry, cursor=cursor, limit=limit)

        return self._store.read(work)


def make_collection(
    mutation: Mutation, registry: str, name: str, artifact_type: str, description: str = ""
) -> Collection:
    """Create a collection, and its registry if that does not exist, as part of a mutation."""
    if mutation.tx.registry(registry) is None:
        mutation.tx.lock([registry_lock(registry)])
        if mutation.tx.registry(registry) is None:  # another mutation may have created it with rules of its own
            mutation.tx.save_registry(RegistrySettings(registry))
    collection = Collection(
        registry=registry,
        name=name,
        artifact_type=artifact_type,
        description=description,
        tags=(),
        aliases={},
        created_at=mutation.now,
        created_by=mutation.actor.name,
    )
    mutation.tx.save_collection(collection)
    data = collection_context(collection, mutation.base_url)
    mutation.add_event(EventKind.COLLECTION_CREATED, collection.reference, data)
    values = {"artifact_type": artifact_type, "description": description}
    mutation.add_history("create-collection", collection.reference, collection, after=values)
    return collection
