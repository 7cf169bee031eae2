"""The alerts of a run: their levels, and how often one may be sent."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from upshot.clock import stopwatch
from upshot.sdk.sdk_errors import InvalidArgument

_WAIT_SECONDS = 60.0  # W&B's


class AlertLevel(StrEnum):
    """How urgent an alert is."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class Alerts:
    """When alerts were last sent."""

    def __init__(self) -> None:
        self._sent: dict[str, float] = {}  # by title

    def may_send(self, title: str, wait_duration: float | timedelta | None) -> bool:
        """Return whether an alert may be sent: the last one with this title was sent long enough ago."""
        if isinstance(wait_duration, timedelta):
            wait_duration = wait_duration.total_seconds()
        wait_seconds = _WAIT_SECONDS if wait_duration is None else wait_duration
        now = stopwatch()
        if title in self._sent and now - self._sent[title] < wait_seconds:
            return False
        self._sent[title] = now
        return True


def read_level(level: str | None) -> AlertLevel:
    """
    Return the level of an alert.

    Raises:
        InvalidArgument: There is no such level.
    """
    try:
        return AlertLevel(str(getattr(level, "value", level) or "INFO").upper())
    except ValueError as error:
        raise InvalidArgument(f"alert(level={level!r}): write one of {', '.join(AlertLevel)}") from error
