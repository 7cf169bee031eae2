"""What requests say: bodies and queries, checked for form; the registry checks what they mean."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, PrivateAttr, RootModel, model_validator
from pydantic_core import PydanticCustomError

from upshot.domain.event import EventKind
from upshot.domain.execution import ExecutionState
from upshot.domain.job import JobState
from upshot.registry.lookup import hint

MAX_EVENTS = 1_000  #: of one request
MAX_LIMIT = 200  #: items of one page
DEFAULT_LIMIT = 50
MAX_LOG_NUMBER = 2**31 - 1  #: what the databases count to
DEFAULT_PIECES = 20  #: of a log
_SHOWN_KEYS = 5  # unknown keys that a message repeats
_SHOWN_CHARS = 100

Metadata = dict[str, Any]


class _Record(BaseModel):
    """Knows its keys, and says which one was probably meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := [str(key) for key in data if key not in cls.model_fields]):
            shown = [key[:_SHOWN_CHARS] for key in unknown[:_SHOWN_KEYS]]
            found = ", and ".join(f"unknown key {key!r}{hint(key, cls.model_fields)}" for key in shown)
            raise PydanticCustomError("unknown_key", "{found}", {"found": found})
        return data


class _Body(_Record):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NewCollection(_Body):
    """A collection to make."""

    name: str
    artifact_type: str = Field(description="model, dataset, …; fixed from now on.")
    description: str = Field("", description="The model card, in Markdown.")


class CollectionChange(_Body):
    """What is to change of a collection."""

    description: str = Field(description="The model card, in Markdown.")


class NewArtifactVersion(_Body):
    """An artifact version to log; content equal to the current `latest` makes none."""

    name: str
    type: str = Field(description="model, dataset, …; fixed when the artifact is first logged.")
    metadata: Metadata = Field({}, description="Any JSON object.")
    digest: str | None = Field(None, description="Names the content; left out, it is computed from the manifest.")
    manifest: dict[str, str] | None = Field(None, description="Content digest by path.")
    description: str = ""
    aliases: list[str] = Field([], description="In the project's scope, beside `latest`.")


class NewLink(_Body):
    """An artifact version to link."""

    artifact: str = Field(description="`project/name:v3`, `project/name:alias`, or a version of another collection.")
    aliases: list[str] = Field([], description="To be given to the new version, beside `latest`.")


class VersionChange(_Body):
    """What is to change of a version; what is left out stays as it is."""

    metadata: Metadata = Field({}, description="A JSON merge patch (RFC 7396): null removes a key.")
    description: str = ""

    @property
    def new_metadata(self) -> Metadata | None:
        """The patch; None where it was left out."""
        return self.metadata if "metadata" in self.model_fields_set else None

    @property
    def new_description(self) -> str | None:
        """The description; None where it was left out."""
        return self.description if "description" in self.model_fields_set else None


class AliasTarget(_Body):
    """Who is to hold the alias."""

    version: str = Field(description="`v3`, or an alias of the version.")


class ProtectedAliases(_Body):
    """Which aliases only an admin may add, move or remove."""

    patterns: list[str] = Field(description="Globs, such as `prod*`; all of them, for they replace the present ones.")


class NewEvent(_Body):
    """A custom event."""

    name: str
    data: Metadata = Field({}, description="Any JSON object; `event.data` in templates.")


def _or_one(schema: dict[str, Any]) -> None:
    many = {key: schema.pop(key) for key in ("type", "items", "minItems", "maxItems")}
    schema["anyOf"] = [many["items"], many]


class NewEvents(RootModel[list[NewEvent]]):
    """One custom event, or a list of them."""

    model_config = ConfigDict(frozen=True, json_schema_extra=_or_one)

    root: list[NewEvent] = Field(min_length=1, max_length=MAX_EVENTS)
    _is_one: bool = PrivateAttr(default=False)

    @model_validator(mode="wrap")
    @classmethod
    def _wrap_one(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        events = handler([NewEvent.model_validate(data)])  # read by itself: what is wrong is at `body`, not `body.0`
        events._is_one = True  # noqa: SLF001 - one of our own
        return events

    @property
    def is_one(self) -> bool:
        """Whether one event was sent, and no list."""
        return self._is_one


class PageQuery(_Record):
    """Which page of a list."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Items of a page.")
    cursor: str | None = Field(None, max_length=1_000, description="`next` of the page before.")


class EventsQuery(PageQuery):
    """Which events, newest first."""

    kind: EventKind | None = None
    subject: str | None = Field(None, max_length=300, description="The whole subject, or its beginning up to a `:`.")
    name: str | None = Field(None, max_length=128, description="Of custom events.")
    mutation: str | None = Field(None, max_length=40, description="Id of the mutation that made them.")
    after: str | None = Field(
        None,
        pattern=r"^evt_[0-9a-hjkmnp-tv-z]{26}$",
        description="Only events later than this one, oldest first. Events of concurrent mutations can become "
        "visible out of order by as long as a mutation takes: who follows along should ask again from a few "
        "seconds back, and drop what was seen.",
    )


class ExecutionsQuery(PageQuery):
    """Which executions, newest event first."""

    event: str | None = Field(None, max_length=40, description="Id of the event that they answer.")
    automation: str | None = Field(None, max_length=128)
    state: ExecutionState | None = None


class JobsQuery(PageQuery):
    """Which jobs, newest first."""

    state: JobState | None = None
    queue: str | None = Field(None, max_length=128)
    automation: str | None = Field(None, max_length=128)
    execution: str | None = Field(None, max_length=40, description="Id of the execution whose step waits for it.")


class LogQuery(_Record):
    """Which pieces of a log."""

    after: int = Field(0, ge=0, le=MAX_LOG_NUMBER, description="Number of the last piece that is known; 0 for none.")
    limit: int = Field(DEFAULT_PIECES, ge=1, le=MAX_LIMIT, description="Pieces at most; each has up to 256 KB.")
