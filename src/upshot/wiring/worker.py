"""A worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.actions.protocol import Action, Tools
from upshot.adapters.egress import GuardedEgress
from upshot.adapters.redis import RedisFeed, RedisPublisher
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.adapters.sql.workers import SqlWorkers
from upshot.automations.folder import AutomationFolder
from upshot.automations.loader import rebuild
from upshot.clock import Clock, SystemClock
from upshot.engine.admission import Reception
from upshot.engine.attempt import Bench
from upshot.engine.compiled import Book
from upshot.engine.executor import Engine
from upshot.engine.in_force import InForce
from upshot.ports.calls import Offload
from upshot.ports.secrets import SecretSource
from upshot.registry.service import Registry
from upshot.settings import Settings
from upshot.wiring.parts import base_url, make_registry, make_secrets, open_database, redis_url


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
        registry=make_registry(settings, database, publisher, clock),
        secrets=make_secrets(settings),
    )
