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
_SPARE_SECONDS = 1.0  # between SIGKILL by the thread, and the end by the kernel's timer


def stop_when_stdin_ends(grace_seconds: float, *, hang_seconds: float = HANG_SECONDS) -> None:
    """
    Send SIGTERM to this process when standard input ends, and SIGKILL after the grace period.

    The supervisor holds the other end and never writes. Its death, even by `kill -9`, ends the input.

    A function in C that does not release the interpreter's lock keeps the watching thread from running. Therefore
    the thread must postpone the end of the process again and again, which a thread without the lock carries out.
    It writes all tracebacks to standard error.

    Args:
        grace_seconds: For finishing what is in progress.
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
