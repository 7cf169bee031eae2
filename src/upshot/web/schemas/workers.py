"""Responses about workers."""

from __future__ import annotations

from upshot.resources.worker import WorkerJson
from upshot.web.schemas.responses import NextPage


class WorkerPage(NextPage):
    """The workers that are alive, oldest first, on one page."""

    items: list[WorkerJson]
