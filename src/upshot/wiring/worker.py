"""The objects of a worker process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from socket import gethostname

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.actions.protocol import Action, ActionContext
from upshot.adapters.egress import GuardedEgress
from upshot.adapters.redis import RedisEventStream, RedisPublisher
from upshot.adapters.sql.automation_sets import SqlAutomationSets
from upshot.adapters.sql.clock import DatabaseClock
from upshot.adapters.sql.counters import SqlCounters
from upshot.adapters.sql.deliveries import SqlDeliveries
from upshot.adapters.sql.destinations import SqlDestinations
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.installation import SqlInstallation
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.jobs import SqlJobs
from upshot.adapters.sql.retention import SqlRetention
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.adapters.sql.workers import SqlWorkers
from upshot.automations.active import ActiveAutomations
from upshot.automations.folder import AutomationFolder
from upshot.automations.loader import load_revision
from upshot.automations.rendering import ProcessRenderer
from upshot.backends.catalog import make_backends
from upshot.backends.protocol import Backend
from upshot.blobs.service import Blobs
from upshot.client.blob_cache import cache_location
from upshot.client.file_trees import FileTrees
from upshot.domain.automation import AutomationNames
from upshot.errors import ConfigError
from upshot.execution.admission import Admitter
from upshot.execution.attempt import ExecutorContext
from upshot.execution.compiled import RevisionCache
from upshot.execution.delivery_meter import DeliveryMeter
from upshot.execution.executor import Executor
from upshot.execution.file_cleanup import FileCleanup
from upshot.execution.limits import AttemptLimits
from upshot.execution.recorder import Recorder
from upshot.execution.retention import Retention
from upshot.execution.run_upkeep import RunUpkeep
from upshot.execution.secret_masks import SecretMasks
from upshot.ids import WorkerId
from upshot.jobs.container_request import JobEnvironment
from upshot.jobs.inputs import JobInputs
from upshot.jobs.supervisor import JobSupervisor, SupervisorSettings
from upshot.jobs.version_metrics import VersionMetricsWriter
from upshot.ports.jobs import Installation
from upshot.ports.messaging import JobNotifier, Notifier
from upshot.ports.retention import Kept
from upshot.ports.run_in_thread import RunInThread
from upshot.ports.secrets import SecretSource
from upshot.registry.service import Registry
from upshot.schema.queues import JobsConfig
from upshot.settings import Settings
from upshot.wiring.jobs_file import EVENTS_QUEUE, read_jobs_config
from upshot.wiring.parts import (
    base_url,
    jobs_url,
    load_installation,
    make_blobs,
    make_job_client,
    make_registry,
    make_secrets,
    open_database,
    redis_url,
)

_SILENT_WORKERS_DAYS = 1  # that the row of a worker is kept which was killed


@dataclass(frozen=True, slots=True)
class WorkerDependencies:
    """The objects that a worker process consists of."""

    settings: Settings
    worker_id: WorkerId
    redis_url: str
    clock: DatabaseClock
    executions: SqlExecutions
    events: SqlEvents
    workers: SqlWorkers
    destinations: SqlDestinations
    retention: SqlRetention
    counters: SqlCounters
    deliveries: SqlDeliveries
    revisions: SqlRevisions
    publisher: RedisPublisher
    stream: RedisEventStream
    automations: ActiveAutomations
    automation_sets: SqlAutomationSets
    catalog: Mapping[str, Action]
    egress: GuardedEgress
    registry: Registry
    blobs: Blobs
    secrets: SecretSource
    jobs: SqlJobs
    job_admin: SqlJobAdmin
    jobs_config: JobsConfig
    backends: Mapping[str, Backend]
    installation: Installation
    renderer: ProcessRenderer

    @property
    def answers_events(self) -> bool:
        """Whether the worker answers events, in addition to jobs or alone."""
        return not self.settings.queues or EVENTS_QUEUE in self.queues

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that the worker takes: queues of jobs, and `events`."""
        if self.settings.queues:
            return tuple(self.settings.queues.split(","))
        return (EVENTS_QUEUE, *sorted(self.jobs_config.queues))

    @property
    def job_queues(self) -> frozenset[str]:
        """The queues of jobs that the worker takes."""
        return frozenset(self.queues) - {EVENTS_QUEUE}

    @property
    def machine(self) -> str:
        """Name of the machine that the worker's jobs run on."""
        return self.settings.machine or gethostname()

    def make_executor(
        self,
        run_in_thread: RunInThread,
        job_notifier: JobNotifier,
        may_take_over: Callable[[], bool],
        names: Callable[[], AutomationNames],
    ) -> tuple[Executor, Admitter]:
        """Create the executor and its admitter, on the running event loop."""
        settings = self.settings
        context = ExecutorContext(
            worker_id=self.worker_id,
            action_context=ActionContext(
                egress=self.egress,
                registry=self.registry,
                github_api_url=settings.github_api_url,
                slack_api_url=settings.slack_api_url,
                jobs=self.job_admin,
            ),
            secrets=self.secrets,
            masks=SecretMasks(self.secrets),
            clock=self.clock,
            event_source=base_url(settings),
            renderer=self.renderer,
        )
        executor = Executor(
            context=context,
            executions=self.executions,
            events=self.events,
            recorder=Recorder(self.executions, self.publisher, run_in_thread, job_notifier),
            revisions=RevisionCache(self.catalog, self.revisions, partial(load_revision, catalog=self.catalog)),
            run_in_thread=run_in_thread,
            max_in_flight=settings.worker_in_flight,
            limits=AttemptLimits(settings.worker_in_flight, destination_maximum=settings.destination_in_flight),
            meter=DeliveryMeter(self.deliveries, run_in_thread),
            lease=timedelta(seconds=settings.lease_seconds),
            may_take_over=may_take_over,
            names=names,
        )
        admitter = Admitter(
            executor,
            self.automations.matcher,
            self.clock,
            max_root_executions=settings.root_executions,
            renderer=self.renderer,
        )
        return executor, admitter

    def make_supervisor(
        self, run_in_thread: RunInThread, notifier: Notifier, may_take_over: Callable[[], bool]
    ) -> JobSupervisor:
        """Create the job supervisor, on the running event loop."""
        settings = self.settings
        return JobSupervisor(
            SupervisorSettings(
                worker_id=self.worker_id,
                machine=self.machine,
                queues=self.job_queues,
                lease=timedelta(seconds=settings.lease_seconds),
                lost_after=timedelta(seconds=settings.jobs_lost_seconds),
                log_bytes=settings.jobs_log_bytes,
                removes_orphans=settings.jobs_remove_orphans,
            ),
            backends=self.backends,
            jobs=self.jobs,
            events=self.events,
            publisher=self.publisher,
            notifier=notifier,
            environment=JobEnvironment(self.installation, self.secrets, jobs_url(settings)),
            config=self.jobs_config,
            metrics=VersionMetricsWriter(self.registry, run_in_thread),
            inputs=JobInputs(
                self.registry,
                FileTrees(*cache_location(settings.cache_dir, settings.cache_gb, data=settings.data)),
                partial(make_job_client, settings),
                self.installation,
                run_in_thread,
            ),
            clock=self.clock,
            run_in_thread=run_in_thread,
            may_take_over=may_take_over,
        )

    def make_retention(self, run_in_thread: RunInThread, stopping: asyncio.Event) -> Retention:
        """Create what removes old rows, on the running event loop."""
        settings = self.settings
        days = {
            Kept.EXECUTIONS: settings.executions_days,
            Kept.EVENTS: settings.events_days,
            Kept.RECEIPTS: settings.receipts_days,
            Kept.HISTORY: settings.history_days,
            Kept.FAULTS: settings.events_days,
            Kept.WORKERS: _SILENT_WORKERS_DAYS,
            Kept.DESTINATIONS: _SILENT_WORKERS_DAYS,
        }
        ages = {kept: timedelta(days=count) for kept, count in days.items() if count}
        return Retention(self.retention, ages, self.clock, run_in_thread, stopping)

    def make_file_cleanup(self, run_in_thread: RunInThread, stopping: asyncio.Event) -> FileCleanup:
        """Create what removes files that nothing needs, on the running event loop."""
        return FileCleanup(self.registry, self.blobs, run_in_thread, stopping)

    def make_run_upkeep(self, run_in_thread: RunInThread, stopping: asyncio.Event) -> RunUpkeep:
        """Create what packs the logs of runs and removes old runs, on the running event loop."""
        age = timedelta(days=self.settings.runs_days) if self.settings.runs_days else None
        return RunUpkeep(self.registry, age, run_in_thread, stopping)

    async def close(self) -> None:
        """Close all connections to other machines."""
        await self.egress.close()
        self.publisher.close()
        self.renderer.close()


