"""
A worker dies by kill -9 at each place of an execution's way, and another takes it from there.

The places are reached from outside: a receiver that does not answer holds a worker in the middle of
a request, a lock that the test takes in the database holds it before a commit.
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
name: story
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
  - id: tell
    uses: webhook
    with: {{url: "{url}/tell"}}
"""


@pytest.fixture
def system(make_system: Callable[..., System], receivers: Receivers, database_url: str | None) -> System:
    """A system whose automation has two steps and one for failures."""
    system: System = make_system(
        database_url=database_url,
        automations={"story.yaml": AUTOMATION.format(url=receivers.url)},
        settings={"UPSHOT_LEASE_SECONDS": "2"},
    )
    system.start_web()
    return system


@contextmanager
def database_held(system: System, *, within_seconds: float = 10) -> Iterator[None]:
    """Nobody can write executions meanwhile; what tries to waits. TimeoutError: somebody else holds them."""
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
def writers_turn_held(system: System) -> Iterator[None]:
    """On SQLite, no process writes meanwhile. BlockingIOError: one of them has the turn."""
    turn = system.folder / "data" / "upshot.db.turn"
    if not turn.exists():
        yield
        return
    with turn.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def pause_between_writes(system: System, name: str) -> None:
    """Let a process stand still where it holds nothing that others need."""

    def holds_nothing() -> bool:
        system.pause(name)
        try:
            with database_held(system, within_seconds=0.1), writers_turn_held(system):
                return True
        except (TimeoutError, BlockingIOError):
            system.resume(name)
            return False

    until(holds_nothing, f"{name} stands still between two writes")


def finished(system: System) -> dict[str, Any]:
    """The only execution, when it has ended."""

    def ended() -> dict[str, Any] | None:
        found = system.executions()
        if len(found) == 1 and found[0]["state"] in ("succeeded", "failed"):
            one: dict[str, Any] = system.api.get(f"/executions/{found[0]['id']}").json()
            return one
        return None

    execution: dict[str, Any] = until(ended, "the execution has ended")
    return execution


def attempts(execution: dict[str, Any], step: str) -> list[str]:
    return [attempt["state"] for one in execution["steps"] if one["id"] == step for attempt in one["attempts"]]


def deliveries(receivers: Receivers, path: str) -> set[str]:
    return {request.headers["webhook-id"] for request in receivers.received(path)}


def kill_and_replace(system: System) -> None:
    system.kill("worker")
    system.start_worker()


def test_before_anything_is_read(system: System, receivers: Receivers) -> None:
    """An event that no worker has seen yet waits for the next one."""
    system.start_worker()
    system.kill("worker")
    system.emit("made", {})
    system.start_worker()
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["succeeded"]
    assert len(receivers.requests) == 2


def test_between_reading_and_committing(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """What was read from the stream and not committed is read again, and done once."""
    system.start_worker()
    until(lambda: redis_server.pending() == 0, "the worker has made its group")
    pause_between_writes(system, "worker")
    system.emit("made", {})
    with database_held(system):
        system.resume("worker")
        until(lambda: redis_server.pending() == 1, "the worker has read the event")
        system.kill("worker")
    system.start_worker()
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["succeeded"]
    assert len(receivers.requests) == 2


def test_during_a_request(system: System, receivers: Receivers) -> None:
    """Whether it arrived cannot be known: sent again under the same id, and the first try kept as ambiguous."""
    receivers.be_rude("hang", path="/first", times=1)
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/first"), "the first request is under way")
    kill_and_replace(system)
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["ambiguous", "succeeded"]
    assert len(receivers.received("/first")) == 2
    assert len(deliveries(receivers, "/first")) == 1


def test_between_the_answer_and_its_record(system: System, receivers: Receivers) -> None:
    """The receiver acted and nobody wrote it down: the second delivery has the same id, so it can be dropped."""
    receivers.delay(0.5, path="/first")
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/first"), "the first request is under way")
    with database_held(system):
        until(lambda: "attempt.finished" in system.log("worker"), "the answer has come")
        system.kill("worker")
    system.start_worker()
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["ambiguous", "succeeded"]
    assert len(deliveries(receivers, "/first")) == 1


def test_between_two_steps(system: System, receivers: Receivers) -> None:
    """A step that has succeeded is not repeated when the worker dies in the next one."""
    receivers.be_rude("hang", path="/second", times=1)
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/second"), "the second step is under way")
    kill_and_replace(system)
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first") == ["succeeded"]
    assert attempts(execution, "second") == ["ambiguous", "succeeded"]
    assert len(receivers.received("/first")) == 1


def test_while_a_retry_is_due(system: System, receivers: Receivers) -> None:
    """Retry times live in the database: whoever works then makes the next attempt."""
    receivers.fail_times(3, 503, path="/first")
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/first"), "the first attempt is made")
    kill_and_replace(system)
    execution = finished(system)
    assert execution["state"] == "succeeded"
    assert attempts(execution, "first")[-1] == "succeeded"
    assert attempts(execution, "first").count("unreachable") >= 2
    assert len(deliveries(receivers, "/first")) == 1


def test_in_an_on_failure_step(system: System, receivers: Receivers) -> None:
    """The failure is told though the worker that was telling it died; nothing before it is repeated."""
    receivers.fail_times(1, 404, path="/second")
    receivers.be_rude("hang", path="/tell", times=1)
    system.start_worker()
    system.emit("made", {})
    until(lambda: receivers.received("/tell"), "the failure is being told")
    kill_and_replace(system)
    execution = finished(system)
    assert execution["state"] == "failed"
    assert "404" in execution["reason"]
    assert attempts(execution, "second") == ["refused"]
    assert attempts(execution, "tell") == ["ambiguous", "succeeded"]
    assert len(receivers.received("/first")) == len(receivers.received("/second")) == 1


def test_a_successor_that_is_told_takes_over_at_once(system: System, receivers: Receivers) -> None:
    """A supervisor that saw a worker die names it to the next one, which need not wait for the lease's end."""
    receivers.be_rude("hang", path="/first", times=1)
    system.start_worker(UPSHOT_WORKER_ID="dead", UPSHOT_LEASE_SECONDS="3600")
    system.emit("made", {})
    until(lambda: receivers.received("/first"), "the first request is under way")
    system.kill("worker")
    system.start_worker(UPSHOT_WORKER_ID="successor", UPSHOT_WORKER_PREDECESSOR="dead")
    assert finished(system)["state"] == "succeeded"
