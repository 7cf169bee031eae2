"""Change the metadata and the description of versions. All links to an artifact version share both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from upshot.domain.event import EventKind, Origin
from upshot.domain.registry import ArtifactVersion, Change, Series, Version
from upshot.registry.inputs import check_description, check_metadata, merge_patch
from upshot.registry.lookup import find_artifact, find_collection, find_in_project
from upshot.registry.mutation import Mutation
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
        origin: Origin,
    ) -> Change[Version]:
        """
        Change the metadata or the description of the artifact version behind a link.

        Args:
            registry: Name of the registry.
            collection: Name of the collection.
            version: Name (`v3`) or alias of the version.
            metadata: A JSON merge patch (RFC 7396): null removes a key. None changes nothing.
            description: The new description. None changes nothing.
            origin: Who makes the change.
        """
        patch = check_metadata(metadata or {})
        if description is not None:
            check_description(description, "version")

        def work(mutation: Mutation) -> Version:
            found = find_collection(mutation.tx, registry, collection)
            return _update(mutation, found, lock_version(mutation, found, version), patch, description)

        return self._change(work, locks=[collection_lock(registry, collection)], origin=origin)

    def update_artifact_version(
        self,
        project: str,
        name: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        description: str | None = None,
        origin: Origin,
    ) -> Change[ArtifactVersion]:
        """
        Change the metadata or the description of an artifact version.

        Args:
            project: Name of the project.
            name: Name of the artifact.
            version: Name (`v3`) or alias of the version in the project.
            metadata: A JSON merge patch (RFC 7396): null removes a key. None changes nothing.
            description: The new description. None changes nothing.
            origin: Who makes the change.
        """
        patch = check_metadata(metadata or {})
        if description is not None:
            check_description(description, "artifact version")

        def work(mutation: Mutation) -> ArtifactVersion:
            artifact = find_artifact(mutation.tx, project, name)
            return _update(mutation, artifact, find_in_project(mutation.tx, artifact, version), patch, description)

        return self._change(work, locks=[artifact_lock(project, name)], origin=origin)


def with_changes(before: ArtifactVersion, patch: Mapping[str, Any], description: str | None) -> ArtifactVersion:
    """Return the artifact version with patched metadata and, unless None, with the new description."""
    return replace(
        before,
        metadata=check_metadata(merge_patch(before.metadata, patch), "metadata with this change"),
        description=before.description if description is None else description,
    )


def _update(
    mutation: Mutation, series: Series, version: VersionT, patch: Mapping[str, Any], description: str | None
) -> VersionT:
    before = version.artifact_version
    after = with_changes(before, patch, description)
    changed_metadata = metadata_changes(before.metadata, after.metadata)
    changed_description = None
    if before.description != after.description:
        changed_description = {"before": before.description, "after": after.description}
    if not changed_metadata and changed_description is None:
        return version
    mutation.tx.update_artifact_version(after)
    updated = version.with_artifact_version(after)
    changes = {"metadata": changed_metadata, "description": changed_description}
    data = {**version_context(series, updated, mutation.base_url), "changes": changes}
    mutation.add_event(EventKind.VERSION_UPDATED, updated.reference, data)
    mutation.add_history(
        "update-version",
        updated.reference,
        series,
        before={"metadata": before.metadata, "description": before.description},
        after={"metadata": after.metadata, "description": after.description},
    )
    return updated
