"""A destination of requests."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_optional_time
from upshot.ids import derive_destination_id
from upshot.ports.destinations import Destination


class DestinationJson(TypedDict):
    """A receiver's address, with the names of the secrets that steps use for it."""

    id: str
    name: str  #: scheme, host and port, and the names of secrets
    state: str  #: up or down
    reason: str | None  #: why it is down
    in_progress: int  #: attempts of all workers
    limit: int  #: of attempts in progress, of all workers together
    waiting: int  #: executions that wait until there is room, or until it is up
    probe_at: str | None  #: when the next attempt finds out whether it is up again


def destination_json(destination: Destination) -> DestinationJson:
    """Return the JSON object of a destination."""
    return {
        "id": derive_destination_id(destination.name),
        "name": destination.name,
        "state": "down" if destination.is_down else "up",
        "reason": destination.reason,
        "in_progress": destination.in_progress,
        "limit": destination.limit,
        "waiting": destination.waiting,
        "probe_at": format_optional_time(destination.probe_at),
    }
