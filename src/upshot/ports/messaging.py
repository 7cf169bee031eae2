"""Redis: the stream of events, and the doorbell that calls workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from upshot.domain.event import Event
from upshot.ids import ExecutionId, JobId


class EventPublisher(Protocol):
    """Puts committed events on the stream; never raises, for the relay publishes again."""

    def publish(self, events: Sequence[Event]) -> bool:
        """Tell whether the stream took them."""
        ...


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry as read by the consumer group; `event` is None when it cannot be read (it is then acknowledged)."""

    entry_id: str
    event: Event | None


class EventStream(Protocol):
    """The consumer group's side of the stream; each may raise `Unavailable`."""

    async def read(self, *, limit: int, wait_seconds: float) -> tuple[StreamEntry, ...]:
        """The next entries for this consumer, waiting for the first; makes the group if it is gone."""
        ...

    async def take_over(self, *, idle_seconds: float, limit: int) -> tuple[StreamEntry, ...]:
        """Entries that another consumer read and did not acknowledge for so long."""
        ...

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        """Say that these are matched and committed; they are removed from the stream."""
        ...

    async def is_drained(self) -> bool:
        """Nothing waits unread: what is accepted and still unmatched must be published again."""
        ...

    async def close(self, *, leave_group: bool) -> None:
        """Let go; `leave` also takes this consumer out of the group if nothing of its is pending."""
        ...


class Notifier(Protocol):
    """Calls a worker to executions that are due; losing a ring loses nothing."""

    def notify_executions(self, execution_ids: Sequence[ExecutionId]) -> bool:
        """Tell whether the broker took it; False: the caller runs them itself."""
        ...


class JobNotifier(Protocol):
    """Calls the workers of a queue to jobs that are queued; unheard, they look about every second."""

    def notify_jobs(self, queue: str, job_ids: Sequence[JobId]) -> bool:
        """Tell whether the broker took it."""
        ...
