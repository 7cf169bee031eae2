"""An automation as it is loaded from its file."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.domain.automation import Automation, Step


class PatternJson(TypedDict):
    """One filter of a trigger; both lists hold globs."""

    any_of: list[str]  #: empty: any value matches
    none_of: list[str]


class TriggerJson(TypedDict):
    """One entry of `on`."""

    kind: str
    filters: dict[str, PatternJson]


class PlannedStepJson(TypedDict):
    """One item of `steps` or `on-failure`."""

    id: str
    name: str  #: for people; empty if the author gave none
    uses: str


AutomationJson = TypedDict(
    "AutomationJson",
    {
        "name": str,
        "description": str,
        "enabled": bool,
        "path": str,
        "line": int | None,
        "kept": bool,
        "revision": str,
        "on": list[TriggerJson],
        "if": str | None,
        "steps": list[PlannedStepJson],
        "on-failure": list[PlannedStepJson],
    },
)
AutomationJson.__doc__ = (
    "An automation in force. If `kept` is true, its document is broken or cannot be read, and this is its last sound "
    "revision. `line` is null if the revision was loaded from the database."
)


class AutomationDetail(AutomationJson):
    """An automation with its document as it was written."""

    source: dict[str, Any]


def automation_json(automation: Automation, kept_names: Collection[str] = ()) -> AutomationJson:
    """
    Return the JSON object of an automation without its document.

    Args:
        automation: The automation.
        kept_names: Names of the automations whose last sound revision is in force.
    """
    return {
        "name": automation.name,
        "description": automation.description,
        "enabled": automation.enabled,
        "path": automation.path,
        "line": automation.line or None,
        "kept": automation.name in kept_names,
        "revision": automation.revision_id,
        "on": [
            {
                "kind": trigger.kind.value,
                "filters": {
                    field: {"any_of": list(pattern.any_of), "none_of": list(pattern.none_of)}
                    for field, pattern in trigger.filters.items()
                },
            }
            for trigger in automation.triggers
        ],
        "if": automation.condition,
        "steps": _planned_steps(automation.steps),
        "on-failure": _planned_steps(automation.on_failure),
    }


def automation_detail(automation: Automation, kept_names: Collection[str] = ()) -> AutomationDetail:
    """Return the JSON object of an automation with its document as it was written. See `automation_json`."""
    return {**automation_json(automation, kept_names), "source": dict(automation.source)}


def _planned_steps(steps: Iterable[Step]) -> list[PlannedStepJson]:
    return [{"id": step.id, "name": step.name, "uses": step.uses} for step in steps]
