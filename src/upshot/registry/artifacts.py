"""Log artifact versions into projects, read them, and delete them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from upshot.domain.event import Origin
from upshot.domain.reference import LATEST, check_name, version_number
from upshot.domain.registry import Artifact, ArtifactVersion, Change
from upshot.errors import Conflict, NotFound
from upshot.ports.paging import Page
from upshot.ports.registry import RegistryView
from upshot.registry.aliases import add_alias_removed_event, move_aliases
from upshot.registry.inputs import check_aliases, check_content, check_description, check_json
from upshot.registry.lookup import find_artifact, find_artifact_version, find_collection, find_registry
from upshot.registry.mutation import Mutation
from upshot.registry.protection import is_protected
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock
from upshot.registry.versions import unlink_version
from upshot.resources.version import version_json
from upshot.suggestions import did_you_mean


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
        origin: Origin,
    ) -> Change[ArtifactVersion]:
        """
        Log an artifact version into a project. `latest` moves to the new version.

        Content that equals the content of `latest` creates no version. The metadata and the
        description of `latest` stay, and the requested aliases still move to it.

        Args:
            project: Name of the project. Its first artifact creates it.
            name: Name of the artifact.
            artifact_type: Type of the artifact, the same for all its versions.
            metadata: A JSON object.
            digest: Identifies the content if there is no manifest. Without both, the metadata does.
            manifest: Content digest by path. The digest of the version is computed from it.
            description: Markdown.
            aliases: Aliases in the project, besides `latest`.
            origin: Who makes the change.

        Raises:
            Conflict: The artifact has another type.
        """
        check_name(project, "project")
        check_name(name, "artifact")
        check_name(artifact_type, "artifact type")
        aliases = check_aliases(aliases)
        checked_metadata = check_json(metadata or {}, "metadata")
        content_digest, content_manifest = check_content(digest, manifest, checked_metadata)
        check_description(description, "artifact")

        def work(mutation: Mutation) -> ArtifactVersion:
            tx = mutation.tx
            artifact = tx.artifact(project, name)
            if artifact is None:
                artifact = Artifact(project, name, artifact_type, {})
                tx.save_artifact(artifact)
            if artifact.artifact_type != artifact_type:
                raise Conflict(
                    f"artifact {artifact.reference} is of type {artifact.artifact_type!r}, not {artifact_type!r}; "
                    "log it with its type, or under another name"
                )
            number = version_number(artifact.aliases.get(LATEST, ""))
            latest = None if number is None else tx.artifact_versions(artifact, [number]).get(number)
            if latest and latest.digest == content_digest:
                return move_aliases(mutation, artifact, latest, aliases)
            version = ArtifactVersion(
                project=project,
                artifact_name=name,
                artifact_type=artifact_type,
                number=tx.next_number(artifact),
                digest=content_digest,
                metadata=checked_metadata,
                description=description,
                manifest=content_manifest,
                aliases=(),
                tags=(),
                created_at=mutation.now,
                created_by=origin.actor.name,
            )
            tx.add_artifact_version(version)
            mutation.created = True
            return move_aliases(mutation, artifact, version, aliases, is_new=True)

        return self._change(work, locks=[artifact_lock(project, name)], origin=origin)

    def artifact_version(self, reference: str) -> ArtifactVersion:
        """Return the artifact version that `project/artifact:v3`, an alias or a link refers to, with its manifest."""

        def work(view: RegistryView) -> ArtifactVersion:
            found = find_artifact_version(view, reference)
            return replace(found, manifest=view.manifest(found))

        return self._store.read(work)

    def artifacts(self, project: str, *, cursor: str | None, limit: int) -> Page[Artifact]:
        """Return artifacts of a project with their aliases, by name."""
        check_name(project, "project")

        def work(view: RegistryView) -> Page[Artifact]:
            page = view.page_artifacts(project, cursor=cursor, limit=limit)
            if not page.items and cursor is None:
                raise NotFound(f"there is no project {project!r}{did_you_mean(project, view.names('project'))}")
            return page

        return self._store.read(work)

    def artifact_versions(self, project: str, name: str, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]:
        """Return versions of an artifact without manifests, newest first."""
        return self._store.read(
            lambda view: view.page_artifact_versions(find_artifact(view, project, name), cursor=cursor, limit=limit)
        )

    def delete_artifact_version(self, reference: str, *, origin: Origin) -> Change[None]:
        """
        Delete an artifact version, given by `project/artifact:v3` or an alias, and unlink it everywhere.

        Raises:
            Conflict: A link to the version has a protected alias. This also applies to admins.
        """

        def work(mutation: Mutation) -> None:
            tx = mutation.tx
            unlocked = find_artifact_version(tx, reference)
            tx.lock(collection_lock(registry, collection) for registry, collection, _ in tx.links_to(unlocked))
            tx.lock([artifact_lock(unlocked.project, unlocked.artifact_name)])
            version = find_artifact_version(tx, unlocked.reference)  # read again, because it may have changed
            for registry, collection, number in tx.links_to(version):
                _unlink_unprotected(mutation, registry, collection, number)
            tx.remove_artifact_version(version)
            artifact = find_artifact(tx, version.project, version.artifact_name)
            for alias in version.aliases:
                add_alias_removed_event(mutation, artifact, replace(version, aliases=()), alias)
            mutation.add_history(
                "delete-artifact-version", version.reference, artifact, before=version_json(version, None)
            )

        return self._change(work, origin=origin)


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
