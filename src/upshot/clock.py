"""The only module that reads the current time. Tests use a clock that they advance themselves."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from typing_extensions import override


class Clock(Protocol):
    """A source of the current time."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware, in UTC."""
        ...


class SystemClock(Clock):
    """The clock of the machine."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)


class FrozenClock(Clock):
    """A clock for tests that stands still until a test advances it."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, 12, tzinfo=UTC)

    @override
    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += timedelta(seconds=seconds)


def stopwatch() -> float:
    """Return seconds of a monotonic clock, to measure durations."""
    return time.perf_counter()


def format_time(moment: datetime) -> str:
    """Format a time as RFC 3339 in UTC with microseconds, as events and the API show it. The text sorts by time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def format_optional_time(moment: datetime | None) -> str | None:
    """Format a time as `format_time` does, or return None for None."""
    return None if moment is None else format_time(moment)


def parse_time(text: str) -> datetime:
    """
    Parse an RFC 3339 time. A time without a time zone is in UTC.

    Raises:
        ValueError: The text is not an RFC 3339 time.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
