"""Create, change, rename, delete and list collections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from upshot.domain.event import EventKind, Origin
from upshot.domain.expiry import check_ttl
from upshot.domain.reference import check_name
from upshot.domain.registry import Change, Collection
from upshot.errors import AlreadyExists
from upshot.ids import new_id
from upshot.ports.paging import Page
from upshot.ports.registry import EVERYTHING, RegistryFilter, RegistryView
from upshot.registry.inputs import UNCHANGED, Unchanged, check_description, check_metadata, merge_patch
from upshot.registry.lookup import find_collection, find_registry
from upshot.registry.mutation import Mutation
from upshot.registry.protection import require_alias_permission, require_ttl_permission
from upshot.registry.scopes import make_registry
from upshot.registry.snapshots import collection_context, metadata_changes
from upshot.registry.transaction import RegistryTransactions, collection_lock


class Collections(RegistryTransactions):
    """Methods for collections."""

    def create_collection(
        self,
        registry: str,
        name: str,
        artifact_type: str,
        *,
        description: str = "",
        metadata: Mapping[str, Any] | None = None,
        origin: Origin,
    ) -> Change[Collection]:
        """
        Create a collection. A registry that does not exist is created, too.

        Raises:
            AlreadyExists: The collection exists.
            Conflict: The registry does not exist, and a project has its name.
        """
        registry = check_name(registry, "registry")
        name = check_name(name, "collection")
        artifact_type = check_name(artifact_type, "artifact type")
        check_description(description, "collection")
        checked_metadata = check_metadata(metadata or {})

        def work(mutation: Mutation) -> Collection:
            if mutation.tx.collection(registry, name):
                raise AlreadyExists(f"collection {registry}/{name} already exists; update it, or choose another name")
            mutation.created = True
            return make_collection(
                mutation, registry, name, artifact_type, description=description, metadata=checked_metadata
            )

        return self._change(work, locks=[collection_lock(registry, name)], origin=origin)

    def update_collection(
        self,
        registry: str,
        name: str,
        *,
        new_name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl_seconds: int | Unchanged | None = UNCHANGED,
        origin: Origin,
    ) -> Change[Collection]:
        """
        Change the name, the description (model card), the metadata or the time to live of a collection.

        The history keeps earlier values. A renamed collection keeps its id, versions, aliases and history.

        Args:
            registry: Name of the registry.
            name: Name of the collection.
            new_name: The new name. None changes nothing.
            description: The new description, in Markdown. None changes nothing.
            metadata: A JSON merge patch (RFC 7396): null removes a key. None changes nothing.
            ttl_seconds: Seconds after which a link no longer keeps its version. None means without limit.
            origin: Who makes the change.

        Raises:
            AlreadyExists: Another collection has the new name.
            Forbidden: The new name is for a collection with a protected alias, or the time to live can delete versions
                earlier, and the actor is not an admin.
        """
        if description is not None:
            check_description(description, "collection")
        patch = check_metadata(metadata or {})
        if not isinstance(ttl_seconds, Unchanged):
            check_ttl(ttl_seconds)
        locks = [collection_lock(registry, name)]
        if new_name is not None:
            new_name = check_name(new_name, "collection")
            locks.append(collection_lock(registry, new_name))

        def work(mutation: Mutation) -> Collection:
            before = find_collection(mutation.tx, registry, name)
            after = replace(
                before,
                name=before.name if new_name is None else new_name,
                description=before.description if description is None else description,
                metadata=check_metadata(merge_patch(before.metadata, patch), "metadata with this change"),
                ttl_seconds=before.ttl_seconds if isinstance(ttl_seconds, Unchanged) else ttl_seconds,
            )
            changes = _changes(before, after)
            if not changes:
                return before
            if "name" in changes:
                _rename(mutation, before, after)
            require_ttl_permission(mutation.actor, before.ttl_seconds, after.ttl_seconds, unlimited=None)
            mutation.tx.save_collection(after)
            data = {**collection_context(after, mutation.base_url), "changes": changes}
            mutation.add_event(EventKind.COLLECTION_UPDATED, after.reference, data)
            mutation.add_history(
                "update-collection",
                after.reference,
                after,
                before={key: getattr(before, key) for key in changes},
                after={key: getattr(after, key) for key in changes},
            )
            return after

        return self._change(work, locks=locks, origin=origin)

    def delete_collection(self, registry: str, name: str, *, origin: Origin) -> Change[None]:
        """
        Delete a collection with its links and aliases. The artifacts stay in their projects.

        Raises:
            Forbidden: The collection has a protected alias, and the actor is not an admin.
        """

        def work(mutation: Mutation) -> None:
            found = find_collection(mutation.tx, registry, name)
            settings = find_registry(mutation.tx, found.registry)
            require_alias_permission(settings, found.aliases, origin.actor, "delete its collection")
            mutation.tx.remove_collection(found)
            data = collection_context(found, mutation.base_url)
            mutation.add_event(EventKind.COLLECTION_DELETED, found.reference, data)
            mutation.add_history("delete-collection", found.reference, found, before=data["collection"])

        return self._change(work, locks=[collection_lock(registry, name)], origin=origin)

    def collection(self, registry: str, name: str) -> Collection:
        """Return a collection."""
        return self._store.read(lambda view: find_collection(view, registry, name))

    def collections(
        self, registry: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Collection]:
        """Return collections of a registry, by name."""

        def work(view: RegistryView) -> Page[Collection]:
            stored = find_registry(view, registry).name
            return view.page_collections(stored, where, cursor=cursor, limit=limit)

        return self._store.read(work)


def make_collection(
    mutation: Mutation,
    registry: str,
    name: str,
    artifact_type: str,
    *,
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Collection:
    """Create a collection, and its registry if that does not exist, as part of a mutation."""
    make_registry(mutation, registry)
    collection = Collection(
        id=new_id("col", mutation.now),
        registry=registry,
        name=name,
        artifact_type=artifact_type,
        description=description,
        metadata=metadata or {},
        tags=(),
        aliases={},
        created_at=mutation.now,
        created_by=mutation.actor.name,
    )
    mutation.tx.save_collection(collection)
    data = collection_context(collection, mutation.base_url)
    mutation.add_event(EventKind.COLLECTION_CREATED, collection.reference, data)
    values = {"artifact_type": artifact_type, "description": description, "metadata": dict(collection.metadata)}
    mutation.add_history("create-collection", collection.reference, collection, after=values)
    return collection


def _changes(before: Collection, after: Collection) -> dict[str, Any]:
    """Return the differences as events show them: earlier and new values by field, and by key of the metadata."""
    changes: dict[str, Any] = {
        field: {"before": getattr(before, field), "after": getattr(after, field)}
        for field in ("name", "description", "ttl_seconds")
        if getattr(before, field) != getattr(after, field)
    }
    if changed_metadata := metadata_changes(before.metadata, after.metadata):
        changes["metadata"] = changed_metadata
    return changes


def _rename(mutation: Mutation, before: Collection, after: Collection) -> None:
    if mutation.tx.collection(after.registry, after.name):
        raise AlreadyExists(f"collection {after.reference} already exists; choose another name")
    # An actor who cannot move a protected alias must not change what its name refers to, either.
    settings = find_registry(mutation.tx, before.registry)
    require_alias_permission(settings, before.aliases, mutation.actor, "rename its collection")
    mutation.tx.rename_history(before.registry, before.name, after.name)
