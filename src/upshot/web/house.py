"""What the web process is made of; wiring builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from upshot.clock import Clock
from upshot.domain.automation import Automation
from upshot.domain.event import Event
from upshot.errors import AutomationInvalid
from upshot.ports import BacklogStore, Doorbell, EventStore, ExecutionDesk, IdempotencyStore, WorkerRecord, WorkerStore
from upshot.registry.service import Registry
from upshot.settings import Settings

WORKER_SILENT_SECONDS = 15.0  #: a worker that said nothing for so long is taken for gone


class Matcher(Protocol):
    """Says which automations answer an event."""

    def explain(self, event: Event) -> Mapping[str, str | None]:
        """By automation: None if it answers the event, or in plain words why it does not."""
        ...


class LoadedAutomations(Protocol):
    """The folder of automations as it was last read."""

    @property
    def automations(self) -> Sequence[Automation]:
        """Those that are sound."""
        ...

    @property
    def broken(self) -> Sequence[AutomationInvalid]:
        """What is wrong in the other files."""
        ...

    @property
    def matcher(self) -> Matcher:
        """Matches events against the sound ones."""
        ...


class Automations(Protocol):
    """The folder of automations."""

    @property
    def current(self) -> LoadedAutomations:
        """As it was last read."""
        ...

    def refresh(self) -> object:
        """Read it again if a file has changed."""
        ...


@dataclass(frozen=True, slots=True)
class House:
    """The parts that requests are answered with."""

    settings: Settings
    clock: Clock
    registry: Registry
    events: EventStore
    executions: ExecutionDesk
    doorbell: Doorbell | None  #: None: the sweeper finds what a person has set going
    automations: Automations
    backlog: BacklogStore
    workers: WorkerStore
    idempotency: IdempotencyStore
    database_answers: Callable[[], bool]
    redis_answers: Callable[[], bool]

    def workers_alive(self) -> tuple[WorkerRecord, ...]:
        """The workers that have said lately that they are alive."""
        return self.workers.list(seen_since=self.clock.now() - timedelta(seconds=WORKER_SILENT_SECONDS))
