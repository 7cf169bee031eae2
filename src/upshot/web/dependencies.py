"""The objects that the web process consists of; `upshot.wiring.web` builds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from upshot.automations.folder import AutomationFolder
from upshot.automations.loader import load_revision
from upshot.blobs.service import Blobs
from upshot.clock import Clock
from upshot.execution.user_requests import UserRequests
from upshot.ports.access import SessionStore, TokenStore
from upshot.ports.automation_sets import AutomationSetStore
from upshot.ports.counters import CounterStore
from upshot.ports.deliveries import DeliveryStore
from upshot.ports.destinations import DestinationStore
from upshot.ports.events import EventStore
from upshot.ports.executions import ExecutionAdmin, RevisionStore
from upshot.ports.idempotency import IdempotencyStore
from upshot.ports.jobs import ConcurrencyLimits, Installation, JobAdmin
from upshot.ports.messaging import Notifier
from upshot.ports.workers import BacklogStore, WorkerRecord, WorkerStore
from upshot.registry.service import Registry
from upshot.schema.queues import JobsConfig
from upshot.settings import Settings

WORKER_TIMEOUT_SECONDS = 15.0  #: a worker without a heartbeat for this long counts as dead


@dataclass(frozen=True, slots=True)
class WebDependencies:
    """The objects that handle requests."""

    settings: Settings
    clock: Clock
    base_url: str | None  #: the server's public address, for URLs in responses; None if it is unknown
    registry: Registry
    blobs: Blobs
    events: EventStore
    executions: ExecutionAdmin
    revisions: RevisionStore
    automation_sets: AutomationSetStore
    jobs: JobAdmin
    jobs_config: JobsConfig
    installation: Installation
    notifier: Notifier | None  #: wakes workers; None leaves that to the sweeper
    automations: AutomationFolder
    backlog: BacklogStore
    counters: CounterStore
    deliveries: DeliveryStore
    workers: WorkerStore
    destinations: DestinationStore
    idempotency: IdempotencyStore
    tokens: TokenStore
    sessions: SessionStore
    ping_database: Callable[[], bool]
    ping_redis: Callable[[], bool]
    synchronize_clock: Callable[[], None] = lambda: None  #: with the database's clock
    clock_skew_seconds: Callable[[], float] = lambda: 0.0  #: how far this machine's clock is ahead of the database's

    @property
    def requests(self) -> UserRequests:
        """What retries executions and replays events."""
        current = self.automations.current
        return UserRequests(
            self.executions,
            self.events,
            self.revisions,
            automations={automation.name: automation for automation in current.automations},
            matcher=current.matcher,
            load_revision=partial(load_revision, catalog=self.automations.catalog),
        )

    def live_workers(self) -> tuple[WorkerRecord, ...]:
        """Return the workers with a recent heartbeat."""
        return self.workers.list(seen_since=self.clock.now() - timedelta(seconds=WORKER_TIMEOUT_SECONDS))

    def concurrency_limits(self, queue: str) -> ConcurrencyLimits:
        """Return the concurrency limits of a queue. A queue that is no longer declared has none."""
        config = self.jobs_config.queues.get(queue)
        return ConcurrencyLimits(config.concurrency, config.per_machine) if config else ConcurrencyLimits()
