"""Processes that must not outlive their supervisor, and a supervisor whose output nobody reads."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from upshot.embedded.terminal import Terminal

pytestmark = pytest.mark.live


HOLD_THE_LOCK = "a = (1,)\nfor _ in range(60): a = (a, a)\nprint('ready', flush=True)\nhash(a)"  # takes centuries


def start(program: str, grace_seconds: float, hang_seconds: float = 15.0) -> subprocess.Popen[bytes]:
    """
    Start a process with the watchdog, which runs a program and then sleeps.

    It sleeps in short pieces: a signal that arrives just before a sleep does not interrupt it.
    """
    code = (
        "from upshot.embedded.parent_watchdog import stop_when_stdin_ends\n"
        "import signal, sys, time\n"
        f"stop_when_stdin_ends({grace_seconds}, hang_seconds={hang_seconds})\n"
        f"{program}\nprint('ready', flush=True)\nfor _ in range(600): time.sleep(0.1)\n"
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


def test_a_process_that_holds_the_lock_of_the_interpreter_ends():
    """A function in C that never returns does not keep a process alive, with or without a supervisor."""
    process = start(HOLD_THE_LOCK, 60, hang_seconds=0.5)
    assert process.wait(10) == 1

    # The signal may still arrive before the function begins, which is no test of the watchdog.
    process = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + HOLD_THE_LOCK, 60, hang_seconds=2)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 1


def test_a_process_that_is_busy_does_not_end():
    """Python code that computes all the time is not a hang: other threads get their turn."""
    process = start("deadline = time.time() + 2\nwhile time.time() < deadline: sum(range(1000))", 60, hang_seconds=0.5)

    assert process.poll() is None
    process.kill()


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


def test_lines_are_printed_again_after_an_error(monkeypatch):
    """A full disk loses the lines of that time, and no later ones."""
    printed = []
    errors = [OSError(errno.ENOSPC, "No space left on device")]

    def write(_descriptor, data):
        if errors:
            raise errors.pop()
        printed.append(bytes(data).decode())
        return len(data)

    monkeypatch.setattr("upshot.embedded.terminal.os.write", write)
    terminal = Terminal()
    terminal.print("lost")
    terminal.print("kept")
    terminal.close()

    assert printed == ["kept\n"]
