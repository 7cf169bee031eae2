"""Processes that must not outlive their supervisor, and a supervisor that nobody listens to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.live


def start(program: str, grace_seconds: float) -> subprocess.Popen[bytes]:
    code = (
        "from upshot.embedded.parent_watchdog import stop_when_stdin_ends\n"
        "import signal, sys, time\n"
        f"stop_when_stdin_ends({grace_seconds})\n"
        f"{program}\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_part_stops_as_usual_when_its_supervisor_is_gone():
    """The end of the lifeline is a SIGTERM: the part finishes what it has in hand."""
    process = start("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))", 60)

    assert process.stdin is not None
    process.stdin.close()

    assert process.wait(10) == 7


def test_a_part_that_does_not_stop_is_killed():
    """A part that hangs does not stay behind for ever."""
    process = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0.1)

    assert process.stdin is not None
    process.stdin.close()

    assert process.wait(10) == -signal.SIGKILL


def test_nobody_reading_holds_nothing_up():
    """A supervisor whose output is a pipe that nobody reads goes on, and ends when it is told to."""
    reading, writing = os.pipe()
    program = (
        "from upshot.embedded.terminal import Terminal\n"
        "terminal = Terminal()\n"
        "for _ in range(20_000): terminal.say('x' * 100)\n"
        "terminal.close()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=writing)
    os.close(writing)
    try:
        assert process.wait(20) == 0
    finally:
        os.close(reading)
