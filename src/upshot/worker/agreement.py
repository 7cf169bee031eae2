"""One worker's part in the agreement on the set of automations that answers events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import structlog

from upshot.automations.active import ActiveAutomations
from upshot.automations.agreement import content_of, decide, describe_difference, digest_of, next_number
from upshot.clock import Clock, stopwatch
from upshot.domain.automation import AutomationNames
from upshot.ids import WorkerId
from upshot.ports.automation_sets import AutomationSetStore, Holding, KnownSets, SetContent

log = structlog.get_logger("upshot.automations")


class WorkerAgreement:
    """
    One worker's part in the agreement (see `automations.agreement`).

    A worker reports its set with every heartbeat and with every change, and reads the reports of all workers every
    second. `check` blocks, so it is called in a thread.

    Args:
        automations: The automations that the worker has loaded.
        store: The reports of all workers.
        clock: The clock that all workers share.
        worker_id: This worker.
        source: Where its files come from.
        lease: After this time, a worker that is silent does not count.
        heartbeat_seconds: Seconds between two reports of the same set.
        can_trust_leases: Whether a silent worker has certainly ended. After an outage, it may be about to report.
    """

    def __init__(
        self,
        automations: ActiveAutomations,
        store: AutomationSetStore,
        clock: Clock,
        *,
        worker_id: WorkerId,
        source: str,
        lease: timedelta,
        heartbeat_seconds: float,
        can_trust_leases: Callable[[], bool],
    ) -> None:
        self._automations = automations
        self._store = store
        self._clock = clock
        self._worker_id = worker_id
        self._source = source
        self._lease = lease
        self._heartbeat_seconds = heartbeat_seconds
        self._can_trust_leases = can_trust_leases
        self._started_at = stopwatch()
        self._lock = threading.Lock()
        self._content: SetContent = {}
        self._digest = ""
        self._content_of: object = None
        self._held: Holding | None = None  #: the last report
        self._held_at = 0.0
        self._numbered: str | None = None  #: the last set that was checked for a number and reported
        self._matches: bool | None = None  #: None before the first check
        self._checked_at = 0.0
        self._in_force: str | None = None
        self._in_force_content: SetContent = {}

    @property
    def matches(self) -> bool:
        """
        Whether this worker may match events. It may not if it could not read the other workers' reports for the
        duration of a lease.
        """
        return bool(self._matches) and stopwatch() - self._checked_at < self._lease.total_seconds()

    @property
    def names(self) -> AutomationNames:
        """The names of the automations in force, by whether they are enabled."""
        if self._matches or not self._in_force_content:
            return self._automations.names
        return AutomationNames(
            frozenset(name for name, member in self._in_force_content.items() if member.enabled),
            frozenset(name for name, member in self._in_force_content.items() if not member.enabled),
        )

    def check(self) -> None:
        """
        Report the set of this worker if a report is due, and decide whether it may match events.

        Raises:
            Unavailable: The database does not answer. Nothing has changed.
        """
        with self._lock:
            self._check()

    def _check(self) -> None:
        self._compute_digest()
        started = stopwatch()
        now = self._clock.now()
        holding = Holding(self._worker_id, self._source, self._digest, self._automations.quality, now)
        known = self._store.read()
        is_reload = self._numbered is not None and self._numbered != self._digest

        def number(known: KnownSets) -> int | None:
            return next_number(known, holding, is_reload=is_reload, now=now, lease=self._lease)

        if number(known) is not None:
            known = self._store.assign_number(holding, self._content, number)
            log.info("automations.numbered", set_digest=self._digest, number=known.numbers.get(self._digest))
        standing = decide(known, holding, now=now, lease=self._lease, can_trust_leases=self._has_heard_everyone())
        if standing.in_force != self._in_force:
            self._in_force_content = self._store.content(standing.in_force) if standing.in_force else {}
            self._in_force = standing.in_force
        self._report(holding, known, matches=standing.matches)
        if standing.matches:
            self._automations.record_in_force()
        else:
            self._automations.forget_in_force()
        if self._automations.is_complete:  # reading the rest of the folder is not a reload
            self._numbered = self._digest
        if standing.matches != self._matches:
            self._log_standing(matches=standing.matches)
        self._matches, self._checked_at = standing.matches, started

    def _has_heard_everyone(self) -> bool:
        """Return whether every live worker has had time to report, so that a silent worker has ended."""
        return stopwatch() - self._started_at > 2 * self._heartbeat_seconds and self._can_trust_leases()

    def end(self, worker_id: WorkerId | None = None) -> None:
        """
        Report that a worker has ended, so that a new one with the same files can take its place.

        Args:
            worker_id: The worker; None for this one.
        """
        self._store.end(worker_id or self._worker_id)

    def _compute_digest(self) -> None:
        automations = self._automations.automations
        if automations is not self._content_of:
            self._content = content_of(automations)
            self._digest = digest_of(self._content)
            self._content_of = automations

    def _report(self, holding: Holding, known: KnownSets, *, matches: bool) -> None:
        """Store the holding if it has changed or a heartbeat is due."""
        difference = None
        if not matches:
            difference = self._difference(known)
        holding = replace(holding, matches=matches, difference=difference)
        is_due = stopwatch() - self._held_at >= self._heartbeat_seconds
        if is_due or self._held is None or replace(self._held, held_at=holding.held_at) != holding:
            self._store.hold(holding)
            self._held, self._held_at = holding, stopwatch()

    def _difference(self, known: KnownSets) -> str:
        if self._in_force == self._digest:
            return "the same set; it waits until the other workers have had time to report after an outage"
        if not self._automations.is_complete:
            return "files with errors are still being read"
        if self._in_force is None:
            return "its folder cannot be read, or nothing in it is valid, and no other worker has a set: events wait"
        holders = sorted(holding.worker_id for holding in known.holdings.values() if holding.digest == self._in_force)
        number, own = known.number_of(self._in_force), known.number_of(self._digest)
        described = describe_difference(self._content, self._in_force_content)
        other = f"set {number} ({self._in_force})" if number else f"the set {self._in_force}"
        return (
            f"{described}, compared with {other} of {', '.join(holders[:3])}; its own set "
            f"{'has number ' + str(own) if own else 'has mistakes and no number'}"
        )

    def _log_standing(self, *, matches: bool) -> None:
        if matches:
            log.info("automations.in_force", set_digest=self._digest)
        else:
            difference = self._held.difference if self._held else None
            log.warning(
                "automations.standby", set_digest=self._digest, in_force_digest=self._in_force, difference=difference
            )
