"""
How many attempts are in progress at the same time, per destination and per automation.

The object is driven by a clock and does no input or output. It lives on the executor's event loop.

    enter ──► the automation has room ──► Permit ── send_to ──► the destination has room ──► request ──► finish
      └─ Busy: the execution waits in the database, and returns when attempts of the same kind end
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from statistics import median

from upshot.clock import stopwatch
from upshot.errors import Busy
from upshot.execution.breaker import Breaker

START_LIMIT = 20  # attempts in progress to a destination of which nothing is known
STALL_SECONDS = 5.0  # without a completion, after which the limit of a destination falls back
STALL_MEDIANS = 3.0  # the same, as a multiple of the usual duration; the longer time counts
SILENT_SECONDS = 30.0  # without an answer, after which an attempt counts as failed, and no longer occupies a slot
MAX_DURATIONS = 31  # of the last completed attempts, for the median
FORGET_SECONDS = 600.0  # without an attempt, after which nothing is remembered of a destination
AUTOMATION_PREFIX = "automation:"
BUSY = "has its maximum of attempts in progress"


class Result(Enum):
    """What an attempt says about its destination."""

    ANSWERED = "answered"  #: it responded, and works
    FAILED = "failed"  #: it could not be reached, answered 5xx, or did not answer
    TOO_MANY = "too many"  #: it answered 429
    UNKNOWN = "unknown"  #: the attempt ended before it said anything


class _Share:
    """The attempts of one destination or one automation."""

    def __init__(self, key: str, *, is_automation: bool, start: int, maximum: int, now: float) -> None:
        self.key = key
        self.is_automation = is_automation
        self.start = start
        self.maximum = maximum
        self.limit = start
        self.in_progress = 0
        self.reserved = 0  #: places of claimed executions that have not started their attempt
        self.progressed_at = now  #: last completion, or start of the first attempt after a pause
        self.is_answering = False  #: its last attempts were answered, so its attempts end soon
        self.durations: deque[float] = deque(maxlen=MAX_DURATIONS)
        self.breaker = Breaker()
        self.began: dict[Permit, float] = {}  #: start of the attempts that occupy a slot, the oldest first
        self.silent_count = 0  #: attempts in progress that occupy no slot, because they have no answer for long
        self.probe: Permit | None = None  #: the attempt that probes whether the destination is up again
        self.has_waiting = False  #: executions wait in the database, as far as this worker knows
        self.has_queue = False  #: further executions wait behind those in the database
        self.recorded = 0  #: executions recorded as waiting since the last claim

    @property
    def used(self) -> int:
        return self.in_progress - self.silent_count + self.reserved

    @property
    def usual_seconds(self) -> float:
        return median(self.durations) if self.durations else 0.0

    def begin(self, now: float) -> None:
        if not self.in_progress:
            self.progressed_at = now
        self.in_progress += 1

    def complete(self, result: Result, seconds: float, now: float) -> None:
        """Adapt the limit to the result of an attempt."""
        if result is Result.ANSWERED:
            self.lower_stalled_limit(now)
            self.progressed_at = now
            self.is_answering = True
            self.durations.append(seconds)
            self.limit = min(self.limit + 1, self.maximum)
        elif result is Result.TOO_MANY:
            self.limit = self.start

    def lower_stalled_limit(self, now: float) -> None:
        """Let the limit fall back if nothing has completed for too long."""
        quiet_seconds = now - self.progressed_at
        if not self.in_progress or quiet_seconds <= STALL_SECONDS:
            return
        if quiet_seconds > STALL_MEDIANS * self.usual_seconds:
            self.limit = self.start
            self.is_answering = False


class Reservation:
    """Capacity reserved for one claimed execution. It is used or released once."""

    __slots__ = ("_share",)

    def __init__(self, share: _Share) -> None:
        self._share: _Share | None = share
        share.reserved += 1

    def release(self) -> None:
        """Release the place, unless it was used or released before."""
        if self._share is not None:
            self._share.reserved -= 1
            self._share = None

    def use_for(self, share: _Share) -> bool:
        """Release the place if it is one of this share, and return whether it was."""
        if self._share is not share:
            return False
        self.release()
        return True


class Permit:
    """What one attempt occupies: a place of its automation, and one of each destination that it sends to."""

    __slots__ = ("_automation", "_began", "_destinations", "_is_finished", "_limits", "_place")

    def __init__(self, limits: AttemptLimits, automation: _Share, place: Reservation | None) -> None:
        self._limits = limits
        self._automation = automation
        self._place = place
        self._destinations: list[_Share] = []
        self._began = 0.0
        self._is_finished = False

    def send_to(self, destination: str) -> None:
        """
        Occupy a place of the destination. Call it before each request.

        Raises:
            Busy: The destination has no room. This is raised only before the first request of the attempt.
        """
        now = self._limits.now()
        share = self._limits.share(destination)
        if share in self._destinations:
            return
        has_place = self._place is not None and self._place.use_for(share)
        # An attempt that has sent something is not repeated, so its next request goes out in any case.
        if not has_place and not self._destinations and not self._limits.has_capacity(share, now):
            share.has_queue = True
            problem = f"is down: {share.breaker.reason}" if share.breaker.is_down else BUSY
            raise Busy(destination, f"{destination} {problem}")
        if not self._destinations:
            self._began = now
        if share.breaker.is_down and share.probe is None:
            share.probe = self
        share.begin(now)
        share.began[self] = now
        self._limits.sending += 1
        self._destinations.append(share)

    @property
    def destination(self) -> str:
        """The destination of the first request, or an empty text."""
        return self._destinations[0].key if self._destinations else ""

    def finish(self, result: Result) -> None:
        """Give back all places. Further calls do nothing."""
        if self._is_finished:
            return
        self._is_finished = True
        self._automation.in_progress -= 1
        now = self._limits.now()
        for share in self._destinations:
            share.in_progress -= 1
            share.complete(result, now - self._began, now)
            is_silent = share.began.pop(self, None) is None
            if is_silent:
                share.silent_count -= 1
            else:
                self._limits.sending -= 1
            if result in (Result.ANSWERED, Result.TOO_MANY):
                if share.breaker.answered(now):
                    self._limits.record_up(share)
            elif result is Result.FAILED and not is_silent:
                self._limits.record_failure(share, self, now)
            if share.probe is self:
                share.probe = None


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """What a worker knows of a destination."""

    name: str
    is_down: bool
    reason: str | None  #: why it is down, or None
    in_progress: int  #: attempts
    limit: int  #: of attempts in progress
    probe_seconds: float | None  #: until the next probe, if it is down


class AttemptLimits:
    """
    The limits of one worker.

    A destination starts with 20 attempts in progress. Each completion raises its limit by one, up to its
    maximum. If nothing completes for 5 s or three times its usual duration, the limit falls back to 20. A
    destination also never has more attempts in progress than there are free slots, and the last eighth of the
    slots is only for destinations that answer, so that these always find one. An automation has at most a quarter
    of the slots.

    While a destination is down, its executions wait, and one attempt at a time probes it (see `Breaker`). An
    attempt without an answer for 30 s, or three times the usual duration, counts as failed and occupies no slot.

    Args:
        slots: Attempts that may send at the same time.
        destination_maximum: Largest limit of a destination. None: a quarter of the slots.
        clock: Returns seconds on a clock that never goes back.
    """

    def __init__(
        self, slots: int, *, destination_maximum: int | None = None, clock: Callable[[], float] = stopwatch
    ) -> None:
        self.now = clock
        self.sending = 0  #: attempts that occupy a slot
        self._slots = slots
        self._automation_maximum = max(1, slots // 4)
        self._destination_maximum = min(self._automation_maximum, destination_maximum or self._automation_maximum)
        self._shares: dict[str, _Share] = {}
        self._changed: dict[str, None] = {}  #: destinations that have gone down or up, in order

    # --- attempts ---------------------------------------------------------------------------------

    def enter(self, automation: str, place: Reservation | None = None) -> Permit:
        """
        Occupy a place of the automation.

        Args:
            automation: Its name.
            place: The place that was reserved when the execution was claimed.

        Raises:
            Busy: The automation has its maximum of attempts in progress.
        """
        key = AUTOMATION_PREFIX + automation
        share, now = self.share(key), self.now()
        has_place = place is not None and place.use_for(share)
        if not has_place and not self.has_capacity(share, now):
            share.has_queue = True
            raise Busy(key, f"automation {automation} has its maximum of {share.limit} attempts in progress")
        share.begin(now)
        return Permit(self, share, place)

    def share(self, key: str) -> _Share:
        """Return the share of a destination or an automation."""
        share = self._shares.get(key)
        if share is None:
            is_automation = key.startswith(AUTOMATION_PREFIX)
            maximum = self._automation_maximum if is_automation else self._destination_maximum
            start = maximum if is_automation else min(START_LIMIT, maximum)
            share = self._shares[key] = _Share(
                key, is_automation=is_automation, start=start, maximum=maximum, now=self.now()
            )
        return share

    def has_capacity(self, share: _Share, now: float) -> bool:
        """Return whether an attempt that has not waited may start. Those that wait in the database come first."""
        return not share.has_queue and self._room(share, now) > 0

    def _room(self, share: _Share, now: float, planned: int = 0) -> int:
        if share.is_automation:
            return max(0, share.limit - share.used)
        if share.breaker.is_down:
            return int(now >= share.breaker.probe_at and share.probe is None and not share.reserved)
        share.lower_stalled_limit(now)
        # Taking n slots leaves n fewer of them free, so half of the difference can be taken.
        free = self._slots - self.sending - planned - share.reserved
        if not share.is_answering:
            free -= self._slots // 8
        return max(0, min(share.limit - share.used, (free - share.used + 1) // 2))

    def room_of_automation(self, automation: str) -> int:
        """Return how many more attempts of the automation can start now."""
        return self._room(self.share(AUTOMATION_PREFIX + automation), self.now())

    # --- destinations that are down ---------------------------------------------------------------

    def record_failure(self, share: _Share, permit: Permit, now: float) -> None:
        """Count a failed attempt."""
        if share.breaker.failed(now, is_probe=share.probe is permit):
            self._changed[share.key] = None

    def record_up(self, share: _Share) -> None:
        """Start again with the limit of an unknown destination, because it is up."""
        share.limit = share.start
        self._changed[share.key] = None

    def check_silent(self) -> None:
        """Count attempts as failed that have had no answer for too long. Call this every second or so."""
        now = self.now()
        for share in self._shares.values():
            silent_seconds = max(SILENT_SECONDS, STALL_MEDIANS * share.usual_seconds) if share.began else 0.0
            for permit, began in list(share.began.items()):
                if now - began < silent_seconds:
                    break
                del share.began[permit]
                share.silent_count += 1
                self.sending -= 1
                self.record_failure(share, permit, now)
                if share.probe is permit:
                    share.probe = None

    def release(self, destination: str) -> None:
        """Consider a destination up, because a user says so."""
        share = self._shares.get(destination)
        if share is not None and share.breaker.is_down:
            share.breaker.close()
            self.record_up(share)

    def take_changes(self) -> tuple[DestinationStatus, ...]:
        """Return the destinations that have gone down or up since the last call."""
        changed, self._changed = self._changed, {}
        return tuple(self._status(self._shares[key]) for key in changed if key in self._shares)

    def statuses(self) -> tuple[DestinationStatus, ...]:
        """Return what is known of the destinations."""
        return tuple(self._status(share) for share in self._shares.values() if not share.is_automation)

    def _status(self, share: _Share) -> DestinationStatus:
        breaker = share.breaker
        return DestinationStatus(
            name=share.key,
            is_down=breaker.is_down,
            reason=breaker.reason or None,
            in_progress=share.in_progress,
            limit=share.limit,
            probe_seconds=max(0.0, breaker.probe_at - self.now()) if breaker.is_down else None,
        )

    # --- executions that wait in the database -----------------------------------------------------

    def record_waiting(self, keys: Iterable[str]) -> None:
        """Record that executions wait in the database for these destinations and automations."""
        for key in keys:
            share = self.share(key)
            share.has_waiting = True
            share.recorded += 1

    def plan_return(self, at_most: int) -> dict[str, int]:
        """Return how many waiting executions can be claimed now, by what they wait for."""
        now = self.now()
        planned: dict[str, int] = {}
        total = 0
        for key, share in self._shares.items():
            if not share.has_waiting:
                continue
            if count := min(at_most - total, self._room(share, now, total)):
                share.recorded = 0
                planned[key] = count
                total += count
        return planned

    def reserve(self, key: str) -> Reservation:
        """Reserve capacity for a waiting execution that was claimed."""
        return Reservation(self.share(key))

    def record_returned(self, key: str, *, planned: int, claimed: int) -> None:
        """Record how many executions were claimed. Fewer than planned means that no others wait."""
        share = self.share(key)
        share.has_queue = claimed >= planned
        share.has_waiting = share.has_queue or share.recorded > 0

    def forget_idle(self) -> None:
        """Forget the destinations and automations that have been idle for long."""
        long_ago = self.now() - FORGET_SECONDS
        self._shares = {
            key: share
            for key, share in self._shares.items()
            if share.in_progress
            or share.reserved
            or share.has_waiting
            or share.breaker.is_down
            or share.progressed_at > long_ago
        }
