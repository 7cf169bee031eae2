"""Requests and responses about executions."""

from __future__ import annotations

from pydantic import Field

from upshot.domain.execution import ExecutionState
from upshot.ids import EventId
from upshot.resources.execution import ExecutionJson
from upshot.web.schemas.requests import PageQuery, RequestBody
from upshot.web.schemas.responses import NextPage


class ExecutionsQuery(PageQuery):
    """Query parameters of the list of executions."""

    event_id: EventId | None = Field(None, max_length=40, description="The event that the executions answer.")
    automation: str | None = Field(None, max_length=128)
    state: ExecutionState | None = None


class RetryOptions(RequestBody):
    """Options of a retry."""

    force: bool = Field(
        default=False,
        description="Repeat the step even if a newer execution of the same automation for the same alias has completed "
        "it. This restores an older state at the receiver.",
    )


class ExecutionPage(NextPage):
    """A page of executions, newest event first."""

    items: list[ExecutionJson]
