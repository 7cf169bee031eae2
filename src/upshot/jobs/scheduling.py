"""Choose which queued jobs a worker may start, under the limits of queues, machines and steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from upshot.ids import JobId
from upshot.ports.jobs import WorkerCapacity


@dataclass(frozen=True, slots=True, order=True)
class QueuedJob:
    """What a choice depends on. Jobs sort in the order in which they start."""

    rank: int  #: the negated priority
    id: JobId
    queue: str
    automation: str
    step_id: str
    concurrency: int | None  #: maximum number of active jobs of its step; None: any number


@dataclass(frozen=True, slots=True)
class ActiveJobs:
    """A number of active jobs that count against the same limits."""

    queue: str
    machine: str | None
    automation: str
    step_id: str
    count: int = 1


class SlotCounter:
    """
    Counts active jobs against the limits of a worker.

    Args:
        capacity: What the worker can claim, with all limits.
        active: All active jobs on all machines.
    """

    def __init__(self, capacity: WorkerCapacity, active: Iterable[ActiveJobs]) -> None:
        self._capacity = capacity
        self._in_queue: Counter[str] = Counter()
        self._in_queue_here: Counter[str] = Counter()
        self._in_step: Counter[tuple[str, str]] = Counter()
        self._here = 0
        self._free_slots = capacity.max_jobs
        #: Steps that were found to be full: automation, step, and the limit that applied.
        self.full: set[tuple[str, str, int]] = set()
        for jobs in active:
            self._count(jobs)

    def _count(self, jobs: ActiveJobs) -> None:
        self._in_queue[jobs.queue] += jobs.count
        self._in_step[jobs.automation, jobs.step_id] += jobs.count
        if jobs.machine == self._capacity.machine:
            self._in_queue_here[jobs.queue] += jobs.count
            self._here += jobs.count

    @property
    def has_room(self) -> bool:
        """Whether the worker can take another job."""
        return self._free_slots > 0 and not _is_reached(self._capacity.machine_limit, self._here)

    def is_open(self, queue: str) -> bool:
        """Return whether the limits of a queue allow another job."""
        limits = self._capacity.queues[queue]
        return not _is_reached(limits.concurrency, self._in_queue[queue]) and not _is_reached(
            limits.per_machine, self._in_queue_here[queue]
        )

    def choose(self, candidates: Iterable[QueuedJob]) -> list[JobId]:
        """Return the ids of the jobs that fit, and count them as active. Candidates come in starting order."""
        chosen = []
        for job in candidates:
            if not self.has_room:
                break
            if not self.is_open(job.queue):
                continue
            if job.concurrency is not None and self._in_step[job.automation, job.step_id] >= job.concurrency:
                self.full.add((job.automation, job.step_id, job.concurrency))
                continue
            self._count(ActiveJobs(job.queue, self._capacity.machine, job.automation, job.step_id))
            self._free_slots -= 1
            chosen.append(job.id)
        return chosen


def _is_reached(limit: int | None, count: int) -> bool:
    return limit is not None and count >= limit
