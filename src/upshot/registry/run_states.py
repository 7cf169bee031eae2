"""
The states of runs. Every change of a run's state goes through `record_state`.

    (new) ──start──▶ running ──exit 0──▶ finished
                       │ ▲ ──exit ≠ 0──▶ failed
                       │ │ ──Ctrl-C, SIGTERM, stop──▶ killed
                       │ └──resume── any of these
                       │
                       └──no heartbeat for 60 s──▶ failed, or killed if it was asked to stop (`is_lost`)
                                                   ──next heartbeat or log──▶ running
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from upshot.domain.event import EventKind
from upshot.domain.run import Run, RunState
from upshot.errors import InvalidInput
from upshot.registry.mutation import Mutation
from upshot.registry.snapshots import run_context
from upshot.suggestions import did_you_mean

_KINDS = {
    RunState.RUNNING: EventKind.RUN_STARTED,
    RunState.FINISHED: EventKind.RUN_FINISHED,
    RunState.FAILED: EventKind.RUN_FAILED,
    RunState.KILLED: EventKind.RUN_FAILED,
}

SILENT = "its heartbeats stopped for 60 seconds"


def record_state(mutation: Mutation, before: Run | None, after: Run) -> Run:
    """
    Save a run whose state has changed, and return it.

    This is the one place for what follows from a change of the state, in the same transaction.

    Args:
        mutation: The mutation that makes the change.
        before: The run as it was; None if it is new.
        after: The run as it will be.
    """
    if after != before:
        mutation.tx.save_run(after)
    if before is None or after.summary.state is not before.summary.state:
        mutation.add_event(
            _KINDS[after.summary.state], after.summary.reference, run_context(after, mutation.base_url, mutation.now)
        )
    return after


def end_run(
    mutation: Mutation,
    run: Run,
    state: RunState,
    *,
    at: datetime | None = None,
    exit_code: int | None = None,
    reason: str | None = None,
    is_lost: bool = False,
) -> Run:
    """Record that a run has ended, at a time that is not before its creation or after now."""
    finished_at = min(max(at or mutation.now, run.summary.created_at), mutation.now)
    ended = replace(run.with_state(state), finished_at=finished_at, exit_code=exit_code, reason=reason, is_lost=is_lost)
    return record_state(mutation, run, ended)


def continue_run(mutation: Mutation, before: Run, run: Run) -> Run:
    """
    Record that a run is running again, or goes on.

    Args:
        mutation: The mutation that makes the change.
        before: The run as it is stored.
        run: The run with other changes.
    """
    running = replace(
        run.with_state(RunState.RUNNING),
        finished_at=None,
        exit_code=None,
        reason=None,
        is_lost=False,
        stop_requested_at=None,
        stop_requested_by=None,
    )
    return record_state(mutation, before, running)


def state_of_exit(exit_code: int | None, state: str | None) -> RunState:
    """
    Return the state in which a run ends.

    Args:
        exit_code: Of the program; None counts as 0.
        state: `finished`, `failed` or `killed`, instead of an exit code.

    Raises:
        InvalidInput: The state is not one of these, or both are given.
    """
    if state is None:
        return RunState.FINISHED if not exit_code else RunState.FAILED
    if exit_code is not None:
        raise InvalidInput("state and exit_code: give one of them")
    final = [each.value for each in RunState if each.is_final]
    if state not in final:
        raise InvalidInput(f"state {state[:40]!r}: must be {', '.join(final)}{did_you_mean(state, final)}")
    return RunState(state)
