"""
What an offline run keeps of artifacts: copies of their files, and the records that `upshot sync` sends.

Files are copied into the folder of the run when they are added to an artifact, so that the program may change its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upshot.client.addresses import api_path
from upshot.client.file_digest import LocalFile, hash_file
from upshot.clock import SystemClock, format_time
from upshot.domain.manifest import manifest_digest
from upshot.ids import new_id
from upshot.sdk.connection import say_once
from upshot.sdk.journal import Journal, Record
from upshot.sdk.references import read_reference
from upshot.sdk.sdk_errors import InvalidArgument
from upshot.sdk.version_cache import find_version

if TYPE_CHECKING:
    from upshot.sdk.artifact import Artifact

_FILES = "files"  # directory in the folder of the run


class OfflineArtifacts:
    """
    Keeps the artifacts of an offline run.

    Args:
        journal: Of the run.
        run_path: Path of the run in the API.
    """

    def __init__(self, journal: Journal, run_path: str) -> None:
        self._journal = journal
        self._run_path = run_path
        self._last_time = SystemClock().now()
        self._newest: dict[str, tuple[str, str]] = {}  # digest and id of the newest version, by name of the artifact

    def keep_file(self, source: Path, digest: str) -> Path:
        """
        Return a copy of a file in the folder of the run, which is made unless there is one.

        If there is no room for it, a note says so, and the file itself is returned.

        Raises:
            InvalidArgument: The file has changed since its digest was computed.
            OSError: It cannot be read.
        """
        folder = self._journal.folder / _FILES
        copy = folder / digest.partition(":")[2]
        if copy.exists():
            return copy
        with source.open("rb"):  # a file that cannot be read is an error
            pass
        try:
            self._copy(source, copy, digest)
        except OSError as error:
            say_once(
                f"{self._journal.folder}: cannot be written ({error.strerror or error}): there is no copy of {source}, "
                "which must stay as it is until `upshot sync` reads it"
            )
            return source
        return copy

    def _copy(self, source: Path, copy: Path, digest: str) -> None:
        self._journal.make_folder()
        copy.parent.mkdir(exist_ok=True)
        new = copy.with_name(new_id("new", SystemClock().now()))
        try:
            shutil.copyfile(source, new)
            if hash_file(new)[0] != digest:
                raise InvalidArgument(f"{source}: the file has changed since it was added; add it to a new artifact")
            new.replace(copy)
        finally:
            new.unlink(missing_ok=True)

    def log(
        self, project: str, request: Mapping[str, Any], files: Sequence[LocalFile], known_id: str | None = None
    ) -> str:
        """
        Keep an artifact version, and return its id, which the server will keep, too.

        Content that is logged again is the same version, with the aliases of both, and so is a version with a known id.
        """
        digest = manifest_digest(file.entry for file in files)
        newest_digest, newest_id = self._newest.get(request["name"], ("", ""))
        version_id = known_id or (newest_id if digest == newest_digest else new_id("ver", SystemClock().now()))
        kept = [self._file_json(file) for file in files]
        if known_id is None:
            self._newest[request["name"]] = digest, version_id
        body = {**request, "project": project, "id": version_id}
        self._append("artifact", api_path("projects", project, "pending-versions"), body, kept)
        return version_id

    def link(self, version_id: str, registry: str, collection: str, aliases: Sequence[str]) -> None:
        """Keep a link of an artifact version."""
        link_id = new_id("lnk", SystemClock().now())
        path = api_path("registries", registry, "collections", collection, "versions")
        self._append("link", path, {"artifact": version_id, "aliases": list(aliases), "id": link_id})

    def use(self, version_id: str) -> None:
        """Keep that the run uses an artifact version."""
        self._journal.append(Record("use", "POST", f"{self._run_path}/inputs", json.dumps({"artifact": version_id})))

    def _append(self, kind: str, path: str, body: Mapping[str, Any], files: Sequence[Mapping[str, Any]] = ()) -> None:
        self._last_time = max(self._last_time, SystemClock().now())  # the order counts, and a clock may jump
        content = json.dumps({**body, "happened_at": format_time(self._last_time)})
        self._journal.append(Record(kind, "POST", path, content, files=files))

    def _file_json(self, file: LocalFile) -> dict[str, Any]:
        entry = file.entry
        described = {"path": entry.path, "digest": entry.digest, "size": entry.size, "ref": entry.ref}
        if file.source is None:
            return described
        copy = self.keep_file(file.source, entry.digest)
        folder = self._journal.folder
        return described | {"source": str(copy.relative_to(folder) if copy.is_relative_to(folder) else copy.absolute())}


def find_cached_artifact(text: str, project: str) -> Artifact:
    """
    Return an artifact that was downloaded to this machine before, without asking a server.

    Raises:
        InvalidArgument: It was not, or the reference is invalid.
    """
    from upshot.sdk.artifact import Artifact

    reference = read_reference(text, project)
    found = find_version(f"{reference.scope}/{reference.name}:{reference.version}")
    if found is None:
        raise InvalidArgument(
            f"{text}: the run is offline, and this artifact was not downloaded to this machine before; download it "
            "once while a server answers"
        )
    return Artifact.from_cache(*found)
