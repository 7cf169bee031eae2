"""
Log artifact versions with their files, in two phases.

A version is pending until every blob of its manifest is stored. Then it is committed: only then does it get a number,
is seen by others, and makes events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath

from upshot.domain.event import Origin
from upshot.domain.expiry import check_ttl
from upshot.domain.manifest import ManifestEntry, ManifestSummary, manifest_digest
from upshot.domain.pending_version import PendingVersion, VersionRequest
from upshot.domain.reference import check_name
from upshot.domain.registry import Artifact, ArtifactVersion, Change
from upshot.domain.run import RunSummary
from upshot.errors import Conflict, InvalidInput, NotFound
from upshot.ids import new_id
from upshot.ports.registry import RegistryTransaction, RegistryView
from upshot.registry.aliases import move_aliases
from upshot.registry.inputs import (
    MAX_FILES,
    check_aliases,
    check_client_id,
    check_description,
    check_files,
    check_metadata,
    check_tags,
)
from upshot.registry.lookup import read_files
from upshot.registry.mutation import Mutation
from upshot.registry.run_lookup import run_of_request
from upshot.registry.runs import add_output
from upshot.registry.scopes import make_project
from upshot.registry.snapshots import same_json
from upshot.registry.transaction import RegistryTransactions, artifact_lock
from upshot.unicode_text import to_nfc

PENDING_AGE = timedelta(hours=24)  #: a pending version without progress is removed after this time
_MAX_MISSING = 5_000  # digests that one answer names


@dataclass(frozen=True, slots=True)
class Started:
    """The result of `PendingVersions.begin_version`: one of the two is set."""

    pending: PendingVersion | None = None  #: its files are awaited
    logged: Change[ArtifactVersion] | None = None  #: nothing has to be uploaded


class PendingVersions(RegistryTransactions):
    """Methods for artifact versions whose files are being uploaded."""

    def begin_version(self, version_id: str, request: VersionRequest, *, origin: Origin) -> Started:
        """
        Begin to log an artifact version with files, or find out that nothing has to be uploaded.

        That is so if there is a version with this id, or if the newest version has the same content. If blobs of that
        version are lost, they are awaited, and the version stays.

        Args:
            version_id: Id of the version (`ver_…`), made by the client.
            request: What is logged.
            origin: Who logs it.

        Raises:
            Conflict: The artifact has another type, or a registry has the name of the project.
        """
        check_client_id(version_id, "ver")
        checked = _check_request(request)

        # Outside of the transaction, which would hold others up.
        has_lost_blobs = self._store.read(lambda view: _has_lost_blobs(view, checked))

        def work(mutation: Mutation) -> PendingVersion | ArtifactVersion:
            tx = mutation.tx
            run = run_of_request(tx, checked.project, checked.run_id)
            # The project may be renamed before the commit, so the internal id is stored.
            request = replace(checked, run_id=run.id if run else None)
            artifact = tx.artifact(request.project, request.name)
            if known := tx.artifact_version_by_id(version_id):
                if artifact is None or known.artifact_id != artifact.id or known.digest != request.digest:
                    raise Conflict(f"{version_id} is another version, {known.reference}; use a new id")
                if request.earlier is not None:  # it was logged again, perhaps with other aliases
                    return move_aliases(mutation, artifact, known, request.aliases, earlier=request.earlier)
                return known
            if artifact is not None and not has_lost_blobs and (equal := _find_equal(mutation, artifact, request)):
                return equal
            if pending := tx.pending_version(version_id):
                if pending.request != request:
                    raise Conflict(f"{version_id} is pending with other content or another name; use a new id")
                return pending
            pending = PendingVersion(version_id, new_id("man", mutation.now), request, mutation.now)
            tx.add_manifest(ManifestSummary(pending.manifest_id, 0, 0, is_stored=False))
            tx.add_pending_version(pending)
            return pending

        change = self._change(work, locks=[artifact_lock(checked.project, checked.name)], origin=origin)
        if isinstance(change.value, PendingVersion):
            return Started(pending=change.value)
        logged = Change(
            change.value,
            change.events,
            metadata_ignored=change.metadata_ignored,
            kept_aliases=change.kept_aliases,
        )
        return Started(logged=logged)

    def add_files(self, version_id: str, entries: Sequence[ManifestEntry], *, origin: Origin) -> tuple[str, ...]:
        """
        Add files to the manifest of a pending version. Repeating it changes nothing.

        Args:
            version_id: Id of the pending version.
            entries: 1 to 5,000 files.
            origin: Who adds them.

        Returns:
            Digests of the files whose blobs are not stored yet.

        Raises:
            NotFound: The version is not pending: it was committed, or it expired.
        """
        check_files(entries)

        def work(mutation: Mutation) -> tuple[str, ...]:
            pending = _find_pending(mutation.tx, version_id)
            mutation.tx.add_files(pending.manifest_id, entries)
            count = mutation.tx.seal_manifest(pending.manifest_id, is_stored=False).file_count
            if count > pending.request.file_count:
                raise Conflict(
                    f"{version_id} has {count:,} files with these, and {pending.request.file_count:,} were announced; "
                    "log the artifact again"
                )
            mutation.tx.touch_pending_version(version_id, mutation.now)
            digests = list(dict.fromkeys(entry.digest for entry in entries if entry.ref is None))
            missing = mutation.tx.use_blobs(digests, mutation.now)
            return tuple(digest for digest in digests if digest in missing)

        return self._change(work, locks=self._locks_of(version_id), origin=origin).value

    def missing_blobs(self, version_id: str) -> tuple[str, ...]:
        """Return up to 5,000 digests of files of a pending version whose blobs are not stored."""
        return self._store.read(
            lambda view: view.missing_blobs(_find_pending(view, version_id).manifest_id, _MAX_MISSING)
        )

    def pending_version(self, version_id: str) -> PendingVersion:
        """
        Return a pending version.

        Raises:
            NotFound: The version is not pending.
        """
        return self._store.read(lambda view: _find_pending(view, version_id))

    def commit_version(self, version_id: str, *, origin: Origin) -> Change[ArtifactVersion]:
        """
        Make a pending version visible: it gets a number, `latest` and its aliases, and makes events.

        Repeating it returns the version.

        Raises:
            Conflict: Files or blobs are missing. The message says how many.
            InvalidInput: The digest of the files is not the announced one.
            NotFound: There is no such version: it expired.
        """
        committed = self._store.read(lambda view: view.artifact_version_by_id(version_id))
        if committed is not None:
            return Change(committed, ())

        def check(view: RegistryView) -> PendingVersion:
            found = _find_pending(view, version_id)
            _check_complete(view, found)
            return found

        # Outside of the transaction, which would hold others up. Entries never change, and the transaction counts them.
        pending = self._store.read(check)

        def work(mutation: Mutation) -> ArtifactVersion:
            tx = mutation.tx
            if known := tx.artifact_version_by_id(version_id):
                return known
            request = _find_pending(tx, version_id).request
            artifact = tx.artifact(request.project, request.name)
            if artifact is None:
                make_project(mutation, request.project)
                artifact = Artifact(
                    new_id("art", mutation.now), request.project, request.name, request.artifact_type, {}
                )
                tx.save_artifact(artifact)
            if equal := _find_equal(mutation, artifact, request):  # somebody logged the same content meanwhile
                tx.remove_pending_version(pending, keep_manifest=False)
                return equal
            manifest = tx.seal_manifest(pending.manifest_id, is_stored=True)
            if manifest.file_count != request.file_count:
                raise Conflict(f"{version_id}: a file was added during the commit; log the artifact again")
            version = ArtifactVersion(
                id=version_id,
                artifact_id=artifact.id,
                project=artifact.project,
                artifact_name=artifact.name,
                artifact_type=artifact.artifact_type,
                number=tx.next_number(artifact),
                digest=request.digest,
                metadata=request.metadata,
                description=request.description,
                manifest=manifest,
                aliases=(),
                tags=request.tags,
                created_at=min(request.earlier.happened_at, mutation.now) if request.earlier else mutation.now,
                created_by=origin.actor.name,
                run=_stored_run(tx, request),
                ttl_seconds=request.ttl_seconds,
            )
            tx.add_artifact_version(version)
            add_output(tx, version.run, version)
            tx.remove_pending_version(pending, keep_manifest=True)
            mutation.created = True
            return move_aliases(mutation, artifact, version, request.aliases, is_new=True, earlier=request.earlier)

        return self._change(work, locks=_locks(pending), origin=origin)

    def abandon_version(self, version_id: str, *, origin: Origin) -> Change[None]:
        """Remove a pending version. Blobs that nothing else needs are removed later."""

        def work(mutation: Mutation) -> None:
            mutation.tx.remove_pending_version(_find_pending(mutation.tx, version_id), keep_manifest=False)

        return self._change(work, locks=self._locks_of(version_id), origin=origin)

    def remove_expired_versions(self, *, limit: int) -> int:
        """Remove up to `limit` pending versions without progress for 24 hours, and return their number."""
        before = self._clock.now() - PENDING_AGE
        expired = self._store.read(lambda view: view.expired_pending_versions(before, limit))

        def remove(tx: RegistryTransaction, pending: PendingVersion) -> bool:
            current = tx.pending_version(pending.id)
            if current is None or current.updated_at >= before:  # somebody continues with it
                return False
            tx.remove_pending_version(current, keep_manifest=False)
            return True

        removed = [self._store.transact(partial(remove, pending=pending), locks=_locks(pending)) for pending in expired]
        return sum(removed)

    def _locks_of(self, version_id: str) -> list[str]:
        """Return the locks for a change of a pending version: it must not be committed or expire at the same time."""
        return _locks(self.pending_version(version_id))


def _locks(pending: PendingVersion) -> list[str]:
    return [artifact_lock(pending.request.project, pending.request.name)]


def _check_request(request: VersionRequest) -> VersionRequest:
    check_name(request.project, "project")
    check_name(request.name, "artifact")
    check_name(request.artifact_type, "artifact type")
    check_description(request.description, "artifact")
    check_ttl(request.ttl_seconds, allow_never=True)
    if not 0 <= request.file_count <= MAX_FILES:
        raise InvalidInput(f"{request.file_count:,} files; at most {MAX_FILES:,} are allowed in one version")
    return replace(
        request,
        metadata=check_metadata(request.metadata),
        aliases=check_aliases(request.aliases),
        tags=check_tags(request.tags),
    )


def _find_equal(mutation: Mutation, artifact: Artifact, request: VersionRequest) -> ArtifactVersion | None:
    """Return the newest version if it has the requested content, after the requested aliases have moved to it."""
    if artifact.artifact_type != request.artifact_type:
        raise Conflict(
            f"artifact {artifact.reference} is of type {artifact.artifact_type!r}, not {request.artifact_type!r}; "
            "log it with its type, or under another name"
        )
    newest = mutation.tx.page_artifact_versions(artifact, cursor=None, limit=1).items
    if not newest or newest[0].digest != request.digest or not (newest[0].manifest and newest[0].manifest.is_stored):
        return None
    mutation.metadata_ignored = bool(request.metadata) and not same_json(request.metadata, newest[0].metadata)
    add_output(mutation.tx, _stored_run(mutation.tx, request), newest[0])
    return move_aliases(mutation, artifact, newest[0], request.aliases, earlier=request.earlier)


def _has_lost_blobs(view: RegistryView, request: VersionRequest) -> bool:
    """Return whether the newest version has the requested content, and blobs of it were found to be damaged."""
    artifact = view.artifact(request.project, request.name)
    newest = view.page_artifact_versions(artifact, cursor=None, limit=1).items if artifact else ()
    if not newest or newest[0].digest != request.digest or newest[0].manifest is None:
        return False
    return bool(view.missing_blobs(newest[0].manifest.id, 1))


def _stored_run(view: RegistryView, request: VersionRequest) -> RunSummary | None:
    return None if request.run_id is None else view.run_summaries([request.run_id]).get(request.run_id)


def _find_pending(view: RegistryView, version_id: str) -> PendingVersion:
    if pending := view.pending_version(version_id):
        return pending
    raise NotFound(f"no upload of {version_id[:80]!r} is in progress: it was committed or it expired; log it again")


def _check_complete(view: RegistryView, pending: PendingVersion) -> None:
    entries = tuple(read_files(view, pending.manifest_id))
    announced = pending.request.file_count
    if len(entries) != announced:
        raise Conflict(f"{pending.id} has {len(entries):,} of {announced:,} announced files; add the others first")
    _check_paths(pending, [entry.path for entry in entries])
    actual = manifest_digest(entries)
    if actual != pending.request.digest:
        raise InvalidInput(
            f"{pending.id}: the digest of its files is {actual}, and {pending.request.digest} was announced: a file "
            "changed meanwhile; log the artifact again"
        )
    if missing := view.missing_blobs(pending.manifest_id, _MAX_MISSING):
        raise Conflict(f"{pending.id}: {len(missing):,} blobs are not stored, such as {missing[0]}; upload them first")
    if wrong := view.files_of_other_size(pending.manifest_id, 1):
        raise InvalidInput(
            f"{pending.id}: {wrong[0].path!r} was announced with {wrong[0].size:,} bytes, and its blob has another "
            "size; log the artifact again"
        )


def _check_paths(pending: PendingVersion, paths: Sequence[str]) -> None:
    """Refuse paths that no directory can hold side by side."""
    by_nfc: dict[str, str] = {}
    for path in paths:
        other = by_nfc.setdefault(to_nfc(path), path)
        if other != path:
            raise InvalidInput(
                f"{pending.id}: {other!r} and {path!r} differ only in the Unicode form of their characters; rename one"
            )
    for path in paths:
        for parent in PurePosixPath(path).parents:
            if str(parent) in by_nfc:
                raise InvalidInput(f"{pending.id}: {str(parent)!r} is a file, and {path!r} is below it; rename one")
