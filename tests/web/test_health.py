"""Health, readiness and metrics."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.web.conftest import API, CHURN, made, problem
from upshot.errors import Unavailable
from upshot.ports.workers import WorkerRecord


def worker(clock, name: str = "w1", *, silent_seconds: float = 0) -> WorkerRecord:
    now = clock.now()
    seen = now - timedelta(seconds=silent_seconds)
    return WorkerRecord(name, "here", 1, now, seen, in_progress=4, stream_read_at=None, automations=2)


def samples(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Away:
    """A store whose database is away."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> Any:
            raise Unavailable("away")

        return fail


def test_a_process_that_answers_is_healthy(web):
    """Whatever else is away."""
    assert made(web.get("/healthz")) == {"status": "ok"}


def test_a_process_whose_threads_are_all_stuck_is_not_healthy(serve, monkeypatch):
    """When no thread becomes free in time, whoever watches should start it again."""
    from threading import Event, Thread

    go_on = Event()
    monkeypatch.setattr("upshot.web.routes.health.STUCK_SECONDS", 0.2)
    with serve(redis_answers=lambda: go_on.wait(30)) as client:
        stuck = [Thread(target=client.get, args=("/readyz",), daemon=True) for _ in range(40)]
        for thread in stuck:
            thread.start()
        try:
            for _ in range(100):
                response = client.get("/healthz")
                if response.status_code != 200:
                    break
            problem(response, 503, "stuck")
        finally:
            go_on.set()
            for thread in stuck:
                thread.join()
        assert made(client.get("/healthz")) == {"status": "ok"}


def test_readiness_reports_redis_workers_and_backlog(web, stores, clock):
    """Of workers, those that were seen in the last 15 seconds."""
    stores.workers.heartbeat(worker(clock))
    stores.workers.heartbeat(worker(clock, "gone", silent_seconds=16))

    assert made(web.get("/readyz")) == {
        "status": "ready",
        "database": True,
        "redis": True,
        "workers": 1,
        "unmatched_events": 1,
        "due_executions": 0,
    }
    assert [item["id"] for item in made(web.get(f"{API}/workers"))["items"]] == ["w1"]


def test_without_redis_and_workers_mutations_are_accepted(serve):
    """So the process is ready, and says what is missing."""
    with serve(redis_answers=lambda: False) as client:
        form = made(client.get("/readyz"))

    assert (form["status"], form["redis"], form["workers"]) == ("ready", False, 0)


@pytest.mark.parametrize("how", [{"database_answers": lambda: False}, {"backlog": Away()}], ids=["ping", "query"])
def test_without_the_database_the_process_is_not_ready(serve, how):
    """503, as a problem that still tells about Redis."""
    with serve(**how) as client:
        form = problem(client.get("/readyz"), 503, "not-ready")

    assert (form["database"], form["redis"]) == (False, True)


def test_metrics_tell_what_stands(web, stores, clock):
    """The backlog, the workers and the automations, as Prometheus reads them."""
    stores.workers.heartbeat(worker(clock))

    found = samples(web.get("/metrics").text)

    assert found["upshot_events"] == 3
    assert found["upshot_events_unmatched"] == 1
    assert found["upshot_executions[('state', 'waiting')]"] == 1
    assert found["upshot_jobs[('state', 'queued')]"] == 2
    assert found["upshot_jobs_queued[('queue', 'gpu')]"] == 2
    assert found["upshot_workers"] == 1
    assert found["upshot_workers_in_hand"] == 4
    assert found["upshot_automations"] == 2
    assert found["upshot_automations_broken"] == 1
    assert found["upshot_database_up"] == 1


def test_metrics_without_the_database_still_tell_about_the_process(serve):
    """So an alert can fire on it."""
    with serve(backlog=Away()) as client:
        client.get(f"{API}/automations")
        found = samples(client.get("/metrics").text)

    assert found["upshot_database_up"] == 0
    assert "upshot_events" not in found
    assert any(name.startswith("upshot_http_requests") for name in found)


def test_requests_are_counted_by_route_not_by_path(web):
    """However many names are asked for, labels stay few."""
    for number in range(20):
        web.get(f"{CHURN}{number}")
        web.get(f"/nowhere/{number}")
    web.request("PROPFIND", "/healthz")

    text = web.get("/metrics").text
    found = samples(text)

    route = "/api/v1/registries/{registry}/collections/{collection}"
    assert found[f"upshot_http_requests_total[('method', 'GET'), ('route', '{route}'), ('status', '404')]"] == 20
    assert found["upshot_http_requests_total[('method', 'GET'), ('route', 'unknown'), ('status', '404')]"] == 20
    assert found["upshot_http_request_seconds_count[('method', 'other'), ('route', '/healthz')]"] == 1
    assert not re.search(r"churn\d|nowhere|PROPFIND", text)
