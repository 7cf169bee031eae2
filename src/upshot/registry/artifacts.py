"""Log artifact versions into projects, read them, delete them, and rename artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from upshot.domain.event import EventKind, Origin
from upshot.domain.expiry import check_ttl
from upshot.domain.manifest import ManifestEntry, ManifestSummary
from upshot.domain.reference import LATEST, check_name
from upshot.domain.registry import Artifact, ArtifactVersion, Change, Version
from upshot.errors import AlreadyExists, Conflict, NotFound
from upshot.ids import new_id
from upshot.ports.paging import Page
from upshot.ports.registry import EVERYTHING, RegistryFilter, RegistryView
from upshot.registry.aliases import add_alias_removed_event, add_latest_added_event, move_aliases, pass_on_latest
from upshot.registry.inputs import check_aliases, check_client_id, check_content, check_description, check_metadata
from upshot.registry.lookup import (
    artifact_or_none,
    find_artifact,
    find_artifact_version,
    find_collection,
    find_in_project,
    find_project,
    find_registry,
    project_or_none,
    read_files,
)
from upshot.registry.mutation import Mutation
from upshot.registry.protection import is_protected, require_admin
from upshot.registry.run_lookup import run_of_request
from upshot.registry.runs import add_output
from upshot.registry.scopes import make_project
from upshot.registry.snapshots import same_json, version_context
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock
from upshot.registry.versions import unlink_version
from upshot.resources.version import version_json


class Artifacts(RegistryTransactions):
    """Methods for artifacts."""

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
        version_id: str | None = None,
        run_id: str | None = None,
        ttl_seconds: int | None = None,
        origin: Origin,
    ) -> Change[ArtifactVersion]:
        """
        Log an artifact version into a project. `latest` moves to the new version.

        Content that equals the content of the newest version creates no version. The metadata and the
        description of that version stay, and the requested aliases still move to it.

        Args:
            project: Name of the project. Its first artifact creates it.
            name: Name of the artifact.
            artifact_type: Type of the artifact, the same for all its versions.
            metadata: A JSON object.
            digest: Identifies the content if there is no manifest. Without both, the metadata does.
            manifest: Content digest by path. The digest of the version is computed from it.
            description: Markdown.
            aliases: Aliases in the project, besides `latest`.
            version_id: Id of the version (`ver_…`), if the client made one. Nothing changes if there is a version with
                this id.
            run_id: Id of the run of this project that logs it, or None.
            ttl_seconds: Seconds after which it expires. 0 means never; None, that of the artifact and the collections.
            origin: Who makes the change.

        Raises:
            Conflict: The artifact has another type, or a registry has the name of the project.
        """
        artifact_type = check_name(artifact_type, "artifact type")
        aliases = check_aliases(aliases)
        checked_metadata = check_metadata(metadata or {})
        content_digest, content_manifest = check_content(digest, manifest, checked_metadata)
        check_description(description, "artifact")
        check_ttl(ttl_seconds, allow_never=True)
        if version_id is not None:
            check_client_id(version_id, "ver")

        def work(mutation: Mutation) -> ArtifactVersion:
            tx = mutation.tx
            if version_id is not None and (known := tx.artifact_version_by_id(version_id)):
                return known
            run = run_of_request(tx, project, run_id)
            artifact = artifact_or_none(tx, project, name)
            if artifact is None:
                holder = project_or_none(tx, project) or check_name(project, "project")
                make_project(mutation, holder)
                artifact_id = new_id("art", mutation.now)
                artifact = Artifact(artifact_id, holder, check_name(name, "artifact"), artifact_type, {})
                tx.save_artifact(artifact)
            if artifact.artifact_type != artifact_type:
                raise Conflict(
                    f"artifact {artifact.reference} is of type {artifact.artifact_type!r}, not {artifact_type!r}; "
                    "log it with its type, or under another name"
                )
            newest = tx.page_artifact_versions(artifact, cursor=None, limit=1).items
            if newest and newest[0].digest == content_digest:
                mutation.metadata_ignored = bool(checked_metadata) and not same_json(
                    checked_metadata, newest[0].metadata
                )
                add_output(tx, run, newest[0])
                return move_aliases(mutation, artifact, newest[0], aliases)
            manifest = None
            if content_manifest is not None:
                manifest = ManifestSummary(new_id("man", mutation.now), len(content_manifest), None, is_stored=False)
                tx.add_manifest(manifest)
                tx.add_files(
                    manifest.id, [ManifestEntry(path, digest, None) for path, digest in content_manifest.items()]
                )
            version = ArtifactVersion(
                id=version_id or new_id("ver", mutation.now),
                artifact_id=artifact.id,
                project=artifact.project,
                artifact_name=artifact.name,
                artifact_type=artifact_type,
                number=tx.next_number(artifact),
                digest=content_digest,
                metadata=checked_metadata,
                description=description,
                manifest=manifest,
                aliases=(),
                tags=(),
                created_at=mutation.now,
                created_by=origin.actor.name,
                run=run,
                ttl_seconds=ttl_seconds,
            )
            tx.add_artifact_version(version)
            add_output(tx, run, version)
            mutation.created = True
            return move_aliases(mutation, artifact, version, aliases, is_new=True)

        return self._change(work, locks=[artifact_lock(project, name)], origin=origin)

    def artifact_version(self, reference: str) -> ArtifactVersion:
        """Return the artifact version that `project/artifact:v3`, an alias or a link refers to."""
        return self._store.read(lambda view: find_artifact_version(view, reference))

    def find_artifact_version(self, artifact_version_id: str) -> ArtifactVersion | None:
        """Return the artifact version with this id, or None if it was deleted."""
        return self._store.read(lambda view: view.artifact_version_by_id(artifact_version_id))

    def files_of(self, version: ArtifactVersion) -> tuple[ManifestEntry, ...]:
        """
        Return all files of an artifact version, by path.

        Raises:
            Conflict: The version was logged with a digest only.
        """
        manifest = _manifest_of(version)
        return self._store.read(lambda view: tuple(read_files(view, manifest.id)))

    def files(self, reference: str, *, cursor: str | None, limit: int) -> Page[ManifestEntry]:
        """
        Return the files of an artifact version, by path.

        Raises:
            Conflict: The version was logged with a digest only.
        """

        def work(view: RegistryView) -> Page[ManifestEntry]:
            return view.page_files(_manifest_of(find_artifact_version(view, reference)).id, cursor=cursor, limit=limit)

        return self._store.read(work)

    def file(self, reference: str, path: str) -> tuple[ArtifactVersion, ManifestEntry]:
        """
        Return an artifact version and one of its files, whose content is stored here.

        Raises:
            Conflict: The version was logged without its bytes, or the file is a reference.
            NotFound: It has no file with this path.
        """

        def work(view: RegistryView) -> tuple[ArtifactVersion, ManifestEntry]:
            version = find_artifact_version(view, reference)
            entry = view.file(_manifest_of(version).id, path)
            if entry is None:
                raise NotFound(f"{version.reference} has no file {path[:200]!r}; list its files")
            if entry.ref is not None:
                raise Conflict(f"{path!r} of {version.reference} is a reference to {entry.ref}; read it there")
            if not _manifest_of(version).is_stored:
                raise Conflict(
                    f"{version.reference} was logged with the names and digests of its files only: there is nothing to "
                    "download; log it again with its files"
                )
            return version, entry

        return self._store.read(work)

    def links(self, project: str, name: str, version: str) -> tuple[Version, ...]:
        """Return all links to an artifact version, sorted by registry and collection."""

        def work(view: RegistryView) -> tuple[Version, ...]:
            found = find_in_project(view, find_artifact(view, project, name), version)
            linked = []
            for registry, collection, number in view.links_to(found):
                linked.append(view.versions(find_collection(view, registry, collection), [number])[number])
            return tuple(linked)

        return self._store.read(work)

    def rename_artifact(self, project: str, name: str, new_name: str, *, origin: Origin) -> Change[Artifact]:
        """
        Rename an artifact. It keeps its id, versions, aliases and links.

        Raises:
            AlreadyExists: Another artifact of the project has the new name.
            Forbidden: The actor is not an admin.
        """
        new_name = check_name(new_name, "artifact")
        require_admin(origin.actor, f"rename artifact {project}/{name}")

        def work(mutation: Mutation) -> Artifact:
            before = find_artifact(mutation.tx, project, name)
            if new_name == before.name:
                return before
            if mutation.tx.artifact(before.project, new_name):
                raise AlreadyExists(f"artifact {before.project}/{new_name} already exists; choose another name")
            after = replace(before, name=new_name)
            mutation.tx.save_artifact(after)
            mutation.add_history(
                "rename-artifact", after.reference, after, before={"name": before.name}, after={"name": new_name}
            )
            return after

        locks = [artifact_lock(project, name), artifact_lock(project, new_name)]
        return self._change(work, locks=locks, origin=origin)

    def artifact(self, project: str, name: str) -> Artifact:
        """Return an artifact with its aliases."""
        return self._store.read(lambda view: find_artifact(view, project, name))

    def artifacts(
        self, project: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Artifact]:
        """Return artifacts of a project with their aliases, by name."""

        def work(view: RegistryView) -> Page[Artifact]:
            return view.page_artifacts(find_project(view, project), where, cursor=cursor, limit=limit)

        return self._store.read(work)

    def artifact_versions(
        self, project: str, name: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[ArtifactVersion]:
        """Return versions of an artifact without manifests, newest first."""
        return self._store.read(
            lambda view: view.page_artifact_versions(
                find_artifact(view, project, name), where, cursor=cursor, limit=limit
            )
        )

    def delete_artifact_version(self, reference: str, *, origin: Origin) -> Change[None]:
        """
        Delete an artifact version, given by `project/artifact:v3` or an alias, and unlink it everywhere.

        `latest` moves to the newest version that remains, in the project and in each collection.

        Raises:
            Conflict: A link to the version has a protected alias. This also applies to admins.
        """

        def work(mutation: Mutation) -> None:
            tx = mutation.tx
            unlocked = find_artifact_version(tx, reference)
            tx.lock(collection_lock(registry, collection) for registry, collection, _ in tx.links_to(unlocked))
            tx.lock([artifact_lock(unlocked.project, unlocked.artifact_name)])
            version = find_artifact_version(tx, unlocked.reference)  # read again, because it may have changed
            delete_version(mutation, version, reason="request")

        return self._change(work, origin=origin)


def delete_version(mutation: Mutation, version: ArtifactVersion, *, reason: Literal["request", "ttl"]) -> None:
    """
    Delete an artifact version and its links, under the locks of its artifact and its collections.

    Raises:
        Conflict: A link to the version has a protected alias.
    """
    tx = mutation.tx
    for registry, collection, number in tx.links_to(version):
        _unlink_unprotected(mutation, registry, collection, number)
    before = find_artifact(tx, version.project, version.artifact_name)
    tx.remove_artifact_version(version)
    artifact, heir = pass_on_latest(mutation, before, version)
    deleted = replace(version, aliases=())
    for alias in version.aliases:
        moves = heir is not None and alias == LATEST
        moved_to = heir.name if heir and moves else None
        add_alias_removed_event(mutation, artifact, deleted, alias, moved_to=moved_to, automatic=moves)
    context = version_context(artifact, deleted, mutation.base_url)
    data = {**context, "aliases": list(version.aliases), "reason": reason}
    mutation.add_event(EventKind.ARTIFACT_DELETED, version.reference, data)
    mutation.add_history(
        "delete-artifact-version",
        version.reference,
        artifact,
        before=version_json(version, None),
        after={"reason": reason},
    )
    if heir:
        add_latest_added_event(mutation, artifact, heir, deleted)


def _manifest_of(version: ArtifactVersion) -> ManifestSummary:
    if version.manifest is None:
        raise Conflict(
            f"{version.reference} was logged with a digest only: its files are not known here, and there is nothing to "
            "download; log it again with its files"
        )
    return version.manifest


def _unlink_unprotected(mutation: Mutation, registry: str, name: str, number: int) -> None:
    collection = find_collection(mutation.tx, registry, name)
    version = mutation.tx.versions(collection, [number])[number]
    settings = find_registry(mutation.tx, registry)
    for alias in version.aliases:
        if is_protected(settings, alias):
            raise Conflict(
                f"{version.artifact_version.reference} is linked as {version.reference}, which has the protected "
                f"alias {alias!r}; an admin must move or remove that alias first"
            )
    unlink_version(mutation, collection, version)
