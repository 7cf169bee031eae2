"""Limits of attempts in progress, per destination and per automation."""

import pytest

from upshot.errors import Busy
from upshot.execution.limits import AUTOMATION_PREFIX, FORGET_SECONDS, AttemptLimits, Permit, Result

HOOKS = "https://hooks.example:443"


class World:
    """Limits with a clock that a test advances."""

    def __init__(self, slots=2000, **options):
        self.now = 0.0
        self.limits = AttemptLimits(slots, clock=lambda: self.now, **options)

    def send(self, count: int, destination: str = HOOKS, automation: str = "notify") -> list[Permit]:
        """Start attempts until one is busy, and return the permits."""
        permits: list[Permit] = []
        for _ in range(count):
            permit = self.limits.enter(automation)
            try:
                permit.send_to(destination)
            except Busy:
                permit.finish(Result.UNKNOWN)
                return permits
            permits.append(permit)
        return permits

    def return_all(self, destination=HOOKS, automation="notify", waiting=10_000):
        """Claim what can return, start the attempts, and return their permits."""
        self.limits.record_waiting([destination])
        count = self.limits.plan_return(10_000).get(destination, 0)
        permits = []
        for _ in range(min(count, waiting)):
            permit = self.limits.enter(automation, self.limits.reserve(destination))
            permit.send_to(destination)
            permits.append(permit)
        self.limits.record_returned(destination, planned=count, claimed=len(permits))
        return permits


@pytest.fixture
def world():
    return World()


def finish(permits, result=Result.ANSWERED):
    for permit in permits:
        permit.finish(result)


def test_an_unknown_destination_gets_twenty_attempts(world):
    """The error of the twenty-first attempt says what to wait for."""
    assert len(world.send(30)) == 20
    with pytest.raises(Busy, match="maximum of attempts in progress") as busy:
        world.limits.enter("notify").send_to(HOOKS)
    assert busy.value.waits_for == HOOKS


def test_each_completion_raises_the_limit_by_one_up_to_a_quarter(world):
    """Twenty attempts become forty, then eighty, and never more than a quarter of the slots."""
    permits = world.send(21)
    sizes = []
    for _ in range(6):
        world.now += 0.2
        finish(permits)
        permits = world.return_all()
        sizes.append(len(permits))
    assert sizes == [40, 80, 160, 320, 500, 500]


def test_failures_do_not_raise_the_limit(world):
    """A destination that answers 503 or nothing is not given more."""
    finish(world.send(19), Result.FAILED)
    assert len(world.send(30)) == 20


def test_too_many_requests_resets_the_limit(world):
    """A destination that answers 429 starts with twenty again."""
    finish(world.send(20))
    permits = world.send(60)
    assert len(permits) == 40
    finish(permits, Result.TOO_MANY)
    assert len(world.return_all()) == 20


def test_the_limit_falls_back_when_nothing_completes(world):
    """After five seconds without a completion, twenty attempts may be in progress again."""
    finish(world.send(20))
    permits = world.send(40)
    world.now += 6
    finish(permits[:30], Result.UNKNOWN)
    assert len(world.return_all()) == 10


def test_a_slow_destination_keeps_its_limit(world):
    """The limit of a destination that takes ten seconds falls back after thirty, not after five."""
    permits = world.send(20)
    world.now += 10
    finish(permits)
    permits = world.send(40)
    world.now += 25
    finish(permits[:30], Result.UNKNOWN)
    assert len(world.return_all()) == 30
    world.now += 6
    finish(permits[30:], Result.UNKNOWN)
    assert world.limits.share(HOOKS).limit == 40
    world.return_all()
    assert world.limits.share(HOOKS).limit == 20


def test_destinations_do_not_take_the_last_slots():
    """However many destinations hang, one that answers still finds a slot."""
    world = World(slots=100)
    finish(world.send(1, "https://healthy.example:443", "healthy"))
    for number in range(300):
        world.send(20, f"https://hanging-{number}.example:443", f"automation-{number}")
    assert world.limits.sending < 100
    assert len(world.send(1, "https://healthy.example:443", "healthy")) == 1


def test_an_automation_has_a_quarter_of_the_slots():
    """An automation that sends to many destinations waits for its own attempts."""
    world = World(slots=100)
    permits = [permit for number in range(25) for permit in world.send(1, f"https://{number}.example:443")]
    with pytest.raises(Busy, match="automation notify has its maximum of 25") as busy:
        world.limits.enter("notify")
    assert busy.value.waits_for == f"{AUTOMATION_PREFIX}notify"
    assert world.send(1, "https://other.example:443", "other")
    finish(permits)
    world.limits.record_waiting([f"{AUTOMATION_PREFIX}notify"])
    assert world.limits.plan_return(1000) == {f"{AUTOMATION_PREFIX}notify": 25}


def test_new_attempts_queue_behind_those_that_wait(world):
    """Room that becomes free belongs to the executions in the database, until all of them were claimed."""
    finish(world.send(21))
    assert world.send(1) == []
    permits = world.return_all(waiting=3)
    assert len(permits) == 3
    assert len(world.send(1)) == 1


def test_an_execution_recorded_during_a_claim_is_claimed_next(world):
    """A claim that finds too few does not hide an execution that began to wait meanwhile."""
    finish(world.send(21))
    world.limits.record_waiting([HOOKS])
    planned = world.limits.plan_return(10)
    world.limits.record_waiting([HOOKS])
    world.limits.record_returned(HOOKS, planned=planned[HOOKS], claimed=1)
    assert HOOKS in world.limits.plan_return(10)
    world.limits.record_returned(HOOKS, planned=10, claimed=0)
    assert world.limits.plan_return(10) == {}


