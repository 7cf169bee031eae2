"""Detect a worker that hangs: a live worker touches a file, and the supervisor checks the file."""

from __future__ import annotations

from pathlib import Path

INTERVAL_SECONDS = 2.0  #: between two heartbeats, and between two checks
MAX_MISSED = 15  #: checks without a new heartbeat, after which the worker counts as hanging


class HeartbeatMonitor:
    """
    Counts missing heartbeats.

    The heartbeat in the database does not show a hang: it also stops while a healthy worker waits for the database.
    Checks are counted instead of seconds, because the supervisor and the worker can be frozen together.

    Args:
        path: The file that the worker touches. A new worker may take as long as it needs to create it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._heartbeat_at: int | None = None
        self._missed = 0

    def restart(self) -> None:
        """Forget the previous worker. Call this before each start."""
        self._path.unlink(missing_ok=True)

    def is_hanging(self) -> bool:
        """Check the file once, and return whether the worker has missed too many heartbeats."""
        heartbeat_at = self._modified_at()
        self._missed = 0 if heartbeat_at is None or heartbeat_at != self._heartbeat_at else self._missed + 1
        self._heartbeat_at = heartbeat_at
        return self._missed >= MAX_MISSED

    def _modified_at(self) -> int | None:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None
