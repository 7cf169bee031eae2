"""Settings to object graph: the only file that sees everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from socket import gethostname

import structlog

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.actions.protocol import Action, Tools
from upshot.adapters.egress import GuardedEgress
from upshot.adapters.redis import RedisFeed, RedisPublisher, check_redis_url, redis_answers
from upshot.adapters.secrets import CombinedSecrets, EnvironmentSecrets, FolderSecrets
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.idempotency import SqlIdempotency
from upshot.adapters.sql.migrate import migrate
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.adapters.sql.workers import SqlBacklog, SqlWorkers
from upshot.automations.folder import AutomationFolder
from upshot.automations.loader import rebuild
from upshot.clock import Clock, SystemClock
from upshot.engine.admission import Reception
from upshot.engine.attempt import Bench
from upshot.engine.compiled import Book
from upshot.engine.executor import Engine
from upshot.engine.in_force import InForce
from upshot.errors import ConfigError
from upshot.ports import Offload, SecretSource
from upshot.registry.service import Registry
from upshot.settings import Settings
from upshot.web.house import House

log = structlog.get_logger("upshot")

_ALL_ADDRESSES = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


def database_url(settings: Settings) -> str:
    """The database that the settings name, or the data folder's SQLite file."""
    return settings.database_url or sqlite_url(settings.sqlite_path.absolute())


def open_database(settings: Settings) -> Database:
    """
    Open the database, its schema brought up to date.

    Raises:
        ConfigError: The URL cannot be used, or the schema is newer than this release.
        Unavailable: It does not answer.
    """
    if settings.database_url is None:
        settings.data.mkdir(parents=True, exist_ok=True)
    database = Database(database_url(settings))
    migrate(database)
    return database


def redis_url(settings: Settings) -> str:
    """
    The Redis that the settings name.

    Raises:
        ConfigError: None is named, or its URL cannot be used.
    """
    if settings.redis_url is None:
        raise ConfigError("UPSHOT_REDIS_URL is not set; name a Redis, or use `upshot up`, which runs its own")
    return check_redis_url(settings.redis_url)


def make_secrets(settings: Settings) -> SecretSource:
    """Secrets from the environment first, then from the folder."""
    sources: list[SecretSource] = [EnvironmentSecrets()]
    if settings.secrets_dir is not None:
        sources.append(FolderSecrets(settings.secrets_dir))
    return CombinedSecrets(sources)


def base_url(settings: Settings) -> str:
    """Where people reach the web process; one that listens on all addresses, by this machine's name."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = gethostname() if settings.host in _ALL_ADDRESSES else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def build_web(settings: Settings) -> House:
    """Everything that the web process is made of; raises as `open_database` and `redis_url` do."""
    url = redis_url(settings)
    database = open_database(settings)
    clock = SystemClock()
    return House(
        settings=settings,
        clock=clock,
        registry=_registry(settings, database, RedisPublisher(url), clock),
        events=SqlEvents(database),
        executions=SqlExecutions(database),
        doorbell=None,  # what a person sets going, the workers' sweepers find within a second
        automations=AutomationFolder(settings.automations, load_catalog(EgressRules.parse(settings.egress_allow))),
        backlog=SqlBacklog(database),
        workers=SqlWorkers(database),
        idempotency=SqlIdempotency(database),
        database_answers=database.answers,
        redis_answers=partial(redis_answers, url),
    )


def _registry(settings: Settings, database: Database, publisher: RedisPublisher, clock: Clock) -> Registry:
    return Registry(SqlRegistry(database), publisher, clock, base_url=base_url(settings))


@dataclass(frozen=True, slots=True)
class WorkerHouse:
    """Everything that a worker process is made of."""

    settings: Settings
    worker: str
    redis_url: str
    clock: Clock
    database: Database
    executions: SqlExecutions
    events: SqlEvents
    workers: SqlWorkers
    revisions: SqlRevisions
    publisher: RedisPublisher
    feed: RedisFeed
    automations: InForce
    catalog: Mapping[str, Action]
    egress: GuardedEgress
    registry: Registry
    secrets: SecretSource

    def make_engine(self, offload: Offload) -> tuple[Engine, Reception]:
        """The engine and its reception, on the running loop."""
        settings = self.settings
        bench = Bench(
            worker=self.worker,
            tools=Tools(
                egress=self.egress,
                registry=self.registry,
                github_api_url=settings.github_api_url,
                slack_api_url=settings.slack_api_url,
            ),
            secrets=self.secrets,
            clock=self.clock,
            event_source=base_url(settings),
        )
        engine = Engine(
            bench=bench,
            executions=self.executions,
            events=self.events,
            publisher=self.publisher,
            book=Book(self.catalog, self.revisions, partial(rebuild, catalog=self.catalog)),
            offload=offload,
            in_flight=settings.worker_in_flight,
            lease=timedelta(seconds=settings.lease_seconds),
        )
        return engine, Reception(engine, self.automations.matcher, self.clock)

    async def close(self) -> None:
        """Hang up everywhere."""
        await self.egress.close()
        self.publisher.close()


def build_worker(settings: Settings, worker: str) -> WorkerHouse:
    """Everything that a worker process is made of; raises as `open_database` and `redis_url` do."""
    url = redis_url(settings)
    database = open_database(settings)
    clock = SystemClock()
    rules = EgressRules.parse(settings.egress_allow)
    catalog = load_catalog(rules)
    revisions = SqlRevisions(database)
    publisher = RedisPublisher(url)
    return WorkerHouse(
        settings=settings,
        worker=worker,
        redis_url=url,
        clock=clock,
        database=database,
        executions=SqlExecutions(database),
        events=SqlEvents(database),
        workers=SqlWorkers(database),
        revisions=revisions,
        publisher=publisher,
        feed=RedisFeed(url, worker),
        automations=InForce(AutomationFolder(settings.automations, catalog), revisions, clock),
        catalog=catalog,
        egress=GuardedEgress(rules, destination_in_flight=settings.destination_in_flight),
        registry=_registry(settings, database, publisher, clock),
        secrets=make_secrets(settings),
    )
