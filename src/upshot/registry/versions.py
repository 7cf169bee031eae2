"""Versions of a collection: linked, given aliases and tags, described, unlinked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from upshot.domain.event import Actor, Cause, EventKind
from upshot.domain.reference import LATEST, check_alias, check_name
from upshot.domain.registry import ArtifactVersion, Change, Collection, Version
from upshot.errors import Conflict
from upshot.ports.paging import Page
from upshot.registry.aliases import (
    check_may_move_by_itself,
    check_may_touch,
    give,
    linked_holder,
    numbers_of,
    say_moves,
    say_removed,
)
from upshot.registry.collections import make_collection
from upshot.registry.inputs import check_aliases, check_description, check_json, merge_patch
from upshot.registry.lookup import (
    find_artifact_version,
    find_collection,
    find_registry,
    find_version,
    missing_alias,
)
from upshot.registry.mutation import Mutation
from upshot.registry.snapshots import metadata_changes, version_context
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock


class Versions(RegistryTransactions):
    """The verbs that concern versions and their aliases."""

    def link(
        self,
        registry: str,
        collection: str,
        artifact: str,
        *,
        aliases: Sequence[str] = (),
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Version]:
        """
        Link an artifact version into a collection, which is made if it does not exist.

        A new version gets `latest`. An artifact version that is linked already keeps its number;
        the aliases that are asked for still move.

        Args:
            registry: Made if it does not exist.
            collection: Of the artifact's type.
            artifact: `project/name:v0` or an alias; or a link, whose source is linked (see
                `lookup.find_artifact_version` for how the two are told apart).
            aliases: Beside `latest`.
            actor: Who links.
            chain: What led here.

        Raises:
            Conflict: The collection is for another type.
            Forbidden: An alias is protected, and the actor is no admin.
        """
        check_name(registry, "registry")
        check_name(collection, "collection")
        asked = check_aliases(aliases)

        def work(mutation: Mutation) -> tuple[Version, bool]:
            source = find_artifact_version(mutation.tx, artifact)
            target = _collection_for(mutation, registry, collection, source)
            number = mutation.tx.number_of(target, source)
            if number is not None:
                version = mutation.tx.versions(target, [number])[number]
                return _move_in_collection(mutation, target, version, asked), False
            version = Version(
                registry=registry,
                collection=collection,
                number=mutation.tx.next_number(target),
                artifact=source,
                aliases=(),
                linked_at=mutation.now,
                linked_by=actor.name,
            )
            mutation.tx.add_version(version)
            return _move_in_collection(mutation, target, version, asked, new=True), True

        lock = collection_lock(registry, collection)
        (value, created), events = self._change(work, locks=[lock], actor=actor, chain=chain)
        return Change(value, events, created=created)

    def unlink(
        self, registry: str, collection: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[None]:
        """
        Remove a link and its aliases; the artifact version stays, the number is not used again.

        Raises:
            Forbidden: It has a protected alias, and the actor is no admin.
        """

        def work(mutation: Mutation) -> None:
            home = find_collection(mutation.tx, registry, collection)
            found = find_version(mutation.tx, home, version)
            rules = find_registry(mutation.tx, registry)
            check_may_touch(rules, found.aliases, actor, "unlink its version")
            unlink_version(mutation, home, found)

        _, events = self._change(work, locks=[collection_lock(registry, collection)], actor=actor, chain=chain)
        return Change(None, events)

    def version(self, registry: str, collection: str, version: str) -> Version:
        """The version that `vN` or an alias means."""
        return self._store.read(lambda view: find_version(view, find_collection(view, registry, collection), version))

    def versions(self, registry: str, collection: str, *, cursor: str | None, limit: int) -> Page[Version]:
        """The versions of a collection, newest first."""
        return self._store.read(
            lambda view: view.page_versions(find_collection(view, registry, collection), cursor=cursor, limit=limit)
        )

    def update_version(
        self,
        registry: str,
        collection: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        description: str | None = None,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Version]:
        """
        Change metadata or description of the artifact version behind a link: all links to it see that.

        Args:
            registry: Of the link.
            collection: Of the link.
            version: `vN` or an alias.
            metadata: A JSON merge patch (RFC 7396): null removes a key. None leaves it as it is.
            description: None leaves it as it is.
            actor: Who changes it.
            chain: What led here.
        """
        patch = check_json(metadata or {}, "metadata")
        if description is not None:
            check_description(description, "version")

        def work(mutation: Mutation) -> Version:
            home, before = lock_version(mutation, registry, collection, version)
            after = replace(before, artifact=described(before.artifact, patch, description))
            context = version_context(home, after, mutation.base_url)
            say_described(mutation, after.reference, context, before.artifact, after.artifact, of=home)
            return after

        value, events = self._change(work, locks=[collection_lock(registry, collection)], actor=actor, chain=chain)
        return Change(value, events)

    def add_alias(
        self,
        registry: str,
        collection: str,
        alias: str,
        version: str,
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Version]:
        """
        Give an alias to a version, whoever holds it now.

        Raises:
            Forbidden: The alias is protected, and the actor is no admin.
        """
        check_alias(alias)

        def work(mutation: Mutation) -> Version:
            home = find_collection(mutation.tx, registry, collection)
            return _move_in_collection(mutation, home, find_version(mutation.tx, home, version), [alias])

        value, events = self._change(work, locks=[collection_lock(registry, collection)], actor=actor, chain=chain)
        return Change(value, events)

    def remove_alias(
        self, registry: str, collection: str, alias: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[None]:
        """
        Take an alias from its version.

        Raises:
            Forbidden: The alias is protected, and the actor is no admin.
        """
        check_alias(alias)

        def work(mutation: Mutation) -> None:
            before = find_collection(mutation.tx, registry, collection)
            if alias not in before.aliases:
                raise missing_alias(before, alias)
            check_may_touch(find_registry(mutation.tx, registry), [alias], actor, "remove it")
            mutation.tx.remove_alias(before, alias)
            after = replace(before, aliases={a: holder for a, holder in before.aliases.items() if a != alias})
            loser = find_version(mutation.tx, after, before.aliases[alias])
            say_removed(mutation, linked_holder(after, loser, mutation.base_url), alias)
            held = {"alias": alias, "version": loser.name}
            mutation.note(
                "remove-alias", loser.reference, of=after, before=held, after={"alias": alias, "version": None}
            )

        _, events = self._change(work, locks=[collection_lock(registry, collection)], actor=actor, chain=chain)
        return Change(None, events)


def lock_version(mutation: Mutation, registry: str, collection: str, word: str) -> tuple[Collection, Version]:
    """The version that the word means, while nobody else changes the artifact version behind it."""
    home = find_collection(mutation.tx, registry, collection)
    seen = find_version(mutation.tx, home, word)
    mutation.tx.lock([artifact_lock(seen.artifact.project, seen.artifact.name)])
    return home, mutation.tx.versions(home, [seen.number])[seen.number]


def described(before: ArtifactVersion, patch: Mapping[str, Any], description: str | None) -> ArtifactVersion:
    """The artifact version with its metadata patched, and with the description where that is not None."""
    return replace(
        before,
        metadata=check_json(merge_patch(before.metadata, patch), "metadata with this change"),
        description=before.description if description is None else description,
    )


def say_described(
    mutation: Mutation,
    subject: str,
    context: Mapping[str, Any],
    before: ArtifactVersion,
    after: ArtifactVersion,
    *,
    of: Collection | None = None,
) -> None:
    """
    Write changed metadata and description as part of a mutation, if they changed.

    Args:
        mutation: To which it belongs.
        subject: The link or the artifact version of which it is said.
        context: What events about that say.
        before: What it was.
        after: What it is now.
        of: The collection of the link.
    """
    metadata = metadata_changes(before.metadata, after.metadata)
    description = None
    if before.description != after.description:
        description = {"before": before.description, "after": after.description}
    if not metadata and description is None:
        return
    mutation.tx.change_artifact_version(after)
    changes = {"metadata": metadata, "description": description}
    mutation.say(EventKind.VERSION_UPDATED, subject, {**context, "changes": changes})
    mutation.note(
        "update-version",
        subject,
        of=of,
        before={"metadata": before.metadata, "description": before.description},
        after={"metadata": after.metadata, "description": after.description},
    )


def unlink_version(mutation: Mutation, collection: Collection, version: Version) -> None:
    """Remove a link as part of a mutation."""
    mutation.tx.remove_version(version)
    after = replace(collection, aliases={a: name for a, name in collection.aliases.items() if name != version.name})
    loser = linked_holder(after, replace(version, aliases=()), mutation.base_url)
    for alias in version.aliases:
        say_removed(mutation, loser, alias)
    held = list(version.aliases)
    mutation.say(EventKind.VERSION_UNLINKED, version.reference, {**loser.context, "aliases": held})
    before = {"artifact": version.artifact.reference, "digest": version.artifact.digest, "aliases": held}
    mutation.note("unlink", version.reference, of=collection, before=before)


def _collection_for(mutation: Mutation, registry: str, name: str, source: ArtifactVersion) -> Collection:
    """The collection to link into, made if there is none."""
    found = mutation.tx.collection(registry, name) or make_collection(mutation, registry, name, source.type)
    if found.artifact_type != source.type:
        raise Conflict(
            f"collection {found.reference} is for artifacts of type {found.artifact_type!r}, and "
            f"{source.reference} is of type {source.type!r}; link it into another collection"
        )
    return found


def _move_in_collection(
    mutation: Mutation, collection: Collection, version: Version, asked: Sequence[str], *, new: bool = False
) -> Version:
    """Give the aliases to the version; a new one is announced first, and gets `latest`."""
    rules = find_registry(mutation.tx, collection.registry)
    check_may_touch(rules, asked, mutation.actor, "add or move it")
    if new:
        check_may_move_by_itself(rules, LATEST, mutation.actor)
    after, moved = give(collection, version.name, dict.fromkeys([LATEST, *asked] if new else asked))
    given = replace(version, aliases=after.aliases_of(version.name))
    if not moved:
        return given
    gainer = linked_holder(after, given, mutation.base_url)
    if new:
        mutation.say(EventKind.VERSION_LINKED, given.reference, gainer.context)
    mutation.tx.move_aliases(collection, dict.fromkeys(moved, version.number))
    losers = mutation.tx.versions(after, numbers_of(moved.values()))
    say_moves(
        mutation,
        gainer,
        moved,
        {loser.name: linked_holder(after, loser, mutation.base_url) for loser in losers.values()},
        automatic=frozenset({LATEST}).difference(asked),
    )
    mutation.note(
        "link" if new else "add-alias",
        given.reference,
        of=after,
        before={"aliases": moved},
        after={
            "artifact": given.artifact.reference,
            "digest": given.artifact.digest,
            "aliases": dict.fromkeys(moved, given.name),
        },
    )
    return given
