"""Counts of attempts in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from typing_extensions import override

from upshot.ports.deliveries import DeliveryCount, DeliveryKey, DeliveryStore


class MemoryDeliveries(DeliveryStore):
    """`DeliveryStore` in memory."""

    def __init__(self) -> None:
        self._counts: defaultdict[DeliveryKey, DeliveryCount] = defaultdict(DeliveryCount)

    @override
    def add(self, counts: Mapping[DeliveryKey, DeliveryCount]) -> None:
        for key, count in counts.items():
            self._counts[key] += count

    @override
    def read(self) -> Mapping[DeliveryKey, DeliveryCount]:
        return dict(self._counts)
