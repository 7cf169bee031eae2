"""Requests and responses about artifacts in their projects."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.registry.inputs import MAX_FILES_PER_REQUEST
from upshot.resources.artifact import ArtifactDetail
from upshot.resources.file import FileJson
from upshot.resources.version import VersionJson
from upshot.validation import invalid
from upshot.web.schemas.requests import DEFAULT_LIMIT, JsonObject, PageQuery, RequestBody
from upshot.web.schemas.responses import MutationResult, NextPage
from upshot.web.schemas.versions import HAPPENED_AT, TTL_OF_VERSION


class NewArtifactVersion(RequestBody):
    """An artifact version to log. Content equal to that of the newest version creates no new version."""

    name: str
    artifact_type: str = Field(
        description="model, dataset, …; fixed when the artifact is first logged. W&B's name for it, `type`, also works."
    )
    metadata: JsonObject = Field({}, description="Any JSON object.")
    digest: str | None = Field(None, description="Names the content; computed from the manifest if left out.")
    manifest: dict[str, str] | None = Field(None, description="Content digest by path.")
    description: str = ""
    aliases: list[str] = Field([], description="Aliases in the project, in addition to `latest`.")
    id: str | None = Field(None, description="Id of the version, `ver_…`. A request with a known id changes nothing.")
    run_id: str | None = Field(None, description="Id of the run of this project that logs it.")
    ttl_seconds: int | None = Field(None, description=TTL_OF_VERSION)

    @model_validator(mode="before")
    @classmethod
    def _accept_type(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "type" not in data:
            return data
        if "artifact_type" in data:
            raise invalid("`type` is another name for `artifact_type`; give one of them")
        return {("artifact_type" if key == "type" else key): value for key, value in data.items()}


class ArtifactPage(NextPage):
    """A page of artifacts, by name."""

    items: list[ArtifactDetail]


class ChangedArtifactVersion(VersionJson, MutationResult):
    """An artifact version after a mutation."""


class LoggedArtifactVersion(ChangedArtifactVersion):
    """An artifact version that was logged, or the one with equal content."""

    metadata_ignored: bool  #: a version with equal content exists, and it keeps its own metadata
    kept_aliases: list[str]  #: requested aliases that somebody has moved since `happened_at`


class FileQuery(PageQuery):
    """Query parameters of the list of files, whose pages may be as long as those that are sent."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_FILES_PER_REQUEST, description="Maximum number of files.")


class FilePage(NextPage):
    """A page of the files of an artifact version, by path."""

    items: list[FileJson]


class NewPendingVersion(RequestBody):
    """An artifact version whose files follow."""

    id: str = Field(description="Id of the version, `ver_…`, made by the client.")
    name: str
    artifact_type: str
    digest: str = Field(
        description="SHA-256 of the JSON object of all content digests by path, sorted, without spaces."
    )
    file_count: int = Field(ge=0)
    metadata: JsonObject = Field({}, description="Any JSON object.")
    description: str = ""
    aliases: list[str] = Field([], description="Aliases in the project, in addition to `latest`.")
    tags: list[str] = Field([])
    run_id: str | None = Field(None, description="Id of the run of this project that logs it.")
    ttl_seconds: int | None = Field(None, description=TTL_OF_VERSION)
    happened_at: str | None = Field(None, description=HAPPENED_AT)


class NewFile(RequestBody):
    """A file, or a reference to one that is stored elsewhere."""

    path: str
    digest: str
    size: int | None = None
    ref: str | None = Field(None, description="URI of a reference.")


class NewFiles(RequestBody):
    """Files of a pending version."""

    files: list[NewFile]


class PendingVersionJson(TypedDict):
    """An artifact version whose files are awaited."""

    id: str
    state: str  #: `pending`
    expires_at: str  #: if there is no progress until then


class StartedVersion(TypedDict):
    """Either a pending version, or the version that has the content already."""

    pending: PendingVersionJson | None
    version: LoggedArtifactVersion | None


class MissingBlobs(TypedDict):
    """Digests of blobs that are not stored."""

    missing: list[str]


class NewName(RequestBody):
    """A new name."""

    name: str


class ArtifactChange(RequestBody):
    """Changes to an artifact; a field that is left out stays as it is."""

    name: str = Field("", description="The new name.")
    ttl_seconds: int | None = Field(
        None, description="Seconds after which versions without their own expire; null: without limit."
    )


class ProjectJson(TypedDict):
    """A project."""

    name: str


class ProjectPage(NextPage):
    """A page of projects, by name."""

    items: list[ProjectJson]


class LinksPage(NextPage):
    """All links to an artifact version, sorted by registry and collection, on one page."""

    items: list[VersionJson]
