"""Artifacts: logged into a project, read, deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from upshot.domain.event import Actor, Cause, EventKind
from upshot.domain.reference import LATEST, check_alias, check_name, version_number
from upshot.domain.registry import Artifact, ArtifactVersion, Change
from upshot.errors import Conflict, NotFound
from upshot.ports.paging import Page
from upshot.ports.registry import RegistryView
from upshot.registry.aliases import give, is_protected, logged_holder, numbers_of, say_moves, say_removed
from upshot.registry.inputs import check_aliases, check_description, check_json, digest_of
from upshot.registry.lookup import (
    find_artifact,
    find_artifact_version,
    find_collection,
    find_logged,
    find_registry,
    hint,
    missing_alias,
)
from upshot.registry.mutation import Mutation
from upshot.registry.snapshots import artifact_context, artifact_form
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock
from upshot.registry.versions import described, say_described, unlink_version


class Artifacts(RegistryTransactions):
    """The verbs that concern artifacts."""

    def log_artifact(
        self,
        project: str,
        name: str,
        artifact_type: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        digest: str | None = None,
        manifest: Mapping[str, str] | None = None,
        description: str = "",
        aliases: Sequence[str] = (),
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[ArtifactVersion]:
        """
        Log an artifact into a project; `latest` moves to the new version.

        Content equal to that of `latest` makes no new version, and leaves its metadata and
        description as they are; the aliases still move.

        Args:
            project: Made by its first artifact.
            name: The artifact's.
            artifact_type: The same for all its versions.
            metadata: A JSON object.
            digest: Names the content, where there is no manifest; with neither, the metadata does.
            manifest: Content digest by path, from which the digest is computed.
            description: Markdown.
            aliases: In the project's scope, beside `latest`.
            actor: Who logs it.
            chain: What led here.

        Raises:
            Conflict: The artifact is of another type.
        """
        check_name(project, "project")
        check_name(name, "artifact")
        check_name(artifact_type, "artifact type")
        asked = check_aliases(aliases)
        plain = check_json(metadata or {}, "metadata")
        content, entries = digest_of(digest, manifest, plain)
        check_description(description, "artifact")

        def work(mutation: Mutation) -> tuple[ArtifactVersion, bool]:
            artifact = _artifact_of_type(mutation, project, name, artifact_type)
            latest = _latest(mutation, artifact)
            if latest and latest.digest == content:
                return _move_in_project(mutation, artifact, latest, asked), False
            logged = ArtifactVersion(
                project=project,
                name=name,
                type=artifact_type,
                number=mutation.tx.next_number(artifact),
                digest=content,
                metadata=plain,
                description=description,
                manifest=entries,
                aliases=(),
                tags=(),
                created_at=mutation.now,
                created_by=actor.name,
            )
            mutation.tx.add_artifact_version(logged)
            return _move_in_project(mutation, artifact, logged, asked, new=True), True

        (value, created), events = self._change(work, locks=[artifact_lock(project, name)], actor=actor, chain=chain)
        return Change(value, events, created=created)

    def artifact_version(self, reference: str) -> ArtifactVersion:
        """The artifact version that `project/name:v3`, an alias, or a link to it means, with its manifest."""

        def work(view: RegistryView) -> ArtifactVersion:
            found = find_artifact_version(view, reference)
            return replace(found, manifest=view.manifest(found))

        return self._store.read(work)

    def artifacts(self, project: str, *, cursor: str | None, limit: int) -> Page[Artifact]:
        """The artifacts of a project with their aliases there, by name."""
        check_name(project, "project")

        def work(view: RegistryView) -> Page[Artifact]:
            page = view.page_artifacts(project, cursor=cursor, limit=limit)
            if not page.items and cursor is None:
                raise NotFound(f"there is no project {project!r}{hint(project, view.names('project'))}")
            return page

        return self._store.read(work)

    def artifact_versions(self, project: str, name: str, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]:
        """The versions of an artifact, newest first, without manifests."""
        return self._store.read(
            lambda view: view.page_artifact_versions(find_artifact(view, project, name), cursor=cursor, limit=limit)
        )

    def add_artifact_alias(
        self, project: str, name: str, alias: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[ArtifactVersion]:
        """Give an alias in the project's scope to what `vN` or an alias means there, whoever holds it now."""
        check_alias(alias)

        def work(mutation: Mutation) -> ArtifactVersion:
            artifact = find_artifact(mutation.tx, project, name)
            return _move_in_project(mutation, artifact, find_logged(mutation.tx, artifact, version), [alias])

        value, events = self._change(work, locks=[artifact_lock(project, name)], actor=actor, chain=chain)
        return Change(value, events)

    def remove_artifact_alias(
        self, project: str, name: str, alias: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[None]:
        """Take an alias in the project's scope from its artifact version."""
        check_alias(alias)

        def work(mutation: Mutation) -> None:
            before = find_artifact(mutation.tx, project, name)
            if alias not in before.aliases:
                raise missing_alias(before, alias)
            holder = find_logged(mutation.tx, before, before.aliases[alias])
            mutation.tx.remove_alias(before, alias)
            loser = replace(holder, aliases=tuple(kept for kept in holder.aliases if kept != alias))
            say_removed(mutation, logged_holder(loser, mutation.base_url), alias)
            held = {"alias": alias, "version": loser.version}
            mutation.note("remove-alias", loser.reference, before=held, after={"alias": alias, "version": None})

        _, events = self._change(work, locks=[artifact_lock(project, name)], actor=actor, chain=chain)
        return Change(None, events)

    def update_artifact_version(
        self,
        project: str,
        name: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        description: str | None = None,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[ArtifactVersion]:
        """
        Change metadata or description of an artifact version: all links to it see that.

        Args:
            project: Of the artifact.
            name: The artifact's.
            version: `vN` or an alias in the project.
            metadata: A JSON merge patch (RFC 7396): null removes a key. None leaves it as it is.
            description: None leaves it as it is.
            actor: Who changes it.
            chain: What led here.
        """
        patch = check_json(metadata or {}, "metadata")
        if description is not None:
            check_description(description, "artifact")

        def work(mutation: Mutation) -> ArtifactVersion:
            before = find_logged(mutation.tx, find_artifact(mutation.tx, project, name), version)
            after = described(before, patch, description)
            say_described(mutation, after.reference, artifact_context(after, mutation.base_url), before, after)
            return after

        value, events = self._change(work, locks=[artifact_lock(project, name)], actor=actor, chain=chain)
        return Change(value, events)

    def delete_artifact_version(self, reference: str, *, actor: Actor, chain: tuple[Cause, ...] = ()) -> Change[None]:
        """
        Delete what `project/name:v3` or an alias means; every link to it is unlinked.

        Raises:
            Conflict: A protected alias reaches it, whoever asks.
        """

        def work(mutation: Mutation) -> None:
            tx = mutation.tx
            meant = find_artifact_version(tx, reference)
            tx.lock(collection_lock(registry, name) for registry, name, _ in tx.links_to(meant))
            tx.lock([artifact_lock(meant.project, meant.name)])
            found = find_artifact_version(tx, meant.reference)  # as it is now that nobody else changes it
            for registry, name, number in tx.links_to(found):
                _unlink_unprotected(mutation, registry, name, number)
            tx.remove_artifact_version(found)
            gone = logged_holder(replace(found, aliases=()), mutation.base_url)
            for alias in found.aliases:
                say_removed(mutation, gone, alias)
            mutation.note("delete-artifact-version", found.reference, before=artifact_form(found))

        _, events = self._change(work, actor=actor, chain=chain)
        return Change(None, events)


def _artifact_of_type(mutation: Mutation, project: str, name: str, artifact_type: str) -> Artifact:
    """The artifact, made if there is none."""
    found = mutation.tx.artifact(project, name)
    if found is None:
        found = Artifact(project, name, artifact_type, {})
        mutation.tx.save_artifact(found)
    elif found.type != artifact_type:
        raise Conflict(
            f"artifact {found.reference} is of type {found.type!r}, not {artifact_type!r}; "
            "log it with its type, or under another name"
        )
    return found


def _latest(mutation: Mutation, artifact: Artifact) -> ArtifactVersion | None:
    number = version_number(artifact.aliases.get(LATEST, ""))
    return None if number is None else mutation.tx.artifact_versions(artifact, [number]).get(number)


def _move_in_project(
    mutation: Mutation, artifact: Artifact, version: ArtifactVersion, asked: Sequence[str], *, new: bool = False
) -> ArtifactVersion:
    """Give the aliases to the artifact version; a new one is announced first, and gets `latest`."""
    after, moved = give(artifact, version.version, dict.fromkeys([LATEST, *asked] if new else asked))
    given = replace(version, aliases=after.aliases_of(version.version))
    gainer = logged_holder(given, mutation.base_url)
    if new:
        mutation.say(EventKind.ARTIFACT_CREATED, given.reference, gainer.context)
    if moved:
        mutation.tx.move_aliases(artifact, dict.fromkeys(moved, version.number))
        losers = mutation.tx.artifact_versions(after, numbers_of(moved.values()))
        say_moves(
            mutation,
            gainer,
            moved,
            {loser.version: logged_holder(loser, mutation.base_url) for loser in losers.values()},
            automatic=frozenset({LATEST}).difference(asked),
        )
        mutation.note(
            "log-artifact" if new else "add-alias",
            given.reference,
            before={"aliases": moved},
            after={"digest": given.digest, "aliases": dict.fromkeys(moved, given.version)},
        )
    return given


def _unlink_unprotected(mutation: Mutation, registry: str, name: str, number: int) -> None:
    collection = find_collection(mutation.tx, registry, name)
    version = mutation.tx.versions(collection, [number])[number]
    rules = find_registry(mutation.tx, registry)
    for alias in version.aliases:
        if is_protected(rules, alias):
            raise Conflict(
                f"{version.artifact.reference} is {version.reference}, which has the protected alias {alias!r}; "
                "an admin must move or remove that alias first"
            )
    unlink_version(mutation, collection, version)
