"""
Nothing accepted is lost, whatever is killed.

Five hundred deliveries are in progress when something is killed. Then the requests that arrived are compared with
the accepted events. None is missing, and only requests in flight at that moment may have arrived twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from tests.servers import Postgres, Redis
from tests.system import System, forward_automation
from tests.waiting import until
from upshot.receivers import Receivers

DELIVERIES = 500
IN_FLIGHT = 20


@pytest.fixture
def system(make_system: Callable[..., System], receivers: Receivers, database_url: str | None) -> System:
    """Start a system with one automation that posts each event to the receiver."""
    system: System = make_system(
        database_url=database_url,
        automations={"forward.yaml": forward_automation(receivers.url)},
        settings={"UPSHOT_DESTINATION_IN_FLIGHT": str(IN_FLIGHT)},
    )
    system.start_web()
    return system


def emit_all(system: System, count: int = DELIVERIES) -> None:
    system.emit("made", *({"number": number} for number in range(count)))


def arrived(receivers: Receivers) -> Counter[int]:
    return Counter(json.loads(request.body)["number"] for request in receivers.received("/hook"))


def await_all(system: System, receivers: Receivers, count: int = DELIVERIES) -> Counter[int]:
    """Wait until everything has succeeded. Assert that every number arrived, each with its own delivery id."""
    until(lambda: system.states() == {"succeeded": count}, "everything succeeded")
    numbers = arrived(receivers)
    assert set(numbers) == set(range(count))
    ids: dict[int, set[str]] = {}
    for request in receivers.received("/hook"):
        ids.setdefault(json.loads(request.body)["number"], set()).add(request.headers["webhook-id"])
    assert all(len(delivery_ids) == 1 for delivery_ids in ids.values()), (
        "a delivery id must stay the same over all attempts"
    )
    assert len(set().union(*ids.values())) == count, "two deliveries must not share an id"
    return numbers


def duplicates(numbers: Counter[int]) -> int:
    return sum(count - 1 for count in numbers.values())


def test_everything_arrives_once(system: System, receivers: Receivers) -> None:
    """Without a fault, every delivery is made exactly once."""
    system.start_worker()
    emit_all(system)
    assert duplicates(await_all(system, receivers)) == 0


def test_two_workers_share_the_work(system: System, receivers: Receivers) -> None:
    """Together they make every delivery once, and both make some of them."""
    receivers.delay(0.05, path="/hook")
    system.start_worker("worker-1")
    system.start_worker("worker-2")
    for start in range(0, DELIVERIES, 50):
        system.emit("made", *({"number": number} for number in range(start, start + 50)))
    assert duplicates(await_all(system, receivers)) == 0
    assert all("attempt.finished" in system.log(name) for name in ("worker-1", "worker-2"))


def test_kill_9_of_the_worker(system: System, receivers: Receivers) -> None:
    """A worker that is killed loses nothing. Only its requests in flight arrive twice."""
    receivers.delay(0.05, path="/hook")
    system.start_worker()
    emit_all(system)
    until(lambda: len(receivers.requests) > 100, "deliveries are in progress")
    system.kill("worker")
    system.start_worker()
    assert duplicates(await_all(system, receivers)) <= IN_FLIGHT


def test_kill_9_of_redis(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """Redis is killed and restarted with its files. Nothing is lost, and nothing arrives twice."""
    receivers.delay(0.05, path="/hook")
    system.start_worker()
    emit_all(system)
    until(lambda: len(receivers.requests) > 100, "deliveries are in progress")
    redis_server.kill()
    redis_server.start()
    assert duplicates(await_all(system, receivers)) == 0


@pytest.mark.parametrize("how", ["restarted empty", "flushed"])
def test_a_redis_that_lost_its_data(system: System, redis_server: Redis, receivers: Receivers, how: str) -> None:
    """The events of the lost stream are published again from the database."""
    emit_all(system)
    if how == "flushed":
        redis_server.flush()
    else:
        redis_server.kill()
        redis_server.empty()
        redis_server.start()
    system.start_worker()
    assert duplicates(await_all(system, receivers)) == 0


def test_mutations_succeed_while_redis_is_down(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """Events are accepted without Redis and delivered when it is up again, by the same worker process."""
    system.start_worker()
    redis_server.kill()
    emit_all(system)
    assert arrived(receivers) == {}
    redis_server.start()
    assert duplicates(await_all(system, receivers)) == 0
    assert system.is_alive("worker")


def test_a_redis_that_hangs(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """A Redis that hangs delays deliveries, but a mutation only for a short time."""
    system.start_worker()
    redis_server.pause()
    try:
        emit_all(system)
    finally:
        redis_server.resume()
    await_all(system, receivers)


def test_a_stopped_worker_releases_what_is_in_flight(system: System, receivers: Receivers) -> None:
    """After SIGTERM the worker finishes what it can, and another worker does the rest. Nothing arrives twice."""
    receivers.delay(0.2, path="/hook")
    system.start_worker()
    emit_all(system)
    until(lambda: len(receivers.requests) > 50, "deliveries are in progress")
    assert system.stop("worker") == 0
    system.start_worker()
    assert duplicates(await_all(system, receivers)) == 0


def test_a_busy_worker_survives_a_restart_of_the_broker(
    system: System, redis_server: Redis, receivers: Receivers
) -> None:
    """A worker with tasks in progress continues in the same process."""
    receivers.fail_times(DELIVERIES, 429, path="/hook")  # a 429 opens no breaker
    system.start_worker()
    emit_all(system)
    until(lambda: len(receivers.requests) > 100, "retries are in progress")
    for _ in range(3):
        redis_server.kill()
        redis_server.start()
    await_all(system, receivers)
    assert system.is_alive("worker")


def test_an_outage_of_the_database_that_is_longer_than_a_lease(
    make_system: Callable[..., System], receivers: Receivers, postgres: Postgres
) -> None:
    """Two live workers keep their executions. Nothing is lost, and nothing is delivered twice."""
    system = make_system(
        database_url=postgres.new_database(),
        automations={"forward.yaml": forward_automation(receivers.url)},
        settings={"UPSHOT_DESTINATION_IN_FLIGHT": str(IN_FLIGHT)},
    )
    system.start_web()
    receivers.delay(0.05, path="/hook")
    system.start_worker("worker-1")
    system.start_worker("worker-2")
    emit_all(system)
    until(lambda: len(receivers.requests) > 100, "deliveries are in progress")
    postgres.stop()
    response = system.api.post("/events", json={"name": "made", "data": {"number": -1}})
    assert response.status_code == 503
    until(lambda: "recorder.waiting" in system.log("worker-1") + system.log("worker-2"), "the outage is noticed")

    def missed_heartbeats() -> int:
        return min(system.log(name).count("loop.unavailable loop=heartbeat") for name in ("worker-1", "worker-2"))

    until(lambda: missed_heartbeats() > 4, "leases have expired")
    postgres.start()
    assert duplicates(await_all(system, receivers)) == 0
