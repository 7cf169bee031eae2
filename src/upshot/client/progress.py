"""Show the progress of uploads and downloads: a bar in a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from upshot.clock import stopwatch

_QUIET_SECONDS = 1.0  # a transfer that ends within this time shows nothing
_LINE_SECONDS = 5.0
_KILO = 1000


class Progress:
    """
    The progress of one transfer, on standard error.

    Args:
        what: What is done, such as `uploading nature`.
        total: Bytes of the whole transfer.
        on_bytes: Called with numbers of bytes instead of showing anything. What it raises ends the transfer.
    """

    def __init__(self, what: str, total: int, on_bytes: Callable[[int], None] | None = None) -> None:
        self._what = what
        self._on_bytes = on_bytes
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._began = stopwatch()
        self._next_line = self._began + _LINE_SECONDS
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, size: int) -> None:
        """Count bytes that have been transferred."""
        if self._on_bytes is not None:
            self._on_bytes(size)
            return
        with self._lock:
            self._done += size
            now = stopwatch()
            if sys.stderr.isatty():
                if self._bar is None and now - self._began > _QUIET_SECONDS:
                    self._bar = self._start_bar()
                if self._bar is not None:
                    self._bar.update(self._bar.task_ids[0], completed=self._done)
            elif now >= self._next_line:
                self._next_line = now + _LINE_SECONDS
                print(  # noqa: T201 - standard error belongs to the user's program
                    f"upshot: {self._what}: {format_size(self._done)} of {format_size(self._total)}", file=sys.stderr
                )

    def note(self, text: str) -> None:
        """Say something about the transfer."""
        with self._lock:
            print(f"upshot: {self._what}: {text}", file=sys.stderr)  # noqa: T201 - as above

    def _start_bar(self) -> Any:
        from rich.console import Console  # noqa: PLC0415 - most transfers need no bar
        from rich.progress import Progress as Bar  # noqa: PLC0415

        bar = Bar(console=Console(stderr=True), transient=True)
        bar.add_task(self._what, total=self._total)
        bar.start()
        return bar


def format_size(size: float) -> str:
    """Format a number of bytes for people, such as `1.2 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < _KILO:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KILO
    return f"{size:.1f} TB"
