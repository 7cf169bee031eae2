"""A house in memory, or on a real SQLite file, answered by a real server on loopback."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions, MemoryWorkers
from upshot.adapters.memory.idempotency import MemoryIdempotency
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.idempotency import SqlIdempotency
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.jobs import SqlJobs
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.schema import metadata
from upshot.adapters.sql.workers import SqlBacklog, SqlWorkers
from upshot.automations.folder import AutomationFolder
from upshot.clock import FrozenClock
from upshot.domain.event import Event
from upshot.logs import configure
from upshot.net import listen, url_of
from upshot.ports.events import EventStore
from upshot.ports.idempotency import IdempotencyStore
from upshot.ports.jobs import Installation, JobAdmin, JobStore
from upshot.ports.registry import RegistryStore
from upshot.ports.workers import Backlog, BacklogStore, WorkerStore
from upshot.registry.service import Registry
from upshot.schema.queues import JobsConfig
from upshot.settings import Settings
from upshot.web.app import create_app
from upshot.web.dependencies import WebDependencies

API = "/api/v1"
COLLECTIONS = f"{API}/registries/model/collections"
CHURN = f"{COLLECTIONS}/churn"


class SilentPublisher:
    """A stream that is away; the relay would publish later."""

    def publish(self, events: Sequence[Event]) -> bool:
        """Not taken."""
        return False


class Bell:
    """Remembers who was rung for."""

    def __init__(self) -> None:
        self.notified: list[str] = []

    def notify_executions(self, execution_ids: Sequence[str]) -> bool:
        """Taken."""
        self.notified += execution_ids
        return True


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


class QuietBacklog:
    """`BacklogStore` that has little to say."""

    def measure(self, now: datetime) -> Backlog:
        """One execution waits."""
        return Backlog(3, 1, now, {"waiting": 1, "failed": 0}, 0, None, {"queued": 2, "running": 0}, {"gpu": 2})


@dataclass(frozen=True)
class Stores:
    """Where the house keeps things."""

    registry: RegistryStore
    events: EventStore
    executions: MemoryExecutions | SqlExecutions
    jobs: JobStore
    job_desk: JobAdmin
    workers: WorkerStore
    backlog: BacklogStore
    idempotency: IdempotencyStore


def memory_stores() -> Stores:
    """Everything in memory."""
    events = MemoryEvents()
    executions = MemoryExecutions(events)
    jobs = MemoryJobs(executions)
    return Stores(
        registry=MemoryRegistry(events),
        events=events,
        executions=executions,
        jobs=jobs,
        job_desk=jobs,
        workers=MemoryWorkers(),
        backlog=QuietBacklog(),
        idempotency=MemoryIdempotency(),
    )


def sql_stores(database: Database) -> Stores:
    """Everything in one database."""
    return Stores(
        registry=SqlRegistry(database),
        events=SqlEvents(database),
        executions=SqlExecutions(database),
        jobs=SqlJobs(database),
        job_desk=SqlJobAdmin(database),
        workers=SqlWorkers(database),
        backlog=SqlBacklog(database),
        idempotency=SqlIdempotency(database),
    )


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables and nothing in them, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    database = Database(sqlite_url(path))
    metadata.create_all(database.engine)
    database.close()
    return path


@pytest.fixture
def sqlite_stores(tmp_path: Path, empty_sqlite: Path) -> Iterator[Stores]:
    """Everything in an SQLite file."""
    path = tmp_path / "upshot.db"
    shutil.copy(empty_sqlite, path)
    database = Database(sqlite_url(path))
    yield sql_stores(database)
    database.close()


@pytest.fixture
def stores() -> Stores:
    """Memory, unless a module says otherwise."""
    return memory_stores()


@pytest.fixture
def folder(tmp_path: Path) -> AutomationFolder:
    """A folder with one automation, one that is switched off, and a broken file."""
    path = tmp_path / "automations"
    path.mkdir()
    (path / "promote.yaml").write_text(PROMOTE)
    (path / "off.yaml").write_text(PROMOTE.replace("promote", "switched-off") + "enabled: false\n")
    (path / "broken.yaml").write_text("name: broken\non: alias-added\nsteps:\n  - uses: slak\n")
    return AutomationFolder(path, load_catalog(EgressRules.parse("")))


PROMOTE = dedent(
    """\
    name: promote
    description: Says that production moved.
    on:
      alias-added: {alias: production}
    steps:
      - id: say
        uses: emit
        with: {name: promoted}
    """
)


@pytest.fixture
def house(stores: Stores, clock: FrozenClock, folder: AutomationFolder) -> WebDependencies:
    """A house without a token, on loopback."""
    return WebDependencies(
        settings=Settings(host="127.0.0.1"),
        clock=clock,
        registry=Registry(stores.registry, SilentPublisher(), clock),
        events=stores.events,
        executions=stores.executions,
        jobs=stores.job_desk,
        book=JobsConfig(),
        installation=Installation("ins_1", bytes(range(32))),
        doorbell=Bell(),
        automations=folder,
        backlog=stores.backlog,
        workers=stores.workers,
        idempotency=stores.idempotency,
        database_answers=lambda: True,
        redis_answers=lambda: True,
    )


class Host:
    """A real server whose application can be exchanged; one for all tests, since starting it takes a while."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._listener = listen("127.0.0.1", 0)
        config = uvicorn.Config(
            self, loop="uvloop", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on to the application of the moment."""
        assert self._app, "no house is being served"
        await self._app(scope, receive, send)

    @contextmanager
    def serving(self, house: WebDependencies) -> Iterator[httpx.Client]:
        """A client while the server answers for the house."""
        before, self._app = self._app, create_app(house)
        try:
            with httpx.Client(base_url=url_of(self._listener), timeout=20, trust_env=False, verify=False) as client:
                yield client
        finally:
            self._app = before

    def stop(self) -> None:
        """Let the server end."""
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="session")
def server() -> Iterator[Host]:
    configure("warning", "text")
    host = Host()
    yield host
    host.stop()


Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def serve(server: Host, house: WebDependencies) -> Serve:
    """Gives a client of a house with other settings (`token=…`) or parts (`registry=…`) than the usual ones."""

    def with_changes(**changes: Any) -> AbstractContextManager[httpx.Client]:
        parts = {name: changes.pop(name) for name in list(changes) if hasattr(house, name)}
        settings = Settings(**{"host": "127.0.0.1", **changes})
        return server.serving(replace(house, settings=settings, **parts))

    return with_changes


@pytest.fixture
def web(server: Host, house: WebDependencies) -> Iterator[httpx.Client]:
    """A client of a server without a token."""
    with server.serving(house) as client:
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
