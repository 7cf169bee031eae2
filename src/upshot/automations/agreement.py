"""
Decide which set of automations is in force, as pure functions.

    a worker loads its folder ─► digest of its set ─► holding, renewed with every heartbeat

    number   ├─ the first report of a sound set
             ├─ a running worker reloads to the set
             ├─ a worker starts in the place of one that had the highest number and has ended, in the same folder
             └─ (provisional) its files have mistakes and no live worker has a set with a number; an empty set gets none
                then if there are other sets
    in force: the highest number that a worker holds or has held within the last lease

    MATCHING ──── another set is in force ───────────────────► STANDBY
    STANDBY  ──── the worker's own set is in force ──────────► MATCHING

A set with mistakes that no worker has reported sound, and that a worker starts with, gets a provisional number: zero or
less, lower than all other numbers. So one bad document does not stop the documents beside it, and every sound set takes
over.

A lower number comes into force only when leases can be trusted. After an outage of the database, workers with a higher
number first get time to report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from upshot.domain.automation import Automation
from upshot.ports.automation_sets import Holding, KnownSets, SetContent, SetMember, SetQuality

MAX_NAMED = 5  # automations named in the description of a difference


def content_of(automations: Iterable[Automation]) -> SetContent:
    """Return the content of a set of automations."""
    return {automation.name: SetMember(automation.revision_id, automation.enabled) for automation in automations}


def digest_of(content: SetContent) -> str:
    """Return the digest of a set: 12 hex digits. The paths of its files do not count."""
    lines = sorted(f"{name} {member.revision_id}" for name, member in content.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


EMPTY_SET = digest_of({})


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a worker may match events."""

    matches: bool
    in_force: str | None  #: digest of the set in force; None if there is none


def set_in_force(known: KnownSets, *, now: datetime, lease: timedelta) -> str | None:
    """Return the digest of the set in force, or None if no live worker holds a set with a number."""
    return max(_held(known, now=now, lease=lease), key=known.numbers.__getitem__, default=None)


def next_number(known: KnownSets, holding: Holding, *, is_reload: bool, now: datetime, lease: timedelta) -> int | None:
    """
    Return the number that the set of a worker gets, or None if it keeps what it has.

    Args:
        known: What all workers have reported.
        holding: What this worker has.
        is_reload: Whether the worker has had another set since it started.
        now: The current time.
        lease: After this time, a worker that is silent does not count.
    """
    if holding.quality is SetQuality.UNUSABLE:
        return None
    following = max([0, *known.numbers.values()]) + 1
    if holding.quality is SetQuality.SOUND and known.number_of(holding.digest) is None:
        return following
    highest = max(known.numbers, key=known.numbers.__getitem__, default=None)
    if holding.digest == highest:
        return None
    if is_reload:
        return following
    others = [
        other for other in known.holdings.values() if other.digest == highest and other.worker_id != holding.worker_id
    ]
    if others and all(other.has_ended and other.source == holding.source for other in others):
        return following
    if holding.digest in known.numbers or _held(known, now=now, lease=lease):
        return None
    # An empty folder is more often one that is not mounted than one that was emptied while no worker ran.
    is_unmounted = known.numbers and holding.digest == EMPTY_SET
    return None if is_unmounted else min([1, *known.numbers.values()]) - 1


def decide(known: KnownSets, holding: Holding, *, now: datetime, lease: timedelta, can_trust_leases: bool) -> Standing:
    """Return whether a worker may match events. If its set has a number, its own holding counts as reported now."""
    known = KnownSets(known.numbers, {**known.holdings, holding.worker_id: holding})
    in_force = set_in_force(known, now=now, lease=lease)
    is_highest = in_force is not None and known.numbers[in_force] == max(known.numbers.values())
    has_it = in_force == holding.digest and holding.quality is not SetQuality.UNUSABLE
    return Standing(has_it and (is_highest or can_trust_leases), in_force)


def _held(known: KnownSets, *, now: datetime, lease: timedelta) -> set[str]:
    """Return the digests of the sets with a number that workers hold or have held within the last lease."""
    return {
        holding.digest
        for holding in known.holdings.values()
        if holding.digest in known.numbers
        and holding.quality is not SetQuality.UNUSABLE
        and holding.held_at > now - lease
    }


def describe_difference(own: SetContent, other: SetContent) -> str:
    """Describe how a set differs from the set in force: `without promote; notify has another revision`."""
    parts = []
    if missing := sorted(other.keys() - own.keys()):
        parts.append(f"without {_names(missing)}")
    if additional := sorted(own.keys() - other.keys()):
        parts.append(f"with {_names(additional)} in addition")
    if changed := sorted(name for name in own.keys() & other.keys() if own[name] != other[name]):
        parts.append(f"another revision of {_names(changed)}")
    return "; ".join(parts) or "no difference"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
