"""Python loads this module at its start if the folder is on its path. It sets the clock of the process forward."""

import os
from datetime import datetime, timedelta

from upshot.clock import SystemClock

_now = SystemClock.now


def _skewed(clock: SystemClock) -> datetime:
    return _now(clock) + timedelta(seconds=float(os.environ["CLOCK_AHEAD_SECONDS"]))


SystemClock.now = _skewed  # type: ignore[method-assign, assignment]  # for the whole process
