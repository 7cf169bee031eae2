"""A house on a real SQLite file (or in memory), answered by a real server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from upshot.adapters.memory.idempotency import MemoryIdempotency
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.idempotency import SqlIdempotency
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.schema import metadata
from upshot.adapters.sql.workers import SqlBacklog, SqlWorkers
from upshot.clock import FrozenClock
from upshot.domain.automation import Automation
from upshot.domain.event import Event
from upshot.errors import AutomationInvalid
from upshot.registry.service import Registry
from upshot.settings import Settings
from upshot.web.app import create_app
from upshot.web.house import House
from upshot.web.listening import listen, url_of

API = "/api/v1"
COLLECTIONS = f"{API}/registries/model/collections"
CHURN = f"{COLLECTIONS}/churn"


class SilentPublisher:
    """A stream that is away; the relay would publish later."""

    def publish(self, events: Sequence[Event]) -> bool:
        """Not taken."""
        return False


@dataclass
class Loaded:
    """A folder of automations, as if it had been read."""

    automations: Sequence[Automation] = ()
    broken: Sequence[AutomationInvalid] = ()
    misses: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def current(self) -> Loaded:
        """As it was last read."""
        return self

    @property
    def matcher(self) -> Loaded:
        """Says what was set."""
        return self

    def explain(self, event: Event) -> Mapping[str, str | None]:
        """What was set."""
        return self.misses

    def refresh(self) -> None:
        """Nothing to read."""


class Bell:
    """Remembers who was rung for."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, execution_ids: Sequence[str]) -> bool:
        """Taken."""
        self.rung += execution_ids
        return True


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path / "upshot.db"))
    metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
def executions(database: Database) -> SqlExecutions:
    return SqlExecutions(database)


@pytest.fixture
def house(database: Database, clock: FrozenClock, executions: SqlExecutions) -> House:
    """A house without a token, on loopback."""
    return House(
        settings=Settings(host="127.0.0.1"),
        clock=clock,
        registry=Registry(SqlRegistry(database), SilentPublisher(), clock),
        events=SqlEvents(database),
        executions=executions,
        doorbell=Bell(),
        automations=Loaded(),
        backlog=SqlBacklog(database),
        workers=SqlWorkers(database),
        idempotency=SqlIdempotency(database),
        database_answers=lambda: True,
        redis_answers=lambda: True,
    )


@contextmanager
def running(house: House) -> Iterator[httpx.Client]:
    """A client of a server that answers for the house."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(house), loop="uvloop", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=url_of(listener), timeout=20, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def serve(house: House) -> Serve:
    """`with serve(token=…, automations=…) as client`: settings and parts other than the usual ones."""

    def with_changes(**changes: Any) -> AbstractContextManager[httpx.Client]:
        parts = {name: changes.pop(name) for name in list(changes) if hasattr(house, name)}
        settings = Settings(**{"host": "127.0.0.1", **changes})
        return running(replace(house, settings=settings, **parts))

    return with_changes


@pytest.fixture
def web(house: House) -> Iterator[httpx.Client]:
    """A client of a server without a token."""
    with running(house) as client:
        yield client


@pytest.fixture
def churn(web: httpx.Client) -> httpx.Client:
    """The same, with `model/churn:v0` linked to `demo/churn:v0`, which holds `candidate`."""
    made(web.post(f"{API}/projects/demo/artifacts", json={"name": "churn", "type": "model", "digest": "sha256:0"}))
    made(web.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0", "aliases": ["candidate"]}))
    return web


def made(response: httpx.Response) -> Any:
    """What a request that must succeed has given."""
    assert response.is_success, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem that a request that must fail has given, with the members that every problem has."""
    form: dict[str, Any] = response.json()
    assert (response.status_code, form["type"]) == (status, f"urn:upshot:problem:{kind}"), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert form["status"] == status
    assert form["title"]
    assert form["detail"]
    for word in ("Traceback", "sqlite", "psycopg", "SELECT", "INSERT", ".py"):
        assert word not in response.text
    return form


__all__ = ["API", "CHURN", "COLLECTIONS", "Bell", "Loaded", "MemoryIdempotency", "Serve", "made", "problem", "running"]
