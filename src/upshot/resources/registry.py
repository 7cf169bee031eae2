"""A registry, and the history of the mutations in it."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_time
from upshot.domain.registry import HistoryEntry, RegistrySettings


class RegistryJson(TypedDict):
    """A registry."""

    name: str


class RegistryDetail(RegistryJson):
    """A registry with its rules; events carry only its name."""

    protected_aliases: list[str]  #: patterns; only an admin may add, move or remove matching aliases
    allowed_automations: list[str]  #: names of the automations that may do so, too


class HistoryEntryJson(TypedDict):
    """One mutation in the append-only history."""

    id: str
    time: str
    actor: str
    action: str  #: link, unlink, add-alias, …
    subject: str  #: `model/churn:v3`, `model/churn`, `model`, or `project/name:v0`
    mutation_id: str
    registry: str | None  #: null for a mutation of an artifact in its project
    collection: str | None
    before: dict[str, Any]
    after: dict[str, Any]


def registry_json(name: str) -> RegistryJson:
    """Return the JSON object of a registry in an event."""
    return {"name": name}


def registry_detail(registry: RegistrySettings) -> RegistryDetail:
    """Return the JSON object of a registry with its rules."""
    return {
        "name": registry.name,
        "protected_aliases": list(registry.protected_aliases),
        "allowed_automations": list(registry.allowed_automations),
    }


def history_entry_json(entry: HistoryEntry) -> HistoryEntryJson:
    """Return the JSON object of a history entry."""
    return {
        "id": entry.id,
        "time": format_time(entry.time),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "mutation_id": entry.mutation_id,
        "registry": entry.registry,
        "collection": entry.collection,
        "before": dict(entry.before),
        "after": dict(entry.after),
    }
