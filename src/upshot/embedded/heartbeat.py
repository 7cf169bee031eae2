"""Whether the worker is alive: it touches a file, and the supervisor looks at the file."""

from __future__ import annotations

from pathlib import Path

INTERVAL_SECONDS = 2.0  #: between two beats, and between two looks
MAX_MISSED = 15  #: looks without a beat, after which the worker hangs


class HeartbeatWatch:
    """
    Counts missing beats.

    The database's heartbeat is no measure: it also stops while a sound worker waits for the database. Looks are
    counted instead of seconds, because the supervisor and the worker can be frozen together.

    Args:
        path: The file that the worker touches. A new worker may take as long as it needs to create it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beat: int | None = None
        self._missed = 0

    def restart(self) -> None:
        """Forget the previous worker. Call this before each start."""
        self._path.unlink(missing_ok=True)

    def hangs(self) -> bool:
        """Look once, and return whether the worker has missed too many beats."""
        beat = self._modified_at()
        self._missed = 0 if beat is None or beat != self._beat else self._missed + 1
        self._beat = beat
        return self._missed >= MAX_MISSED

    def _modified_at(self) -> int | None:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None
