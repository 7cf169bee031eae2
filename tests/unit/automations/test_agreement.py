"""Which set of automations is in force: the transitions of several workers, in any order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upshot.adapters.memory.automation_sets import MemoryAutomationSets
from upshot.automations.agreement import EMPTY_SET, decide, describe_difference, next_number, set_in_force
from upshot.ids import RevisionId, WorkerId
from upshot.ports.automation_sets import Holding, KnownSets, SetMember, SetQuality

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=30)
SOUND, PARTIAL, UNUSABLE = SetQuality.SOUND, SetQuality.PARTIAL, SetQuality.UNUSABLE


@dataclass
class Simulated:
    """One worker, as `WorkerAgreement` drives the pure functions."""

    store: MemoryAutomationSets
    worker_id: WorkerId
    digest: str
    source: str = "here"
    quality: SetQuality = SOUND
    numbered: str | None = None
    matches: bool = False

    def check(self, now: datetime, *, can_trust_leases: bool = True) -> bool:
        """Report, and return whether the worker may match."""
        holding = Holding(self.worker_id, self.source, self.digest, self.quality, now)
        is_reload = self.numbered not in (None, self.digest)

        def number(known: KnownSets) -> int | None:
            return next_number(known, holding, is_reload=is_reload, now=now, lease=LEASE)

        known = self.store.read()
        if number(known) is not None:
            known = self.store.assign_number(holding, {}, number)
        standing = decide(known, holding, now=now, lease=LEASE, can_trust_leases=can_trust_leases)
        self.store.hold(replace(holding, matches=standing.matches))
        self.numbered = self.digest
        self.matches = standing.matches
        return self.matches


class Workers:
    """Several workers and a clock."""

    def __init__(self) -> None:
        self.store = MemoryAutomationSets()
        self.now = NOW
        self._count = 0

    def start(self, digest: str, **options) -> Simulated:
        """Start a worker with a set of its own source, and let it check once."""
        self._count += 1
        options = {"source": f"machine {self._count}", **options}
        worker = Simulated(self.store, WorkerId(f"w{self._count}"), digest, **options)
        worker.check(self.now)
        return worker

    def wait(self, seconds: float, *workers: Simulated) -> list[bool]:
        """Let time pass while these workers live, and return which of them match."""
        for _ in range(int(seconds)):
            self.now += timedelta(seconds=1)
            for worker in workers:
                worker.check(self.now)
        return [worker.matches for worker in workers]


@pytest.fixture
def workers() -> Workers:
    return Workers()


def test_a_single_worker_matches_at_once_and_after_every_edit(workers):
    """A single worker never waits: not at its first start, after a reload, or after a restart with other files."""
    worker = workers.start("v1", source="one")
    assert worker.matches
    for digest in ("v2", "v1", "v3"):
        worker.digest = digest
        assert worker.check(workers.now)
    workers.store.end(worker.worker_id)

    assert workers.start("v1", source="one").matches


def test_a_worker_with_an_older_checkout_does_not_match(workers):
    """It does not matter whether the worker runs already or starts later. It matches after it gets the newer files."""
    old, new = workers.start("v1"), workers.start("v2")
    assert workers.wait(60, old, new) == [False, True]
    late = workers.start("v1")
    assert workers.wait(60, late, old, new) == [False, False, True]

    late.digest = "v2"
    assert workers.wait(1, late, old, new) == [True, False, True]


def test_a_reload_to_an_older_set_gets_a_new_number(workers):
    """A rollback of files under running workers takes effect with the first worker that reloads."""
    first, second = workers.start("v1"), workers.start("v1")
    first.digest = second.digest = "v2"
    workers.wait(2, first, second)
    first.digest = "v1"
    assert workers.wait(2, first, second) == [True, False]
    second.digest = "v1"
    assert workers.wait(1, first, second) == [True, True]


def test_a_rollback_by_restarts_takes_effect_after_one_lease(workers):
    """Until nobody has had the newer set for a lease, events wait."""
    workers.start("v1")
    workers.wait(60)
    first, second = workers.start("v2"), workers.start("v2")
    workers.wait(5, first, second)
    workers.store.end(first.worker_id)
    first = workers.start("v1")
    assert workers.wait(60, first, second) == [False, True]
    workers.store.end(second.worker_id)
    second = workers.start("v1")

    assert workers.wait(25, first, second) == [False, False]
    assert workers.wait(6, first, second) == [True, True]


def test_when_the_only_holder_of_the_newest_set_dies_the_next_one_takes_over(workers):
    """The next set takes over after one lease and not earlier, because the dead worker may be restarting."""
    workers.wait(3, old := workers.start("v1"), workers.start("v2"))
    assert workers.wait(25, old) == [False]
    assert workers.wait(6, old) == [True]


def test_a_restart_of_all_workers_is_not_answered_by_a_stale_one(workers):
    """The worker with the older checkout starts first, and waits for the others."""
    workers.wait(3, stale := workers.start("v1"), current := workers.start("v2", source="two"))
    for worker in (stale, current):
        workers.store.end(worker.worker_id)
    workers.wait(2)

    stale = workers.start("v1", source="machine 1")
    assert workers.wait(3, stale) == [False]
    current = workers.start("v2", source="two")
    assert workers.wait(60, stale, current) == [False, True]


def test_only_a_worker_that_has_ended_is_replaced_at_once(workers):
    """Another worker that runs with the same name of its source keeps the newest set in force."""
    workers.start("v1", source="pod:/automations")
    workers.wait(60)
    running = workers.start("v2", source="pod:/automations")
    started = workers.start("v1", source="pod:/automations")
    assert workers.wait(5, running, started) == [True, False]


def test_a_set_with_mistakes_does_not_displace_a_sound_one(workers):
    """A set with mistakes takes over when no worker has a sound set, so that one bad file does not stop the others."""
    sound = workers.start("v1")
    partial = workers.start("v2 with mistakes", quality=PARTIAL)
    assert workers.wait(60, sound, partial) == [True, False]
    assert workers.wait(31, partial) == [True]
    assert Workers().start("v1", quality=PARTIAL).matches


def test_a_set_that_was_never_sound_gets_no_number_at_the_start(workers):
    """It is in force while no live worker has another set. A sound set takes over at once, also one that is older."""
    workers.start("v1", source="m1")
    workers.wait(60)
    partial = workers.start("v2 with mistakes", quality=PARTIAL, source="m2")
    assert workers.wait(1, partial) == [True]
    assert workers.store.read().number_of(partial.digest) is None

    old = workers.start("v1", source="m1")

    assert workers.wait(1, partial, old) == [False, True]
    partial.quality = SOUND  # without the mistake, its automations are the same
    assert workers.wait(1, partial, old) == [True, False]
    assert workers.store.read().number_of(partial.digest) == 2


def test_of_two_sets_that_were_never_sound_the_first_stays_in_force(workers):
    """The second worker takes over one lease after the first has ended. An edit of a running worker gets a number."""
    first, second = workers.start("v1", quality=PARTIAL), workers.start("v2", quality=PARTIAL)
    assert workers.wait(60, first, second) == [True, False]
    workers.store.end(first.worker_id)
    assert workers.wait(32, second) == [True]
    assert not any(number > 0 for number in workers.store.read().numbers.values())

    second.digest = "v3"
    assert workers.wait(1, second) == [True]
    assert workers.store.read().number_of("v3") == 1


def test_an_empty_folder_of_a_starting_worker_does_not_displace_a_set(workers):
    """A worker whose folder is not mounted does not take over when the others restart, because it would stay."""
    sound = workers.start("v1", source="m1")
    empty = workers.start(EMPTY_SET, source="m2", quality=PARTIAL)
    assert workers.wait(60, sound, empty) == [True, False]
    assert workers.wait(60, empty) == [False]
    restarted = workers.start("v1", source="m1")
    assert workers.wait(5, empty, restarted) == [False, True]

    assert Workers().start(EMPTY_SET, quality=PARTIAL).matches, "the first folder may be empty"


def test_events_wait_while_nothing_is_usable(workers):
    """A worker whose folder is missing does not answer with nothing."""
    missing = workers.start("", quality=UNUSABLE)
    assert workers.wait(100, missing) == [False]
    assert set_in_force(workers.store.read(), now=workers.now, lease=LEASE) is None

    missing.digest, missing.quality = "v1", SOUND
    assert workers.wait(1, missing) == [True]


def test_after_an_outage_a_lower_number_waits_until_the_others_have_reported(workers):
    """During the outage no worker could report, so a silent worker may be alive."""
    old, new = workers.start("v1"), workers.start("v2")
    workers.now += timedelta(seconds=300)

    assert not old.check(workers.now, can_trust_leases=False)
    assert new.check(workers.now, can_trust_leases=False)
    assert not old.check(workers.now)


def test_a_difference_names_the_automations():
    """The description names missing, additional and changed automations, at most five of each."""
    member = SetMember(RevisionId("r1"), enabled=True)
    own = {"a": member, "b": member, **{f"x{n}": member for n in range(7)}}
    other = {"a": replace(member, revision_id=RevisionId("r2")), "b": member, "c": member}

    assert describe_difference(own, other) == (
        "without c; with x0, x1, x2, x3, x4 and 2 more in addition; another revision of a"
    )
    assert describe_difference(own, own) == "no difference"


def deepcopy_of(store: MemoryAutomationSets) -> MemoryAutomationSets:
    """Return a store that knows the same."""
    copied = MemoryAutomationSets()
    known = store.read()
    for digest in known.numbers:
        holding = Holding(WorkerId("none"), "", digest, SOUND, NOW)
        copied.assign_number(holding, {}, lambda _, digest=digest: known.numbers[digest])  # type: ignore[misc]  # mypy cannot infer the default
    copied.end(WorkerId("none"))
    for holding in known.holdings.values():
        copied.hold(holding)
    return copied


class AnyOrder(RuleBasedStateMachine):
    """Workers start, reload, stop and die in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Workers()
        self.alive: list[Simulated] = []

    digests = st.sampled_from(["a", "b", "c"])
    qualities = st.sampled_from([SOUND, SOUND, PARTIAL, UNUSABLE])

    @rule(digest=digests, quality=qualities, source=st.sampled_from(["m1", "m2"]))
    @precondition(lambda self: len(self.alive) < 4)
    def start(self, digest, quality, source):
        self.alive.append(self.world.start(digest, quality=quality, source=source))

    @rule(index=st.integers(0, 3), digest=digests)
    @precondition(lambda self: self.alive)
    def reload(self, index, digest):
        worker = self.alive[index % len(self.alive)]
        worker.digest, worker.quality = digest, SOUND

    @rule(index=st.integers(0, 3), is_clean=st.booleans())
    @precondition(lambda self: self.alive)
    def stop(self, index, is_clean):
        worker = self.alive.pop(index % len(self.alive))
        if is_clean:
            self.world.store.end(worker.worker_id)

    @rule(seconds=st.sampled_from([1, 5, 40]))
    def wait(self, seconds):
        self.world.wait(seconds, *self.alive)

    @invariant()
    def all_that_match_have_the_same_set_once_everybody_has_checked(self):
        self.world.wait(1, *self.alive)
        for worker in self.alive:
            worker.check(self.world.now)
        matching = {worker.digest for worker in self.alive if worker.matches}
        assert len(matching) <= 1
        known = self.world.store.read()
        usable = [worker for worker in self.alive if worker.quality is not UNUSABLE]
        assert all(worker.quality is not UNUSABLE for worker in self.alive if worker.matches)
        # The set in force is the highest that is alive; nobody with a higher number stands by.
        for worker in usable:
            if matching and worker.digest not in matching:
                assert known.numbers.get(worker.digest, -1000) < known.numbers[next(iter(matching))]

    @invariant()
    def somebody_matches_after_one_lease(self):
        # On copies of the store and the workers, so that the machine does not always wait for a lease.
        store = deepcopy_of(self.world.store)
        later = [replace(worker, store=store) for worker in self.alive]
        now = self.world.now
        for _ in range(32):
            now += timedelta(seconds=1)
            for worker in later:
                worker.check(now)
        usable = [worker for worker in later if worker.quality is not UNUSABLE]
        assert bool(usable) == any(worker.matches for worker in later)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestAnyOrder = AnyOrder.TestCase
