"""Artifacts: named, typed versions of files, which runs log, use and link."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

from upshot.client.addresses import api_path
from upshot.clock import SystemClock
from upshot.domain.manifest import ManifestEntry
from upshot.errors import InvalidInput
from upshot.ids import new_id
from upshot.resources.usage import python_usage
from upshot.sdk.artifact_attributes import ArtifactAttributes
from upshot.sdk.artifact_downloads import download_entries, verify_files
from upshot.sdk.connection import client, read_settings
from upshot.sdk.draft import Draft
from upshot.sdk.entries import ArtifactManifest, ArtifactManifestEntry
from upshot.sdk.json_values import merge_patch, to_json_object
from upshot.sdk.names import to_names
from upshot.sdk.references import read_target
from upshot.sdk.sdk_errors import AlreadyLogged, InvalidArgument, NotBuilt
from upshot.sdk.ttl import to_seconds

if TYPE_CHECKING:
    from upshot.client.file_digest import LocalFile
    from upshot.resources.version import VersionJson
    from upshot.sdk.background import Uploads
    from upshot.sdk.offline import OfflineArtifacts
    from upshot.sdk.public_run import PublicRun


class Artifact(ArtifactAttributes):
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

    # --- the version and its files ----------------------------------------------------------------

    @classmethod
    def from_cache(cls, version: Mapping[str, Any], entries: Iterable[ManifestEntry]) -> Self:
        """Return the artifact for a version that was downloaded before, with its files."""
        artifact = cls.from_version(version)
        artifact._manifest = ArtifactManifest(ArtifactManifestEntry(entry, artifact) for entry in entries)  # noqa: SLF001
        return artifact

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

    def _read_entries(self, version: Mapping[str, Any]) -> Iterator[ManifestEntry]:
        if version["file_count"] is None:
            raise InvalidArgument(
                f"{version['reference']} was logged with a digest only: this server has no files of it; log it "
                "with its files"
            )
        for file in client().every_item(f"{self._source_path()}/files"):
            yield ManifestEntry(file["path"], file["digest"], file["size"], file["ref"])

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
            policy: With `immutable`, no copy is made when the artifact is logged: the program does not change the
                file. A file that changes before it is logged is refused.
            overwrite: Replace a file that was added under this name.

        Raises:
            ValueError: There is no such file, or the artifact has been logged.
        """
        draft = self._open_draft()
        source = Path(local_path)
        if source.is_dir():
            raise InvalidArgument(f"{source}: this is a directory; add it with add_dir()")
        path = source.name if name is None else name
        entry = draft.add(path, source.absolute(), overwrite=overwrite, may_change=policy != "immutable")
        return ArtifactManifestEntry(entry, self, source)

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
            policy: As for `add_file`.
            merge: Replace files that were added under the same names.

        Raises:
            ValueError: There is no such directory, a link leads out of it, or the artifact has been logged.
        """
        self._open_draft().add_folder(Path(local_path), name, overwrite=merge, may_change=policy != "immutable")

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
        with self._open_draft().new_file(name, mode, encoding) as file:
            yield file

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
            uri: `file:///…`, `https://…`, `s3://BUCKET/KEY`, or another address, which is recorded as it is.
            name: Its path in the artifact. By default, the last part of the address.
            checksum: Look at the file, and record its size and checksum: of a local file its digest, else its `ETag`.
            max_objects: The maximum number of files below a directory or a key. More are an error.

        Raises:
            ValueError: Nothing is there, there are too many files, or the artifact has been logged.
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

    def is_new(self) -> bool:
        """Return whether it is a draft that nobody has logged: it is not being uploaded either."""
        return self._json is None and self._upload is None and self._offline_id is None

    # --- log and change ---------------------------------------------------------------------------

    def log_into(
        self,
        project: str,
        *,
        aliases: Sequence[str] = (),
        tags: Sequence[str] = (),
        run_id: str | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        """
        Log the artifact into a project. A version with the same content is used, and gets the aliases.

        Args:
            project: Name of the project.
            aliases: Aliases in the project, in addition to `latest`.
            tags: Tags of the version.
            run_id: The run that logs it, of the same project.
            uploads: Those of the run, if this one goes on in the background. `wait` waits for it.
        """
        if self._upload is not None and self._upload.error is None:
            self.wait()
        self._upload = None  # after an error, this is another try
        if self._draft is None:
            self._move_aliases(aliases)
            return
        from upshot.client.uploads import begin_version, send_version

        files = list(self._draft.files.values())
        request = self._request(aliases, tags, run_id)
        self._is_final = True
        key = (project, request, len(files))
        if self._started is None or self._started[0] != key:
            self._started = (key, new_id("ver", SystemClock().now()))
        version_id, draft = self._started[1], self._draft

        def begin() -> Any:
            return begin_version(client(), project, {**request, "id": version_id}, files)

        def send(files: Sequence[LocalFile]) -> Any:
            try:
                version = send_version(client(), version_id, files, what=self._base_name)
            except InvalidInput as error:
                raise InvalidArgument(str(error)) from error
            draft.remove_new_files()
            return version

        if uploads is None:
            self._set_version(begin() or send(files))
        # An earlier upload of the run may make the newest version, with which the content is compared.
        elif uploads.is_idle and (version := begin()):
            self._set_version(version)
            draft.remove_new_files()
        else:
            self._upload = uploads.start(self._base_name, files, begin, send)

    def _request(self, aliases: Sequence[str], tags: Sequence[str], run_id: str | None) -> dict[str, Any]:
        return {
            "name": self._base_name,
            "artifact_type": self._type,
            "metadata": to_json_object(self._metadata, "metadata"),
            "description": self._description or "",
            "aliases": list(aliases),
            "tags": list(tags),
            "ttl_seconds": to_seconds(self._ttl),
            **({"run_id": run_id} if run_id else {}),
        }

    def keep_offline(
        self, kept: OfflineArtifacts, project: str, *, aliases: Sequence[str], tags: Sequence[str], run_id: str
    ) -> None:
        """
        Keep the artifact for `upshot sync`, which logs it into a project.

        Args:
            kept: What the offline run keeps.
            project: Name of the project.
            aliases: Aliases in the project, in addition to `latest`.
            tags: Tags of the version.
            run_id: The run that logs it.

        Raises:
            InvalidArgument: A server has the artifact, or a file has changed since it was added.
        """
        if self._draft is None:
            raise InvalidArgument(
                f"artifact {self._base_name}: the server has it, and its aliases cannot be changed while the run is "
                "offline"
            )
        request = self._request(aliases, tags, run_id)
        self._offline_id = kept.log(project, request, list(self._draft.files.values()), self._offline_id)
        self._is_final = True
        self._draft.remove_new_files()

    def kept_id(self) -> str:
        """Return the id of the version, which an offline run keeps, or which a server has."""
        return self._offline_id or str(self._logged("id")["artifact_version_id"])

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

        Args:
            timeout: How many seconds to wait; None for as long as it takes.

        Raises:
            NotLogged: It was not logged.
            WaitTimeout: It takes longer.
            UpshotError: It could not be uploaded.
        """
        if self._offline_id is not None:
            return self
        if (upload := self._upload) is not None:
            version = upload.wait(timeout)
            if self._upload is not None:
                self._settle(version)
        self._logged("version")
        return self

    def save(self, project: str | None = None, settings: object = None) -> None:
        """
        Log a draft, or store changed metadata, description, ttl, aliases and tags of a version.

        Args:
            project: Where a draft is logged. By default, into the project of the run.
            settings: Has no effect.
        """
        if self._upload is not None:
            self.wait()
        if self._json is None:
            from upshot.sdk.session import log_draft

            log_draft(self, project)
            self.wait()
            return
        before = self._json
        metadata = to_json_object(self._metadata, "metadata")
        changes: dict[str, Any] = {}
        if metadata != before["metadata"]:
            changes["metadata"] = merge_patch(before["metadata"], metadata)
        if (self._description or "") != before["description"]:
            changes["description"] = self._description or ""
        if not self.is_link and to_seconds(self._ttl) != before["ttl_seconds"]:
            changes["ttl_seconds"] = to_seconds(self._ttl)
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
        from upshot.sdk.session import current_run

        run = current_run()
        if run is not None and run.offline:
            return run.link_artifact(self, target_path, names)
        if self._upload is not None:
            self.wait()
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
        return download_entries(
            self, entries, root, skip_cache=skip_cache, allow_missing_references=allow_missing_references
        )

    def verify(self, root: str | os.PathLike[str] | None = None) -> None:
        """
        Compare downloaded files with the artifact.

        Args:
            root: The directory. By default, that of `download`.

        Raises:
            ValueError: A file is missing, has other content, or is not part of the artifact. The message names it.
        """
        self._logged("version")
        verify_files(self, root)

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

        path = f"{self._source_path()}/runs"
        run = client().get(path)["logged_by"]
        return PublicRun(run) if run else None

    def used_by(self) -> list[PublicRun]:
        """Return the runs that used this version."""
        from upshot.sdk.public_run import PublicRun

        path = f"{self._source_path()}/runs"
        return [PublicRun(run) for run in client().get(path)["used_by"]]

    def usage(self, alias: str | None = None, project: str | None = None, form: str = "python") -> str:
        """
        Return a program that downloads this version, ready to paste.

        Args:
            alias: The alias that the program names. By default, the version.
            project: The project of the run of a Python program. By default, the one that the version was logged into.
            form: `python`, `cli` for a command of the shell, or `curl`.

        Raises:
            ValueError: There is no such form.
        """
        version = cast("VersionJson", self._logged("version"))
        if form == "python":
            return python_usage(version, alias, project=project, entity=read_settings().entity)
        if form not in {"cli", "curl"}:
            raise InvalidArgument(f"form {form!r}: write python, cli or curl")
        path = self._series_path() + api_path("versions", alias or version["name"], "usage")
        return str(client().get(path)[form])
