"""Celery on Redis, where it is known to break: a worker that holds messages while its broker restarts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Redis
from tests.waiting import until
from upshot.adapters.celery import CeleryNotifier, make_app

Said = Callable[[], str]


@pytest.fixture
def slow_worker(redis_server: Redis, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Said]]:
    """A worker process whose tasks take a second, and what it has printed so far."""
    program = Path(__file__).with_name("slow_worker.py")
    printed = tmp_path / "worker.log"
    with printed.open("wb") as out:
        process = subprocess.Popen([sys.executable, str(program), redis_server.url], stdout=out, stderr=out)
    yield process, printed.read_text
    process.kill()
    process.wait()


def test_a_worker_that_is_busy_survives_a_restart_of_its_broker(
    redis_server: Redis, slow_worker: tuple[subprocess.Popen[bytes], Said]
) -> None:
    """It holds messages when Redis goes away, notices, reconnects, and takes what comes then, in the same process."""
    process, said = slow_worker
    doorbell = CeleryNotifier(make_app(redis_server.url))
    until(lambda: "started" in said(), "the worker has started")
    for number in range(4):
        assert doorbell.notify_executions([f"before-{number}"])
    until(lambda: "busy before-0" in said(), "the worker is busy")
    redis_server.kill()
    assert not doorbell.notify_executions(["meanwhile"])
    until(lambda: process.poll() is not None or "Connection to broker lost" in said(), "the worker notices")
    redis_server.start()
    until(lambda: doorbell.notify_executions(["afterwards"]), "the broker takes messages again")
    until(lambda: "busy afterwards" in said(), "the worker goes on")
    assert process.poll() is None
