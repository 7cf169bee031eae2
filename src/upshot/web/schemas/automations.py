"""Responses about automations."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.resources.automation import AutomationJson
from upshot.web.schemas.responses import NextPage


class DiagnosticJson(TypedDict):
    """A mistake in an automation file."""

    path: str
    line: int | None
    reason: str
    kept: list[str]  #: automations of the file whose last sound revision is in force


class AutomationPage(NextPage):
    """A page of automations, by name, and every mistake in the directory."""

    items: list[AutomationJson]

    broken: list[DiagnosticJson]
