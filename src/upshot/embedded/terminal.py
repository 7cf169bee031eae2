"""Lines for the person in front of `upshot up`; one who does not read them holds nothing up."""

from __future__ import annotations

import contextlib
import os
import queue
import threading

_WAITING_LINES = 10_000  # beyond that, lines are dropped: the log files have them all
_FLUSH_SECONDS = 1.0


class Terminal:
    """Writes to standard output from a thread of its own, past Python's buffers, dropping what nobody takes."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING_LINES)
        self._thread = threading.Thread(target=self._write, name="terminal", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Write one or several lines."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(f"{text}\n")

    def close(self) -> None:
        """Write what is left, for a moment."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(_FLUSH_SECONDS)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            data = line.encode("utf-8", "replace")
            while data:
                try:
                    data = data[os.write(1, data) :]
                except BlockingIOError:
                    break  # a pipe that somebody made non-blocking, and does not read
                except OSError:
                    return  # closed: nobody will read again
