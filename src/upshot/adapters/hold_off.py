"""Skip calls of Redis for a while after it has failed or while it hangs, instead of waiting for it each time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from upshot.clock import stopwatch

SLOW_SECONDS = 0.5  #: while a call takes longer, no other call starts
_HOLD_OFF_SECONDS = 0.5


class HoldOff:
    """
    Decides whether to call Redis. The relay and the sweeper later send what was not sent meanwhile.

    After a failure, nothing is tried for half a second, or for as long as the failure took. Then one caller tries, and
    all others go on at once.

    Args:
        errors: The errors that mean that Redis did not carry out a command.
        try_seconds: How long one caller tries before another caller may try.
    """

    def __init__(self, errors: tuple[type[Exception], ...], *, try_seconds: float) -> None:
        self._errors = errors
        self._try_seconds = try_seconds
        self._lock = threading.Lock()
        self._in_flight: dict[int, float] = {}  #: start of each call, by thread
        self._failed = False
        self._held_off_until = 0.0

    def attempt(self, call: Callable[[], object], on_error: Callable[[Exception], None]) -> bool:
        """Call, unless Redis is held off. Return whether the call was made and succeeded."""
        started = stopwatch()
        thread = threading.get_ident()
        with self._lock:
            if not self._may_call(started):
                return False
            self._in_flight[thread] = started
        try:
            call()
        except self._errors as error:
            with self._lock:
                now = stopwatch()
                self._failed = True
                self._held_off_until = now + max(_HOLD_OFF_SECONDS, now - started)
            on_error(error)
            return False
        else:
            self._failed = False
            return True
        finally:
            with self._lock:
                self._in_flight.pop(thread, None)

    def _may_call(self, now: float) -> bool:
        if self._in_flight and now - min(self._in_flight.values()) > SLOW_SECONDS:
            return False
        if self._failed:
            if now < self._held_off_until:
                return False
            self._held_off_until = now + self._try_seconds
        return True
