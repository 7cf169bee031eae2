"""
Decides whether a destination is down. A pure object, driven by the times that its caller passes.

    up ── 20 failures in a row, or half of at least 50 attempts in a minute ──► down
    down ── after 5 s, doubling up to 5 min ──► one attempt probes ─┬─ answered ──► up
                                                                    └─ failed ──► down, for twice as long
"""

from __future__ import annotations

from collections import deque

MAX_FAILURES_IN_ROW = 20
WINDOW_SECONDS = 60
MIN_ATTEMPTS = 50  # in the window, before their share of failures counts
FIRST_PROBE_SECONDS = 5.0
MAX_PROBE_SECONDS = 300.0


class Breaker:
    """The breaker of one destination."""

    def __init__(self) -> None:
        self.is_down = False
        self.reason = ""  #: why it is down
        self.probe_at = 0.0  #: when the next attempt may probe, if it is down
        self._probe_seconds = FIRST_PROBE_SECONDS
        self._failures_in_row = 0
        self._window: deque[list[int]] = deque()  #: [second, attempts, failures], oldest first

    def answered(self, now: float) -> bool:
        """Count an attempt that was answered, and return whether the destination was down until now."""
        self._failures_in_row = 0
        self._count(now, failures=0)
        was_down = self.is_down
        if was_down:
            self.close()
        return was_down

    def failed(self, now: float, *, is_probe: bool) -> bool:
        """Count an attempt that failed, and return whether the destination is down since now."""
        if self.is_down:
            if is_probe:
                self._probe_seconds = min(2 * self._probe_seconds, MAX_PROBE_SECONDS)
                self.probe_at = now + self._probe_seconds
            return False
        self._failures_in_row += 1
        self._count(now, failures=1)
        attempts = sum(attempts for _, attempts, _ in self._window)
        failures = sum(failures for _, _, failures in self._window)
        if self._failures_in_row >= MAX_FAILURES_IN_ROW:
            self.reason = f"{self._failures_in_row} attempts in a row failed"
        elif attempts >= MIN_ATTEMPTS and 2 * failures >= attempts:
            self.reason = f"{failures} of {attempts} attempts in a minute failed"
        else:
            return False
        self.is_down = True
        self._probe_seconds = FIRST_PROBE_SECONDS
        self.probe_at = now + self._probe_seconds
        return True

    def close(self) -> None:
        """Consider the destination up, and forget its failures."""
        self.is_down = False
        self.reason = ""
        self._failures_in_row = 0
        self._window.clear()

    def _count(self, now: float, *, failures: int) -> None:
        second = int(now)
        if not self._window or self._window[-1][0] != second:
            self._window.append([second, 0, 0])
        while self._window[0][0] <= second - WINDOW_SECONDS:
            self._window.popleft()
        self._window[-1][1] += 1
        self._window[-1][2] += failures
