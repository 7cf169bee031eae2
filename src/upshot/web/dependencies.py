"""What the web process is made of; wiring builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from upshot.automations.folder import AutomationFolder
from upshot.clock import Clock
from upshot.ports.events import EventStore
from upshot.ports.executions import ExecutionAdmin
from upshot.ports.idempotency import IdempotencyStore
from upshot.ports.jobs import ConcurrencyLimits, Installation, JobAdmin
from upshot.ports.messaging import Notifier
from upshot.ports.workers import BacklogStore, WorkerRecord, WorkerStore
from upshot.registry.service import Registry
from upshot.schema.queues import JobsConfig
from upshot.settings import Settings

WORKER_SILENT_SECONDS = 15.0  #: a worker that said nothing for so long is taken for gone


@dataclass(frozen=True, slots=True)
class WebDependencies:
    """The parts that requests are answered with."""

    settings: Settings
    clock: Clock
    registry: Registry
    events: EventStore
    executions: ExecutionAdmin
    jobs: JobAdmin
    book: JobsConfig
    installation: Installation
    doorbell: Notifier | None  #: None: the sweeper finds what a person has set going
    automations: AutomationFolder
    backlog: BacklogStore
    workers: WorkerStore
    idempotency: IdempotencyStore
    database_answers: Callable[[], bool]
    redis_answers: Callable[[], bool]

    def workers_alive(self) -> tuple[WorkerRecord, ...]:
        """The workers that have said lately that they are alive."""
        return self.workers.list(seen_since=self.clock.now() - timedelta(seconds=WORKER_SILENT_SECONDS))

    def limits_of(self, queue: str) -> ConcurrencyLimits:
        """How many jobs of a queue are active at the same time; any number in one that is not declared any more."""
        rules = self.book.queues.get(queue)
        return ConcurrencyLimits(rules.concurrency, rules.per_machine) if rules else ConcurrencyLimits()
