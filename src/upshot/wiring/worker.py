"""A worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from socket import gethostname

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.actions.protocol import Action, ActionContext
from upshot.adapters.egress import GuardedEgress
from upshot.adapters.redis import RedisEventStream, RedisPublisher
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.installation import SqlInstallation
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.jobs import SqlJobs
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.adapters.sql.workers import SqlWorkers
from upshot.automations.active import ActiveAutomations
from upshot.automations.folder import AutomationFolder
from upshot.automations.loader import rebuild
from upshot.backends.catalog import make_backends
from upshot.backends.protocol import Backend
from upshot.clock import Clock, SystemClock
from upshot.errors import ConfigError
from upshot.execution.admission import Admitter
from upshot.execution.attempt import ExecutorContext
from upshot.execution.compiled import RevisionCache
from upshot.execution.executor import Executor
from upshot.jobs.container_request import ContainerRequestBuilder
from upshot.jobs.supervisor import JobSupervisor, SupervisorSettings
from upshot.jobs.version_metrics import VersionMetricsWriter
from upshot.ports.concurrency import RunInThread
from upshot.ports.jobs import Installation
from upshot.ports.messaging import JobNotifier, Notifier
from upshot.ports.secrets import SecretSource
from upshot.registry.service import Registry
from upshot.schema.queues import JobsConfig
from upshot.settings import Settings
from upshot.wiring.jobs_file import read_queue_book
from upshot.wiring.parts import (
    base_url,
    find_installation,
    jobs_url,
    make_registry,
    make_secrets,
    open_database,
    redis_url,
)

EVENTS = "events"  #: among the queues that a worker takes: it answers events


@dataclass(frozen=True, slots=True)
class WorkerDependencies:
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
    feed: RedisEventStream
    automations: ActiveAutomations
    catalog: Mapping[str, Action]
    egress: GuardedEgress
    registry: Registry
    secrets: SecretSource
    jobs: SqlJobs
    job_desk: SqlJobAdmin
    book: JobsConfig
    backends: Mapping[str, Backend]
    installation: Installation

    @property
    def answers_events(self) -> bool:
        """It takes events and executions, not jobs alone."""
        return not self.settings.queues or EVENTS in self.takes

    @property
    def takes(self) -> tuple[str, ...]:
        """What it takes: queues of jobs, and `events`."""
        return tuple(self.settings.queues.split(",")) if self.settings.queues else (EVENTS, *sorted(self.book.queues))

    @property
    def queues(self) -> frozenset[str]:
        """The queues of jobs that it takes."""
        return frozenset(self.takes) - {EVENTS}

    def make_engine(self, run_in_thread: RunInThread, job_bell: JobNotifier) -> tuple[Executor, Admitter]:
        """The engine and its reception, on the running loop."""
        settings = self.settings
        bench = ExecutorContext(
            worker_id=self.worker,
            tools=ActionContext(
                egress=self.egress,
                registry=self.registry,
                github_api_url=settings.github_api_url,
                slack_api_url=settings.slack_api_url,
                jobs=self.job_desk,
            ),
            secrets=self.secrets,
            clock=self.clock,
            event_source=base_url(settings),
        )
        engine = Executor(
            bench=bench,
            executions=self.executions,
            events=self.events,
            publisher=self.publisher,
            book=RevisionCache(self.catalog, self.revisions, partial(rebuild, catalog=self.catalog)),
            run_in_thread=run_in_thread,
            in_flight=settings.worker_in_flight,
            lease=timedelta(seconds=settings.lease_seconds),
            job_bell=job_bell,
        )
        return engine, Admitter(engine, self.automations.matcher, self.clock)

    def make_keeper(self, run_in_thread: RunInThread, doorbell: Notifier) -> JobSupervisor:
        """The keeper of jobs, on the running loop."""
        settings = self.settings
        return JobSupervisor(
            SupervisorSettings(
                worker_id=self.worker,
                machine=self.machine,
                queues=self.queues,
                lease=timedelta(seconds=settings.lease_seconds),
                lost_after=timedelta(seconds=settings.jobs_lost_seconds),
                log_bytes=settings.jobs_log_bytes,
                removes_orphans=settings.jobs_remove_orphans,
            ),
            backends=self.backends,
            jobs=self.jobs,
            events=self.events,
            publisher=self.publisher,
            doorbell=doorbell,
            clerk=ContainerRequestBuilder(self.installation, self.secrets, jobs_url(settings)),
            book=self.book,
            metrics=VersionMetricsWriter(self.registry, run_in_thread),
            clock=self.clock,
            run_in_thread=run_in_thread,
        )

    @property
    def machine(self) -> str:
        """Name of the machine that its jobs run on."""
        return self.settings.machine or gethostname()

    async def close(self) -> None:
        """Hang up everywhere."""
        await self.egress.close()
        self.publisher.close()


def build_worker(settings: Settings, worker: str) -> WorkerDependencies:
    """
    Everything that a worker process is made of.

    Raises:
        ConfigError: The settings, or the operator's file of queues, cannot be meant; see also `open_database`.
    """
    url = redis_url(settings)
    database = open_database(settings)
    clock = SystemClock()
    rules = EgressRules.parse(settings.egress_allow)
    book = read_queue_book(settings)
    _check_queues(settings, book)
    catalog = load_catalog(rules, book)
    revisions = SqlRevisions(database)
    publisher = RedisPublisher(url)
    return WorkerDependencies(
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
        feed=RedisEventStream(url, worker),
        automations=ActiveAutomations(AutomationFolder(settings.automations, catalog), revisions, clock),
        catalog=catalog,
        egress=GuardedEgress(rules, destination_in_flight=settings.destination_in_flight),
        registry=make_registry(settings, database, publisher, clock),
        secrets=make_secrets(settings),
        jobs=SqlJobs(database),
        job_desk=SqlJobAdmin(database),
        book=book,
        backends=make_backends(book, settings.data),
        installation=find_installation(SqlInstallation(database), clock),
    )


def _check_queues(settings: Settings, book: JobsConfig) -> None:
    """
    Refuse queues that nobody has declared: a worker that waits for them would wait for ever.

    Raises:
        ConfigError: There is no such queue.
    """
    asked = set(settings.queues.split(",")) if settings.queues else set()
    for unknown in sorted(asked - {EVENTS} - book.queues.keys()):
        raise ConfigError(
            f"UPSHOT_QUEUES: there is no queue {unknown!r}; there are {', '.join(sorted(book.queues))}, and {EVENTS} "
            "for answering events; queues are declared in the file that UPSHOT_JOBS_FILE names"
        )
