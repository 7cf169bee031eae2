"""Stop a process when its supervisor has died."""

from __future__ import annotations

import os
import signal
import threading
import time


def stop_when_stdin_ends(grace_seconds: float) -> None:
    """
    Send SIGTERM to this process when standard input ends, and SIGKILL after the grace period.

    The supervisor holds the other end and never writes. Its death, even by `kill -9`, ends the input.
    """
    threading.Thread(target=_watch, args=(grace_seconds,), name="parent-watchdog", daemon=True).start()


def _watch(grace_seconds: float) -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os.kill(os.getpid(), signal.SIGKILL)
