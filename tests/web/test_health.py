"""Health, readiness and metrics."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.web.conftest import API, CHURN, UnavailableStore, ok_json, problem
from upshot.adapters.memory.deliveries import MemoryDeliveries
from upshot.ids import WorkerId
from upshot.ports.deliveries import DeliveryCount, DeliveryKey
from upshot.ports.workers import WorkerRecord


def worker(clock, name: str = "w1", *, silent_seconds: float = 0) -> WorkerRecord:
    now = clock.now()
    seen_at = now - timedelta(seconds=silent_seconds)
    return WorkerRecord(WorkerId(name), "here", 1, now, seen_at, in_progress=4, stream_read_at=None, automations=2)


def samples(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_process_that_answers_is_healthy(web):
    """Health does not depend on any other process."""
    assert ok_json(web.get("/healthz")) == {"status": "ok"}


def test_a_process_whose_threads_all_wait_for_a_store_is_healthy(serve):
    """The event loop runs, and every call of a store ends in bounded time. A restart would not help."""
    release = Event()
    with serve(ping_redis=lambda: release.wait(30)) as client:
        waiting = [Thread(target=client.get, args=("/readyz",), daemon=True) for _ in range(40)]
        for thread in waiting:
            thread.start()
        try:
            for _ in range(20):
                assert ok_json(client.get("/healthz")) == {"status": "ok"}
        finally:
            release.set()
            for thread in waiting:
                thread.join()


def test_readiness_reports_redis_workers_and_backlog(web, stores, clock):
    """Only workers with a heartbeat in the last 15 seconds count."""
    stores.workers.heartbeat(worker(clock))
    stores.workers.heartbeat(worker(clock, "dead", silent_seconds=16))

    assert ok_json(web.get("/readyz")) == {
        "status": "ready",
        "database": True,
        "redis": True,
        "workers": 1,
        "unmatched_events": 1,
        "due_executions": 0,
    }
    assert [item["id"] for item in ok_json(web.get(f"{API}/workers"))["items"]] == ["w1"]


def test_a_process_is_ready_without_redis_and_workers(serve):
    """Mutations are accepted, and the response says what is missing."""
    with serve(ping_redis=lambda: False) as client:
        readiness = ok_json(client.get("/readyz"))

    assert (readiness["status"], readiness["redis"], readiness["workers"]) == ("ready", False, 0)


@pytest.mark.parametrize(
    "changes", [{"ping_database": lambda: False}, {"backlog": UnavailableStore()}], ids=["ping", "query"]
)
def test_a_process_is_not_ready_without_the_database(serve, changes):
    """The response is 503, and its problem still reports on Redis."""
    with serve(**changes) as client:
        data = problem(client.get("/readyz"), 503, "not-ready")

    assert (data["database"], data["redis"]) == (False, True)


def test_metrics_show_backlog_workers_and_automations(web, stores, clock):
    """Prometheus reads the counts from the database at each scrape."""
    stores.workers.heartbeat(worker(clock))

    found = samples(web.get("/metrics").text)

    assert found["upshot_events"] == 3
    assert found["upshot_events_unmatched"] == 1
    assert found["upshot_executions[('state', 'waiting')]"] == 1
    assert found["upshot_jobs[('state', 'queued')]"] == 2
    assert found["upshot_jobs_queued[('queue', 'gpu')]"] == 2
    assert found["upshot_workers"] == 1
    assert found["upshot_workers_in_progress"] == 4
    assert found["upshot_automations"] == 2
    assert found["upshot_automations_broken"] == 1
    assert found["upshot_database_up"] == 1


def test_metrics_show_attempts_and_what_executions_wait_for(serve, stores, clock):
    """Attempts are counted by action, destination and result, and timed by action and destination."""
    deliveries = MemoryDeliveries()
    buckets = (1, 0, 1, 0, 0, 0, 0, 0)
    deliveries.add(
        {
            DeliveryKey("webhook", "https://a", "succeeded"): DeliveryCount(3, 400.5, buckets),
            DeliveryKey("webhook", "https://a", "refused"): DeliveryCount(1, 0.5, (0, 0, 1, 0, 0, 0, 0, 0)),
        }
    )
    with serve(deliveries=deliveries) as client:
        found = samples(client.get("/metrics").text)

    labels = "('action', 'webhook'), ('destination', 'https://a')"
    assert found[f"upshot_attempts_total[{labels}, ('result', 'succeeded')]"] == 3
    assert found[f"upshot_attempts_total[{labels}, ('result', 'refused')]"] == 1
    assert found[f"upshot_attempt_seconds_sum[{labels}]"] == 401
    assert found[f"upshot_attempt_seconds_count[{labels}]"] == 4
    at_most = [
        found[f"upshot_attempt_seconds_bucket[{labels}, ('le', '{le}')]"] for le in ("0.1", "0.5", "60.0", "+Inf")
    ]
    assert at_most == [1, 3, 3, 4]
    assert found["upshot_executions_waiting[('reason', 'job')]"] == 1


METRIC = re.compile(r"\bupshot_\w+")


@pytest.mark.parametrize("path", ["deploy/prometheus/alerts.yaml", "deploy/grafana/upshot.json"])
def test_alerts_and_dashboard_use_metrics_that_exist(serve, path):
    """They would be silent otherwise. Every panel and every rule has such a metric."""
    deliveries = MemoryDeliveries()
    deliveries.add({DeliveryKey("webhook", "https://a", "succeeded"): DeliveryCount(1, 1.0)})
    with serve(deliveries=deliveries) as client:
        client.get(f"{API}/events")
        existing = set(METRIC.findall(client.get("/metrics").text))
    text = (Path(__file__).parents[2] / path).read_text()
    if path.endswith(".json"):
        panels = [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]
        expressions = [target["expr"] for panel in panels for target in panel["targets"]]
        assert len({panel["title"] for panel in panels}) == len(panels) > 10
    else:
        expressions = [rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]

    for expression in expressions:
        used = set(METRIC.findall(expression))
        assert used
        assert used <= existing, expression


def test_metrics_without_the_database_still_show_the_process(serve):
    """An alert can fire on `upshot_database_up`."""
    with serve(backlog=UnavailableStore()) as client:
        client.get(f"{API}/automations")
        found = samples(client.get("/metrics").text)

    assert found["upshot_database_up"] == 0
    assert "upshot_events" not in found
    assert any(name.startswith("upshot_http_requests") for name in found)


def test_requests_are_counted_by_route(web):
    """The label is the template of the path, so labels stay few however many names clients use."""
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


def test_refused_requests_are_counted(serve):
    """The metrics include requests that authentication or another middleware refuses."""
    with serve(token="s3cret-token", host="127.0.0.1") as client:
        client.get(f"{API}/events")
        found = samples(client.get("/metrics").text)

    assert found["upshot_http_requests_total[('method', 'GET'), ('route', 'unknown'), ('status', '401')]"] == 1
