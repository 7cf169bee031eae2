"""Counts the attempts of a worker, and periodically adds them to the counts of all workers."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from upshot.domain.execution import Receipt
from upshot.ports.deliveries import BUCKETS_SECONDS, DeliveryCount, DeliveryKey, DeliveryStore
from upshot.ports.run_in_thread import RunInThread

MAX_DESTINATIONS = 200  #: number of destinations that are counted by name; a template can produce any number of hosts
OTHER = "other"  #: stands for all further destinations
MAX_ACTION_CHARS = 64


class DeliveryMeter:
    """
    Counts attempts in memory. An attempt costs a few additions and no query.

    Args:
        store: Counts of all workers.
        run_in_thread: Runs blocking calls.
    """

    def __init__(self, store: DeliveryStore, run_in_thread: RunInThread) -> None:
        self._store = store
        self._run_in_thread = run_in_thread
        self._counts: defaultdict[DeliveryKey, list[float]] = defaultdict(lambda: [0.0] * (2 + len(BUCKETS_SECONDS)))
        self._destinations: set[str] | None = None

    def count(self, receipt: Receipt, uses: str, destination: str) -> None:
        """
        Count an attempt.

        Args:
            receipt: Its receipt.
            uses: The action.
            destination: The destination of its first request, or an empty text.
        """
        numbers = self._counts[DeliveryKey(uses, destination, receipt.state.value)]
        numbers[0] += 1
        numbers[1] += receipt.took_seconds
        index = bisect_left(BUCKETS_SECONDS, receipt.took_seconds)
        if index < len(BUCKETS_SECONDS):
            numbers[2 + index] += 1

    async def flush(self) -> None:
        """
        Add the counts to those of all workers.

        Raises:
            Unavailable: The database does not answer. The counts are kept.
        """
        if not self._counts:
            return
        if self._destinations is None:
            self._destinations = {key.destination for key in await self._run_in_thread(self._store.read)}
        counted = dict(self._counts)
        self._counts.clear()
        counts: defaultdict[DeliveryKey, DeliveryCount] = defaultdict(DeliveryCount)
        for key, (attempts, seconds, *buckets) in counted.items():
            stored = DeliveryKey(key.action[:MAX_ACTION_CHARS], self._known(key.destination), key.result)
            counts[stored] += DeliveryCount(int(attempts), seconds, tuple(map(int, buckets)))
        try:
            await self._run_in_thread(self._store.add, counts)
        except BaseException:
            for key, numbers in counted.items():
                self._counts[key] = [sum(pair) for pair in zip(self._counts[key], numbers, strict=True)]
            raise

    def _known(self, destination: str) -> str:
        known = self._destinations
        if known is None or destination in known:
            return destination
        if len(known) >= MAX_DESTINATIONS:
            return OTHER
        known.add(destination)
        return destination
