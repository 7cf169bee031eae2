"""Print lines for the person who runs `upshot up`, without blocking if nobody reads them."""

from __future__ import annotations

import contextlib
import os
import queue
import threading

from upshot.printable import escape

_MAX_WAITING_LINES = 10_000  # more lines are dropped; the log files contain all of them
_CLOSE_SECONDS = 1.0


class Terminal:
    """Writes to standard output from a thread of its own, without Python's buffers."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING_LINES)
        self._thread = threading.Thread(target=self._write, name="terminal", daemon=True)
        self._thread.start()

    def print(self, text: str) -> None:
        """Print one or several lines."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(f"{escape(text)}\n")

    def close(self) -> None:
        """Print the remaining lines, but wait only a moment for a reader."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(_CLOSE_SECONDS)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            data = line.encode("utf-8", "replace")
            while data:
                try:
                    data = data[os.write(1, data) :]
                except OSError:
                    # The line is lost: nobody reads a non-blocking pipe, the terminal was closed, or the disk is full.
                    # Later lines may be printed again.
                    break
