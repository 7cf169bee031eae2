"""Numbers that only grow, for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

IGNORED_ENTRIES = "ignored-entries"  #: entries of the stream that belong to no accepted event


class CounterStore(Protocol):
    """Counters of the installation."""

    def increment(self, name: str, by: int) -> None:
        """Add to a counter."""
        ...

    def read(self) -> Mapping[str, int]:
        """Return the counters that are not 0."""
        ...
