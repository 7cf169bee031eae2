"""Tags: on an artifact version (said of a link or in its project, all links to it have them) or on a collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from upshot.domain.event import Actor, Cause, EventKind
from upshot.domain.reference import check_name
from upshot.domain.registry import ArtifactVersion, Change, Collection, Version
from upshot.errors import InvalidInput, NotFound
from upshot.registry.inputs import MAX_TAGS
from upshot.registry.lookup import find_artifact, find_collection, find_logged, hint
from upshot.registry.mutation import Mutation
from upshot.registry.snapshots import artifact_context, collection_context, version_context
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock
from upshot.registry.versions import lock_version


class Tags(RegistryTransactions):
    """The verbs that concern tags."""

    def add_tag(
        self,
        registry: str,
        collection: str,
        tag: str,
        version: str | None = None,
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Collection | Version]:
        """Tag the version that `vN` or an alias means; with None, the collection."""
        return self._retag(EventKind.TAG_ADDED, registry, collection, tag, version, actor=actor, chain=chain)

    def remove_tag(
        self,
        registry: str,
        collection: str,
        tag: str,
        version: str | None = None,
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Collection | Version]:
        """Take a tag from the version that `vN` or an alias means; with None, from the collection."""
        return self._retag(EventKind.TAG_REMOVED, registry, collection, tag, version, actor=actor, chain=chain)

    def add_artifact_tag(
        self, project: str, name: str, tag: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[ArtifactVersion]:
        """Tag the artifact version that `vN` or an alias means in its project."""
        return self._retag_logged(EventKind.TAG_ADDED, project, name, tag, version, actor=actor, chain=chain)

    def remove_artifact_tag(
        self, project: str, name: str, tag: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[ArtifactVersion]:
        """Take a tag from the artifact version that `vN` or an alias means in its project."""
        return self._retag_logged(EventKind.TAG_REMOVED, project, name, tag, version, actor=actor, chain=chain)

    def _retag_logged(
        self,
        kind: EventKind,
        project: str,
        name: str,
        tag: str,
        version: str,
        *,
        actor: Actor,
        chain: tuple[Cause, ...],
    ) -> Change[ArtifactVersion]:
        check_name(tag, "tag")

        def work(mutation: Mutation) -> ArtifactVersion:
            before = find_logged(mutation.tx, find_artifact(mutation.tx, project, name), version)
            after = replace(before, tags=_retagged(kind, before.reference, before.tags, tag))
            if after.tags != before.tags:
                mutation.tx.change_artifact_version(after)
                data = {**artifact_context(after, mutation.base_url), "on": "version"}
                _say(mutation, kind, tag, after.reference, data)
            return after

        value, events = self._change(work, locks=[artifact_lock(project, name)], actor=actor, chain=chain)
        return Change(value, events)

    def _retag(
        self,
        kind: EventKind,
        registry: str,
        collection: str,
        tag: str,
        version: str | None,
        *,
        actor: Actor,
        chain: tuple[Cause, ...],
    ) -> Change[Collection | Version]:
        check_name(tag, "tag")

        def work(mutation: Mutation) -> Collection | Version:
            if version is None:
                return _retag_collection(mutation, kind, find_collection(mutation.tx, registry, collection), tag)
            return _retag_version(mutation, kind, *lock_version(mutation, registry, collection, version), tag)

        value, events = self._change(work, locks=[collection_lock(registry, collection)], actor=actor, chain=chain)
        return Change(value, events)


def _retag_collection(mutation: Mutation, kind: EventKind, before: Collection, tag: str) -> Collection:
    after = replace(before, tags=_retagged(kind, before.reference, before.tags, tag))
    if after.tags != before.tags:
        mutation.tx.save_collection(after)
        data = {**collection_context(after, mutation.base_url), "on": "collection"}
        _say(mutation, kind, tag, after.reference, data, of=after)
    return after


def _retag_version(mutation: Mutation, kind: EventKind, home: Collection, before: Version, tag: str) -> Version:
    tags = _retagged(kind, before.reference, before.artifact.tags, tag)
    after = replace(before, artifact=replace(before.artifact, tags=tags))
    if tags != before.artifact.tags:
        mutation.tx.change_artifact_version(after.artifact)
        data = {**version_context(home, after, mutation.base_url), "on": "version"}
        _say(mutation, kind, tag, after.reference, data, of=home)
    return after


def _retagged(kind: EventKind, place: str, tags: tuple[str, ...], tag: str) -> tuple[str, ...]:
    if kind is EventKind.TAG_REMOVED:
        if tag not in tags:
            raise NotFound(f"{place} has no tag {tag!r}{hint(tag, tags)}")
        return tuple(other for other in tags if other != tag)
    if tag not in tags and len(tags) >= MAX_TAGS:
        raise InvalidInput(f"{place} has {len(tags)} tags already; at most {MAX_TAGS} are allowed")
    return tuple(sorted({*tags, tag}))


def _say(
    mutation: Mutation,
    kind: EventKind,
    tag: str,
    subject: str,
    data: Mapping[str, Any],
    *,
    of: Collection | None = None,
) -> None:
    mutation.say(kind, subject, {**data, "tag": tag})
    added = kind is EventKind.TAG_ADDED
    mutation.note(
        "add-tag" if added else "remove-tag",
        subject,
        of=of,
        before={"tag": None if added else tag},
        after={"tag": tag if added else None},
    )
