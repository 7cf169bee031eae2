"""The supervisor notices that the worker no longer runs."""

from __future__ import annotations

import os
from pathlib import Path

from upshot.embedded.heartbeat import MAX_MISSED, HeartbeatMonitor


def write_heartbeat(path: Path, number: int) -> None:
    """Touch the file as the worker does, with `number` as its time."""
    path.touch()
    os.utime(path, ns=(number, number))


def test_a_worker_that_misses_many_heartbeats_is_hanging(tmp_path):
    """A heartbeat in between restarts the count."""
    path = tmp_path / "heartbeat"
    monitor = HeartbeatMonitor(path)
    for number in (1, 2):
        write_heartbeat(path, number)
        assert not any(monitor.is_hanging() for _ in range(MAX_MISSED))

    assert monitor.is_hanging()


def test_a_worker_that_starts_has_time(tmp_path):
    """A new process may take as long as it needs for its first heartbeat, whatever its predecessor left behind."""
    path = tmp_path / "heartbeat"
    monitor = HeartbeatMonitor(path)
    write_heartbeat(path, 1)

    monitor.restart()

    assert not any(monitor.is_hanging() for _ in range(2 * MAX_MISSED))
