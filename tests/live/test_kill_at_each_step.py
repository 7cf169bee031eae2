"""
A worker is killed at each step of an execution, and another one continues from there.

The test stops the worker at a step from outside. A receiver that does not respond stops it during a request, and a
lock that the test holds in the database stops it before a commit.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from tests.servers import Redis
from tests.system import System
from tests.waiting import until
from upshot.receivers import Receivers

AUTOMATION = """\
name: two-steps
on: {{custom: {{name: made}}}}
steps:
  - id: first
    uses: webhook
    with: {{url: "{url}/first"}}
    retry: {{first: 100ms, cap: 200ms, attempts: 30}}
  - id: second
    uses: webhook
    with: {{url: "{url}/second"}}
    retry: {{first: 100ms, cap: 200ms, attempts: 3}}
on-failure:
  - id: notify
    uses: webhook
    with: {{url: "{url}/notify"}}
"""


@pytest.fixture
def system(make_system: Callable[..., System], receivers: Receivers, database_url: str | None) -> System:
    """Start a system whose automation has two steps and an on-failure step."""
    system: System = make_system(
        database_url=database_url,
        automations={"two-steps.yaml": AUTOMATION.format(url=receivers.url)},
        settings={"UPSHOT_LEASE_SECONDS": "2"},
    )
    system.start_web()
    return system


@contextmanager
def database_locked(system: System, *, within_seconds: float = 10) -> Iterator[None]:
    """Block all writes of executions. Raise TimeoutError if another process holds the lock."""
    url = system.environment.get("UPSHOT_DATABASE_URL")
    if url:
        with psycopg.connect(url, options=f"-c lock_timeout={within_seconds * 1000:.0f}") as connection:
            try:
                connection.execute("LOCK TABLE executions IN EXCLUSIVE MODE")
            except psycopg.errors.LockNotAvailable as error:
                raise TimeoutError from error
            yield
            connection.rollback()
        return
    database = sqlite3.connect(f"{system.folder}/data/upshot.db", timeout=within_seconds, isolation_level=None)
    with closing(database):
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise TimeoutError from error
        yield
        database.execute("ROLLBACK")


@contextmanager
def write_lock_held(system: System) -> Iterator[None]:
    """On SQLite, block all writing processes. Raise BlockingIOError if one of them holds the lock."""
    path = system.folder / "data" / "upshot.db.write-lock"
    if not path.exists():
        yield
        return
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def pause_between_writes(system: System, name: str) -> None:
    """Pause a process at a moment at which it holds no lock."""

    def is_paused_without_lock() -> bool:
        system.pause(name)
        try:
            with database_locked(system, within_seconds=0.1), write_lock_held(system):
                return True
        except (TimeoutError, BlockingIOError):
            system.resume(name)
            return False

    until(is_paused_without_lock, f"{name} is paused between two writes")


def finished(system: System) -> dict[str, Any]:
    """Wait until the only execution has ended, and return it."""

    def ended() -> dict[str, Any] | None:
        found = system.executions()
        if len(found) == 1 and found[0]["state"] in ("succeeded", "failed"):
            execution: dict[str, Any] = system.api.get(f"/executions/{found[0]['id']}").json()
            return execution
        return None

    execution: dict[str, Any] = until(ended, "the execution has ended")
    return execution


def attempts(execution: dict[str, Any], step_id: str) -> list[str]:
    return [attempt["state"] for step in execution["steps"] if step["id"] == step_id for attempt in step["attempts"]]


def delivery_ids(receivers: Receivers, path: str) -> set[str]:
    return {request.headers["webhook-id"] for request in receivers.received(path)}


def kill_and_replace(system: System) -> None:
    system.kill("worker")
    system.start_worker()


def test_kill_before_the_event_is_read(system: System, receivers: Receivers) -> None:
    """The next worker reads the event."""
    system.start_worker()
    system.kill("worker")
    system.emit("made", {})
    system.start_worker()
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["succeeded"]
    assert len(receivers.requests) == 2


def test_kill_between_reading_and_committing(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """An event that was read but not committed is read again, and answered once."""
    system.start_worker()
    until(lambda: redis_server.pending() == 0, "the worker has created its group")
    pause_between_writes(system, "worker")
    system.emit("made", {})
    with database_locked(system):
        system.resume("worker")
        until(lambda: redis_server.pending() == 1, "the worker has read the event")
        system.kill("worker")
    system.start_worker()
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["succeeded"]
    assert len(receivers.requests) == 2


def test_kill_during_a_request(system: System, receivers: Receivers) -> None:
    """The first attempt is ambiguous, because the request may have arrived. The second request has the same id."""
    receivers.misbehave("hang", path="/first", times=1)
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/first"), "the first request is in flight")
    kill_and_replace(system)
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["ambiguous", "succeeded"]
    assert len(receivers.received("/first")) == 2
    assert len(delivery_ids(receivers, "/first")) == 1


def test_kill_between_the_response_and_its_record(system: System, receivers: Receivers) -> None:
    """The second delivery has the same id, so the receiver can drop it."""
    receivers.delay(0.5, path="/first")
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/first"), "the first request is in flight")
    with database_locked(system):
        until(lambda: "attempt.finished" in system.log("worker"), "the response has arrived")
        system.kill("worker")
    system.start_worker()
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["ambiguous", "succeeded"]
    assert len(delivery_ids(receivers, "/first")) == 1


def test_kill_during_the_second_step(system: System, receivers: Receivers) -> None:
    """The first step has succeeded and is not repeated."""
    receivers.misbehave("hang", path="/second", times=1)
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/second"), "the second step is in progress")
    kill_and_replace(system)
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["succeeded"]
    assert attempts(execution, "second") == ["ambiguous", "succeeded"]
    assert len(receivers.received("/first")) == 1


def test_kill_while_a_retry_is_waiting(system: System, receivers: Receivers) -> None:
    """The time of the retry is in the database, so another worker makes the next attempt."""
    receivers.fail_times(3, 503, path="/first")
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/first"), "the first attempt is made")
    kill_and_replace(system)
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first")[-1] == "succeeded"
    assert attempts(execution, "first").count("unavailable") >= 2
    assert len(delivery_ids(receivers, "/first")) == 1


def test_kill_during_an_on_failure_step(system: System, receivers: Receivers) -> None:
    """The on-failure step is repeated, and no step before it is."""
    receivers.fail_times(1, 404, path="/second")
    receivers.misbehave("hang", path="/notify", times=1)
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/notify"), "the on-failure step is in progress")
    kill_and_replace(system)
    execution = finished(system)
    assert execution["state"] == "failed"
    assert "404" in execution["reason"]
    assert attempts(execution, "second") == ["refused"]
    assert attempts(execution, "notify") == ["ambiguous", "succeeded"]
    assert len(receivers.received("/first")) == len(receivers.received("/second")) == 1


def test_a_successor_takes_over_at_once(system: System, receivers: Receivers) -> None:
    """A process supervisor that knows of the death names the predecessor, so its leases need not expire."""
    receivers.misbehave("hang", path="/first", times=1)
    system.start_worker(UPSHOT_WORKER_ID="dead", UPSHOT_LEASE_SECONDS="3600")
    system.emit("made", {})
    until(lambda: receivers.received("/first"), "the first request is in flight")
    system.kill("worker")
    system.start_worker(UPSHOT_WORKER_ID="successor", UPSHOT_WORKER_PREDECESSOR="dead")
    assert finished(system)["state"] == "succeeded"
