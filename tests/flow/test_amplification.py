"""Automations that answer one another's events cannot multiply without limit."""

from upshot.domain.event import EventKind
from upshot.domain.execution import ExecutionState
from upshot.testing import World


def fan_out(number):
    emits = "".join(f"  - uses: emit\n    with: {{name: step-{index}}}\n" for index in range(3))
    return f"name: fan-out-{number}\non:\n  custom: {{}}\nsteps:\n{emits}"


def test_one_event_leads_to_a_limited_number_of_executions():
    """Eight automations that each emit three events stop, and the event that began it says why."""
    world = World()
    world.apply("---\n".join(fan_out(number) for number in range(8)))
    root = world.emit("go")

    world.run_until_idle()

    executions = world.all_executions()
    carried_out = [execution for execution in executions if execution.state is not ExecutionState.SKIPPED]
    assert len(carried_out) == 1000
    assert not {execution.state for execution in executions} & {ExecutionState.RUNNING, ExecutionState.WAITING}
    emitted = [stored for stored in world.all_events() if stored.event.kind is EventKind.CUSTOM]
    assert len(emitted) <= 1001
    warning = world.events.find(root.id).warning
    assert warning is not None
    assert "which is the maximum" in warning

    world.emit("other")  # another event has a budget of its own
    world.run_until_idle()
    assert len([e for e in world.all_executions() if e.state is not ExecutionState.SKIPPED]) > 1008


WATCH = """
name: watch-{number}
on: execution-failed
steps:
  - uses: require
    with: {{that: "1 == 2", otherwise: "no"}}
"""


def test_a_failure_while_answering_a_failure_has_no_event():
    """Automations that answer failures and fail themselves do not answer one another."""
    world = World()
    world.apply("---".join(WATCH.format(number=number) for number in range(6)))
    world.apply("name: gate\non: {custom: {name: go}}\nsteps: [{uses: require, with: {that: 1 == 2, otherwise: x}}]\n")
    world.emit("go")

    world.run_until_idle()

    assert len(world.all_executions()) == 7
    assert {execution.state for execution in world.all_executions()} == {ExecutionState.FAILED}
    assert sorted(stored.event.subject for stored in world.all_events()) == ["gate", "go"]  # at the same time


def test_a_watcher_whose_condition_fails_does_not_start_a_storm_either():
    """An execution that failed from the start is a failure like the others."""
    world = World()
    emit = "steps: [{uses: emit, with: {name: x}}]"
    for number in range(4):
        world.apply(f"name: watch-{number}\non: execution-failed\nif: event.data.missing.x\n{emit}\n")
    world.apply("name: gate\non: {custom: {name: go}}\nsteps: [{uses: require, with: {that: 1 == 2, otherwise: x}}]\n")
    world.emit("go")
    world.run_until_idle()
    assert len(world.all_executions()) == 5
