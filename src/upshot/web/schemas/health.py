"""Responses about the health of the process."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class Health(TypedDict):
    """The process makes progress."""

    status: str  #: ok


class Readiness(TypedDict):
    """What works now."""

    status: str  #: ready
    database: bool
    redis: bool  #: if false, mutations are accepted, and answered when Redis is back
    workers: int  #: alive; if there is none, mutations are accepted, and answered when a worker starts
    unmatched_events: int
    due_executions: int  #: waiting and past their due time
