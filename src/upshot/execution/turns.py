"""The order in which a consumer admits the events that it has read: root events take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from upshot.ids import EventId
from upshot.ports.messaging import StreamEntry

# Events with a chain that are admitted together. Each can have many executions, and the events read next wait for
# their commit.
MAX_CAUSED_PER_BATCH = 64


class EventTurns:
    """
    Holds entries that were read and not yet admitted.

    An event without a chain comes first. The events that automations and jobs have caused take turns by their root
    event, so that a root event with many descendants does not delay the others.
    """

    def __init__(self) -> None:
        self._first: list[StreamEntry] = []
        self._caused: dict[EventId, deque[StreamEntry]] = {}  #: by root event; the root whose turn is next comes first
        self._caused_count = 0

    def __len__(self) -> int:
        return len(self._first) + self._caused_count

    def add(self, entries: Sequence[StreamEntry]) -> None:
        """Add entries in the order of the stream."""
        for entry in entries:
            if entry.event is None or not entry.event.chain:
                self._first.append(entry)
            else:
                self._caused.setdefault(entry.event.root_id, deque()).append(entry)
                self._caused_count += 1

    def take(self, limit: int) -> list[StreamEntry]:
        """Remove and return the entries to admit next."""
        taken, self._first = self._first[:limit], self._first[limit:]
        for _ in range(min(limit - len(taken), MAX_CAUSED_PER_BATCH, self._caused_count)):
            root_id = next(iter(self._caused))
            entries = self._caused.pop(root_id)
            taken.append(entries.popleft())
            self._caused_count -= 1
            if entries:
                self._caused[root_id] = entries  # behind the other roots
        return taken
