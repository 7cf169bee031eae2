"""
Stores that answer, but do not work: read-only, full, locked, silent.

Mutations are refused with 503 and `Retry-After`, what was being sent is recorded afterwards, and nothing is sent twice.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.live.tcp_proxy import TcpProxy
from tests.servers import Postgres, Redis
from tests.system import System, forward_automation
from tests.waiting import until
from upshot.receivers import Receivers

OUTAGE_SECONDS = 7  # longer than two leases


def emit(system: System, number: int) -> int:
    """Emit an event, and return the status of the response."""
    response = system.api.post("/events", json={"name": "made", "data": {"number": number}})
    assert response.status_code != 503 or int(response.headers["retry-after"]) >= 1
    return response.status_code


def assert_delivered_once(system: System, receivers: Receivers, numbers: set[int]) -> None:
    until(lambda: system.states() == {"succeeded": len(numbers)}, "everything succeeded")
    time.sleep(4)  # longer than a lease, after which a lost execution would be sent again
    arrived = Counter(json.loads(request.body)["number"] for request in receivers.received("/hook"))
    assert set(arrived) == numbers
    assert {number: count for number, count in arrived.items() if count > 1} == {}


def run_through_outage(
    system: System, receivers: Receivers, begin: Callable[[], object], end: Callable[[], object]
) -> None:
    """Deliver slowly, let the outage begin in the middle of deliveries, and compare what arrived."""
    receivers.delay(1.0, path="/hook")
    accepted = {number for number in range(40) if emit(system, number) == 201}
    until(lambda: len(receivers.requests) > 10, "deliveries are in progress")
    begin()
    refused = 0
    stop_at = time.monotonic() + OUTAGE_SECONDS
    number = 100
    while time.monotonic() < stop_at:
        number += 1
        status = emit(system, number)
        assert status in {201, 503}
        refused += status == 503
        accepted |= {number} if status == 201 else set()
        time.sleep(0.1)
    end()
    assert refused > 0
    until(lambda: emit(system, 999) == 201, "mutations are accepted again")
    assert_delivered_once(system, receivers, accepted | {999})


def test_a_server_that_becomes_read_only(
    make_system: Callable[..., System], receivers: Receivers, postgres: Postgres
) -> None:
    """PostgreSQL refuses writes, as after a failover to a replica."""
    system = make_system(
        database_url=postgres.new_database(), automations={"forward.yaml": forward_automation(receivers.url)}
    )
    system.start_web()
    system.start_worker()

    def set_read_only(value: str) -> None:
        postgres.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        postgres.execute("SELECT pg_reload_conf()")

    try:
        run_through_outage(system, receivers, lambda: set_read_only("on"), lambda: set_read_only("off"))
    finally:
        set_read_only("off")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system on a folder."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        if os.environ.get("CI"):
            pytest.fail("CI must be able to mount a tmpfs; run the tests as root in a privileged container")
        pytest.skip("mounting a tmpfs is not allowed here; run the tests as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(file: Path) -> None:
    """Write until the disk is full."""
    for size in (65536, 1):
        with suppress(OSError), file.open("ab", buffering=0) as opened:
            while True:
                opened.write(b"x" * size)


def test_a_disk_that_becomes_full(tmp_path: Path, redis_server: Redis, receivers: Receivers) -> None:
    """SQLite finds no room for a commit."""
    folder = tmp_path / "small"
    with (
        small_disk(folder),
        System(
            tmp_path / "system",
            redis_server,
            automations={"forward.yaml": forward_automation(receivers.url)},
            settings={"UPSHOT_DATA": str(folder / "data")},
        ) as system,
    ):
        system.start_web()
        system.start_worker()
        run_through_outage(system, receivers, lambda: fill(folder / "fill"), (folder / "fill").unlink)


def test_a_database_that_is_slower_than_a_lease(make_system: Callable[..., System], receivers: Receivers) -> None:
    """A lock is held for longer than a lease. Two workers that are alive keep their executions."""
    system = make_system(automations={"forward.yaml": forward_automation(receivers.url)})
    system.start_web()
    system.start_worker("worker-1")
    system.start_worker("worker-2")
    with closing(sqlite3.connect(system.folder / "data" / "upshot.db", isolation_level=None, timeout=30)) as other:
        run_through_outage(
            system,
            receivers,
            lambda: other.execute("BEGIN IMMEDIATE"),
            lambda: other.execute("ROLLBACK"),
        )


def test_reads_and_probes_do_not_wait_behind_blocked_writes(
    make_system: Callable[..., System], database_url: str | None
) -> None:
    """Sixty clients write while a lock blocks every write. Reads, `/readyz`, `/metrics` and `/healthz` are prompt."""
    system = make_system(database_url=database_url, automations={})
    system.start_web()
    assert emit(system, 0) == 201
    statuses: list[int] = []

    def write(client: httpx.Client, number: int) -> None:
        while not stop.is_set():
            body = {"name": "made", "data": {"number": number}}
            statuses.append(client.post(f"{system.url}/api/v1/events", json=body).status_code)

    def new_client() -> httpx.Client:
        return httpx.Client(headers=system.api.headers, timeout=60, verify=False)

    stop = threading.Event()
    probe = new_client()
    threads = [threading.Thread(target=write, args=[new_client(), number]) for number in range(60)]
    with lock_writes(system, database_url):
        for thread in threads:
            thread.start()
        slowest = dict.fromkeys(("/healthz", "/readyz", "/metrics", "/api/v1/events", "/api/v1/registries"), 0.0)
        for _ in range(8):
            time.sleep(1)
            for path in slowest:
                started = time.monotonic()
                response = probe.get(f"{system.url}{path}")
                slowest[path] = max(slowest[path], time.monotonic() - started)
                assert response.status_code == 200 or path == "/readyz"
        stop.set()
    for thread in threads:
        thread.join(60)
    assert all(seconds < 2 for seconds in slowest.values()), slowest
    assert set(statuses) <= {201, 503}
    assert emit(system, 1) == 201
    until(lambda: httpx.get(f"{system.url}/readyz").status_code == 200, "the web process is ready again")


@contextmanager
def lock_writes(system: System, database_url: str | None) -> Iterator[None]:
    """Hold a lock that blocks every writer and no reader."""
    if database_url is None:
        with closing(sqlite3.connect(system.folder / "data" / "upshot.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
    else:
        with psycopg.connect(database_url) as connection:
            connection.execute("LOCK TABLE events IN SHARE MODE")
            yield
            connection.rollback()


def test_two_workers_with_different_clocks(
    make_system: Callable[..., System], receivers: Receivers, postgres: Postgres
) -> None:
    """A worker whose clock is an hour ahead does not take over what the other one is doing."""
    system = make_system(
        database_url=postgres.new_database(), automations={"forward.yaml": forward_automation(receivers.url)}
    )
    system.start_web()
    receivers.delay(1.5, path="/hook")
    path = os.pathsep.join([str(Path(__file__).with_name("skewed_clock")), *sys.path])
    system.start_worker("worker-1")
    system.start_worker("worker-2", PYTHONPATH=path, CLOCK_AHEAD_SECONDS="3600")
    for start in range(0, 60, 10):
        system.emit("made", *({"number": number} for number in range(start, start + 10)))
        time.sleep(0.5)
    assert_delivered_once(system, receivers, set(range(60)))
    assert all("attempt.finished" in system.log(name) for name in ("worker-1", "worker-2"))
    workers = system.api.get("/workers").json()["items"]
    assert sorted(round(worker["clock_skew_seconds"], -2) for worker in workers) == [0, 3600]
    metrics = httpx.get(f"{system.url}/metrics").text
    assert re.search(r"^upshot_workers_clock_skew_seconds 3[56]\d\d", metrics, re.MULTILINE)


def test_connections_to_the_database_that_die_silently(
    make_system: Callable[..., System], receivers: Receivers, postgres: Postgres
) -> None:
    """A firewall swallows everything on the open connections. Web process and worker are back within 30 seconds."""
    with TcpProxy(postgres.port) as proxy:
        system = make_system(
            database_url=postgres.new_database().replace(f":{postgres.port}/", f":{proxy.port}/"),
            automations={"forward.yaml": forward_automation(receivers.url)},
        )
        system.start_web()
        system.start_worker()
        assert emit(system, 0) == 201
        until(lambda: len(receivers.received("/hook")) == 1, "the first event is delivered")
        proxy.silence_connections()
        until(lambda: emit(system, 1) == 201, "mutations are accepted again", seconds=30)
        until(lambda: len(receivers.received("/hook")) > 1, "deliveries go on", seconds=30)
        assert system.is_alive("worker")
