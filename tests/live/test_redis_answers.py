"""A Redis that answers with errors, or hangs. Workers go on, and carry out what is due in the database."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable

import pytest
import redis

from tests.servers import Redis
from tests.system import System, forward_automation
from tests.waiting import until
from upshot.receivers import Receivers

ANSWERS = {
    "READONLY": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "NOREPLICAS": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    "OOM": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "NOPERM": (
        "ACL SETUSER default -@stream -@list -@hash -@set -@sortedset -multi -exec -eval -evalsha",
        "ACL SETUSER default +@all",
    ),
}


@pytest.fixture
def system(make_system: Callable[..., System], receivers: Receivers) -> System:
    """Start a system with one automation and one worker."""
    system: System = make_system(
        automations={"forward.yaml": forward_automation(receivers.url, retry="{attempts: 100, first: 1s, cap: 1s}")}
    )
    system.start_web()
    system.start_worker()
    return system


def arrived(receivers: Receivers) -> Counter[int]:
    return Counter(json.loads(request.body)["number"] for request in receivers.received("/hook"))


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_error_answer_ends_a_worker(system: System, redis_server: Redis, receivers: Receivers, answer: str) -> None:
    """The same process works on when Redis does, and everything accepted meanwhile is delivered once."""
    begin, end = ANSWERS[answer]
    system.emit("made", {"number": 0})
    until(lambda: arrived(receivers) == {0: 1}, "the first event is delivered")
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command(*begin.split())
        try:
            for number in range(1, 11):
                system.emit("made", {"number": number})
                time.sleep(0.4)
            assert system.is_alive("worker"), system.log("worker")
            time.sleep(2)
            assert system.is_alive("worker"), system.log("worker")
        finally:
            admin.execute_command(*end.split())
    until(lambda: arrived(receivers) == dict.fromkeys(range(11), 1), "everything is delivered once")
    assert system.is_alive("worker")
    assert "worker.crashed" not in system.log("worker")


def test_retries_go_on_while_redis_hangs(system: System, redis_server: Redis, receivers: Receivers) -> None:
    """The worker carries out what is due by itself, at no less than half of the usual rate."""
    receivers.fail_times(1_000_000, 429, path="/hook")  # a 429 opens no breaker
    system.emit("made", *({"number": number} for number in range(100)))

    def attempts_per_second(seconds: float) -> float:
        before = len(receivers.requests)
        time.sleep(seconds)
        return (len(receivers.requests) - before) / seconds

    until(lambda: len(receivers.requests) > 200, "retries are in progress")
    usual = attempts_per_second(8)
    redis_server.pause()
    try:
        while_hanging = attempts_per_second(16)
    finally:
        redis_server.resume()
    assert while_hanging >= usual / 2, f"{usual:.0f} attempts/s before, {while_hanging:.0f} while Redis hangs"
    assert system.is_alive("worker")
