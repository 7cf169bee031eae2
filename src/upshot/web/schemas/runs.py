"""Requests and responses about runs and the lineage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.errors import InvalidInput
from upshot.registry.lineage import MAX_DEPTH
from upshot.resources.run import MetricJson, RunFileJson, RunJson, SeriesJson
from upshot.resources.version import VersionJson
from upshot.web.schemas.requests import JsonObject, PageQuery, QueryParameters, RequestBody
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
    session: str | None = Field(
        None, description="A random text that the process which runs makes once. Only its later requests may have it."
    )
    resume: Literal["allow", "must", "never"] | None = Field(
        None, description="Whether the run may exist with another session (`allow`), or has to (`must`)."
    )
    created_at: str | float | None = Field(
        None, description="When a new run began, if that was earlier: RFC 3339, or seconds since 1970."
    )


Session = Annotated[
    str | None,
    Field(None, description="Of the process that runs; the request is refused if another has resumed the run."),
]


class RunEnd(RequestBody):
    """How a run ended: its exit code, or a state. Without both, it is `finished`."""

    exit_code: int | None = Field(
        None, ge=-(2**31), lt=2**31, description="0 means `finished`, any other code `failed`."
    )
    state: str | None = Field(None, description="`finished`, `failed` or `killed`.")
    finished_at: str | float | None = Field(
        None, description="When it ended, if that was earlier: RFC 3339, or seconds since 1970."
    )
    session: Session


class SignOfLife(RequestBody):
    """A sign that a run is alive."""

    session: Session


class LoggedRow(RequestBody):
    """The values of one step."""

    step: int = Field(description="0 or more. The steps of a key do not go back.")
    time: float = Field(description="Seconds since 1970.")
    values: JsonObject = Field(
        description="By key. Numbers are kept exactly; NaN and the infinities are written as the texts `NaN`, "
        "`Infinity` and `-Infinity`. Other JSON values are kept in the history, too."
    )


class LoggedValues(RequestBody):
    """What a run logs: rows of its history, and changes of its summary and config."""

    session: str = Field(description="Of the process that runs.")
    sequence: int = Field(
        ge=0, description="Number of the request in its session, from 0. A repeated one changes nothing."
    )
    rows: list[LoggedRow] = Field(default=[], description="Up to 10,000 values in all.")
    summary: JsonObject | None = Field(None, description="Merged into the summary.")
    config: JsonObject | None = Field(None, description="Merged into the config.")
    late: bool = Field(
        default=False,
        description="It was logged earlier, and is no sign of life. A run that has ended accepts it, too.",
    )


class LogResult(TypedDict):
    """The answer to what a run logged."""

    next_sequence: int
    stop: bool  #: the process is asked to stop
    dropped: int  #: values whose step was lower than the last step of their key


class LifeJson(TypedDict):
    """The answer to a sign of life."""

    state: str
    stop: bool  #: the process is asked to stop


class NewRunFile(RequestBody):
    """A file of a run."""

    path: str
    digest: str = Field(description="`sha256:…` of its bytes, which are sent as a blob.")
    size: int = Field(ge=0, description="Bytes.")


class NewRunFiles(RequestBody):
    """Files to add to a run."""

    files: list[NewRunFile] = Field(description="1 to 5,000.")


class RunFilesPage(NextPage):
    """A page of the files of a run, by path."""

    items: list[RunFileJson]


class MetricList(NextPage):
    """The keys that a run has logged, sorted, on one page."""

    items: list[MetricJson]


class SeriesPage(SeriesJson):
    """Points of a key: a page of all of them, or few that show all."""

    next: str | None  #: `cursor` for the next page; null if this is the last page, or `points` was given


class SeriesParameters(QueryParameters):
    """Which points of a key to return."""

    key: str = Field(description="The key.")
    points: int | None = Field(
        None, ge=4, le=10_000, description="Number of points to keep of all: the minimum and maximum of each bucket."
    )
    from_step: int = Field(0, ge=0)
    to_step: int | None = Field(None, ge=0, description="Included.")
    limit: int = Field(10_000, ge=1, le=100_000, description="Maximum number of points on a page, without `points`.")
    cursor: str | None = Field(None, max_length=100, description="`next` of the previous page.")


class HistoryParameters(QueryParameters):
    """Which rows of a history to return."""

    keys: str | None = Field(
        None, description="Keys separated by commas: only rows that have all of them. By default, all rows and keys."
    )
    key: list[str] | None = Field(None, description="A key; for keys that contain commas, give it several times.")
    samples: int | None = Field(
        None, ge=1, le=10_000, description="Number of rows, spread evenly over the history. By default, a page of all."
    )
    x_axis: str = Field("_step", description="`_step`, `_timestamp`, or a key that the rows must have, too.")
    from_step: int = Field(0, ge=0)
    to_step: int | None = Field(None, ge=0, description="Included.")
    limit: int = Field(1_000, ge=1, le=10_000, description="Maximum number of rows on a page, without `samples`.")
    cursor: str | None = Field(None, max_length=100, description="`next` of the previous page.")


class HistoryRow(TypedDict("HistoryRow", {"_step": int, "_timestamp": float})):
    """The values that a run has logged at one step, by key."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc] # pydantic reads it


class RunHistoryPage(NextPage):
    """Rows of a history, in the order of their steps."""

    items: list[HistoryRow]


def parse_moment(value: str | float | None, what: str) -> datetime | None:
    """
    Return a time that a client sent as RFC 3339, or as seconds since 1970.

    Raises:
        InvalidInput: It is no time.
    """
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(
            f"{what}: {str(value)[:40]!r} is not a time such as 2026-11-01T09:00:00Z, or seconds since 1970"
        )
    return moment.astimezone(UTC)


class UsedArtifact(RequestBody):
    """An artifact version that a run uses."""

    artifact: str = Field(
        description="A reference, or the id of an artifact version (`ver_…`) or of a link (`lnk_…`). A name without a "
        "project is an artifact of the run's project."
    )
    artifact_type: str | None = Field(None, description="The request is refused if the artifact has another type.")


class RunsQuery(PageQuery):
    """Which runs to list, and in which order."""

    filters: str | None = Field(
        None, description='JSON in the form of MongoDB: `{"config.lr": {"$lt": 0.1}, "tags": "best"}`.'
    )
    order: str | None = Field(
        None,
        max_length=600,
        description="A field, such as `-summary_metrics.acc`; `-` means that the highest comes first. Runs without the "
        "field come last. By default, the newest comes first.",
    )


class RunPage(NextPage):
    """A page of the runs of a project."""

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
