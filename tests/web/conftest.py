"""The web application over stores in memory or on SQLite, behind a real server on loopback."""

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
from upshot.adapters.memory.access import MemorySessions, MemoryTokens
from upshot.adapters.memory.automation_sets import MemoryAutomationSets
from upshot.adapters.memory.blobs import MemoryBlobFiles, MemoryBlobs
from upshot.adapters.memory.counters import MemoryCounters
from upshot.adapters.memory.deliveries import MemoryDeliveries
from upshot.adapters.memory.destinations import MemoryDestinations
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.idempotency import MemoryIdempotency
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.revisions import MemoryRevisions
from upshot.adapters.memory.workers import MemoryWorkers
from upshot.adapters.sql.access import SqlSessions, SqlTokens
from upshot.adapters.sql.blobs import SqlBlobs
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.destinations import SqlDestinations
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.idempotency import SqlIdempotency
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.jobs import SqlJobs
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.schema import metadata
from upshot.adapters.sql.workers import SqlBacklog, SqlWorkers
from upshot.automations.folder import AutomationFolder
from upshot.blobs.service import Blobs
from upshot.clock import Clock, FrozenClock
from upshot.domain.event import Event
from upshot.errors import Unavailable
from upshot.logs import configure
from upshot.net import listen, url_of
from upshot.ports.access import SessionStore, TokenStore
from upshot.ports.blobs import BlobIndex
from upshot.ports.destinations import DestinationStore
from upshot.ports.events import EventStore
from upshot.ports.idempotency import IdempotencyStore
from upshot.ports.jobs import Installation, JobAdmin, JobStore
from upshot.ports.registry import RegistryStore
from upshot.ports.workers import Backlog, BacklogStore, Totals, WaitKind, WorkerStore
from upshot.registry.service import Registry
from upshot.schema.queues import JobsConfig
from upshot.settings import Settings
from upshot.web.app import create_app
from upshot.web.dependencies import WebDependencies
from upshot.web.serve import server_config

API = "/api/v1"
BASE_URL = "https://upshot.example.com"
COLLECTIONS = f"{API}/registries/model/collections"
CHURN = f"{COLLECTIONS}/churn"


class DroppingPublisher:
    """A stream that accepts no event, as if Redis were unavailable."""

    def publish(self, events: Sequence[Event]) -> bool:
        """Publish nothing."""
        return False


class RecordingNotifier:
    """A notifier that records the executions that it is called for."""

    def __init__(self) -> None:
        self.notified: list[str] = []

    def notify_executions(self, execution_ids: Sequence[str]) -> bool:
        """Record the ids."""
        self.notified += execution_ids
        return True


class StubBacklog:
    """A backlog with fixed counts."""

    def measure(self, now: datetime) -> Backlog:
        """Return the counts."""
        return Backlog(1, now, 0, None)

    def count(self) -> Totals:
        """Return the counts of everything."""
        return Totals(3, {"waiting": 1, "failed": 0}, {"queued": 2, "running": 0}, {"gpu": 2}, {WaitKind.JOB: 1})


@dataclass(frozen=True)
class UnavailableStore:
    """A store in a database that does not answer."""

    message: str = "the database does not answer"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise Unavailable(self.message)

        return fail


@dataclass(frozen=True)
class Stores:
    """The stores behind the web application."""

    registry: RegistryStore
    events: EventStore
    executions: MemoryExecutions | SqlExecutions
    jobs: JobStore
    job_admin: JobAdmin
    workers: WorkerStore
    destinations: DestinationStore
    backlog: BacklogStore
    idempotency: IdempotencyStore
    blobs: BlobIndex
    tokens: TokenStore
    sessions: SessionStore


def memory_stores() -> Stores:
    """Return stores in memory."""
    events = MemoryEvents()
    executions = MemoryExecutions(events)
    jobs = MemoryJobs(executions)
    blobs = MemoryBlobs()
    tokens = MemoryTokens()
    return Stores(
        tokens=tokens,
        sessions=MemorySessions(tokens),
        blobs=blobs,
        registry=MemoryRegistry(events, blobs),
        events=events,
        executions=executions,
        jobs=jobs,
        job_admin=jobs,
        workers=MemoryWorkers(),
        destinations=MemoryDestinations(executions),
        backlog=StubBacklog(),
        idempotency=MemoryIdempotency(),
    )


def sql_stores(database: Database) -> Stores:
    """Return stores in one database."""
    return Stores(
        tokens=SqlTokens(database),
        sessions=SqlSessions(database),
        blobs=SqlBlobs(database),
        registry=SqlRegistry(database),
        events=SqlEvents(database),
        executions=SqlExecutions(database),
        jobs=SqlJobs(database),
        job_admin=SqlJobAdmin(database),
        workers=SqlWorkers(database),
        destinations=SqlDestinations(database),
        backlog=SqlBacklog(database),
        idempotency=SqlIdempotency(database),
    )


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite file with empty tables, for tests to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    database = Database(sqlite_url(path))
    metadata.create_all(database.engine)
    database.close()
    return path


