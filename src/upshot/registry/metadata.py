"""Change the metadata and the description of versions. All links to an artifact version share both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from upshot.domain.event import EventKind, Origin
from upshot.domain.expiry import NEVER, check_ttl
from upshot.domain.registry import ArtifactVersion, Change, Series, Version
from upshot.registry.inputs import UNCHANGED, Unchanged, check_description, check_metadata, merge_patch
from upshot.registry.lookup import find_artifact, find_collection, find_in_project
from upshot.registry.mutation import Mutation
from upshot.registry.protection import require_ttl_permission
from upshot.registry.snapshots import metadata_changes, version_context
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock
from upshot.registry.versions import lock_version

VersionT = TypeVar("VersionT", Version, ArtifactVersion)


class Metadata(RegistryTransactions):
    """Methods for metadata and descriptions."""

    def update_version(
        self,
        registry: str,
        collection: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        description: str | None = None,
        ttl_seconds: int | Unchanged | None = UNCHANGED,
        origin: Origin,
    ) -> Change[Version]:
        """
        Change the metadata, the description or the time to live of the artifact version behind a link.

        Args:
            registry: Name of the registry.
            collection: Name of the collection.
            version: Name (`v3`) or alias of the version.
            metadata: A JSON merge patch (RFC 7396): null removes a key. None changes nothing.
            description: The new description. None changes nothing.
            ttl_seconds: The new time to live. 0 means never; None, that of the artifact and the collections.
            origin: Who makes the change.

        Raises:
            Forbidden: The new time to live can delete the version earlier, and the actor is not an admin.
        """
        patch = check_metadata(metadata or {})
        if not isinstance(ttl_seconds, Unchanged):
            check_ttl(ttl_seconds, allow_never=True)
        if description is not None:
            check_description(description, "version")

        def work(mutation: Mutation) -> Version:
            found = find_collection(mutation.tx, registry, collection)
            locked = lock_version(mutation, found, version)
            after = with_changes(locked.artifact_version, patch, description, ttl_seconds)
            return _update(mutation, found, locked, after)

        return self._change(work, locks=[collection_lock(registry, collection)], origin=origin)

    def update_artifact_version(
        self,
        project: str,
        name: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        description: str | None = None,
        ttl_seconds: int | Unchanged | None = UNCHANGED,
        origin: Origin,
    ) -> Change[ArtifactVersion]:
        """
        Change the metadata, the description or the time to live of an artifact version.

        Args:
            project: Name of the project.
            name: Name of the artifact.
            version: Name (`v3`) or alias of the version in the project.
            metadata: A JSON merge patch (RFC 7396): null removes a key. None changes nothing.
            description: The new description. None changes nothing.
            ttl_seconds: The new time to live. 0 means never; None, that of the artifact and the collections.
            origin: Who makes the change.
        """
        patch = check_metadata(metadata or {})
        if not isinstance(ttl_seconds, Unchanged):
            check_ttl(ttl_seconds, allow_never=True)
        if description is not None:
            check_description(description, "artifact version")

        def work(mutation: Mutation) -> ArtifactVersion:
            artifact = find_artifact(mutation.tx, project, name)
            before = find_in_project(mutation.tx, artifact, version)
            return _update(mutation, artifact, before, with_changes(before, patch, description, ttl_seconds))

        return self._change(work, locks=[artifact_lock(project, name)], origin=origin)


def with_changes(
    before: ArtifactVersion,
    patch: Mapping[str, Any],
    description: str | None,
    ttl_seconds: int | Unchanged | None = UNCHANGED,
) -> ArtifactVersion:
    """Return the artifact version with patched metadata, and with the new description and time to live, if any."""
    return replace(
        before,
        metadata=check_metadata(merge_patch(before.metadata, patch), "metadata with this change"),
        description=before.description if description is None else description,
        ttl_seconds=before.ttl_seconds if isinstance(ttl_seconds, Unchanged) else ttl_seconds,
    )


def _update(mutation: Mutation, series: Series, version: VersionT, after: ArtifactVersion) -> VersionT:
    before = version.artifact_version
    changed_metadata = metadata_changes(before.metadata, after.metadata)
    changed: list[str] = [
        name for name in ("description", "ttl_seconds") if getattr(before, name) != getattr(after, name)
    ]
    if not changed_metadata and not changed:
        return version
    require_ttl_permission(mutation.actor, before.ttl_seconds, after.ttl_seconds, unlimited=NEVER)
    mutation.tx.update_artifact_version(after)
    updated = version.with_artifact_version(after)
    changes = {
        "metadata": changed_metadata,
        "description": None,
        **{name: {"before": getattr(before, name), "after": getattr(after, name)} for name in changed},
    }
    data = {**version_context(series, updated, mutation.base_url), "changes": changes}
    mutation.add_event(EventKind.VERSION_UPDATED, updated.reference, data)
    shown = ["metadata", "description", *(name for name in changed if name == "ttl_seconds")]
    mutation.add_history(
        "update-version",
        updated.reference,
        series,
        before={name: getattr(before, name) for name in shown},
        after={name: getattr(after, name) for name in shown},
    )
    return updated
