"""Sets of automations in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from typing_extensions import override

from upshot.ids import WorkerId
from upshot.ports.automation_sets import AutomationSetStore, Holding, KnownSets, SetContent


class MemoryAutomationSets(AutomationSetStore):
    """`AutomationSetStore` in memory."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._contents: dict[str, SetContent] = {}
        self._holdings: dict[WorkerId, Holding] = {}
        self._lock = threading.RLock()

    @override
    def read(self) -> KnownSets:
        with self._lock:
            return KnownSets(dict(self._numbers), dict(self._holdings))

    @override
    def content(self, digest: str) -> SetContent:
        return self._contents.get(digest, {})

    @override
    def hold(self, holding: Holding) -> None:
        with self._lock:
            self._holdings[holding.worker_id] = holding

    @override
    def end(self, worker_id: WorkerId) -> None:
        with self._lock:
            if worker_id in self._holdings:
                self._holdings[worker_id] = replace(self._holdings[worker_id], has_ended=True)

    @override
    def assign_number(
        self, holding: Holding, content: SetContent, next_number: Callable[[KnownSets], int | None]
    ) -> KnownSets:
        with self._lock:
            number = next_number(self.read())
            if number is not None:
                self._numbers[holding.digest] = number
                self._contents[holding.digest] = dict(content)
                self._holdings[holding.worker_id] = holding
            return self.read()
