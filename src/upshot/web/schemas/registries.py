"""Requests and responses about registries and their history."""

from __future__ import annotations

from pydantic import Field

from upshot.resources.registry import HistoryEntryJson, RegistryDetail
from upshot.web.schemas.requests import RequestBody
from upshot.web.schemas.responses import NextPage


class ProtectedAliases(RequestBody):
    """Aliases that only an admin may add, move or remove."""

    patterns: list[str] = Field(description="Globs, such as `prod*`. They replace all earlier patterns.")


class RegistryPage(NextPage):
    """All registries, by name, on one page."""

    items: list[RegistryDetail]


class HistoryPage(NextPage):
    """A page of history entries, newest first."""

    items: list[HistoryEntryJson]