def build_worker(settings: Settings, worker_id: WorkerId) -> WorkerDependencies:
    """
    Create the objects of a worker process.

    Raises:
        ConfigError: The settings, or the operator's jobs file, are invalid. See also `open_database`.
        Unavailable: The database does not answer.
    """
    url = redis_url(settings)
    database = open_database(settings)
    clock = DatabaseClock(database)
    rules = EgressRules.parse(settings.egress_allow)
    jobs_config = read_jobs_config(settings)
    _check_queues(settings, jobs_config)
    catalog = load_catalog(jobs_config)
    revisions = SqlRevisions(database)
    installation = load_installation(SqlInstallation(database), clock)
    publisher = RedisPublisher(url, installation.id)
    return WorkerDependencies(
        settings=settings,
        worker_id=worker_id,
        redis_url=url,
        clock=clock,
        executions=SqlExecutions(database),
        events=SqlEvents(database),
        workers=SqlWorkers(database),
        destinations=SqlDestinations(database),
        retention=SqlRetention(database),
        counters=SqlCounters(database),
        deliveries=SqlDeliveries(database),
        revisions=revisions,
        publisher=publisher,
        stream=RedisEventStream(url, installation.id, worker_id),
        automations=ActiveAutomations(AutomationFolder(settings.automations, catalog, revisions), revisions, clock),
        automation_sets=SqlAutomationSets(database),
        catalog=catalog,
        egress=GuardedEgress(rules, settings.egress_proxy),
        registry=make_registry(settings, database, publisher, clock),
        blobs=make_blobs(settings, database, clock),
        secrets=make_secrets(settings),
        jobs=SqlJobs(database),
        job_admin=SqlJobAdmin(database),
        jobs_config=jobs_config,
        backends=make_backends(jobs_config, settings.data),
        installation=installation,
        renderer=ProcessRenderer(),
    )


def _check_queues(settings: Settings, jobs_config: JobsConfig) -> None:
    """
    Raise an error for a queue that is not declared, because a worker would wait for it in vain.

    Raises:
        ConfigError: There is no such queue.
    """
    wanted = set(settings.queues.split(",")) if settings.queues else set()
    for unknown in sorted(wanted - {EVENTS_QUEUE} - jobs_config.queues.keys()):
        raise ConfigError(
            f"UPSHOT_QUEUES: there is no queue {unknown!r}; use {', '.join(sorted(jobs_config.queues))}, or "
            f"{EVENTS_QUEUE} for answering events; queues are declared in the file that UPSHOT_JOBS_FILE names"
        )
