"""Record the states of a worker's jobs, publish their events, and notify the executions that wait for them."""

from __future__ import annotations

from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.domain.job import Job
from upshot.jobs.events import job_event
from upshot.ports.jobs import JobStore, JobUpdate
from upshot.ports.messaging import EventPublisher, Notifier
from upshot.ports.run_in_thread import RunInThread


class LeaseLost(Exception):
    """Another worker holds the job now, so nothing was written."""


class JobRecorder:
    """
    Writes the new state of a job, then publishes its event and notifies its execution.

    Args:
        jobs: Stores jobs.
        publisher: Publishes the events of jobs.
        notifier: Notifies a worker of the execution whose job has ended.
        clock: Gives the time of each event.
        run_in_thread: Runs the blocking calls.
    """

    def __init__(
        self, jobs: JobStore, publisher: EventPublisher, notifier: Notifier, clock: Clock, run_in_thread: RunInThread
    ) -> None:
        self._jobs = jobs
        self._publisher = publisher
        self._notifier = notifier
        self._clock = clock
        self._run_in_thread = run_in_thread

    async def record(self, job: Job, event: Event, *, is_new_state: bool = True) -> None:
        """
        Record a job.

        Args:
            job: The job as it is now.
            event: The event that its execution answers.
            is_new_state: Whether the state has changed. Some states have an event of their own.

        Raises:
            LeaseLost: Another worker holds the job now.
        """
        caused = job_event(job, event, self._clock.now()) if is_new_state else None
        events = (caused,) if caused else ()
        update = JobUpdate(job, events, wakes_execution=job.state.is_final)
        if await self._run_in_thread(self._jobs.record, [update]):
            raise LeaseLost(job.id)
        # If the process dies here, the relay publishes the event, and the sweeper wakes the execution.
        if events:
            await self._run_in_thread(self._publisher.publish, events)
        if update.wakes_execution:
            await self._run_in_thread(self._notifier.notify_executions, [job.execution_id])
