"""The stream and the doorbell in memory."""

from __future__ import annotations

from collections.abc import Sequence

from upshot.domain.event import Event
from upshot.errors import Unavailable
from upshot.ids import ExecutionId
from upshot.ports.messaging import StreamEntry


class MemoryStream:
    """
    `EventPublisher` and `EventFeed` of one consumer group, in memory.

    Reads never wait: a test that reads an empty stream wants to go on. Setting `is_down` makes it
    answer as a Redis that is away does; `flush` forgets everything, as a Redis that lost its disk.
    """

    def __init__(self) -> None:
        self.is_down = False
        self._unread: list[StreamEntry] = []
        self._pending: dict[str, StreamEntry] = {}
        self._entries = 0

    def flush(self) -> None:
        """Lose every entry."""
        self._unread.clear()
        self._pending.clear()

    # --- EventPublisher ---------------------------------------------------------------------------

    def publish(self, events: Sequence[Event]) -> bool:
        """Tell whether the stream took them."""
        if self.is_down:
            return False
        for event in events:
            self._entries += 1
            self._unread.append(StreamEntry(f"{self._entries}-0", event))
        return True

    # --- EventFeed --------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.is_down:
            raise Unavailable("the stream does not answer")

    async def read(self, *, limit: int, wait_seconds: float) -> tuple[StreamEntry, ...]:
        """The next entries."""
        self._check()
        entries, self._unread = tuple(self._unread[:limit]), self._unread[limit:]
        self._pending.update((entry.entry_id, entry) for entry in entries)
        return entries

    async def take_over(self, *, idle_seconds: float, limit: int) -> tuple[StreamEntry, ...]:
        """Entries that were read and not acknowledged, however long ago."""
        self._check()
        return tuple(self._pending.values())[:limit]

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        """Remove them."""
        self._check()
        for entry in entries:
            self._pending.pop(entry.entry_id, None)

    async def is_drained(self) -> bool:
        """Nothing waits unread."""
        self._check()
        return not self._unread

    async def close(self, *, leave: bool) -> None:
        """Nothing to let go of."""


class MemoryNotifier:
    """`Doorbell` that keeps what was rung for; `is_down` makes it deaf."""

    def __init__(self) -> None:
        self.is_down = False
        self.notified: list[ExecutionId] = []

    def notify_executions(self, execution_ids: Sequence[ExecutionId]) -> bool:
        """Tell whether it was heard."""
        if self.is_down:
            return False
        self.notified += execution_ids
        return True
