"""How a part notices that its supervisor is gone, however that one died."""

from __future__ import annotations

import os
import signal
import threading
import time


def stop_when_stdin_ends(grace_seconds: float) -> None:
    """
    Stop this process as SIGTERM would when standard input ends; kill it if it has not stopped in time.

    The supervisor holds the other end and never writes, so its death, even by `kill -9`, ends the input.
    """
    threading.Thread(target=_watch, args=(grace_seconds,), name="lifeline", daemon=True).start()


def _watch(grace_seconds: float) -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os.kill(os.getpid(), signal.SIGKILL)
