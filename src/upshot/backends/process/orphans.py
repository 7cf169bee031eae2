"""Find and kill what is left of a command whose shim was killed."""

from __future__ import annotations

import time
from pathlib import Path

from upshot.backends.process.shim import cgroup_pids, descendants, kill_all, list_processes

_KILL_SECONDS = 5.0  # a process that survives SIGKILL for so long is stuck in the kernel


def kill_orphans(environ_marker: bytes, cgroup: str | None) -> bool:
    """
    Kill all processes of a job, and return whether none is left.

    Args:
        environ_marker: `NAME=value` from the job's environment that no other process has.
        cgroup: Directory of the job's cgroup.
    """
    give_up_at = time.monotonic() + _KILL_SECONDS
    while _find(environ_marker, cgroup):
        if time.monotonic() > give_up_at:
            return False
        kill_all(lambda: _find(environ_marker, cgroup))
        time.sleep(0.01)
    return True


def _find(environ_marker: bytes, cgroup: str | None) -> set[int]:
    """Return the marked processes, all processes in their sessions, and all descendants of both."""
    processes = list_processes()
    marked = {process.pid for process in processes if _is_marked(process.pid, environ_marker)} | cgroup_pids(cgroup)
    sessions = {process.session_id for process in processes if process.pid in marked}
    found = {process.pid for process in processes if process.pid in marked or process.session_id in sessions}
    return found | descendants(found, processes)


def _is_marked(pid: int, environ_marker: bytes) -> bool:
    try:
        return environ_marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it belongs to another user, or has ended
        return False