def test_a_place_that_is_not_used_is_released_once(world):
    """An execution that was claimed and then does not send gives its place back."""
    place = world.limits.reserve(HOOKS)
    assert world.limits.share(HOOKS).used == 1
    place.release()
    place.release()
    assert world.limits.share(HOOKS).used == 0


def test_a_second_request_of_an_attempt_is_not_refused(world):
    """Nothing that was sent is sent again because the second destination of the attempt is busy."""
    world.send(20, "https://second.example:443")
    permit = world.limits.enter("both")
    permit.send_to(HOOKS)
    permit.send_to("https://second.example:443")
    permit.finish(Result.ANSWERED)
    permit.finish(Result.ANSWERED)
    assert world.limits.share(HOOKS).in_progress == 0
    assert world.limits.sending == 20


def test_idle_destinations_are_forgotten(world):
    """The memory of a worker does not grow with the number of host names."""
    finish(world.send(20))
    world.now += FORGET_SECONDS + 1
    world.limits.forget_idle()
    assert len(world.send(30)) == 20


def test_the_operator_can_lower_the_maximum():
    """With a maximum of 3, a destination never has more attempts in progress."""
    world = World(destination_maximum=3)
    permits = world.send(10)
    assert len(permits) == 3
    finish(permits)
    assert len(world.return_all()) == 3


# --- destinations that are down -------------------------------------------------------------------


def fail_until_down(world):
    finish(world.send(20), Result.FAILED)
    (change,) = world.limits.take_changes()
    assert change.is_down
    return change


def test_twenty_failures_in_a_row_take_a_destination_down(world):
    """The others wait for a reason that says so."""
    assert fail_until_down(world).reason == "20 attempts in a row failed"
    with pytest.raises(Busy, match="is down: 20 attempts in a row failed"):
        world.limits.enter("notify").send_to(HOOKS)


def test_an_answer_ends_the_row(world):
    """A destination that fails now and then stays up. A 429 is an answer."""
    for result in (Result.ANSWERED, Result.TOO_MANY):
        finish(world.send(10), Result.FAILED)
        finish(world.send(11), result)
    assert world.limits.take_changes() == ()


def test_half_of_fifty_failures_in_a_minute_take_a_destination_down(world):
    """Failures that alternate with answers count if they are half of at least fifty."""
    for _ in range(25):
        finish(world.send(1))
        finish(world.send(1), Result.FAILED)
    (change,) = world.limits.take_changes()
    assert change.reason == "25 of 50 attempts in a minute failed"


def test_old_failures_do_not_count(world):
    """Failures of an hour ago do not take a destination down."""
    for _ in range(24):
        finish(world.send(1))
        finish(world.send(1), Result.FAILED)
    world.now += 3600
    finish(world.send(1))
    finish(world.send(1), Result.FAILED)
    assert world.limits.take_changes() == ()


def test_attempts_without_an_answer_for_thirty_seconds_count_as_failed(world):
    """Whatever their timeout, they take the destination down and no longer occupy a slot."""
    permits = world.send(20)
    world.now += 29
    world.limits.check_silent()
    assert world.limits.take_changes() == ()
    world.now += 1
    world.limits.check_silent()
    (change,) = world.limits.take_changes()
    assert change.is_down
    assert world.limits.sending == 0
    assert change.in_progress == 20
    finish(permits, Result.FAILED)
    assert world.limits.sending == 0
    assert world.limits.share(HOOKS).used == 0


def test_a_destination_that_usually_takes_a_minute_is_not_down_after_thirty_seconds(world):
    """Silence is measured by what the destination has answered before."""
    permits = world.send(1)
    world.now += 60
    finish(permits)
    world.send(20)
    world.now += 100
    world.limits.check_silent()
    assert world.limits.take_changes() == ()


def test_one_attempt_probes_after_five_seconds_and_then_ever_less_often(world):
    """The waits double up to five minutes. Nothing else is sent meanwhile."""
    fail_until_down(world)
    waits = []
    for _ in range(8):
        start = world.now
        while not (permits := world.return_all()):
            world.now += 1
            assert world.now - start < 1000
        waits.append(world.now - start)
        assert world.return_all() == []
        finish(permits, Result.FAILED)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]


def test_a_probe_that_is_answered_brings_the_destination_up(world):
    """It starts with twenty attempts again."""
    fail_until_down(world)
    world.now += 5
    (probe,) = world.return_all()
    probe.finish(Result.ANSWERED)
    (change,) = world.limits.take_changes()
    assert not change.is_down
    assert len(world.return_all()) == 20


def test_a_probe_without_an_answer_fails(world):
    """A hanging probe does not block the next one."""
    fail_until_down(world)
    world.now += 5
    assert len(world.return_all()) == 1
    world.now += 30
    world.limits.check_silent()
    world.now += 10
    assert len(world.return_all()) == 1


def test_a_user_can_release_a_destination(world):
    """Executions are sent at once, without waiting for the next probe."""
    fail_until_down(world)
    world.limits.release(HOOKS)
    assert not world.limits.take_changes()[0].is_down
    assert len(world.return_all()) == 20


def test_a_new_attempt_probes_if_nothing_waits(world):
    """The next event after the pause finds out whether the destination is up."""
    fail_until_down(world)
    world.limits.record_returned(HOOKS, planned=1, claimed=0)
    world.now += 5
    assert len(world.send(5)) == 1
