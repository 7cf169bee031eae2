"""How jobs are claimed, asked to stop and dropped: the decisions that every store of jobs takes alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from upshot.domain.job import FailureKind, Job, JobState
from upshot.errors import Conflict, NotFound
from upshot.ports.jobs import WorkerCapacity
from upshot.storable import to_storable_text


@dataclass(frozen=True, slots=True, order=True)
class QueuedJob:
    """What a claim looks at of a queued job; sorts in the order of their turns."""

    rank: int  #: its priority turned round
    id: str
    queue: str
    automation: str
    step: str
    concurrency: int | None  #: of its step


@dataclass(frozen=True, slots=True)
class ActiveJobs:
    """Active jobs that are counted together."""

    queue: str
    machine: str | None
    automation: str
    step: str
    count: int = 1


class SlotCounter:
    """
    Counts active jobs against the limits of an offer.

    Args:
        offer: Its limits.
        active: All jobs that are active, on every machine.
    """

    def __init__(self, offer: WorkerCapacity, active: Iterable[ActiveJobs]) -> None:
        self._offer = offer
        self._of_queue: Counter[str] = Counter()
        self._of_queue_here: Counter[str] = Counter()
        self._of_step: Counter[tuple[str, str]] = Counter()
        self._here = 0
        self._left = offer.max_jobs
        #: Steps found full, with the limit that they had.
        self.full: set[tuple[str, str, int]] = set()
        for one in active:
            self._count(one)

    def _count(self, active: ActiveJobs) -> None:
        self._of_queue[active.queue] += active.count
        self._of_step[active.automation, active.step] += active.count
        if active.machine == self._offer.machine:
            self._of_queue_here[active.queue] += active.count
            self._here += active.count

    @property
    def has_room(self) -> bool:
        """Something more may be taken."""
        limit = self._offer.machine_limit
        return self._left > 0 and (limit is None or self._here < limit)

    def is_open(self, queue: str) -> bool:
        """Something more of this queue may be taken."""
        limits = self._offer.queues[queue]
        return not _is_reached(limits.concurrency, self._of_queue[queue]) and not _is_reached(
            limits.per_machine, self._of_queue_here[queue]
        )

    def choose(self, candidates: Iterable[QueuedJob]) -> list[str]:
        """Ids of those that fit, and count them as active; the candidates come in the order of their turns."""
        chosen = []
        for one in candidates:
            if not self.has_room:
                break
            if self.is_open(one.queue) and self._has_step_room(one):
                self._count(ActiveJobs(one.queue, self._offer.machine, one.automation, one.step))
                self._left -= 1
                chosen.append(one.id)
        return chosen

    def _has_step_room(self, one: QueuedJob) -> bool:
        if one.concurrency is None or self._of_step[one.automation, one.step] < one.concurrency:
            return True
        self.full.add((one.automation, one.step, one.concurrency))
        return False


def _is_reached(limit: int | None, count: int) -> bool:
    return limit is not None and count >= limit


def claim(job: Job, offer: WorkerCapacity, *, now: datetime, until: datetime) -> Job:
    """A queued job as whoever made the offer holds it."""
    return replace(
        job,
        state=JobState.STARTING,
        reason=None,
        due_at=None,
        machine=offer.machine,
        engine_id=offer.engines[job.backend],
        lease_owner=offer.worker_id,
        lease_until=until,
        seen_at=now,
        fence=job.fence + 1,
    )


def with_stop_request(job: Job, who: str, now: datetime) -> Job:
    """A job whose end somebody wants; who asked first counts."""
    if job.stop_requested_at is not None:
        return job
    return replace(job, stop_requested_at=now, stop_requested_by=to_storable_text(who))


def cancel_queued(job: Job, now: datetime) -> Job:
    """A queued job that was asked to stop; with a new fence, for a write may still be under way that queued it."""
    return replace(
        job,
        state=JobState.CANCELLED,
        failure=FailureKind.CANCELLED,
        reason=f"cancelled by {job.stop_requested_by}",
        due_at=None,
        finished_at=now,
        fence=job.fence + 1,
    )


def no_such_job(job_id: str) -> NotFound:
    """What is said of an id that no job has."""
    return NotFound(f"there is no job {job_id!r}; see `upshot jobs list`")


def cannot_be_stopped(job: Job) -> Conflict:
    """What is said to whoever asks a job to stop that has ended."""
    return Conflict(f"job {job.id} is {job.state.value} and cannot be stopped")
