"""Responses about destinations."""

from __future__ import annotations

from upshot.resources.destination import DestinationJson
from upshot.web.schemas.responses import NextPage


class DestinationPage(NextPage):
    """The destinations that workers send to, by name, on one page."""

    items: list[DestinationJson]
