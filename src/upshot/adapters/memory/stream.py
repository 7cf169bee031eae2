"""The event stream and the notifications of workers, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from upshot.domain.event import Event
from upshot.errors import Unavailable
from upshot.ids import ExecutionId
from upshot.ports.messaging import EventPublisher, EventStream, Notifier, StreamEntry


class MemoryStream(EventPublisher, EventStream):
    """
    `EventPublisher` and `EventStream` of one consumer group, in memory.

    A read never waits, so that a test that reads an empty stream continues. `is_down = True` makes it behave
    like a Redis that does not answer. `flush` removes everything, like a Redis that lost its disk.
    """

    def __init__(self) -> None:
        self.is_down = False
        self._unread: list[StreamEntry] = []
        self._pending: dict[str, StreamEntry] = {}
        self._published = 0

    def flush(self) -> None:
        """Remove every entry."""
        self._unread.clear()
        self._pending.clear()

    # --- EventPublisher ---------------------------------------------------------------------------

    @override
    def publish(self, events: Sequence[Event]) -> bool:
        if self.is_down:
            return False
        for event in events:
            self._published += 1
            self._unread.append(StreamEntry(f"{self._published}-0", event))
        return True

    # --- EventStream ------------------------------------------------------------------------------

    def _check_available(self) -> None:
        if self.is_down:
            raise Unavailable("the stream does not answer")

    @override
    async def read(self, *, limit: int, wait_seconds: float) -> tuple[StreamEntry, ...]:
        self._check_available()
        entries, self._unread = tuple(self._unread[:limit]), self._unread[limit:]
        self._pending.update((entry.entry_id, entry) for entry in entries)
        return entries

    @override
    async def take_over(self, *, idle_seconds: float, limit: int) -> tuple[StreamEntry, ...]:
        self._check_available()
        return tuple(self._pending.values())[:limit]  # idle_seconds is ignored: every pending entry counts as idle

    @override
    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        self._check_available()
        for entry in entries:
            self._pending.pop(entry.entry_id, None)

    @override
    async def remove_former(self) -> int:
        self._check_available()
        return 0

    @override
    async def is_drained(self) -> bool:
        self._check_available()
        return not self._unread

    @override
    async def close(self, *, leave_group: bool) -> None:
        """Do nothing: there is no connection."""


class MemoryNotifier(Notifier):
    """`Notifier` that stores the ids in `notified`. `is_down = True` makes it behave like a broker that is down."""

    def __init__(self) -> None:
        self.is_down = False
        self.notified: list[ExecutionId] = []

    @override
    def notify_executions(self, execution_ids: Sequence[ExecutionId]) -> bool:
        if self.is_down:
            return False
        self.notified += execution_ids
        return True
