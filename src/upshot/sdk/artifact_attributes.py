"""What is known about an artifact: of a draft what the program said, of a version what the server says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import timedelta
from typing import Any, Self

from upshot.client.addresses import api_path
from upshot.domain.manifest import manifest_digest
from upshot.sdk.background import Upload
from upshot.sdk.connection import client, read_settings
from upshot.sdk.draft import Draft
from upshot.sdk.entries import ArtifactManifest
from upshot.sdk.json_values import to_json_object
from upshot.sdk.names import is_artifact_name, to_names
from upshot.sdk.references import with_entity
from upshot.sdk.sdk_errors import InvalidArgument, NotBuilt, NotLogged
from upshot.sdk.ttl import ArtifactTTL, from_seconds, to_seconds


class ArtifactAttributes:
    """The attributes of an artifact. See `Artifact`, which has everything else."""

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
        self._version_json: dict[str, Any] | None = None
        self._upload: Upload | None = None
        self._offline_id: str | None = None  # of a version that an offline run keeps
        self.asked_for: str | None = None  #: the whole reference with which it was found
        self._aliases: list[str] = []
        self._tags: list[str] = []
        self._manifest: ArtifactManifest | None = None
        self._is_final = False
        self._started: tuple[Any, str] | None = None  # what was sent to begin the version, and its id
        self._ttl: timedelta | ArtifactTTL | None = ArtifactTTL.INHERIT
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
        self._upload = None
        self._offline_id = None
        self.asked_for = None
        self._is_final = True
        self._started = None
        self.use_as = None
        self._set_version(version)

    @property
    def _json(self) -> dict[str, Any] | None:
        """The version as the server has it, or None."""
        if self._upload is not None and self._upload.is_done and self._upload.error is None:
            self._settle(self._upload.wait())
        return self._version_json

    def _settle(self, version: Mapping[str, Any]) -> None:
        """Become the version that was uploaded. What the program has changed meanwhile stays for `save`."""
        self._upload = None
        sent: Mapping[str, Any] = self._started[0][1] if self._started else {}
        metadata, description, ttl = self._metadata, self._description, self._ttl
        self._set_version(version)
        if sent and metadata != sent["metadata"]:
            self._metadata = metadata
        if sent and (description or "") != sent["description"]:
            self._description = description
        if sent and to_seconds(ttl) != sent["ttl_seconds"]:
            self._ttl = ttl

    def _set_version(self, version: Mapping[str, Any]) -> None:
        self._version_json = dict(version)
        self._description = version["description"] or None
        self._metadata = deepcopy(version["metadata"])
        self._aliases = list(version["aliases"])
        self._tags = list(version["tags"])
        self._ttl = from_seconds(version["ttl_seconds"])
        self._manifest = None

    # --- attributes -------------------------------------------------------------------------------

    def _logged(self, what: str) -> dict[str, Any]:
        if self._json is None:
            if self._offline_id is not None:
                raise NotLogged(
                    f"artifact {self._base_name}: its {what} is known after `upshot sync`, because the run is offline"
                )
            if self._upload is not None:
                raise NotLogged(
                    f"artifact {self._base_name}: it has no {what} yet, because it is being uploaded; call wait() first"
                )
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
    def ttl(self) -> timedelta | None:
        """
        After which time the version is deleted, counted from when it was logged. None means never.

        Set it to a `timedelta`, to None, or to `ArtifactTTL.INHERIT` for that of the artifact, and call `save()` if
        the artifact was logged. A version that is in use is not deleted: see the documentation of the SDK.

        Raises:
            NotLogged: The time is inherited, and the artifact has not been logged or saved.
        """
        if not isinstance(self._ttl, ArtifactTTL):
            return self._ttl
        if self._json is None or self._json["ttl_seconds"] is not None:
            raise NotLogged(f"artifact {self._base_name}: what it inherits is known when it is logged, or saved")
        version = self._json
        found = client().get(api_path("projects", version["project"], "artifacts", version["artifact_name"]))
        return None if found["ttl_seconds"] is None else timedelta(seconds=found["ttl_seconds"])

    @ttl.setter
    def ttl(self, ttl: timedelta | ArtifactTTL | None) -> None:
        if self.is_link:
            raise InvalidArgument(f"{self.name} is a link; set the ttl of its source_artifact")
        to_seconds(ttl)
        self._ttl = ttl

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
        return with_entity(self._logged("source_qualified_name")["artifact"])

    @property
    def qualified_name(self) -> str:
        """`[ENTITY/]PROJECT/NAME:v3`, or of a link `[ENTITY/]REGISTRY/COLLECTION:v3`."""
        return self._base_name if self._json is None else with_entity(self._json["reference"])

    @property
    def is_link(self) -> bool:
        """Whether this is a version of a collection."""
        return self._json is not None and self._json["registry"] is not None

    @property
    def url(self) -> str | None:
        """The address in the REST API."""
        url: str | None = self._logged("url")["url"]
        return url

    def _files(self) -> Mapping[str, Any]:
        if self._draft is None:
            raise AssertionError("unreachable: an artifact without a version is a draft")
        return self._draft.files

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

    def version_json(self) -> dict[str, Any]:
        """Return the version as the server describes it."""
        return self._logged("version")
