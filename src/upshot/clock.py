"""The only door to the time of day; tests bring a clock that they move themselves."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time, in UTC."""

    def now(self) -> datetime:
        """The present moment, timezone-aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The present moment, timezone-aware, in UTC."""
        return datetime.now(UTC)


class FrozenClock:
    """A clock that stands still until it is moved; for tests."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        """The moment that the clock was last moved to."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += timedelta(seconds=seconds)


def stopwatch() -> float:
    """Seconds on a clock that only goes forward, for measuring how long something took."""
    return time.perf_counter()


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds, as events and the API print it; sorts as text."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def format_optional_time(moment: datetime | None) -> str | None:
    """Return the time as `format_time` writes it, or None if there is none."""
    return None if moment is None else format_time(moment)


def parse_time(text: str) -> datetime:
    """
    Read an RFC 3339 time; one without a zone is taken as UTC.

    Raises:
        ValueError: The text is no such time.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
