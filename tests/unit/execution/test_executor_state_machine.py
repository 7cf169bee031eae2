"""
The executor under faults in any order.

Events are accepted, workers run and die between any two steps, receivers fail, the stream is lost, users cancel
and retry, and time passes. The invariants hold all the time and after recovery: nothing accepted is lost, only
a user moves an execution out of a final state, every event is answered, and a delivery keeps its id.
"""

import asyncio
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from upshot.domain.execution import AttemptState, ExecutionState
from upshot.errors import Ambiguous, Refused, Unreachable
from upshot.execution.transitions import cancel_by_user, retry_by_user
from upshot.ids import EventId
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


class ExecutorMachine(RuleBasedStateMachine):
    """See the docstring of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.apply(TWO_STEPS)
        self.accepted: list[str] = []
        self.states: dict[str, ExecutionState] = {}
        self.workers = 0
        self.left_final_state: list[tuple[str, ExecutionState, ExecutionState]] = []

    # --- rules ------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 3))
    def accept(self, count: int) -> None:
        """Accept events."""
        self.emit(count)

    def emit(self, count: int) -> None:
        for _ in range(count):
            self.accepted.append(self.world.emit("made", number=len(self.accepted)).id)

    @rule()
    def work(self) -> None:
        """Let a worker do everything that can be done now."""
        self.world.run_until_idle()

    @rule(new=st.integers(0, 2), steps=st.integers(1, 20))
    def work_and_die(self, new: int, steps: int) -> None:
        """Let a worker die at one of its steps: before or after a call of a store, or a request."""
        self.emit(new)

        async def run() -> None:
            died, remaining = asyncio.Event(), iter(range(steps))

            async def step() -> None:
                if next(remaining, None) is None:
                    died.set()
                    await asyncio.Future()  # the worker never continues

            self.workers += 1
            worker = Worker(self.world, f"mortal-{self.workers}", step)
            working = asyncio.ensure_future(worker.run_until_idle())
            dying = asyncio.ensure_future(died.wait())
            await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)

        asyncio.run(run())

    @rule(new=st.integers(0, 2), steps=st.integers(1, 20), seconds=st.sampled_from([2, 45]))
    def work_and_pause(self, new: int, steps: int, seconds: float) -> None:
        """Pause a worker at one of its steps while another one works, then let it continue."""
        self.emit(new)

        async def run() -> None:
            paused, resumed, remaining = asyncio.Event(), asyncio.Event(), iter(range(steps))

            async def step() -> None:
                self.check_states()
                if next(remaining, None) is None:
                    paused.set()
                    await resumed.wait()

            self.workers += 1
            worker = Worker(self.world, f"paused-{self.workers}", step)
            working = asyncio.ensure_future(worker.run_until_idle())
            pausing = asyncio.ensure_future(paused.wait())
            await asyncio.wait((working, pausing), return_when=asyncio.FIRST_COMPLETED)
            self.world.clock.advance(seconds)
            await Worker(self.world, f"other-{self.workers}").run_until_idle()
            resumed.set()
            await working
            pausing.cancel()

        asyncio.run(run())

    @rule(seconds=st.sampled_from([0.5, 2, 10, 45]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass, so that retries become due, and leases and notifications expire."""
        self.world.clock.advance(seconds)

    @rule(
        host=st.sampled_from(HOSTS),
        times=st.integers(1, 4),
        error=st.sampled_from([Unreachable("down"), Ambiguous("no answer"), Refused("404")]),
    )
    def fail(self, host: str, times: int, error: Exception) -> None:
        """Let a receiver fail several times."""
        self.world.respond(f"https://{host}.", times=times, error=error)

    @rule()
    def lose_the_stream(self) -> None:
        """Remove everything from the stream."""
        self.world.stream.flush()

    @rule(down=st.booleans())
    def stop_or_start_redis(self, down: bool) -> None:
        """Stop Redis, or start it again."""
        self.world.stream.is_down = down
        self.world.notifier.is_down = down

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """Deliver an event a second time."""
        event_id = data.draw(st.sampled_from(self.accepted))
        self.world.stream.publish(list(self.world.events.get([EventId(event_id)]).values()))

    @precondition(lambda self: self.world.all_executions())
    @rule(data=st.data())
    def cancel_or_retry(self, data: st.DataObject) -> None:
        """Cancel an execution that is not final, or retry one that is."""
        chosen = data.draw(st.sampled_from(self.world.all_executions()))
        now = self.world.clock.now()
        if not chosen.state.is_final:
            self.world.executions.amend(chosen.id, lambda execution: cancel_by_user(execution, now, "ann"))
        elif chosen.state in (ExecutionState.FAILED, ExecutionState.CANCELLED):
            self.world.executions.amend(chosen.id, lambda execution: retry_by_user(execution, now))
        self.states[chosen.id] = self.world.executions.find(chosen.id)[0].state

    # --- invariants -------------------------------------------------------------------------------

    def check_states(self) -> None:
        """Compare all states with the last ones, also while a worker runs. `cancel_or_retry` updates them itself."""
        for execution in self.world.all_executions():
            before = self.states.get(execution.id)
            if before is not None and before.is_final and execution.state is not before:
                self.left_final_state.append((execution.id, before, execution.state))
            self.states[execution.id] = execution.state

    @invariant()
    def no_worker_leaves_a_final_state(self) -> None:
        """Assert that a worker that lost its lease cannot write any more."""
        self.check_states()
        assert not self.left_final_state

    @invariant()
    def each_event_has_one_execution(self) -> None:
        """Assert that an event that is delivered twice gets one execution."""
        event_ids = [execution.event_id for execution in self.world.all_executions()]
        assert len(event_ids) == len(set(event_ids))
        assert set(event_ids) <= set(self.accepted)

    @invariant()
    def each_delivery_keeps_its_id(self) -> None:
        """Assert that all attempts, workers and retries use the same delivery id, and no other delivery uses it."""
        ids = defaultdict(set)
        for request in self.world.sent:
            ids[request.url, request.json["number"]].add(request.delivery_id)
        assert all(len(delivery_ids) == 1 for delivery_ids in ids.values())
        assert len(set().union(*ids.values())) == len(ids)

    @invariant()
    def every_attempt_has_a_receipt(self) -> None:
        """Assert that the receipts of a step are numbered from 1 without gaps."""
        for execution in self.world.all_executions():
            attempts = defaultdict(list)
            for receipt in self.world.receipts(execution):
                attempts[receipt.step_id].append(receipt.attempt)
            for step in execution.steps:
                assert set(range(1, step.attempt_count + 1)) <= set(attempts[step.id])

    def teardown(self) -> None:
        """Recover from all faults. Then every event is answered, and the requests of succeeded executions arrived."""
        self.world.stream.is_down = self.world.notifier.is_down = False
        self.world.egress.reset()
        for _ in range(30):
            self.world.run_until_idle()
            self.world.clock.advance(40)
        answers = {execution.event_id: execution for execution in self.world.all_executions()}
        assert set(answers) == set(self.accepted)
        for number, event_id in enumerate(self.accepted):
            execution = answers[event_id]
            assert execution.state.is_final, execution
            arrived = {request.url for request in self.world.sent if request.json["number"] == number}
            if execution.state is ExecutionState.SUCCEEDED:
                assert arrived >= {"https://first.example.com", "https://second.example.com"}
                succeeded = [
                    receipt.step_id
                    for receipt in self.world.receipts(execution)
                    if receipt.state is AttemptState.SUCCEEDED
                ]
                assert {"first", "second"} <= set(succeeded)
            elif execution.state is ExecutionState.FAILED:
                assert execution.reason


TestExecutor = ExecutorMachine.TestCase
TestExecutor.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("steps", range(1, 15))
def test_a_worker_that_was_paused_past_its_lease_cannot_write(steps):
    """Executions that the other worker has finished stay finished, wherever the first one was paused."""
    machine = ExecutorMachine()
    machine.work_and_pause(new=1, steps=steps, seconds=45)
    machine.no_worker_leaves_a_final_state()
    machine.each_delivery_keeps_its_id()
    machine.teardown()


@pytest.mark.parametrize("steps", range(1, 15))
def test_another_worker_finishes_the_work_of_a_dead_one(steps):
    """All accepted events are answered, wherever the worker died."""
    machine = ExecutorMachine()
    machine.work_and_die(new=1, steps=steps)
    machine.every_attempt_has_a_receipt()
    machine.each_delivery_keeps_its_id()
    machine.teardown()
