"""Counters in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from typing_extensions import override

from upshot.ports.counters import CounterStore


class MemoryCounters(CounterStore):
    """`CounterStore` in memory."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @override
    def increment(self, name: str, by: int) -> None:
        self._counts[name] += by

    @override
    def read(self) -> Mapping[str, int]:
        return dict(self._counts)
