"""Base classes of request bodies and queries, and the query of every list."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from upshot.numerals import read_whole
from upshot.suggestions import did_you_mean
from upshot.unicode_text import to_nfc
from upshot.validation import describe_value, invalid

MAX_LIMIT = 200  #: items of one page
DEFAULT_LIMIT = 50
_MAX_SHOWN_KEYS = 5  # unknown keys that a message repeats
_MAX_SHOWN_CHARS = 100  # of each

JsonObject = dict[str, Any]
StoredName = Annotated[str, AfterValidator(to_nfc)]  #: a name to search; names are stored in this Unicode form


class StrictModel(BaseModel):
    """A model that refuses unknown keys and suggests the key that was probably meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := [str(key) for key in data if key not in cls.model_fields]):
            shown = [key[:_MAX_SHOWN_CHARS] for key in unknown[:_MAX_SHOWN_KEYS]]
            raise invalid(", and ".join(f"unknown key {key!r}{did_you_mean(key, cls.model_fields)}" for key in shown))
        return data


class RequestBody(StrictModel):
    """A JSON body; values are not converted to other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class QueryParameters(StrictModel):
    """Query parameters. Numbers are written with ASCII digits, without separators."""

    @field_validator("*", mode="before")
    @classmethod
    def _check_number(cls, value: Any, info: ValidationInfo) -> Any:
        is_whole = cls.model_fields[str(info.field_name)].annotation is int
        if is_whole and isinstance(value, str) and read_whole(value) is None:
            raise invalid(f"must be a whole number, not {describe_value(value)}")
        return value


IdPart = Annotated[
    str | None,
    Field(None, pattern=r"^[0-9a-z_]{1,40}$", description="The whole id, its beginning, or its end."),
]


class PageQuery(QueryParameters):
    """Query parameters of a list."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Maximum number of items on the page.")
    cursor: str | None = Field(None, max_length=1_000, description="`next` of the previous page.")
