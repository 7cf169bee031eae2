"""Requests and responses about executions."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from upshot.domain.execution import ExecutionState
from upshot.ids import EventId
from upshot.resources.execution import ExecutionJson
from upshot.web.schemas.requests import IdPart, PageQuery, RequestBody
from upshot.web.schemas.responses import NextPage


class ExecutionsQuery(PageQuery):
    """Query parameters of the list of executions."""

    event_id: EventId | None = Field(None, max_length=40, description="The event that the executions answer.")
    automation: str | None = Field(None, max_length=128)
    state: list[ExecutionState] = Field([], description="Can be repeated: executions in any of these states.")
    since: AwareDatetime | None = Field(
        None,
        description="Only executions that have ended since this time, or were created since then if they have not.",
    )
    until: AwareDatetime | None = Field(None, description="The same, before this time.")
    id: IdPart


class RetryOptions(RequestBody):
    """Options of a retry."""

    force: bool = Field(
        default=False,
        description="Repeat the step even if a newer execution of the same automation for the same alias has completed "
        "it. This restores an older state at the receiver.",
    )
    revision: Literal["original", "current"] | None = Field(
        None,
        description="The revision of the automation to continue with. By default it is the current one if the "
        "execution failed because of the automation itself (a template, an input or an action), and otherwise the "
        "original one.",
    )


class ExecutionPage(NextPage):
    """A page of executions, newest event first."""

    items: list[ExecutionJson]
