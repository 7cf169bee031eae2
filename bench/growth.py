"""Measure a system whose database has a million events and executions: mutations, health, lists, and pruning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa

from bench.load import REGISTRY, Load
from bench.measures import percentile
from bench.system import BenchSystem
from upshot.adapters.sql.database import Database, DatabaseUrl, sqlite_url
from upshot.adapters.sql.schema import events, executions
from upshot.ids import first_id

_ROWS_PER_STATEMENT = 2_000
_OLD_DAYS, _NEW_DAYS = 120, 80  # half of the rows are older than the retention of 90 days
_COLLECTIONS, _AUTOMATIONS = 500, 200
_SAMPLES = 15
_NEVER = dict.fromkeys(("UPSHOT_EVENTS_DAYS", "UPSHOT_EXECUTIONS_DAYS"), "0") | {"UPSHOT_RECEIPTS_DAYS": "9999"}
_PRUNING_SECONDS = 30.0

_VERSION = {
    "name": "v0",
    "number": 0,
    "reference": "model/c-@C@:v0",
    "registry": "model",
    "collection": "c-@C@",
    "artifact": "fraud/net:v0",
    "aliases": ["latest", "production"],
    "tags": [],
    "description": "",
    "metadata": {"accuracy": 0.9, "format": "onnx", "layers": list(range(40))},
    "digest": "sha256:" + "0" * 64,
    "url": None,
}
_DOCUMENT: dict[str, Any] = {
    "id": "@ID@",
    "kind": "@K@",
    "name": None,
    "time": "2026-01-01T12:00:00.000000Z",
    "subject": "model/c-@C@:v0",
    "actor": {"name": "ann", "kind": "user"},
    "mutation_id": "mut_@I@",
    "sequence": 0,
    "chain": [],
    "data": {"version": _VERSION, "alias": "production", "previous": None, "automatic": False},
}
_STEPS = [{"id": "hook", "uses": "webhook", "phase": "main", "state": "succeeded", "attempt_count": 1}]
_RECEIPT = {
    "delivery_id": "dlv_1",
    "took_seconds": 0.25,
    "worker_id": "w1",
    "request": {"url": "https://x/" + "y" * 400},
}

# `i` is the number of the row. Integer division and `%` mean the same on both databases.
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last) SELECT i FROM n)",
    "postgresql": "(SELECT generate_series(cast(:first AS bigint), cast(:last AS bigint)) AS i)",
}
_PADDED = {"sqlite": "printf('%016d', i)", "postgresql": "lpad(cast(i AS text), 16, '0')"}
_KIND = "CASE WHEN i % 4 = 0 THEN 'custom' WHEN i % 4 = 1 THEN 'alias-removed' ELSE 'alias-added' END"
_STATE = "CASE WHEN i % 50 = 0 THEN 'failed' WHEN i % 500 = 1 THEN 'skipped' WHEN i % 5000 = 2 THEN 'waiting' ELSE 'succeeded' END"  # noqa: E501 - one expression
_FILL = (
    f"""INSERT INTO events (id, kind, name, subject, time, mutation_id, document, published_at, matched_at,
        subject_base, alias)
    SELECT :event || {{padded}}, {_KIND}, CASE WHEN i % 4 = 0 THEN 'custom-' || cast(i / 4 % 50 AS text) END,
        'model/c-' || cast(i % {_COLLECTIONS} AS text) || '\\:v0', :time, 'mut_' || cast(i AS text),
        replace(replace(replace(replace(:document, '@ID@', :event || {{padded}}), '@I@', cast(i AS text)),
            '@C@', cast(i % {_COLLECTIONS} AS text)), '@K@', {_KIND}),
        :time, :time, 'model/c-' || cast(i % {_COLLECTIONS} AS text), CASE WHEN i % 4 <> 0 THEN 'production' END
    FROM {{numbers}} AS numbers""",
    f"""INSERT INTO executions (id, automation, revision_id, event_id, state, due_at, created_at, finished_at, fence,
        steps)
    SELECT :execution || {{padded}}, 'automation-' || cast(i / 7 % {_AUTOMATIONS} AS text), '0123456789ab',
        :event || {{padded}}, {_STATE}, CASE WHEN i % 5000 = 2 AND i % 50 <> 0 THEN :never END, :time,
        CASE WHEN i % 5000 = 2 THEN NULL ELSE :time END, 1, :steps
    FROM {{numbers}} AS numbers""",
    """INSERT INTO receipts (execution_id, step_id, attempt, state, started_at, details)
    SELECT :execution || {padded}, 'hook', 1, 'succeeded', :time, :receipt FROM {numbers} AS numbers""",
    f"""INSERT INTO history (id, time, actor, action, subject, mutation_id, registry, collection, before, after)
    SELECT :history || {{padded}}, :time, 'ann', 'alias-added',
        'model/c-' || cast(i % {_COLLECTIONS} AS text) || '\\:v0', 'mut_' || cast(i AS text),
        'model', 'c-' || cast(i % {_COLLECTIONS} AS text), :after, :after
    FROM {{numbers}} AS numbers""",
)


@dataclass(frozen=True, slots=True)
class Growth:
    """Milliseconds beside many rows."""

    rows: int
    fill_seconds: float
    mutation_p50: float
    mutation_p99: float
    metrics: tuple[float, float]  #: median and worst
    readiness: tuple[float, float]
    lists: dict[str, tuple[float, float]]  #: median and worst by path
    pruning_stall: float  #: the longest mutation while old rows were removed
    pruning_p99: float
    pruned_per_second: float  #: events and executions


def fill(system: BenchSystem, rows: int) -> float:
    """Insert the rows into the database of a stopped system, and return the seconds that it took."""
    started = time.monotonic()
    database = Database(database_url(system))
    dialect = database.engine.dialect.name
    now = datetime.now(UTC)
    texts = {"numbers": _NUMBERS[dialect], "padded": _PADDED[dialect]}
    # Text columns have their types, so that a parameter in a SELECT list has a type on PostgreSQL.
    parameters = ("event", "execution", "history", "document", "steps", "receipt", "after")
    statements = [_typed(statement.format(**texts), parameters) for statement in _FILL]
    constants = {
        "document": orjson.dumps(_DOCUMENT).decode(),
        "steps": orjson.dumps(_STEPS).decode(),
        "receipt": orjson.dumps(_RECEIPT).decode(),
        "after": "{}",
        "never": _microseconds(now + timedelta(days=1000)),
    }
    for first in range(0, rows, _ROWS_PER_STATEMENT):
        part = first / rows
        at = now - (
            timedelta(days=_OLD_DAYS - 20 * part) if part < 0.5 else timedelta(days=_NEW_DAYS * (1.01 - part) * 2)
        )
        values = constants | {
            "first": first,
            "last": min(rows, first + _ROWS_PER_STATEMENT) - 1,
            "time": _microseconds(at),
            **{
                name: first_id(prefix, at)
                for name, prefix in (("event", "evt"), ("execution", "exe"), ("history", "his"))
            },
        }
        with database.engine.begin() as connection:
            for statement in statements:
                used = {name: values[name] for name in statement.compile().params}
                connection.execute(statement, used)
    if dialect == "postgresql":  # as its autovacuum does soon
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            connection.exec_driver_sql("CHECKPOINT")  # otherwise mutations wait while the disk writes these inserts
    database.close()
    return time.monotonic() - started


def database_url(system: BenchSystem) -> DatabaseUrl:
    """Return the address of the database of a system."""
    return system.environment.get("UPSHOT_DATABASE_URL") or sqlite_url(system.folder / "data" / "upshot.db")


def _typed(statement: str, text_parameters: Sequence[str]) -> sa.TextClause:
    for name in text_parameters:
        statement = statement.replace(f":{name}", f"cast(:{name} AS text)")
    for name in ("time", "never"):
        statement = statement.replace(f":{name}", f"cast(:{name} AS bigint)")
    return sa.text(statement)


def _microseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


async def measure_growth(system: BenchSystem, load: Load, *, rows: int, fill_seconds: float, seconds: float) -> Growth:
    """Measure the filled system without pruning, then while a worker prunes."""
    system.start_worker("worker-1", **_NEVER)
    await load.create_collections(["growth-0", "growth-1"])
    await _mutate(load, "growth-0", seconds=3)
    mutations = await _mutate(load, "growth-0", seconds=seconds)
    base = system.url
    metrics, readiness = [await _sample(load, f"{base}{path}") for path in ("/metrics", "/readyz")]
    lists = {path: await _sample(load, f"{base}/api/v1{path}") for path in _list_paths(rows)}
    system.stop("worker-1")

    before = _count(system)
    system.start_worker("worker-1")
    started = time.monotonic()
    pruning = await _mutate(load, "growth-1", seconds=_PRUNING_SECONDS)
    took = time.monotonic() - started
    pruned = before - _count(system)
    system.stop("worker-1")
    return Growth(
        rows=rows,
        fill_seconds=fill_seconds,
        mutation_p50=percentile(mutations, 50),
        mutation_p99=percentile(mutations, 99),
        metrics=metrics,
        readiness=readiness,
        lists=lists,
        pruning_stall=pruning[-1],
        pruning_p99=percentile(pruning, 99),
        pruned_per_second=pruned / took,
    )


def _list_paths(rows: int) -> list[str]:
    """Return the first page of every list, with every filter: a value that is common, rare, or not there."""
    event = first_id("evt", datetime.now(UTC) - timedelta(days=40)).ljust(30, "0")
    return [
        "/events",
        "/events?kind=alias-added",
        "/events?kind=custom",
        "/events?kind=job-failed",
        "/events?name=custom-7",
        "/events?name=none",
        "/events?subject=model/c-7",
        "/events?subject=model/c-7:v0",
        "/events?subject=model/none",
        f"/events?mutation_id=mut_{rows // 2}",
        f"/events?after={event}",
        f"/events?after={event}&subject=model/c-7",
        "/events?kind=custom&subject=model/c-8",
        "/executions",
        *(
            f"/executions?state={state}"
            for state in ("waiting", "running", "succeeded", "failed", "cancelled", "skipped")
        ),
        "/executions?automation=automation-7",
        "/executions?automation=none",
        "/executions?automation=automation-7&state=failed",
        "/executions?automation=automation-7&state=cancelled",
        f"/executions?event_id={event}",
        "/jobs",
        "/jobs?state=failed",
        "/jobs?queue=default",
        "/history",
        f"/registries/{REGISTRY}/history",
        f"/registries/{REGISTRY}/collections/growth-0/history",
        "/registries",
        f"/registries/{REGISTRY}/collections",
        f"/registries/{REGISTRY}/collections/growth-0/versions",
        "/projects/bench/artifacts",
        "/automations",
        "/workers",
    ]


async def _mutate(load: Load, collection: str, *, seconds: float, per_second: float = 20) -> list[float]:
    """Start mutations at a steady rate, and return the milliseconds that each took, in order of duration."""
    took: list[float] = []

    async def mutate(number: int) -> None:
        started = time.monotonic()
        await load.add_alias(collection, f"tag-g-{number % 20}")
        took.append((time.monotonic() - started) * 1000)

    start = time.monotonic()
    async with asyncio.TaskGroup() as mutations:
        for number in range(int(seconds * per_second)):
            await asyncio.sleep(start + number / per_second - time.monotonic())
            mutations.create_task(mutate(number))
    return sorted(took)


async def _sample(load: Load, url: str) -> tuple[float, float]:
    """Return the median and the worst of the milliseconds that the response takes. The first one is not counted."""
    took = []
    for _ in range(_SAMPLES + 1):
        started = time.monotonic()
        await load.get(url)
        took.append((time.monotonic() - started) * 1000)
    took = sorted(took[1:])
    return percentile(took, 50), took[-1]


def _count(system: BenchSystem) -> int:
    """Return the number of events and executions."""
    database = Database(database_url(system))
    counts = [sa.select(sa.func.count()).select_from(table) for table in (events, executions)]
    number: int = database.read(lambda connection: sum(connection.execute(count).scalar_one() for count in counts))
    database.close()
    return number
