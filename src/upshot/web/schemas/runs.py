"""Requests and responses about runs and the lineage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.registry.lineage import MAX_DEPTH
from upshot.resources.run import RunJson
from upshot.resources.version import VersionJson
from upshot.web.schemas.requests import JsonObject, QueryParameters, RequestBody
from upshot.web.schemas.responses import NextPage


class RunValues(RequestBody):
    """What to set of a run. What is left out stays as it is."""

    name: str | None = Field(None, description="For people; the id by default.")
    job_type: str | None = Field(None, description="training, evaluation, …")
    config: JsonObject | None = Field(None, description="Any JSON object; replaces the earlier one.")
    summary: JsonObject | None = Field(None, description="Any JSON object; replaces the earlier one.")
    tags: list[str] | None = None
    notes: str | None = None
    group: str | None = None
    entity: str | None = Field(None, description="Only recorded.")
    info: JsonObject | None = Field(None, description="Where and what it ran; any JSON object.")


class RunEnd(RequestBody):
    """How a run ended: its exit code, or a state. Without both, it is `finished`."""

    exit_code: int | None = Field(None, description="0 means `finished`, any other code `failed`.")
    state: str | None = Field(None, description="`finished`, `failed` or `killed`.")


class UsedArtifact(RequestBody):
    """An artifact version that a run uses."""

    artifact: str = Field(
        description="A reference, or the id of an artifact version (`ver_…`) or of a link (`lnk_…`). A name without a "
        "project is an artifact of the run's project."
    )
    artifact_type: str | None = Field(None, description="The request is refused if the artifact has another type.")


class RunPage(NextPage):
    """A page of the runs of a project, newest first."""

    items: list[RunJson]


class RunArtifactsPage(NextPage):
    """The artifact versions that a run used or logged, up to 1,000, on one page."""

    items: list[VersionJson]


class VersionRuns(TypedDict):
    """The runs of an artifact version."""

    logged_by: RunJson | None  #: null if no run logged it
    used_by: list[RunJson]  #: up to 1,000, the oldest first


class LineageQuery(QueryParameters):
    """Where to begin and how far to go."""

    reference: str = Field(description="A version, or its id.")
    direction: Literal["up", "down", "both"] = Field(
        "both", description="`up`: what it was made from; `down`: what was made from it; `both`: these two."
    )
    depth: int = Field(10, ge=1, le=MAX_DEPTH, description="Maximum distance in edges.")
