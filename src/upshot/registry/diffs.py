"""Compare two artifact versions: their files and their metadata."""

from __future__ import annotations

from collections.abc import Iterator

from upshot.domain.manifest import ChangedFile, FileDiff, ManifestEntry
from upshot.domain.registry import ArtifactVersion
from upshot.ports.registry import RegistryView
from upshot.registry.lookup import find_artifact, find_in_project, find_version_anywhere, is_version_id, read_files
from upshot.registry.transaction import RegistryTransactions

MAX_LISTED = 1_000  #: files of each kind that one answer lists; all are counted


class Diffs(RegistryTransactions):
    """Methods that compare versions."""

    def diff(
        self, project: str, name: str, version: str, other: str
    ) -> tuple[ArtifactVersion, ArtifactVersion, FileDiff | None]:
        """
        Compare an artifact version with another one.

        Args:
            project: Name of the project.
            name: Name of the artifact.
            version: Name (`v3`) or alias of the version.
            other: A version of the same artifact, or a reference or an id of any version.

        Returns:
            Both versions, and how the files of the second differ. That is None if the files of one are not known.
        """

        def work(view: RegistryView) -> tuple[ArtifactVersion, ArtifactVersion, FileDiff | None]:
            artifact = find_artifact(view, project, name)
            before = find_in_project(view, artifact, version)
            is_own = "/" not in other and not is_version_id(other)
            after = (
                find_in_project(view, artifact, other)
                if is_own
                else find_version_anywhere(view, other).artifact_version
            )
            if before.manifest is None or after.manifest is None:
                return before, after, None
            if before.manifest.id == after.manifest.id or before.digest == after.digest:
                return before, after, FileDiff()
            return before, after, _compare(read_files(view, before.manifest.id), read_files(view, after.manifest.id))

        return self._store.read(work)


def _compare(before: Iterator[ManifestEntry], after: Iterator[ManifestEntry]) -> FileDiff:
    added: list[ManifestEntry] = []
    removed: list[ManifestEntry] = []
    changed: list[ChangedFile] = []
    added_count = removed_count = changed_count = 0
    for old, new in _pairs(before, after):
        if old is None and new is not None:
            added_count += 1
            if len(added) < MAX_LISTED:
                added.append(new)
        elif old is not None and new is None:
            removed_count += 1
            if len(removed) < MAX_LISTED:
                removed.append(old)
        elif old is not None and new is not None and old.digest != new.digest:
            changed_count += 1
            if len(changed) < MAX_LISTED:
                changed.append(ChangedFile(old, new))
    return FileDiff(tuple(added), tuple(removed), tuple(changed), added_count, removed_count, changed_count)


def _pairs(
    before: Iterator[ManifestEntry], after: Iterator[ManifestEntry]
) -> Iterator[tuple[ManifestEntry | None, ManifestEntry | None]]:
    """Yield the entries of both, which are sorted by path, in pairs with the same path."""
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if old is None or (new is not None and new.path < old.path):
            yield None, new
            new = next(after, None)
        elif new is None or old.path < new.path:
            yield old, None
            old = next(before, None)
        else:
            yield old, new
            old, new = next(before, None), next(after, None)
