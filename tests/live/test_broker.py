"""Celery on Redis, in a known weak spot: a worker holds messages while its broker restarts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Redis
from tests.waiting import until
from upshot.adapters.celery import CeleryNotifier, make_app
from upshot.ids import ExecutionId

ReadOutput = Callable[[], str]


@pytest.fixture
def slow_worker(redis_server: Redis, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], ReadOutput]]:
    """Start a worker whose tasks take a second. Return the process and a function that reads its output."""
    program = Path(__file__).with_name("slow_worker.py")
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, str(program), redis_server.url], stdout=out, stderr=out)
    yield process, log.read_text
    process.kill()
    process.wait()


def test_a_busy_worker_survives_a_restart_of_its_broker(
    redis_server: Redis, slow_worker: tuple[subprocess.Popen[bytes], ReadOutput]
) -> None:
    """The worker holds messages while Redis is down, reconnects, and takes later messages in the same process."""
    process, read_output = slow_worker
    notifier = CeleryNotifier(make_app(redis_server.url, "ins_1"), "ins_1")
    until(lambda: "started" in read_output(), "the worker has started")
    for number in range(4):
        assert notifier.notify_executions([ExecutionId(f"before-{number}")])
    until(lambda: "busy before-0" in read_output(), "the worker is busy")
    redis_server.kill()
    assert not notifier.notify_executions([ExecutionId("meanwhile")])
    until(lambda: process.poll() is not None or "Connection to broker lost" in read_output(), "the worker notices")
    redis_server.start()
    until(lambda: notifier.notify_executions([ExecutionId("afterwards")]), "the broker takes messages again")
    until(lambda: "busy afterwards" in read_output(), "the worker continues")
    assert process.poll() is None
