"""The manifest of an artifact, as programs see it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upshot.domain.manifest import ManifestEntry
from upshot.sdk.sdk_errors import InvalidArgument

if TYPE_CHECKING:
    from upshot.sdk.artifact import Artifact


class ArtifactManifestEntry:
    """A file of an artifact, or a reference to one that is stored elsewhere."""

    def __init__(self, entry: ManifestEntry, artifact: Artifact, local_path: Path | None = None) -> None:
        self.path = entry.path
        self.digest = entry.digest
        self.size = entry.size
        self.ref = entry.ref
        self.local_path = str(local_path) if local_path else None  #: where it was added from
        self._artifact = artifact

    def __repr__(self) -> str:
        return f"<ArtifactManifestEntry {self.path} {self.digest}>"

    @property
    def name(self) -> str:
        """The path in the artifact."""
        return self.path

    def parent_artifact(self) -> Artifact:
        """Return the artifact."""
        return self._artifact

    def download(self, root: str | None = None, skip_cache: bool | None = None, executor: object = None) -> str:
        """
        Download this file, and return its path.

        Args:
            root: The directory of the artifact. By default, that of `Artifact.download`.
            skip_cache: Do not use the cache of the machine.
            executor: Has no effect.
        """
        from upshot.sdk.artifact_downloads import download_entries

        folder = download_entries(self._artifact, [self], root, skip_cache=skip_cache)
        return str(Path(folder, *self.path.split("/")))

    def ref_target(self) -> str:
        """
        Return the address of a reference.

        Raises:
            InvalidArgument: It is not a reference.
        """
        if self.ref is None:
            raise InvalidArgument(f"{self.path!r} is a file, not a reference")
        return self.ref

    def to_entry(self) -> ManifestEntry:
        """Return the plain record."""
        return ManifestEntry(self.path, self.digest, self.size, self.ref)


class ArtifactManifest:
    """The files of an artifact."""

    def __init__(self, entries: Iterable[ArtifactManifestEntry]) -> None:
        self.entries: dict[str, ArtifactManifestEntry] = {entry.path: entry for entry in entries}

    def __len__(self) -> int:
        return len(self.entries)

    def get_entry_by_path(self, path: str) -> ArtifactManifestEntry | None:
        """Return the entry of a path, or None."""
        return self.entries.get(path)

    def to_manifest_json(self) -> dict[str, Any]:
        """Return paths, digests, sizes and addresses."""
        return {
            "contents": {
                path: {"digest": entry.digest, "size": entry.size, "ref": entry.ref}
                for path, entry in self.entries.items()
            }
        }
