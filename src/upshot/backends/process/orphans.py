"""Finds and ends what is left of a command whose shim was killed: nobody watches over it any longer."""

from __future__ import annotations

import time
from pathlib import Path

from upshot.backends.process.shim import all_processes, descendants, in_cgroups, kill_all

_SECONDS = 5.0  # until it is given up; what does not die of SIGKILL for so long hangs in the kernel


def end_survivors(mark: bytes, cgroups: list[str]) -> bool:
    """
    Kill them all; tells whether none is left.

    Args:
        mark: `NAME=value` of the environment that the command was given, and no other process.
        cgroups: Folders of its control groups.
    """
    give_up_at = time.monotonic() + _SECONDS
    while _find(mark, cgroups):
        if time.monotonic() > give_up_at:
            return False
        kill_all(lambda: _find(mark, cgroups))
        time.sleep(0.01)
    return True


def _find(mark: bytes, cgroups: list[str]) -> set[int]:
    """The marked ones, all in their sessions, and all that came from them."""
    processes = all_processes()
    marked = {process.pid for process in processes if _has_mark(process.pid, mark)} | in_cgroups(cgroups)
    sessions = {process.session for process in processes if process.pid in marked}
    found = {process.pid for process in processes if process.pid in marked or process.session in sessions}
    return found | descendants(found, processes)


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it is not ours, or has ended
        return False
