"""The supervisor notices that the worker no longer runs."""

from __future__ import annotations

import os
from pathlib import Path

from upshot.embedded.heartbeat import MAX_MISSED, HeartbeatWatch


def beat(path: Path, number: int) -> None:
    """Touch the file as the worker does, at a time of its own."""
    path.touch()
    os.utime(path, ns=(number, number))


def test_a_worker_that_misses_many_beats_hangs(tmp_path):
    """One beat in between starts the count again."""
    path = tmp_path / "heartbeat"
    watch = HeartbeatWatch(path)
    for number in (1, 2):
        beat(path, number)
        assert not any(watch.hangs() for _ in range(MAX_MISSED))

    assert watch.hangs()


def test_a_worker_that_starts_has_time(tmp_path):
    """A new process may take as long as it needs for its first beat, whatever its predecessor left behind."""
    path = tmp_path / "heartbeat"
    watch = HeartbeatWatch(path)
    beat(path, 1)

    watch.restart()

    assert not any(watch.hangs() for _ in range(2 * MAX_MISSED))
