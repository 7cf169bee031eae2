"""Stop a process when its supervisor has died, or when the process hangs."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
import time

HANG_SECONDS = 15.0  #: after which a process ends itself if one function keeps the interpreter's lock
_CHECKS_PER_HANG = 4
_SPARE_SECONDS = 1.0  # from the thread's SIGKILL to the end of the timer, which is needed only if the thread cannot run


def stop_when_stdin_ends(grace_seconds: float, *, hang_seconds: float = HANG_SECONDS) -> None:
    """
    Send SIGTERM to this process when standard input ends, and SIGKILL after the grace period.

    The supervisor holds the other end and never writes. Its death, even by `kill -9`, ends the input.

    A C function that does not release the interpreter's lock also keeps the watching thread from running. So the
    thread repeatedly restarts a timer of `faulthandler`, which does not need the lock. If the timer expires, it writes
    all tracebacks to standard error and ends the process.

    Args:
        grace_seconds: Time to finish what is in progress.
        hang_seconds: How long the interpreter's lock may be held.
    """
    threading.Thread(target=_watch, args=(grace_seconds, hang_seconds), name="parent-watchdog", daemon=True).start()


def _watch(grace_seconds: float, hang_seconds: float) -> None:
    has_supervisor = True
    while has_supervisor:
        faulthandler.dump_traceback_later(hang_seconds, exit=True)
        readable, _, _ = select.select([0], [], [], hang_seconds / _CHECKS_PER_HANG)
        has_supervisor = not readable or bool(os.read(0, 1024))
    faulthandler.dump_traceback_later(grace_seconds + _SPARE_SECONDS, exit=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os.kill(os.getpid(), signal.SIGKILL)
