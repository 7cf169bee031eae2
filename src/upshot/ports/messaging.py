"""Messages through Redis: the stream of events, and the notifications of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from upshot.domain.event import Event
from upshot.ids import ExecutionId


class EventPublisher(Protocol):
    """Appends committed events to the stream."""

    def publish(self, events: Sequence[Event]) -> bool:
        """Return whether the stream accepted the events. Never raise, because the relay publishes them again."""
        ...


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """An entry as the consumer group reads it."""

    entry_id: str
    event: Event | None  #: None if the entry is unreadable; it is acknowledged like the others


class EventStream(Protocol):
    """The stream, as a consumer of the group reads it. Every method may raise `Unavailable`."""

    async def read(self, *, limit: int, wait_seconds: float) -> tuple[StreamEntry, ...]:
        """Return the next entries for this consumer, and wait for the first. Create the group if it is missing."""
        ...

    async def take_over(self, *, idle_seconds: float, limit: int) -> tuple[StreamEntry, ...]:
        """Return entries that another consumer has read but not acknowledged for at least this time."""
        ...

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        """Remove entries from the stream. Their events are matched, and the executions are committed."""
        ...

    async def remove_former(self) -> int:
        """
        Remove old entries that an earlier version left in a stream that all installations shared.

        Returns:
            Number of removed entries. The events among them that are still unmatched must be published again.
        """
        ...

    async def is_drained(self) -> bool:
        """Return whether no entry is unread. An accepted event that is still unmatched must then be republished."""
        ...

    async def close(self, *, leave_group: bool) -> None:
        """Close the connection. With `leave_group`, also leave the group, unless an entry is still pending."""
        ...


class Notifier(Protocol):
    """Notifies any worker that executions are due. If a notification is lost, the sweeper finds the executions."""

    def notify_executions(self, execution_ids: Sequence[ExecutionId]) -> bool:
        """Return whether the broker accepted the notification. If not, the caller executes them itself."""
        ...


class JobNotifier(Protocol):
    """Notifies the workers of a queue that jobs are queued. Without it they poll the queue."""

    def notify_jobs(self, queue: str) -> bool:
        """Return whether the broker accepted the notification."""
        ...
