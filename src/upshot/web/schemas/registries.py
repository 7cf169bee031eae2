"""Requests and responses about registries and their history."""

from __future__ import annotations

from pydantic import Field

from upshot.resources.registry import HistoryEntryJson, RegistryDetail
from upshot.web.schemas.requests import RequestBody
from upshot.web.schemas.responses import NextPage


class ProtectedAliases(RequestBody):
    """Aliases that only an admin and some automations may add, move or remove. They replace the earlier ones."""

    patterns: list[str] = Field(description="Globs, such as `prod*`.")
    automations: list[str] = Field([], description="Names of the automations that may also move these aliases.")


class RegistryPage(NextPage):
    """All registries, by name, on one page."""

    items: list[RegistryDetail]


class HistoryPage(NextPage):
    """A page of history entries, newest first."""

    items: list[HistoryEntryJson]
