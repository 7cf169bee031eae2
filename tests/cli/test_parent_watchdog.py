"""Processes that must not outlive their supervisor, and a supervisor whose output nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.live


def start(program: str, grace_seconds: float) -> subprocess.Popen[bytes]:
    """Start a process with the watchdog, which runs a program and then sleeps."""
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


def test_a_process_gets_sigterm_when_its_supervisor_is_gone():
    """It can finish what is in flight."""
    process = start("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))", 60)

    assert process.stdin is not None
    process.stdin.close()

    assert process.wait(10) == 7


def test_a_process_that_does_not_stop_is_killed():
    """A process that hangs does not outlive its supervisor for longer than the grace period."""
    process = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0.1)

    assert process.stdin is not None
    process.stdin.close()

    assert process.wait(10) == -signal.SIGKILL


def test_output_that_nobody_reads_does_not_block_the_supervisor():
    """A supervisor that writes to a full pipe continues, and ends when it is asked to."""
    read_end, write_end = os.pipe()
    program = (
        "from upshot.embedded.terminal import Terminal\n"
        "terminal = Terminal()\n"
        "for _ in range(20_000): terminal.print('x' * 100)\n"
        "terminal.close()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=write_end)
    os.close(write_end)
    try:
        assert process.wait(20) == 0
    finally:
        os.close(read_end)
