"""The workers that are alive, in memory."""

from __future__ import annotations

from datetime import datetime

from typing_extensions import override

from upshot.ids import WorkerId
from upshot.ports.workers import WorkerRecord, WorkerStore


class MemoryWorkers(WorkerStore):
    """`WorkerStore` in memory."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, WorkerRecord] = {}

    @override
    def heartbeat(self, worker: WorkerRecord) -> None:
        self._workers[worker.id] = worker

    @override
    def deregister(self, worker_id: WorkerId) -> None:
        self._workers.pop(worker_id, None)

    @override
    def list(self, *, seen_since: datetime) -> tuple[WorkerRecord, ...]:
        alive = [worker for worker in self._workers.values() if worker.seen_at >= seen_since]
        return tuple(sorted(alive, key=lambda worker: worker.started_at))
