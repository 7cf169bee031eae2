"""Link versions to a collection, unlink them, and read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from upshot.domain.event import EventKind, Origin
from upshot.domain.pending_version import EarlierRequest
from upshot.domain.reference import LATEST, check_name
from upshot.domain.registry import Change, Collection, Version
from upshot.domain.stage import Stage
from upshot.errors import Conflict
from upshot.ids import new_id
from upshot.ports.paging import Page
from upshot.ports.registry import EVERYTHING, RegistryFilter
from upshot.registry.aliases import add_alias_removed_event, add_latest_added_event, move_aliases, pass_on_latest
from upshot.registry.collections import make_collection
from upshot.registry.inputs import check_aliases, check_client_id
from upshot.registry.lookup import (
    collection_or_none,
    find_artifact_version,
    find_collection,
    find_registry,
    find_version,
)
from upshot.registry.mutation import Mutation
from upshot.registry.protection import require_alias_permission
from upshot.registry.snapshots import version_context
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock


class Versions(RegistryTransactions):
    """Methods for versions of collections."""

    def link(
        self,
        registry: str,
        collection: str,
        artifact: str,
        *,
        aliases: Sequence[str] = (),
        link_id: str | None = None,
        earlier: EarlierRequest | None = None,
        origin: Origin,
    ) -> Change[Version]:
        """
        Link an artifact version to a collection. A collection that does not exist is created.

        A new version gets `latest`. An artifact version that is already linked keeps its number;
        the requested aliases still move to it.

        Args:
            registry: Name of the registry. It is created if it does not exist.
            collection: Name of the collection. It must have the artifact's type.
            artifact: `project/artifact:v0` or an alias, or a link, whose artifact version is then linked (see
                `lookup.find_artifact_version`).
            aliases: Aliases to add, besides `latest`.
            link_id: Id of the link (`lnk_…`), if the client made one. Nothing changes if there is a link with this id.
            earlier: When it was linked, by a program without a connection. Aliases that somebody has moved since then
                stay where they are.
            origin: Who makes the change.

        Raises:
            Conflict: The collection has another artifact type.
            Forbidden: An alias is protected, and the actor is not an admin.
        """
        aliases = check_aliases(aliases)
        if link_id is not None:
            check_client_id(link_id, "lnk")

        def work(mutation: Mutation) -> Version:
            tx = mutation.tx
            if link_id is not None and (known := tx.version_by_id(link_id)):
                return known
            artifact_version = find_artifact_version(tx, artifact)
            artifact_type = artifact_version.artifact_type
            target = collection_or_none(tx, registry, collection) or make_collection(
                mutation, check_name(registry, "registry"), check_name(collection, "collection"), artifact_type
            )
            if target.artifact_type != artifact_type:
                raise Conflict(
                    f"collection {target.reference} is for artifacts of type {target.artifact_type!r}, and "
                    f"{artifact_version.reference} is of type {artifact_type!r}; link it to another collection"
                )
            number = tx.linked_number(target, artifact_version)
            if number is not None:
                linked = tx.versions(target, [number])[number]
                return move_aliases(mutation, target, linked, aliases, earlier=earlier)
            version = Version(
                id=link_id or new_id("lnk", mutation.now),
                collection_id=target.id,
                registry=target.registry,
                collection=target.name,
                number=tx.next_number(target),
                artifact_version=artifact_version,
                aliases=(),
                stage=Stage.NONE,
                linked_at=min(earlier.happened_at, mutation.now) if earlier else mutation.now,
                linked_by=origin.actor.name,
            )
            tx.add_version(version)
            mutation.created = True
            return move_aliases(mutation, target, version, aliases, is_new=True, earlier=earlier)

        return self._change(work, locks=[collection_lock(registry, collection)], origin=origin)

    def unlink(self, registry: str, collection: str, version: str, *, origin: Origin) -> Change[None]:
        """
        Remove a link and its aliases. The artifact version stays, and the number is never used again.

        If the version has `latest`, that alias moves to the newest version that remains.

        Raises:
            Forbidden: The version has a protected alias, and the actor is not an admin.
        """

        def work(mutation: Mutation) -> None:
            found = find_collection(mutation.tx, registry, collection)
            linked = find_version(mutation.tx, found, version)
            settings = find_registry(mutation.tx, found.registry)
            require_alias_permission(settings, linked.aliases, origin.actor, "unlink its version")
            unlink_version(mutation, found, linked)

        return self._change(work, locks=[collection_lock(registry, collection)], origin=origin)

    def version(self, registry: str, collection: str, version: str) -> Version:
        """Return a version by name (`v3`) or alias."""
        return self._store.read(lambda view: find_version(view, find_collection(view, registry, collection), version))

    def versions(
        self,
        registry: str,
        collection: str,
        where: RegistryFilter = EVERYTHING,
        *,
        cursor: str | None,
        limit: int,
    ) -> Page[Version]:
        """Return versions of a collection, newest first."""
        return self._store.read(
            lambda view: view.page_versions(
                find_collection(view, registry, collection), where, cursor=cursor, limit=limit
            )
        )


def lock_version(mutation: Mutation, collection: Collection, version: str) -> Version:
    """Lock the artifact version behind a link, and return the link as it is under the lock."""
    found = find_version(mutation.tx, collection, version)
    mutation.tx.lock([artifact_lock(found.artifact_version.project, found.artifact_version.artifact_name)])
    return mutation.tx.versions(collection, [found.number])[found.number]


def unlink_version(mutation: Mutation, collection: Collection, version: Version) -> None:
    """Remove a link as part of a mutation."""
    mutation.tx.remove_version(version)
    unlinked = replace(version, aliases=())
    after, heir = pass_on_latest(mutation, collection, version)
    for alias in version.aliases:
        moves = heir is not None and alias == LATEST
        moved_to = heir.name if heir and moves else None
        add_alias_removed_event(mutation, after, unlinked, alias, moved_to=moved_to, automatic=moves)
    removed_aliases = list(version.aliases)
    data = {**version_context(after, unlinked, mutation.base_url), "aliases": removed_aliases}
    mutation.add_event(EventKind.VERSION_UNLINKED, version.reference, data)
    before = {
        "artifact": version.artifact_version.reference,
        "digest": version.artifact_version.digest,
        "aliases": removed_aliases,
    }
    mutation.add_history("unlink", version.reference, collection, before=before)
    if heir:
        add_latest_added_event(mutation, after, heir, unlinked)
