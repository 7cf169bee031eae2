"""Requests for what a program did while it had no connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from upshot.clock import format_time
from upshot.domain.pending_version import EarlierRequest
from upshot.domain.registry import Change
from upshot.web.dependencies import WebDependencies
from upshot.web.schemas.runs import parse_moment


class KeptAliases(TypedDict):
    """What became of the requested aliases."""

    kept_aliases: list[str]
    aliases_changed_at: str


def earlier_request(happened_at: str | None, known_moves: Mapping[str, str]) -> EarlierRequest | None:
    """
    Return when something happened, or None if it happens now.

    Raises:
        InvalidInput: A time is invalid.
    """
    moment = parse_moment(happened_at, "happened_at")
    if moment is None:
        return None
    moves = {alias: parse_moment(time, f"known_moves.{alias[:40]}") for alias, time in known_moves.items()}
    return EarlierRequest(moment, {alias: time for alias, time in moves.items() if time is not None})


def kept_aliases(deps: WebDependencies, change: Change[Any]) -> KeptAliases:
    """Return the part of an answer that says what became of the requested aliases."""
    changed_at = change.events[0].time if change.events else deps.clock.now()
    return {"kept_aliases": list(change.kept_aliases), "aliases_changed_at": format_time(changed_at)}
