"""An automation as it is loaded from its file."""

from __future__ import annotations

from collections.abc import Iterable
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
    uses: str


AutomationJson = TypedDict(
    "AutomationJson",
    {
        "name": str,
        "description": str,
        "enabled": bool,
        "path": str,
        "line": int,
        "revision": str,
        "on": list[TriggerJson],
        "if": str | None,
        "steps": list[PlannedStepJson],
        "on-failure": list[PlannedStepJson],
    },
)
AutomationJson.__doc__ = "An automation as it is loaded from its file."


class AutomationDetail(AutomationJson):
    """An automation with its document as it was written."""

    source: dict[str, Any]


def automation_json(automation: Automation) -> AutomationJson:
    """Return the JSON object of an automation without its document."""
    return {
        "name": automation.name,
        "description": automation.description,
        "enabled": automation.enabled,
        "path": automation.path,
        "line": automation.line,
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


def automation_detail(automation: Automation) -> AutomationDetail:
    """Return the JSON object of an automation with its document as it was written."""
    return {**automation_json(automation), "source": dict(automation.source)}


def _planned_steps(steps: Iterable[Step]) -> list[PlannedStepJson]:
    return [{"id": step.id, "uses": step.uses} for step in steps]
