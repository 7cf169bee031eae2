"""Add and remove tags of versions and collections. All links to an artifact version share its tags."""

from __future__ import annotations

from dataclasses import replace

from upshot.domain.event import EventKind, Origin
from upshot.domain.reference import check_existing_name, check_name, spellings
from upshot.domain.registry import ArtifactVersion, Change, Collection, Series, Version
from upshot.errors import InvalidInput, NotFound
from upshot.registry.inputs import MAX_TAGS
from upshot.registry.lookup import find_artifact, find_collection, find_in_project
from upshot.registry.mutation import Mutation
from upshot.registry.snapshots import collection_context, version_context
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock
from upshot.registry.versions import lock_version
from upshot.suggestions import did_you_mean


class Tags(RegistryTransactions):
    """Methods for tags."""

    def add_tag(
        self, registry: str, collection: str, tag: str, version: str | None = None, *, origin: Origin
    ) -> Change[Collection | Version]:
        """
        Add a tag to a version, or to its collection.

        Args:
            registry: Name of the registry.
            collection: Name of the collection.
            tag: The tag.
            version: Name (`v3`) or alias of the version. None adds the tag to the collection.
            origin: Who makes the change.
        """
        return self._change_tag(EventKind.TAG_ADDED, registry, collection, tag, version, origin=origin)

    def remove_tag(
        self, registry: str, collection: str, tag: str, version: str | None = None, *, origin: Origin
    ) -> Change[Collection | Version]:
        """Remove a tag from a version, or from its collection if `version` is None."""
        return self._change_tag(EventKind.TAG_REMOVED, registry, collection, tag, version, origin=origin)

    def add_artifact_tag(
        self, project: str, name: str, tag: str, version: str, *, origin: Origin
    ) -> Change[ArtifactVersion]:
        """Add a tag to an artifact version, given by name (`v3`) or alias in its project."""
        return self._change_artifact_tag(EventKind.TAG_ADDED, project, name, tag, version, origin=origin)

    def remove_artifact_tag(
        self, project: str, name: str, tag: str, version: str, *, origin: Origin
    ) -> Change[ArtifactVersion]:
        """Remove a tag from an artifact version, given by name (`v3`) or alias in its project."""
        return self._change_artifact_tag(EventKind.TAG_REMOVED, project, name, tag, version, origin=origin)

    def _change_tag(
        self, kind: EventKind, registry: str, collection: str, tag: str, version: str | None, *, origin: Origin
    ) -> Change[Collection | Version]:
        tag = _checked_tag(kind, tag)

        def work(mutation: Mutation) -> Collection | Version:
            found = find_collection(mutation.tx, registry, collection)
            if version is None:
                return _change_collection_tag(mutation, kind, tag, found)
            locked = lock_version(mutation, found, version)
            return locked.with_artifact_version(_change_version_tag(mutation, kind, tag, found, locked))

        return self._change(work, locks=[collection_lock(registry, collection)], origin=origin)

    def _change_artifact_tag(
        self, kind: EventKind, project: str, name: str, tag: str, version: str, *, origin: Origin
    ) -> Change[ArtifactVersion]:
        tag = _checked_tag(kind, tag)

        def work(mutation: Mutation) -> ArtifactVersion:
            artifact = find_artifact(mutation.tx, project, name)
            return _change_version_tag(mutation, kind, tag, artifact, find_in_project(mutation.tx, artifact, version))

        return self._change(work, locks=[artifact_lock(project, name)], origin=origin)


def _checked_tag(kind: EventKind, tag: str) -> str:
    return check_name(tag, "tag") if kind is EventKind.TAG_ADDED else check_existing_name(tag, "tag")


def _change_collection_tag(mutation: Mutation, kind: EventKind, tag: str, before: Collection) -> Collection:
    tag, tags = _changed_tags(kind, before.reference, before.tags, tag)
    after = replace(before, tags=tags)
    if after.tags != before.tags:
        mutation.tx.save_collection(after)
        data = {**collection_context(after, mutation.base_url), "on": "collection", "tag": tag}
        mutation.add_event(kind, after.reference, data)
        _add_tag_history(mutation, kind, tag, after.reference, after)
    return after


def _change_version_tag(
    mutation: Mutation, kind: EventKind, tag: str, series: Series, version: Version | ArtifactVersion
) -> ArtifactVersion:
    before = version.artifact_version
    tag, tags = _changed_tags(kind, version.reference, before.tags, tag)
    after = replace(before, tags=tags)
    if after.tags != before.tags:
        mutation.tx.update_artifact_version(after)
        context = version_context(series, version.with_artifact_version(after), mutation.base_url)
        mutation.add_event(kind, version.reference, {**context, "on": "version", "tag": tag})
        _add_tag_history(mutation, kind, tag, version.reference, series)
    return after


def _changed_tags(kind: EventKind, subject: str, tags: tuple[str, ...], tag: str) -> tuple[str, tuple[str, ...]]:
    """Return the tag as it is stored, and all tags after the change."""
    if kind is EventKind.TAG_REMOVED:
        stored = next((spelling for spelling in spellings(tag, "tag") if spelling in tags), None)
        if stored is None:
            raise NotFound(f"{subject} has no tag {tag!r}{did_you_mean(tag, tags)}")
        return stored, tuple(other for other in tags if other != stored)
    if tag not in tags and len(tags) >= MAX_TAGS:
        raise InvalidInput(f"{subject} already has {len(tags)} tags; at most {MAX_TAGS} are allowed; remove one first")
    return tag, tuple(sorted({*tags, tag}))


def _add_tag_history(mutation: Mutation, kind: EventKind, tag: str, subject: str, series: Series) -> None:
    is_added = kind is EventKind.TAG_ADDED
    action = "add-tag" if is_added else "remove-tag"
    before, after = (None, tag) if is_added else (tag, None)
    mutation.add_history(action, subject, series, before={"tag": before}, after={"tag": after})
