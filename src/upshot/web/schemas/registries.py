"""Requests and responses about registries and their history."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from upshot.resources.history_export import ExportFormat
from upshot.resources.registry import HistoryEntryJson, RegistryDetail
from upshot.validation import invalid
from upshot.web.schemas.requests import RequestBody, StrictModel
from upshot.web.schemas.responses import NextPage


class ProtectedAliases(RequestBody):
    """Aliases that only an admin and some automations may add, move or remove. They replace the earlier ones."""

    patterns: list[str] = Field(description="Globs, such as `prod*`.")
    automations: list[str] = Field([], description="Names of the automations that may also move these aliases.")


class RegistryPage(NextPage):
    """All registries, by name, on one page."""

    items: list[RegistryDetail]


class HistoryExport(StrictModel):
    """What to export of the history."""

    format: ExportFormat = Field("jsonl", description="`csv`, or `jsonl` for one JSON object per line.")
    registry: str | None = Field(None, description="Only of this registry.")
    collection: str | None = Field(None, description="Only of this collection of the registry.")

    @model_validator(mode="after")
    def _check_registry(self) -> Self:
        if self.collection is not None and self.registry is None:
            raise invalid("a collection needs its `registry`")
        return self


class HistoryPage(NextPage):
    """A page of history entries, newest first."""

    items: list[HistoryEntryJson]
