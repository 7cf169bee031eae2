"""Runs that log while the processes of the server are killed."""

import itertools
import time

import httpx
import sqlalchemy as sa

from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.schema import run_log_entries

RUN = "/projects/demo/runs/ab12cd34"
ROWS = 20  # of one request
REQUESTS = 50


def send(system, method, path, body):
    """Send a request, again and again while the server does not answer."""
    for _ in range(400):
        try:
            response = system.api.request(method, path, json=body)
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        if response.status_code < 500:
            return response
        time.sleep(0.05)
    raise AssertionError(f"{method} {path}: no answer")


def test_every_point_is_there_once_after_kills(make_system, database_url):
    """Requests are repeated after a kill, entries are packed meanwhile, and nothing is lost or doubled."""
    system = make_system(database_url=database_url, automations={})
    system.start_web()
    system.start_worker("worker-1")
    assert send(system, "PUT", RUN, {"session": "s"}).is_success
    kills = itertools.cycle(["web", "worker-1"])
    for number in range(REQUESTS):
        first = number * ROWS
        rows = [
            {"step": step, "time": 1_700_000_000 + step, "values": {"loss": step / 3, "step": step}}
            for step in range(first, first + ROWS)
        ]
        answer = send(system, "POST", f"{RUN}/log", {"session": "s", "sequence": number, "rows": rows})
        assert answer.json()["next_sequence"] == number + 1, answer.text
        if number % 20 == 10:
            name = next(kills)
            system.kill(name)
            if name == "web":
                system.start_web()
            else:
                system.start_worker(name)
    assert send(system, "POST", f"{RUN}/finish", {"exit_code": 0, "session": "s"}).is_success
    steps = list(range(REQUESTS * ROWS))

    def read():
        found = system.api.get(f"{RUN}/series", params={"key": "loss", "limit": 10_000}).json()
        rows = system.api.get(f"{RUN}/history", params={"limit": 10_000}).json()["items"]
        assert found["steps"] == [row["_step"] for row in rows] == steps
        assert found["values"] == [step / 3 for step in steps]
        assert [row["step"] for row in rows] == steps

    read()
    database = Database(database_url or sqlite_url(system.folder / "data" / "upshot.db"))
    entries = sa.select(sa.func.count()).select_from(run_log_entries)
    deadline = time.monotonic() + 60
    while database.read(lambda connection: connection.execute(entries).scalar_one()):
        assert time.monotonic() < deadline, "the entries are not packed"
        read()
        time.sleep(0.5)
    database.close()
    read()
