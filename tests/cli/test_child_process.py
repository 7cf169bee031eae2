"""Child processes of `upshot up`: restarted, logged and stopped."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.waiting import eventually
from upshot.embedded.child_process import ChildProcess

pytestmark = pytest.mark.live

SLEEP = "import time; print('hello', flush=True); time.sleep(60)"
IGNORE_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
EXIT_AT_SIGTERM = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); {SLEEP}"


class ChildHarness:
    """A child process that runs a Python program, and everything that it reports."""

    def __init__(self, program: str, directory: Path) -> None:
        self.pids: list[int] = []
        self.reports: list[str] = []
        self.log = directory / "child.log"
        self.force = asyncio.Event()
        self.child = ChildProcess(
            "worker",
            [sys.executable, "-c", program],
            log=self.log,
            report=self.reports.append,
            on_start=self.pids.append,
        )

    async def start_and_wait_for(self, text: str) -> None:
        """Start the process, and wait until a report contains the text."""
        self.child.start()

        async def is_reported() -> bool:
            return any(text in line for line in self.reports)

        await eventually(is_reported)


async def test_a_process_that_dies_is_restarted_after_a_growing_delay(tmp_path):
    """Each restart takes a little longer, and the report says how the process ended."""
    harness = ChildHarness("import sys; print('failed'); sys.exit(3)", tmp_path)

    await harness.start_and_wait_for("in 0.8 s")
    await harness.child.stop(5, harness.force)

    assert [line for line in harness.reports if line.startswith("worker exited")] == [
        f"worker exited with code 3; restarting it in {delay} s" for delay in ("0.2", "0.4", "0.8")
    ]
    assert len(set(harness.pids)) == 3
    assert harness.log.read_text() == "failed\n" * 3


@pytest.mark.parametrize(
    ("program", "is_clean"),
    [pytest.param(EXIT_AT_SIGTERM, True, id="handles SIGTERM"), pytest.param(SLEEP, False, id="dies of SIGTERM")],
)
async def test_a_stop_reports_whether_the_process_ended_cleanly(tmp_path, program, is_clean):
    """SIGTERM is enough for both processes. Only exit code 0 is a clean end."""
    harness = ChildHarness(program, tmp_path)
    await harness.start_and_wait_for("hello")

    assert await harness.child.stop(10, harness.force) is is_clean


async def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path):
    """No process can delay the end of `upshot up` for longer."""
    harness = ChildHarness(IGNORE_SIGTERM, tmp_path)
    await harness.start_and_wait_for("hello")

    assert await harness.child.stop(0.2, harness.force) is False

    assert harness.reports[-1] == "killing worker: it did not stop within 0.2 s"


async def test_a_second_ctrl_c_ends_the_grace_period(tmp_path):
    """The process is killed at once."""
    harness = ChildHarness(IGNORE_SIGTERM, tmp_path)
    await harness.start_and_wait_for("hello")
    asyncio.get_running_loop().call_later(0.1, harness.force.set)

    async with asyncio.timeout(10):
        await harness.child.stop(60, harness.force)

    assert harness.reports[-1] == "killing worker"


async def test_all_output_is_logged_and_shown(tmp_path):
    """Lines of any length, bytes that are not UTF-8 and a last line without a line end are kept."""
    program = (
        "import sys; sys.stdout.buffer.write(b'a' * 200000 + b'\\n' + b'\\xff\\n' + b'the end'); sys.stdout.flush();"
        "import time; time.sleep(60)"
    )
    harness = ChildHarness(program, tmp_path)

    await harness.start_and_wait_for("\ufffd")
    await harness.child.stop(5, harness.force)

    text = harness.log.read_text()
    assert text.count("a") == 200_000
    assert text.endswith("\ufffd\nthe end\n")
    assert harness.child.last_line == "the end"


async def test_a_stop_between_two_starts_prevents_the_restart(tmp_path):
    """The process is not started again."""
    harness = ChildHarness("import sys; sys.exit(1)", tmp_path)

    await harness.start_and_wait_for("restarting it")
    await harness.child.stop(5, harness.force)

    assert len(harness.pids) == 1
