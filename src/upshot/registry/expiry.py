"""Delete artifact versions whose time to live has passed, and set that of artifacts."""

from __future__ import annotations

from dataclasses import replace

from upshot.domain.event import Actor, ActorKind, Origin, Role
from upshot.domain.expiry import check_ttl, expires_at
from upshot.domain.registry import Artifact, ArtifactVersion, Change, Collection, Version
from upshot.errors import Conflict
from upshot.ports.registry import RegistryView
from upshot.registry.artifacts import delete_version
from upshot.registry.lookup import find_artifact, find_collection
from upshot.registry.mutation import Mutation
from upshot.registry.protection import require_ttl_permission
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock

EXPIRY = Origin(Actor("ttl", ActorKind.SERVICE, Role.ADMIN))


class Expiry(RegistryTransactions):
    """Methods for the time to live."""

    def set_artifact_ttl(self, project: str, name: str, ttl_seconds: int | None, *, origin: Origin) -> Change[Artifact]:
        """
        Set the time to live of the versions of an artifact that have none of their own.

        Args:
            project: Name of the project.
            name: Name of the artifact.
            ttl_seconds: Seconds after the version was logged. None means without limit.
            origin: Who makes the change.

        Raises:
            Forbidden: The new time to live can delete versions earlier, and the actor is not an admin.
        """
        ttl_seconds = check_ttl(ttl_seconds)

        def work(mutation: Mutation) -> Artifact:
            before = find_artifact(mutation.tx, project, name)
            if before.ttl_seconds == ttl_seconds:
                return before
            require_ttl_permission(mutation.actor, before.ttl_seconds, ttl_seconds, unlimited=None)
            after = replace(before, ttl_seconds=ttl_seconds)
            mutation.tx.save_artifact(after)
            mutation.add_history(
                "update-artifact",
                after.reference,
                after,
                before={"ttl_seconds": before.ttl_seconds},
                after={"ttl_seconds": ttl_seconds},
            )
            return after

        return self._change(work, locks=[artifact_lock(project, name)], origin=origin)

    def delete_expired(self, *, after: str, limit: int) -> tuple[int, str | None]:
        """
        Delete artifact versions that have expired, with `artifact-deleted` for each.

        Args:
            after: Id of the last candidate that was looked at, or an empty text.
            limit: Maximum number of candidates to look at.

        Returns:
            The number of deleted versions, and the last candidate, or None after the last one.
        """
        now = self._clock.now()
        found = self._store.read(lambda view: view.expiry_candidates(now, after=after, limit=limit))
        deleted = sum(self._delete_if_expired(version_id) for version_id in found)
        return deleted, found[-1] if len(found) == limit else None

    def _delete_if_expired(self, version_id: str) -> bool:
        def work(mutation: Mutation) -> bool:
            tx = mutation.tx
            found = tx.artifact_version_by_id(version_id)
            if found is None:
                return False
            tx.lock(collection_lock(registry, name) for registry, name, _ in tx.links_to(found))
            tx.lock([artifact_lock(found.project, found.artifact_name)])
            version = tx.artifact_version_by_id(version_id)  # read again, because it may have changed
            if version is None:
                return False
            artifact = find_artifact(tx, version.project, version.artifact_name)
            expires = expires_at(version, artifact, _links(tx, version))
            if expires is None or expires > mutation.now:
                return False
            delete_version(mutation, version, reason="ttl")
            return True

        try:
            return self._change(work, origin=EXPIRY).value
        except Conflict:  # a registry protects `latest`
            return False


def _links(view: RegistryView, version: ArtifactVersion) -> list[tuple[Collection, Version]]:
    links = []
    for registry, name, number in view.links_to(version):
        collection = find_collection(view, registry, name)
        links.append((collection, view.versions(collection, [number])[number]))
    return links
