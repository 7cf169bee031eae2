"""Reports the state of destinations, and publishes the events `destination-down` and `destination-up`."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from upshot.clock import Clock, format_time
from upshot.domain.event import Actor, ActorKind, Event, EventKind
from upshot.execution.limits import AttemptLimits, DestinationStatus
from upshot.ids import WorkerId, derive_destination_id, derive_event_id
from upshot.ports.destinations import DestinationReport, DestinationStore
from upshot.ports.messaging import EventPublisher
from upshot.ports.run_in_thread import RunInThread

log = structlog.get_logger("upshot.execution")

MAX_REPORTED = 500  # destinations of one worker; those that are down come first
SEEN_SECONDS = 15.0  # a worker without a report for this long counts as dead
ACTOR = Actor("upshot", ActorKind.SERVICE)


class DestinationReporter:
    """
    Tells the other processes what this worker knows of destinations.

    Args:
        limits: The limits of this worker.
        store: Stores the reports of all workers.
        publisher: Publishes events. The relay publishes them again if that fails.
        worker_id: Id of this worker.
        clock: Returns the current time.
        run_in_thread: Runs blocking calls.
    """

    def __init__(
        self,
        limits: AttemptLimits,
        *,
        store: DestinationStore,
        publisher: EventPublisher,
        worker_id: WorkerId,
        clock: Clock,
        run_in_thread: RunInThread,
    ) -> None:
        self._limits = limits
        self._store = store
        self._publisher = publisher
        self._worker_id = worker_id
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._unreported: dict[str, DestinationStatus] = {}

    async def report_changes(self) -> None:
        """Store the destinations that have gone down or up, and publish their events."""
        self._limits.check_silent()
        self._unreported |= {status.name: status for status in self._limits.take_changes()}
        for status in list(self._unreported.values()):
            now = self._clock.now()
            event = destination_event(status, self._worker_id, now)
            report = _report(status, now)
            log.warning("destination.changed", destination=status.name, is_down=status.is_down, reason=status.reason)
            is_accepted = await self._run_in_thread(
                self._store.change,
                self._worker_id,
                report,
                event,
                seen_since=now - timedelta(seconds=SEEN_SECONDS),
            )
            if self._unreported.get(status.name) is status:
                del self._unreported[status.name]
            if is_accepted:
                await self._run_in_thread(self._publisher.publish, [event])

    async def report(self) -> None:
        """Store what is known of the destinations, and release those that a user has released."""
        await self.report_changes()  # otherwise a change could be stored without its event
        now = self._clock.now()
        statuses = sorted(self._limits.statuses(), key=lambda status: (not status.is_down, -status.in_progress))
        reports = [_report(status, now) for status in statuses[:MAX_REPORTED]]
        for name in await self._run_in_thread(self._store.report, self._worker_id, reports, now):
            log.info("destination.released", destination=name)
            self._limits.release(name)


def _report(status: DestinationStatus, now: datetime) -> DestinationReport:
    probe_at = None if status.probe_seconds is None else now + timedelta(seconds=status.probe_seconds)
    return DestinationReport(status.name, status.is_down, status.reason, status.in_progress, status.limit, probe_at)


def destination_event(status: DestinationStatus, worker_id: WorkerId, now: datetime) -> Event:
    """Build the event of a destination that has gone down or up. Its data holds `destination`."""
    kind = EventKind.DESTINATION_DOWN if status.is_down else EventKind.DESTINATION_UP
    event_id = derive_event_id(worker_id, f"{kind.value} {status.name} {format_time(now)}", now)
    return Event(
        id=event_id,
        kind=kind,
        time=now,
        subject=status.name,
        actor=ACTOR,
        mutation_id=event_id,
        sequence=0,
        data={
            "destination": {
                "id": derive_destination_id(status.name),
                "name": status.name,
                "state": "down" if status.is_down else "up",
                "reason": status.reason,
            }
        },
    )
