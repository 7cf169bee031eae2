"""Requests for what a program did while it had no connection."""

from __future__ import annotations

from upshot.domain.pending_version import EarlierRequest
from upshot.web.schemas.runs import parse_moment


def earlier_request(happened_at: str | None) -> EarlierRequest | None:
    """
    Return when something happened, or None if it happens now.

    Raises:
        InvalidInput: The time is invalid.
    """
    moment = parse_moment(happened_at, "happened_at")
    return None if moment is None else EarlierRequest(moment)
