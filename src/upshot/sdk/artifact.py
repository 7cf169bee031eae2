"""Artifacts: named, typed versions of files, which runs log, use and link."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from upshot.client.addresses import api_path
from upshot.clock import SystemClock
from upshot.domain.manifest import ManifestEntry, manifest_digest
from upshot.errors import InvalidInput
from upshot.ids import new_id
from upshot.sdk.connection import blob_cache, client, read_settings
from upshot.sdk.draft import Draft, check_path, find_files
from upshot.sdk.entries import ArtifactManifest, ArtifactManifestEntry
from upshot.sdk.json_values import to_json_object
from upshot.sdk.references import read_target
from upshot.sdk.sdk_errors import AlreadyLogged, InvalidArgument, NotBuilt, NotLogged

if TYPE_CHECKING:
    from upshot.sdk.public_run import PublicRun

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_PAGE = 200


class Artifact:
    """
    An artifact: a draft that files are added to, or a version that a server has.

    Args:
        name: Letters, digits, `_`, `.` and `-`, up to 128 characters.
        type: What it is, such as `model` or `dataset`. All versions of an artifact have the same type.
        description: A text for people, in Markdown.
        metadata: A mapping that becomes JSON.
        incremental: Not supported.
        use_as: Has no effect.
        storage_region: Has no effect.
        digest_algorithm: Has no effect: digests are SHA-256.

    Raises:
        ValueError: The name or the metadata is invalid.
    """

    def __init__(
        self,
        name: str,
        type: str,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        incremental: bool = False,
        use_as: str | None = None,
        storage_region: str | None = None,
        digest_algorithm: str = "MD5",
    ) -> None:
        if not is_artifact_name(name):
            raise InvalidArgument(
                f"artifact name {name!r}: must be 1 to 128 letters, digits, underscores, dots and hyphens"
            )
        if not isinstance(type, str) or not type.strip():  # type: ignore[redundant-expr]
            raise InvalidArgument(f"artifact {name}: the type {type!r} must be a text, such as 'model' or 'dataset'")
        if incremental:
            raise NotBuilt(f"artifact {name}: incremental=True is not supported; add all files")
        self._base_name = name
        self._type = type
        self._description = description
        self._metadata = to_json_object(metadata, "metadata")
        self._draft: Draft | None = Draft()
        self._new_files: Path | None = None  # directory of what `new_file` writes
        self._json: dict[str, Any] | None = None
        self._aliases: list[str] = []
        self._tags: list[str] = []
        self._manifest: ArtifactManifest | None = None
        self._is_final = False
        self._started: tuple[Any, str] | None = None  # what was sent to begin the version, and its id
        self.use_as = use_as

    def __repr__(self) -> str:
        return f"<Artifact {self.qualified_name}>" if self._json else f"<Artifact {self._base_name} (not logged)>"

    @classmethod
    def from_version(cls, version: Mapping[str, Any]) -> Self:
        """Return the artifact for a version as the server describes it."""
        artifact = cls.__new__(cls)
        artifact._base_name = version["artifact_name"]  # noqa: SLF001 - names of links are freer than those of drafts
        artifact._become_version(version)  # noqa: SLF001
        return artifact

    def _become_version(self, version: Mapping[str, Any]) -> None:
        self._type = version["artifact_type"]
        self._draft = None
        self._new_files = None
        self._is_final = True
        self._started = None
        self.use_as = None
        self._set_version(version)

    def _set_version(self, version: Mapping[str, Any]) -> None:
        self._json = dict(version)
        self._description = version["description"] or None
        self._metadata = deepcopy(version["metadata"])
        self._aliases = list(version["aliases"])
        self._tags = list(version["tags"])
        self._manifest = None

    # --- attributes -------------------------------------------------------------------------------

    def _logged(self, what: str) -> dict[str, Any]:
        if self._json is None:
            raise NotLogged(
                f"artifact {self._base_name}: it has no {what} yet; log it with run.log_artifact(), "
                "and call wait() first"
            )
        return self._json

    @property
    def id(self) -> str:
        """The id of the version, or of the link."""
        return str(self._logged("id")["id"])

    @property
    def name(self) -> str:
        """`NAME:v3`; of a draft the name alone; of a link the name of the collection."""
        if self._json is None:
            return self._base_name
        return f"{self._json['collection'] or self._json['artifact_name']}:{self._json['name']}"

    @property
    def type(self) -> str:
        """The type, such as `model`."""
        return self._type

    @property
    def version(self) -> str:
        """`v3`: in the project, or of a link in the collection."""
        return str(self._logged("version")["name"])

    @property
    def aliases(self) -> list[str]:
        """The aliases. Change the list and call `save()`."""
        self._logged("aliases")
        return self._aliases

    @aliases.setter
    def aliases(self, aliases: Iterable[str]) -> None:
        self._logged("aliases")
        self._aliases = to_names(aliases, "aliases")

    @property
    def tags(self) -> list[str]:
        """The tags. Change the list and call `save()`."""
        self._logged("tags")
        return self._tags

    @tags.setter
    def tags(self, tags: Iterable[str]) -> None:
        self._logged("tags")
        self._tags = to_names(tags, "tags")

    @property
    def description(self) -> str | None:
        """A text for people."""
        return self._description

    @description.setter
    def description(self, description: str | None) -> None:
        self._description = description

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata. Change it and, if the artifact was logged, call `save()`."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = to_json_object(metadata, "metadata")

    @property
    def digest(self) -> str:
        """The digest of the content: paths and bytes, without metadata."""
        if self._json is not None:
            return str(self._json["digest"])
        return manifest_digest(file.entry for file in self._files().values())

    @property
    def size(self) -> int | None:
        """Bytes of all files; None if the size of one is unknown."""
        if self._json is not None:
            found: int | None = self._json["size"]
            return found
        sizes = [file.entry.size for file in self._files().values()]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def file_count(self) -> int | None:
        """Number of files; None if only a digest was logged."""
        if self._json is not None:
            count: int | None = self._json["file_count"]
            return count
        return len(self._files())

    @property
    def state(self) -> str:
        """`PENDING` or `COMMITTED`."""
        return "PENDING" if self._json is None else "COMMITTED"

    @property
    def created_at(self) -> str:
        """When it was logged."""
        return str(self._logged("created_at")["created_at"])

    @property
    def project(self) -> str:
        """The project, or of a link the registry."""
        version = self._logged("project")
        return str(version["registry"] or version["project"])

    @property
    def entity(self) -> str | None:
        """The entity of the installation, if UPSHOT_ENTITY says it."""
        return read_settings().entity

    @property
    def source_name(self) -> str:
        """`NAME:v3` in its project, also through a link."""
        if self._json is None:
            return self._base_name
        return f"{self._json['artifact_name']}:{self._json['artifact_version']}"

    @property
    def source_version(self) -> str:
        """`v3` in its project, also through a link."""
        return str(self._logged("source_version")["artifact_version"])

    @property
    def source_project(self) -> str:
        """The project that it was logged into, also through a link."""
        return str(self._logged("source_project")["project"])

    @property
    def source_qualified_name(self) -> str:
        """`[ENTITY/]PROJECT/NAME:v3`, also through a link."""
        return _with_entity(self._logged("source_qualified_name")["artifact"])

    @property
    def qualified_name(self) -> str:
        """`[ENTITY/]PROJECT/NAME:v3`, or of a link `[ENTITY/]REGISTRY/COLLECTION:v3`."""
        return self._base_name if self._json is None else _with_entity(self._json["reference"])

    @property
    def is_link(self) -> bool:
        """Whether this is a version of a collection."""
        return self._json is not None and self._json["registry"] is not None

    @property
    def url(self) -> str | None:
        """The address in the REST API."""
        url: str | None = self._logged("url")["url"]
        return url

    @property
    def source_artifact(self) -> Artifact:
        """The version in its project."""
        if not self.is_link:
            self._logged("source_artifact")
            return self
        return Artifact.from_version(client().get(self._source_path()))

    @property
    def linked_artifacts(self) -> list[Artifact]:
        """The links to this version."""
        self._logged("linked_artifacts")
        return [Artifact.from_version(link) for link in client().get(f"{self._source_path()}/links")["items"]]

    @property
    def manifest(self) -> ArtifactManifest:
        """The files."""
        if self._draft is not None and self._json is None:
            return ArtifactManifest(
                ArtifactManifestEntry(file.entry, self, file.source) for file in self._draft.files.values()
            )
        if self._manifest is None:
            self._manifest = ArtifactManifest(
                ArtifactManifestEntry(entry, self) for entry in self._read_entries(self._logged("manifest"))
            )
        return self._manifest

    def _files(self) -> Mapping[str, Any]:
        if self._draft is None:
            raise AssertionError("unreachable: an artifact without a version is a draft")
        return self._draft.files

    def _read_entries(self, version: Mapping[str, Any]) -> Iterator[ManifestEntry]:
        if version["file_count"] is None:
            raise InvalidArgument(
                f"{version['reference']} was logged with a digest only: this server has no files of it; log it "
                "with its files"
            )
        for file in client().every_item(f"{self._source_path()}/files"):
            yield ManifestEntry(file["path"], file["digest"], file["size"], file["ref"])

    def _source_path(self) -> str:
        version = self._logged("version")
        return api_path(
            "projects",
            version["project"],
            "artifacts",
            version["artifact_name"],
            "versions",
            version["artifact_version"],
        )

    def _series_path(self) -> str:
        version = self._logged("version")
        if version["registry"] is not None:
            return api_path("registries", version["registry"], "collections", version["collection"])
        return api_path("projects", version["project"], "artifacts", version["artifact_name"])

    # --- add --------------------------------------------------------------------------------------

    def _open_draft(self) -> Draft:
        if self._draft is None or self._is_final:
            raise AlreadyLogged(
                f"artifact {self._base_name}: it was logged, so nothing can be changed in it; make a new Artifact"
            )
        return self._draft

    def add_file(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        is_tmp: bool | None = False,
        skip_cache: bool | None = False,
        policy: str | None = "mutable",
        overwrite: bool = False,
    ) -> ArtifactManifestEntry:
        """
        Add a file.

        Args:
            local_path: The file.
            name: Its path in the artifact. By default, its name.
            is_tmp: Has no effect.
            skip_cache: Has no effect.
            policy: Has no effect: a file that changes before it is logged is refused.
            overwrite: Replace a file that was added under this name.

        Raises:
            ValueError: There is no such file, or the artifact has been logged.
        """
        draft = self._open_draft()
        source = Path(local_path)
        if source.is_dir():
            raise InvalidArgument(f"{source}: this is a directory; add it with add_dir()")
        path = source.name if name is None else name
        return ArtifactManifestEntry(draft.add(path, source.absolute(), overwrite=overwrite), self, source)

    def add_dir(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        skip_cache: bool | None = False,
        policy: str | None = "mutable",
        merge: bool = False,
    ) -> None:
        """
        Add the content of a directory.

        Args:
            local_path: The directory.
            name: Where its content goes in the artifact. By default, to the top.
            skip_cache: Has no effect.
            policy: Has no effect: a file that changes before it is logged is refused.
            merge: Replace files that were added under the same names.

        Raises:
            ValueError: There is no such directory, a link leads out of it, or the artifact has been logged.
        """
        from upshot.client.uploads import run_in_threads

        draft = self._open_draft()
        folder = Path(local_path)
        if not folder.is_dir():
            raise InvalidArgument(f"{folder}: this is not a directory; add a file with add_file()")
        prefix = f"{check_path(name.strip('/'))}/" if name and name.strip("/") else ""
        files = [(f"{prefix}{path}", file) for path, file in find_files(folder.absolute())]
        for path, _ in files:
            check_path(path)
        run_in_threads(lambda file: draft.add(*file, overwrite=merge), files)

    @contextmanager
    def new_file(
        self, name: str, mode: str = "x", encoding: str | None = None, policy: str = "mutable"
    ) -> Iterator[IO[Any]]:
        """
        Open a new file, which is added when the block ends without an error.

        Args:
            name: Its path in the artifact.
            mode: As for `open`: `w`, `wb`, `x` or `xb`.
            encoding: Of a text; UTF-8 by default.
            policy: Has no effect.

        Raises:
            ValueError: There is a file with this name, or the artifact has been logged.
        """
        draft = self._open_draft()
        check_path(name)
        overwrite = "x" not in mode
        if not overwrite and name in draft.files:
            raise InvalidArgument(f"{name!r} is in the artifact already; use another name, or mode='w'")
        if self._new_files is None:
            self._new_files = Path(tempfile.mkdtemp(prefix="upshot-"))
        path = self._new_files.joinpath(*name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode.replace("x", "w"), encoding=encoding or (None if "b" in mode else "utf-8")) as file:
            yield file
        draft.add(name, path, overwrite=overwrite)

    def add_reference(
        self,
        uri: ArtifactManifestEntry | str,
        name: str | os.PathLike[str] | None = None,
        checksum: bool = True,
        max_objects: int | None = None,
    ) -> Sequence[ArtifactManifestEntry]:
        """
        Add a reference to a file that is stored elsewhere. Its content is not uploaded.

        Args:
            uri: `file:///…`, `https://…`, or another address such as `s3://…`, which is recorded as it is.
            name: Its path in the artifact. By default, the last part of the address.
            checksum: Record the checksum: of a local file its digest, of a web server its `ETag`.
            max_objects: How many files of a local directory are added at most.

        Raises:
            ValueError: Nothing is there, or the artifact has been logged.
        """
        from upshot.sdk.stored_elsewhere import find_references

        draft = self._open_draft()
        if isinstance(uri, ArtifactManifestEntry):
            name = name or uri.path
            uri = uri.ref_target()
        try:
            found = find_references(
                str(uri), None if name is None else str(name), checksum=checksum, max_objects=max_objects
            )
        except InvalidInput as error:
            raise InvalidArgument(str(error)) from error
        return [ArtifactManifestEntry(draft.add_entry(entry, None), self) for entry in found]

    def add(self, obj: Any, name: str, overwrite: bool = False) -> ArtifactManifestEntry:
        """Refuse: this release adds files and references only."""
        raise NotBuilt(f"artifact {self._base_name}: add() is not supported; write a file, and use add_file()")

    def remove(self, item: str | os.PathLike[str] | ArtifactManifestEntry) -> None:
        """
        Remove a file, or a folder, from a draft.

        Raises:
            ValueError: It is not there, or the artifact has been logged.
        """
        self._open_draft().remove(item.path if isinstance(item, ArtifactManifestEntry) else str(item).rstrip("/"))

    def finalize(self) -> None:
        """Refuse further changes of the files."""
        self._is_final = True

    def is_draft(self) -> bool:
        """Return whether it was not logged yet."""
        return self._json is None

    # --- log and change ---------------------------------------------------------------------------

    def log_into(
        self, project: str, *, aliases: Sequence[str] = (), tags: Sequence[str] = (), run_id: str | None = None
    ) -> None:
        """
        Log the artifact into a project. A version with the same content is used, and gets the aliases.

        Args:
            project: Name of the project.
            aliases: Aliases in the project, in addition to `latest`.
            tags: Tags of the version.
            run_id: The run that logs it, of the same project.
        """
        if self._draft is None:
            self._move_aliases(aliases)
            return
        from upshot.client.uploads import log_version

        files = list(self._draft.files.values())
        request = {
            "name": self._base_name,
            "artifact_type": self._type,
            "metadata": to_json_object(self._metadata, "metadata"),
            "description": self._description or "",
            "aliases": list(aliases),
            "tags": list(tags),
            **({"run_id": run_id} if run_id else {}),
        }
        self._is_final = True
        key = (project, request, len(files))
        if self._started is None or self._started[0] != key:
            self._started = (key, new_id("ver", SystemClock().now()))
        try:
            version = log_version(client(), project, {**request, "id": self._started[1]}, files, what=self._base_name)
        except InvalidInput as error:
            raise InvalidArgument(str(error)) from error
        self._set_version(version)
        if self._new_files is not None:
            shutil.rmtree(self._new_files, ignore_errors=True)

    def _move_aliases(self, aliases: Sequence[str]) -> None:
        version = self._logged("version")
        for alias in aliases:
            if alias not in version["aliases"]:
                client().put(self._series_path() + api_path("aliases", alias), {"version": version["name"]})
        self._refresh()

    def _refresh(self) -> None:
        version = self._logged("version")
        path = self._source_path()
        if self.is_link:
            path = self._series_path() + api_path("versions", version["name"])
        self._set_version(client().get(path))

    def wait(self, timeout: int | None = None) -> Self:
        """
        Return the artifact when the server has it.

        Raises:
            NotLogged: It was not logged.
        """
        self._logged("version")
        return self

    def save(self, project: str | None = None, settings: object = None) -> None:
        """
        Log a draft, or store changed metadata, description, aliases and tags of a version.

        Args:
            project: Where a draft is logged. By default, into the project of the run.
            settings: Has no effect.
        """
        if self._json is None:
            from upshot.sdk.session import log_draft

            log_draft(self, project)
            return
        before = self._json
        metadata = to_json_object(self._metadata, "metadata")
        changes: dict[str, Any] = {}
        if metadata != before["metadata"]:
            changes["metadata"] = merge_patch(before["metadata"], metadata)
        if (self._description or "") != before["description"]:
            changes["description"] = self._description or ""
        if changes:
            client().patch(self._source_path(), changes)
        aliases, tags = to_names(self._aliases, "aliases"), to_names(self._tags, "tags")
        for alias in set(before["aliases"]) - set(aliases):
            client().delete(self._series_path() + api_path("aliases", alias))
        for tag in set(before["tags"]) - set(tags):
            client().delete(self._source_path() + api_path("tags", tag))
        for tag in set(tags) - set(before["tags"]):
            client().put(self._source_path() + api_path("tags", tag))
        self._move_aliases(aliases)

    def link(self, target_path: str, aliases: Iterable[str] | str | None = None) -> Artifact:
        """
        Link this version into a collection, and return the link. A draft is logged first.

        Args:
            target_path: `model-registry/NAME`, `wandb-registry-R/NAME` or `REGISTRY/COLLECTION`.
            aliases: Aliases of the link in the collection, in addition to `latest`.

        Raises:
            ValueError: The target is invalid.
        """
        target = read_target(target_path)
        names = to_names(aliases, "aliases")
        if self._json is None:
            self.save()
        version = client().post(
            api_path("registries", target.registry, "collections", target.collection, "versions"),
            {
                "artifact": self._logged("version")["artifact"],
                "aliases": names,
                "id": new_id("lnk", SystemClock().now()),
            },
        )
        return Artifact.from_version(version)

    def unlink(self) -> None:
        """
        Remove a link. The artifact stays in its project.

        Raises:
            ValueError: This is not a link.
        """
        if not self.is_link:
            raise InvalidArgument(f"{self.name} is not a link; delete() deletes a version")
        client().delete(self._series_path() + api_path("versions", self.version))

    def delete(self, delete_aliases: bool = False) -> None:
        """
        Delete this version and every link to it. Of a link, only the link is removed.

        Args:
            delete_aliases: Delete it although it has aliases besides `latest`.

        Raises:
            ValueError: It has aliases.
        """
        if self.is_link:
            self.unlink()
            return
        self._logged("version")
        names = [alias for alias in self._aliases if alias != "latest"]
        if names and not delete_aliases:
            raise InvalidArgument(
                f"{self.name} has the aliases {', '.join(names)}; give them to another version, or use "
                "delete(delete_aliases=True)"
            )
        client().delete(self._source_path())

    # --- read -------------------------------------------------------------------------------------

    def download(
        self,
        root: str | os.PathLike[str] | None = None,
        allow_missing_references: bool = False,
        skip_cache: bool | None = None,
        path_prefix: str | os.PathLike[str] | None = None,
        multipart: bool | None = None,
    ) -> str:
        """
        Download the files, and return the directory. Files in it that are not part of the artifact stay.

        Args:
            root: The directory. By default, `./artifacts/NAME:v3`, or in UPSHOT_ARTIFACT_DIR.
            allow_missing_references: Leave out references that cannot be fetched.
            skip_cache: Do not use the cache of the machine.
            path_prefix: Only the files whose path begins with this text.
            multipart: Has no effect: large files are resumed in any case.

        Raises:
            ValueError: The version has no files here, or a reference cannot be fetched.
        """
        self._logged("version")
        prefix = "" if path_prefix is None else os.fspath(path_prefix)
        entries = [entry for path, entry in self.manifest.entries.items() if path.startswith(prefix)]
        return self.download_entries(
            entries, root, skip_cache=skip_cache, allow_missing_references=allow_missing_references
        )

    def download_entries(
        self,
        entries: Sequence[ArtifactManifestEntry],
        root: str | os.PathLike[str] | None,
        *,
        skip_cache: bool | None,
        allow_missing_references: bool = False,
    ) -> str:
        """Download some of the files, and return the directory. See `download`."""
        from upshot.client.downloads import download, safe_target
        from upshot.sdk.stored_elsewhere import fetch_reference

        folder = self._default_root() if root is None else Path(root)
        stored = [entry.to_entry() for entry in entries if entry.ref is None]
        try:
            download(client(), stored, folder, cache=None if skip_cache else blob_cache(), what=self.source_name)
            for entry in entries:
                if entry.ref is None:
                    continue
                target = safe_target(folder, entry.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    fetch_reference(entry.to_entry(), target)
                except (InvalidInput, InvalidArgument):
                    if not allow_missing_references:
                        raise
        except InvalidInput as error:
            raise InvalidArgument(str(error)) from error
        return str(folder)

    def _default_root(self) -> Path:
        name = self.source_name
        return read_settings().artifact_dir / (name.replace(":", "-") if os.name == "nt" else name)

    def verify(self, root: str | os.PathLike[str] | None = None) -> None:
        """
        Compare downloaded files with the artifact.

        Args:
            root: The directory. By default, that of `download`.

        Raises:
            ValueError: A file is missing, has other content, or is not part of the artifact. The message names it.
        """
        from upshot.client.file_digest import hash_file

        self._logged("version")
        folder = self._default_root() if root is None else Path(root)
        entries = self.manifest.entries
        for path, _ in find_files(folder.absolute()) if folder.is_dir() else ():
            if path not in entries and not path.rpartition("/")[2].startswith(".upshot-"):
                raise InvalidArgument(f"{folder / path} is not part of {self.name}; remove it")
        for path, entry in entries.items():
            file = folder.joinpath(*path.split("/"))
            if entry.ref is not None:
                continue
            if not file.is_file():
                raise InvalidArgument(f"{file} is missing; download {self.name} again")
            digest, _ = hash_file(file)
            if digest != entry.digest:
                raise InvalidArgument(f"{file} has the digest {digest}, not {entry.digest}; download {self.name} again")

    def get_entry(self, name: str | os.PathLike[str]) -> ArtifactManifestEntry:
        """
        Return a file of the artifact.

        Raises:
            KeyError: There is none with this path.
        """
        entry = self.manifest.entries.get(os.fspath(name))
        if entry is None:
            raise KeyError(f"{self.name} has no file {os.fspath(name)!r}")
        return entry

    def get_path(self, name: str | os.PathLike[str]) -> ArtifactManifestEntry:
        """Return a file of the artifact, as `get_entry`."""
        return self.get_entry(name)

    def file(self, root: str | None = None) -> str:
        """
        Download the only file, and return its path.

        Raises:
            ValueError: The artifact has several files.
        """
        self._logged("version")
        entries = list(self.manifest.entries.values())
        if len(entries) != 1:
            raise InvalidArgument(f"{self.name} has {len(entries)} files, not one; use download()")
        return entries[0].download(root)

    def files(
        self, names: Sequence[str] | None = None, per_page: int = 50, start: str | None = None
    ) -> list[ArtifactManifestEntry]:
        """Return the files, or those with the given paths."""
        self._logged("version")
        return [entry for path, entry in self.manifest.entries.items() if names is None or path in names]

    # --- lineage ----------------------------------------------------------------------------------

    def logged_by(self) -> PublicRun | None:
        """Return the run that logged this version, or None."""
        from upshot.sdk.public_run import PublicRun

        run = client().get(f"{self._source_path()}/runs")["logged_by"]
        return PublicRun(run) if run else None

    def used_by(self) -> list[PublicRun]:
        """Return the runs that used this version."""
        from upshot.sdk.public_run import PublicRun

        return [PublicRun(run) for run in client().get(f"{self._source_path()}/runs")["used_by"]]

    def usage(self, alias: str | None = None, project: str | None = None) -> str:
        """
        Return a program that downloads this version, ready to paste.

        Args:
            alias: The alias that the program names. By default, the version.
            project: The project of the program's run. By default, the one that the version was logged into.
        """
        version = self._logged("version")
        name, path = version["name"], f"{version['project']}/{version['artifact_name']}"
        if version["registry"] is not None:
            registry = version["registry"]
            scope = "model-registry" if registry == "model" else f"wandb-registry-{registry}"
            path = f"{scope}/{version['collection']}"
        reference = f"{_with_entity(path)}:{alias or name}"
        return (
            "import upshot\n\n"
            f'run = upshot.init(project={_quoted(project or version["project"])}, job_type="inference")\n'
            f"artifact = run.use_artifact({_quoted(reference)}, type={_quoted(version['artifact_type'])})\n"
            "artifact_dir = artifact.download()\n"
        )

    def version_json(self) -> dict[str, Any]:
        """Return the version as the server describes it."""
        return self._logged("version")


def is_artifact_name(name: object) -> bool:
    """Return whether an artifact may have this name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name not in {".", ".."}


def to_names(names: Iterable[str] | str | None, what: str) -> list[str]:
    """
    Return aliases or tags as a list: None, one text and any iterable are accepted.

    Raises:
        InvalidArgument: One is not a text.
    """
    found = [] if names is None else [names] if isinstance(names, str) else list(names)
    for name in found:
        if not isinstance(name, str) or not name:  # type: ignore[redundant-expr]
            raise InvalidArgument(f"{what}: {name!r} is not a name; write it as a text")
    return list(dict.fromkeys(found))


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch that leads from one object to another. It cannot set a value to null."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key in before and before[key] == value:
            continue
        if isinstance(value, Mapping) and isinstance(before.get(key), Mapping):
            patch[key] = merge_patch(before[key], value)
        else:
            patch[key] = value
    return patch


def _quoted(text: str) -> str:
    """Return a text as Python source."""
    return json.dumps(text, ensure_ascii=False)


def _with_entity(reference: str) -> str:
    entity = read_settings().entity
    return f"{entity}/{reference}" if entity else reference
