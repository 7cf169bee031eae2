"""Destinations of requests, as workers report them and users see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from upshot.domain.event import Event
from upshot.ids import WorkerId


@dataclass(frozen=True, slots=True)
class DestinationReport:
    """What one worker knows of a destination."""

    name: str  #: scheme, host and port, and the names of secrets
    is_down: bool
    reason: str | None  #: why it is down, or None
    in_progress: int  #: attempts of this worker
    limit: int  #: of attempts in progress
    probe_at: datetime | None  #: when the next attempt probes it, if it is down


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination, as all workers together know it."""

    name: str
    is_down: bool  #: for at least one worker
    reason: str | None  #: why it is down, or None
    in_progress: int  #: attempts of all workers
    limit: int  #: of attempts in progress, of all workers together
    waiting: int  #: executions that wait in the database
    probe_at: datetime | None  #: when the next attempt probes it, if it is down


class DestinationStore(Protocol):
    """The destinations that workers send to."""

    def report(self, worker_id: WorkerId, reports: Sequence[DestinationReport], now: datetime) -> tuple[str, ...]:
        """
        Replace what a worker has reported before.

        Returns:
            Names of the destinations that a user has released, or that are up for another worker, since the worker's
            last report.
        """
        ...

    def change(self, worker_id: WorkerId, report: DestinationReport, event: Event, *, seen_since: datetime) -> bool:
        """
        Store that a destination has gone down or up for a worker. Once it is up for one worker, it is up for all.

        Args:
            worker_id: The worker.
            report: What it knows of the destination.
            event: Accepted in the same transaction, if the destination has gone down or up for the installation.
                A destination is down while it is down for any worker.
            seen_since: Workers whose last report is older do not count. The event's time is the time of this report.

        Returns:
            Whether the event was accepted.
        """
        ...

    def list(self, *, seen_since: datetime) -> tuple[Destination, ...]:
        """Return the destinations that workers have reported since then or that executions wait for, by name."""
        ...

    def release(self, name: str, now: datetime) -> None:
        """Ask all workers to consider a destination up."""
        ...
