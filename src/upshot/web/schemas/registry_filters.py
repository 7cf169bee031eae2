"""Query parameters that filter lists of the registry."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic import Field

from upshot.domain.stage import parse_stage
from upshot.errors import InvalidInput
from upshot.numerals import read_decimal
from upshot.ports.registry import RegistryFilter
from upshot.web.schemas.requests import PageQuery, StoredName

MAX_METADATA_FILTERS = 10


class ArtifactQuery(PageQuery):
    """Filters of a list of artifacts."""

    alias: StoredName | None = Field(None, description="Only those with a version that has this alias.")
    type: StoredName | None = Field(None, description="Only those of this artifact type.")

    def where(self) -> RegistryFilter:
        """Return the conditions."""
        return RegistryFilter(alias=self.alias, artifact_type=self.type)


class ArtifactVersionQuery(PageQuery):
    """Filters of a list of artifact versions."""

    alias: StoredName | None = Field(None, description="Only the version that has this alias.")
    tag: StoredName | None = Field(None, description="Only those with this tag.")
    metadata: list[str] = Field(
        [],
        max_length=MAX_METADATA_FILTERS,
        description="Only those with this value in the metadata: `KEY=VALUE`. A dot leads to a nested key. A value "
        "that is valid JSON also matches that value. Can be repeated.",
    )

    def where(self) -> RegistryFilter:
        """Return the conditions."""
        return RegistryFilter(alias=self.alias, tag=self.tag, metadata=_parse_metadata(self.metadata))


class VersionQuery(ArtifactVersionQuery):
    """Filters of a list of versions of a collection."""

    stage: str | None = Field(
        None, description="Only those in this stage: development, staging, production or archived."
    )

    def where(self) -> RegistryFilter:
        """Return the conditions."""
        return RegistryFilter(
            alias=self.alias,
            tag=self.tag,
            stage=None if self.stage is None else parse_stage(self.stage),
            metadata=_parse_metadata(self.metadata),
        )


class CollectionQuery(ArtifactVersionQuery):
    """Filters of a list of collections."""

    alias: StoredName | None = Field(None, description="Only those with a version that has this alias.")
    type: StoredName | None = Field(None, description="Only those for this artifact type.")

    def where(self) -> RegistryFilter:
        """Return the conditions."""
        return RegistryFilter(
            alias=self.alias, tag=self.tag, artifact_type=self.type, metadata=_parse_metadata(self.metadata)
        )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_float(digits: str) -> float:
    number = read_decimal(digits)
    if number is None:
        raise ValueError(f"{digits[:30]} is too large")
    return number


def _parse_metadata(filters: list[str]) -> tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...]:
    parsed = []
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise InvalidInput(f"query.metadata: {text!r}: write KEY=VALUE, such as metadata=format=onnx")
        values: list[Any] = [value]
        try:
            number_or_word = json.loads(value, parse_constant=_refuse_constant, parse_float=_read_float)
        except ValueError:
            pass
        else:
            if not isinstance(number_or_word, dict | list):
                values.append(number_or_word)
        parsed.append((tuple(key.split(".")), tuple(values)))
    return tuple(parsed)
