"""Several installations, and entries that nobody accepted, on one Redis."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import httpx
import pytest
import redis

from tests.servers import Redis
from tests.system import System
from tests.waiting import until
from upshot.adapters.redis import FORMER_STREAM
from upshot.domain.event import Actor, Event, EventKind
from upshot.ids import EventId, new_id
from upshot.resources.event import event_json

NOW = datetime.now(UTC)
FOREIGN = Event(
    id=EventId("evt_1"),
    kind=EventKind.CUSTOM,
    time=NOW,
    subject="tick",
    actor=Actor("ann"),
    mutation_id="mut_1",
    sequence=0,
    data={"n": "foreign"},
    name="tick",
)


def automation(url: str) -> str:
    return f"""\
name: each
on:
  custom:
    name: tick
steps:
  - uses: webhook
    with:
      url: {url}
      json: {{n: "{{{{ event.data.n }}}}"}}
"""


def emit(system: System, count: int) -> list[str]:
    """Emit events, and return what each must deliver."""
    numbers = [f"{system.folder.name}-{number}" for number in range(count)]
    events = [{"name": "tick", "data": {"n": number}} for number in numbers]
    system.api.post("/events", json=events).raise_for_status()
    return numbers


def delivered(receivers, path: str) -> list[str]:
    return sorted(json.loads(request.body)["n"] for request in receivers.received(path))


def has_delivered(receivers, path: str, numbers: list[str]) -> bool:
    return delivered(receivers, path) == numbers


def ignored_entries(system: System) -> float:
    text = httpx.get(f"{system.url}/metrics").text
    return sum(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("upshot_stream_entries_ignored_total")
    )


def test_two_installations_on_one_redis_do_not_see_each_other(tmp_path, redis_server: Redis, receivers, database_url):
    """Each delivers its own events once, and no name in Redis is shared."""
    to_one, to_two = ({"a.yaml": automation(f"{receivers.url}/{name}")} for name in ("one", "two"))
    with (
        System(tmp_path / "one", redis_server, database_url=database_url, automations=to_one) as one,
        System(tmp_path / "two", redis_server, automations=to_two) as two,
    ):
        for system in (one, two):
            system.start_web()
            system.start_worker()
        expected = {"/one": sorted(emit(one, 60)), "/two": sorted(emit(two, 60))}
        for path, numbers in expected.items():
            until(partial(has_delivered, receivers, path, numbers), f"deliveries to {path}")
        assert "consumer.batch_failed" not in one.log("worker") + two.log("worker")
        assert (ignored_entries(one), ignored_entries(two)) == (0, 0)
        with redis.Redis.from_url(redis_server.url) as client:
            names = {key.decode().split(":")[1] for key in client.keys("*") if key.startswith(b"upshot:ins_")}
            assert len(names) == 2
            assert [key for key in client.keys("*") if not key.startswith(b"upshot:ins_")] == []


@pytest.mark.parametrize("stream", ["own", "former"])
def test_entries_that_nobody_accepted_go_away(make_system, redis_server: Redis, receivers, database_url, stream):
    """Own events among 150 unknown ones are answered at once. The entries are counted, and nothing is delivered."""
    system = make_system(database_url=database_url, automations={"a.yaml": automation(f"{receivers.url}/own")})
    system.start_web()
    system.start_worker()
    first = emit(system, 1)
    until(lambda: delivered(receivers, "/own") == first)
    with redis.Redis.from_url(redis_server.url) as client:
        (own,) = client.keys("upshot:*:events")
        name = own.decode() if stream == "own" else FORMER_STREAM
        with client.pipeline() as pipe:
            for _ in range(150):
                entry = json.dumps(event_json(replace(FOREIGN, id=EventId(new_id("evt", NOW)))), default=str)
                pipe.xadd(name, {"event": entry})
            pipe.execute()
        numbers = emit(system, 20)
        until(lambda: delivered(receivers, "/own") == sorted(first + numbers), "own events", seconds=10)
        until(lambda: client.xlen(name) == 0, "the entries are gone")
        until(lambda: ignored_entries(system) == 150, "the entries are counted")
    assert "consumer.batch_failed" not in system.log("worker")
