"""Requests and responses about the versions of a collection."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upshot.resources.version import VersionJson
from upshot.web.schemas.requests import JsonObject, RequestBody
from upshot.web.schemas.responses import MutationResult, NextPage

TTL_OF_VERSION = "Seconds after which it expires; 0: never; null: that of its artifact and collections."


HAPPENED_AT = (
    "When it happened, if a program without a connection did it. Aliases that somebody has moved since then stay where "
    "they are, and are among the `kept_aliases` of the answer."
)


class NewLink(RequestBody):
    """An artifact version to link."""

    artifact: str = Field(description="`project/name:v3`, `project/name:alias`, or a version of another collection.")
    aliases: list[str] = Field([], description="Aliases of the new version, in addition to `latest`.")
    id: str | None = Field(None, description="Id of the link, `lnk_…`. A request with a known id changes nothing.")
    happened_at: str | None = Field(None, description=HAPPENED_AT)


class VersionChange(RequestBody):
    """Changes to a version; a field that is left out stays as it is."""

    metadata: JsonObject = Field({}, description="A JSON merge patch (RFC 7396): null removes a key.")
    description: str = ""
    ttl_seconds: int | None = Field(None, description=TTL_OF_VERSION)

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that were given, as arguments of `Registry.update_version`."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class StageChange(RequestBody):
    """The stage that a version gets."""

    stage: str = Field(description="development, staging, production or archived; MLflow's words also work.")
    archive_existing: bool = Field(default=False, description="Move the other versions of the stage to `archived`.")


class AliasTarget(RequestBody):
    """The version that gets the alias."""

    version: str = Field(description="`v3`, or an alias of the version.")


class VersionPage(NextPage):
    """A page of versions, newest first."""

    items: list[VersionJson]


class ChangedVersion(VersionJson, MutationResult):
    """A version after a mutation."""


class LinkedVersion(ChangedVersion):
    """A version that was linked."""

    kept_aliases: list[str]  #: requested aliases that somebody has moved since `happened_at`
