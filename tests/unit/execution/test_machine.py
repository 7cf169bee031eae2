"""
The engine under everything that can happen to it, in any order.

Events are accepted, workers work and die between any two steps, receivers fail, the stream is lost,
people cancel and retry, time passes. What must hold throughout, and at the end when all is well
again: nothing accepted is ever lost, nothing moves out of a final state but by a person, every
event is answered, and one delivery keeps one id.
"""

import asyncio
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upshot.domain.execution import AttemptState, ExecutionState
from upshot.errors import Ambiguous, Refused, Unreachable
from upshot.execution.transitions import cancel_by_person, retry_by_person
from upshot.testing import Worker, World

TWO_STEPS = """
name: two-steps
on: {custom: {name: made}}
steps:
  - id: first
    uses: webhook
    with: {url: "https://first.example.com", json: {number: "{{= event.data.number }}"}}
    retry: {attempts: 3, first: 1s, cap: 2s}
  - id: second
    uses: webhook
    with: {url: "https://second.example.com", json: {number: "{{= event.data.number }}"}}
    retry: {attempts: 3, first: 1s, cap: 2s}
on-failure:
  - uses: webhook
    with: {url: "https://failed.example.com", json: {number: "{{= event.data.number }}"}}
    retry: {attempts: 2, first: 1s, cap: 1s}
"""

HOSTS = ("first", "second", "failed")


class EngineMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.apply(TWO_STEPS)
        self.accepted: list[str] = []
        self.seen: dict[str, ExecutionState] = {}
        self.workers = 0
        self.moved: list[tuple[str, ExecutionState, ExecutionState]] = []

    # --- what can happen --------------------------------------------------------------------------

    @rule(count=st.integers(1, 3))
    def accept(self, count: int) -> None:
        """Events are accepted."""
        self.accept_some(count)

    def accept_some(self, count: int) -> None:
        for _ in range(count):
            self.accepted.append(self.world.emit("made", number=len(self.accepted)).id)

    @rule()
    def work(self) -> None:
        """A worker does all that can be done now."""
        self.world.settle()

    @rule(new=st.integers(0, 2), steps=st.integers(1, 20))
    def work_and_die(self, new: int, steps: int) -> None:
        """A worker dies at one of its steps: before or after a call of a store, or a request."""
        self.accept_some(new)

        async def live() -> None:
            died, left = asyncio.Event(), iter(range(steps))

            async def step() -> None:
                if next(left, None) is None:
                    died.set()
                    await asyncio.Future()  # nothing it does from now on has any effect

            self.workers += 1
            worker = Worker(self.world, f"mortal-{self.workers}", step)
            working = asyncio.ensure_future(worker.settle())
            dying = asyncio.ensure_future(died.wait())
            await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)

        asyncio.run(live())

    @rule(new=st.integers(0, 2), steps=st.integers(1, 20), seconds=st.sampled_from([2, 45]))
    def work_and_sleep(self, new: int, steps: int, seconds: float) -> None:
        """A worker stands still at one of its steps while another works, and then goes on as if nothing was."""
        self.accept_some(new)

        async def live() -> None:
            asleep, awake, left = asyncio.Event(), asyncio.Event(), iter(range(steps))

            async def step() -> None:
                self.watch()
                if next(left, None) is None:
                    asleep.set()
                    await awake.wait()

            self.workers += 1
            worker = Worker(self.world, f"sleeper-{self.workers}", step)
            working = asyncio.ensure_future(worker.settle())
            sleeping = asyncio.ensure_future(asleep.wait())
            await asyncio.wait((working, sleeping), return_when=asyncio.FIRST_COMPLETED)
            self.world.clock.advance(seconds)
            await Worker(self.world, f"awake-{self.workers}").settle()
            awake.set()
            await working
            sleeping.cancel()

        asyncio.run(live())

    @rule(seconds=st.sampled_from([0.5, 2, 10, 45]))
    def pass_time(self, seconds: float) -> None:
        """Time passes: retries come due, leases and rings run out."""
        self.world.clock.advance(seconds)

    @rule(
        host=st.sampled_from(HOSTS),
        times=st.integers(1, 4),
        error=st.sampled_from([Unreachable("down"), Ambiguous("no answer"), Refused("404")]),
    )
    def fail(self, host: str, times: int, error: Exception) -> None:
        """A receiver fails for a while."""
        self.world.answer(f"https://{host}.", times=times, error=error)

    @rule()
    def lose_the_stream(self) -> None:
        """Redis forgets everything."""
        self.world.stream.flush()

    @rule(down=st.booleans())
    def stream_goes(self, down: bool) -> None:
        """Redis goes away, or comes back."""
        self.world.stream.is_down = down
        self.world.notifier.is_down = down

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """The stream brings an event another time."""
        event = data.draw(st.sampled_from(self.accepted))
        self.world.stream.publish(list(self.world.events.get([event]).values()))

    @precondition(lambda self: self.world.all_executions())
    @rule(data=st.data())
    def person_acts(self, data: st.DataObject) -> None:
        """A person cancels what goes on, or retries what has failed."""
        one = data.draw(st.sampled_from(self.world.all_executions()))
        now = self.world.clock.now()
        if not one.state.is_final:
            self.world.executions.amend(one.id, lambda execution: cancel_by_person(execution, now, "ann"))
        elif one.state in (ExecutionState.FAILED, ExecutionState.CANCELLED):
            self.world.executions.amend(one.id, lambda execution: retry_by_person(execution, now))
        self.seen[one.id] = self.world.executions.find(one.id)[0].state

    # --- what must hold ---------------------------------------------------------------------------

    def watch(self) -> None:
        """Look at all states, also while a worker is at work; only `person_acts` moves one on from a final state."""
        for one in self.world.all_executions():
            before = self.seen.get(one.id)
            if before is not None and before.is_final and one.state is not before:
                self.moved.append((one.id, before, one.state))
            self.seen[one.id] = one.state

    @invariant()
    def nothing_leaves_a_final_state(self) -> None:
        """A worker that lost its lease cannot write any more."""
        self.watch()
        assert not self.moved

    @invariant()
    def one_execution_for_each_event(self) -> None:
        """However often an event comes."""
        events = [one.event_id for one in self.world.all_executions()]
        assert len(events) == len(set(events))
        assert set(events) <= set(self.accepted)

    @invariant()
    def one_delivery_has_one_id(self) -> None:
        """Over all attempts, workers and retries by people."""
        ids = defaultdict(set)
        for post in self.world.sent:
            ids[post.url, post.json["number"]].add(post.delivery)
        assert all(len(one) == 1 for one in ids.values())
        assert len({name for one in ids.values() for name in one}) == len(ids)

    @invariant()
    def receipts_count_from_one(self) -> None:
        """No attempt without a number, no number twice; what is recorded as made has its receipt."""
        for one in self.world.all_executions():
            numbers = defaultdict(list)
            for receipt in self.world.receipts(one):
                numbers[receipt.step_id].append(receipt.attempt)
            for step in one.steps:
                assert set(range(1, step.attempts + 1)) <= set(numbers[step.id])

    def teardown(self) -> None:
        """All is well again: everything accepted is answered, and what succeeded had arrived."""
        self.world.stream.is_down = self.world.notifier.is_down = False
        self.world.egress.forget_answers()
        for _ in range(30):
            self.world.settle()
            self.world.clock.advance(40)
        answered = {one.event_id: one for one in self.world.all_executions()}
        assert set(answered) == set(self.accepted)
        for number, event in enumerate(self.accepted):
            one = answered[event]
            assert one.state.is_final, one
            arrived = {post.url for post in self.world.sent if post.json["number"] == number}
            if one.state is ExecutionState.SUCCEEDED:
                assert arrived >= {"https://first.example.com", "https://second.example.com"}
                proofs = [r.step_id for r in self.world.receipts(one) if r.state is AttemptState.SUCCEEDED]
                assert {"first", "second"} <= set(proofs)
            elif one.state is ExecutionState.FAILED:
                assert one.reason


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("steps", range(1, 15))
def test_a_worker_that_slept_through_its_lease_is_refused(steps):
    """Wherever it slept: what the other worker has finished stays finished."""
    machine = EngineMachine()
    machine.work_and_sleep(new=1, steps=steps, seconds=45)
    machine.nothing_leaves_a_final_state()
    machine.one_delivery_has_one_id()
    machine.teardown()


@pytest.mark.parametrize("steps", range(1, 15))
def test_a_worker_that_died_is_replaced(steps):
    """Wherever it died: what it had accepted is finished by another."""
    machine = EngineMachine()
    machine.work_and_die(new=1, steps=steps)
    machine.receipts_count_from_one()
    machine.one_delivery_has_one_id()
    machine.teardown()