@pytest.fixture
def sqlite_stores(tmp_path: Path, empty_sqlite: Path) -> Iterator[Stores]:
    """Return stores in an SQLite file."""
    path = tmp_path / "upshot.db"
    shutil.copy(empty_sqlite, path)
    database = Database(sqlite_url(path))
    yield sql_stores(database)
    database.close()


@pytest.fixture
def stores() -> Stores:
    """Return stores in memory. Modules that need a database override this fixture."""
    return memory_stores()


PROMOTE = dedent(
    """\
    name: promote
    description: Says that production moved.
    on:
      alias-added: {alias: production}
    steps:
      - id: say
        name: Say so
        uses: emit
        with: {name: promoted}
    """
)


@pytest.fixture
def automations(tmp_path: Path) -> AutomationFolder:
    """Return a directory with one automation, one that is disabled, and a broken file."""
    path = tmp_path / "automations"
    path.mkdir()
    (path / "promote.yaml").write_text(PROMOTE)
    (path / "off.yaml").write_text(PROMOTE.replace("promote", "switched-off") + "enabled: false\n")
    (path / "broken.yaml").write_text("name: broken\non: alias-added\nsteps:\n  - uses: slak\n")
    return AutomationFolder(path, load_catalog())


def make_deps(stores: Stores, clock: Clock, automations: AutomationFolder, **changes: Any) -> WebDependencies:
    """Return the dependencies of a server without a token on loopback."""
    deps = WebDependencies(
        settings=Settings(host="127.0.0.1"),
        clock=clock,
        base_url=BASE_URL,
        registry=Registry(stores.registry, DroppingPublisher(), clock, base_url=BASE_URL),
        blobs=Blobs(stores.blobs, MemoryBlobFiles(), clock),
        events=stores.events,
        executions=stores.executions,
        revisions=MemoryRevisions(),
        automation_sets=MemoryAutomationSets(),
        jobs=stores.job_admin,
        jobs_config=JobsConfig(),
        installation=Installation("ins_1", bytes(range(32))),
        notifier=RecordingNotifier(),
        automations=automations,
        backlog=stores.backlog,
        counters=MemoryCounters(),
        deliveries=MemoryDeliveries(),
        workers=stores.workers,
        destinations=stores.destinations,
        idempotency=stores.idempotency,
        tokens=stores.tokens,
        sessions=stores.sessions,
        ping_database=lambda: True,
        ping_redis=lambda: True,
    )
    return replace(deps, **changes)


@pytest.fixture
def deps(stores: Stores, clock: FrozenClock, automations: AutomationFolder) -> WebDependencies:
    return make_deps(stores, clock, automations)


class AppServer:
    """A real server for an application that tests exchange. It starts once, because starting takes a while."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._listener = listen("127.0.0.1", 0)
        self._server = uvicorn.Server(server_config(self, Settings()))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the current application."""
        assert self._app, "no application is being served"
        await self._app(scope, receive, send)

    @contextmanager
    def serving(self, deps: WebDependencies) -> Iterator[httpx.Client]:
        """Serve an application with these dependencies, and yield a client."""
        previous, self._app = self._app, create_app(deps)
        try:
            with httpx.Client(base_url=url_of(self._listener), timeout=20, trust_env=False, verify=False) as client:
                yield client
        finally:
            self._app = previous

    def stop(self) -> None:
        """Stop the server."""
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="session")
def server() -> Iterator[AppServer]:
    configure("warning", "text")
    server = AppServer()
    yield server
    server.stop()


Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def serve(server: AppServer, deps: WebDependencies) -> Serve:
    """Return a function that serves with other settings (`token=…`) or dependencies (`registry=…`)."""

    def serve_with(**changes: Any) -> AbstractContextManager[httpx.Client]:
        other = {name: changes.pop(name) for name in list(changes) if hasattr(deps, name)}
        settings = Settings(**{"host": "127.0.0.1", **changes})
        return server.serving(replace(deps, settings=settings, **other))

    return serve_with


@pytest.fixture
def web(server: AppServer, deps: WebDependencies) -> Iterator[httpx.Client]:
    """Return a client of a server without a token."""
    with server.serving(deps) as client:
        yield client


@pytest.fixture
def churn(web: httpx.Client) -> httpx.Client:
    """Return the client, with `demo/churn:v0` linked as `model/churn:v0`, which has the alias `candidate`."""
    artifact = {"name": "churn", "artifact_type": "model", "digest": "sha256:0"}
    ok_json(web.post(f"{API}/projects/demo/artifacts", json=artifact))
    ok_json(web.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0", "aliases": ["candidate"]}))
    return web


def ok_json(response: httpx.Response) -> Any:
    """Return the JSON of a response, which must be a success."""
    assert response.is_success, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Return the problem in a response, which must have this status and kind."""
    data: dict[str, Any] = response.json()
    assert (response.status_code, data["type"]) == (status, f"urn:upshot:problem:{kind}"), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert data["status"] == status
    assert data["title"]
    assert data["detail"]
    for word in ("Traceback", "sqlite", "psycopg", "SELECT", "INSERT", ".py"):
        assert word not in response.text
    return data
