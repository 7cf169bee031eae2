"""
Nothing accepted is lost, whatever dies.

Five hundred deliveries are under way when something is killed; then what the receiver got is held
against what was accepted: none missing, and none twice but what was in flight at the kill.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from tests.servers import Postgres, Redis
from tests.system import System
from tests.waiting import until
from upshot.receivers import Receivers

DELIVERIES = 500
IN_FLIGHT = 20

AUTOMATION = """\
name: forward
on:
  custom:
    name: made
steps:
  - id: send
    uses: webhook
    with:
      url: "{url}/hook"
      json:
        number: "{{{{= event.data.number }}}}"
    retry: {{first: 200ms, cap: 1s}}
"""


@pytest.fixture
def system(make_system: Callable[..., System], receivers: Receivers, database_url: str | None) -> System:
    """A system with one automation that posts each event to the receiver."""
    system: System = make_system(
        database_url=database_url,
        automations={"forward.yaml": AUTOMATION.format(url=receivers.url)},
        settings={"UPSHOT_DESTINATION_IN_FLIGHT": str(IN_FLIGHT)},
    )
    system.start_web()
    return system


def emit_all(system: System, count: int = DELIVERIES) -> None:
    system.emit("made", *({"number": number} for number in range(count)))


def arrived(receivers: Receivers) -> Counter[int]:
    return Counter(json.loads(request.body)["number"] for request in receivers.received("/hook"))


def await_all(system: System, receivers: Receivers, count: int = DELIVERIES) -> Counter[int]:
    """Wait until everything has succeeded; every number arrived, each under one delivery id."""
    until(lambda: system.states() == {"succeeded": count}, "everything succeeded")
    numbers = arrived(receivers)
    assert set(numbers) == set(range(count))
    ids: dict[int, set[str]] = {}
    for request in receivers.received("/hook"):
        ids.setdefault(json.loads(request.body)["number"], set()).add(request.headers["webhook-id"])
    assert all(len(one) == 1 for one in ids.values()), "a delivery id must stay the same over all attempts"
    assert len({next(iter(one)) for one in ids.values()}) == count, "two deliveries must not share an id"
    return numbers


def doubled(numbers: Counter[int]) -> int:
    return sum(count - 1 for count in numbers.values())


def test_everything_arrives_once(system: System, receivers: Receivers) -> None:
    """With nothing dying, every delivery is made exactly once."""
    system.start_worker()
    emit_all(system)
    assert doubled(await_all(system, receivers)) == 0


def test_two_workers_share_the_work(system: System, receivers: Receivers) -> None:
    """Two workers make every delivery once between them, and both do some of it."""
    receivers.delay(0.05, path="/hook")
    system.start_worker("worker-1")
    system.start_worker("worker-2")
    for start in range(0, DELIVERIES, 50):
        system.emit("made", *({"number": number} for number in range(start, start + 50)))
    assert doubled(await_all(system, receivers)) == 0
    assert all("attempt.finished" in system.log(name) for name in ("worker-1", "worker-2"))


def test_kill_9_of_the_worker(system: System, receivers: Receivers) -> None:
    """A worker that dies in the middle loses nothing; only what it had in flight comes twice."""
    receivers.delay(0.05, path="/hook")
    system.start_worker()
    emit_all(system)
    until(lambda: len(receivers.requests) > 100, "deliveries are under way")
    system.kill("worker")
    system.start_worker()
    assert doubled(await_all(system, receivers)) <= IN_FLIGHT


def test_kill_9_of_redis(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """Redis dies in the middle and comes back with its files: nothing is lost, nothing comes twice."""
    receivers.delay(0.05, path="/hook")
    system.start_worker()
    emit_all(system)
    until(lambda: len(receivers.requests) > 100, "deliveries are under way")
    redis_server.kill()
    redis_server.start()
    assert doubled(await_all(system, receivers)) == 0


@pytest.mark.parametrize("how", ["restarted empty", "flushed"])
def test_a_redis_that_forgot_everything(system: System, redis_server: Redis, receivers: Receivers, how: str) -> None:
    """What the stream held is found again in the database."""
    emit_all(system)
    if how == "flushed":
        redis_server.flush()
    else:
        redis_server.kill()
        redis_server.empty()
        redis_server.start()
    system.start_worker()
    assert doubled(await_all(system, receivers)) == 0


def test_mutations_succeed_while_redis_is_away(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """Accepted without Redis, delivered when it is back; the worker that waited for it is still the same."""
    system.start_worker()
    redis_server.kill()
    emit_all(system)
    assert arrived(receivers) == {}
    redis_server.start()
    assert doubled(await_all(system, receivers)) == 0
    assert system.is_alive("worker")


def test_a_redis_that_hangs(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """A Redis that is connected and silent delays deliveries, and never a mutation for long."""
    system.start_worker()
    redis_server.pause()
    try:
        emit_all(system)
    finally:
        redis_server.resume()
    await_all(system, receivers)


def test_a_stop_hands_back_what_is_in_flight(system: System, receivers: Receivers) -> None:
    """SIGTERM finishes what can be finished; another worker makes the rest, and nothing comes twice."""
    receivers.delay(0.2, path="/hook")
    system.start_worker()
    emit_all(system)
    until(lambda: len(receivers.requests) > 50, "deliveries are under way")
    assert system.stop("worker") == 0
    system.start_worker()
    assert doubled(await_all(system, receivers)) == 0


def test_a_busy_worker_survives_a_restart_of_the_broker(
    system: System, redis_server: Redis, receivers: Receivers
) -> None:
    """A worker whose tasks are under way when Redis goes away goes on with the same process."""
    receivers.fail_times(DELIVERIES, 503, path="/hook")
    system.start_worker()
    emit_all(system)
    until(lambda: len(receivers.requests) > 100, "retries are under way")
    for _ in range(3):
        redis_server.kill()
        redis_server.start()
    await_all(system, receivers)
    assert system.is_alive("worker")


def test_a_database_that_goes_away_and_comes_back(
    make_system: Callable[..., System], receivers: Receivers, postgres: Postgres
) -> None:
    """Longer than a lease: two workers that live keep what they hold, and nothing is lost or made twice."""
    system = make_system(
        database_url=postgres.new_database(),
        automations={"forward.yaml": AUTOMATION.format(url=receivers.url)},
        settings={"UPSHOT_DESTINATION_IN_FLIGHT": str(IN_FLIGHT)},
    )
    system.start_web()
    receivers.delay(0.05, path="/hook")
    system.start_worker("worker-1")
    system.start_worker("worker-2")
    emit_all(system)
    until(lambda: len(receivers.requests) > 100, "deliveries are under way")
    postgres.stop()
    refused = system.api.post("/events", json={"name": "made", "data": {"number": -1}})
    assert refused.status_code == 503
    until(lambda: "recorder.waits" in system.log("worker-1") + system.log("worker-2"), "the outage is noticed")

    def missed_beats() -> int:
        return min(system.log(name).count("loop.waits loop=heartbeat") for name in ("worker-1", "worker-2"))

    until(lambda: missed_beats() > 4, "leases have run out")
    postgres.start()
    assert doubled(await_all(system, receivers)) == 0
