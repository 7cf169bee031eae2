"""Turns an event into the executions that answer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from upshot.automations.matcher import Match, Matcher, MatchResult
from upshot.automations.rendering import CheapRenderer, LocalRenderer, Renderer
from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.domain.execution import Execution, ExecutionState
from upshot.execution import transitions
from upshot.execution.attempt import ClaimedExecution
from upshot.execution.executor import Executor
from upshot.execution.failure import failure_event
from upshot.execution.loop_pause import LoopPause
from upshot.execution.root_budget import DEFAULT_MAX_ROOT_EXECUTIONS
from upshot.ids import derive_execution_id
from upshot.ports.executions import Admission, RootBudget

log = structlog.get_logger("upshot.execution")


@dataclass(frozen=True, slots=True)
class AdmittedEvent:
    """A matched event. Its executions start once the admission is stored."""

    admission: Admission
    claimed: tuple[ClaimedExecution, ...]  #: its executions that have steps to perform, leased by this worker


class Admitter:
    """
    Admits events with the automations that are active at that moment.

    Args:
        executor: The executor that will carry out the executions.
        matcher: Returns the matcher of the active automations.
        clock: Returns the current time.
        max_root_executions: Number of executions that one event may lead to, directly and through other events.
        renderer: Evaluates expensive conditions; None to evaluate all conditions at once.
    """

    def __init__(
        self,
        executor: Executor,
        matcher: Callable[[], Matcher],
        clock: Clock,
        *,
        max_root_executions: int = DEFAULT_MAX_ROOT_EXECUTIONS,
        renderer: Renderer | None = None,
    ) -> None:
        self._executor = executor
        self._matcher = matcher
        self._clock = clock
        self._max_root_executions = max_root_executions
        self._cheap = CheapRenderer() if renderer else LocalRenderer()
        self._renderer = renderer or LocalRenderer()

    async def admit(self, event: Event) -> AdmittedEvent:
        """
        Match an event.

        Each matching automation gets an execution that this worker leases. An automation whose match failed,
        or that would answer itself, gets an execution that is final from the start.

        Raises:
            TooCostly: A condition takes long. Call `admit_slowly`.
        """
        return await self._admit(event, self._cheap)

    async def admit_slowly(self, event: Event) -> AdmittedEvent:
        """Match an event whose conditions can take seconds. Other events need not wait for that."""
        return await self._admit(event, self._renderer)

    async def _admit(self, event: Event, renderer: Renderer) -> AdmittedEvent:
        pause = LoopPause()
        matches: list[Match] = []
        for check in self._matcher().checks(event):
            await pause.if_due()
            result = await check.evaluate_with(renderer)
            if isinstance(result, Match):
                matches.append(result)
        now = self._clock.now()
        executions: list[Execution] = []
        failures: list[Event] = []
        claimed: list[ClaimedExecution] = []
        for match in matches:
            await pause.if_due()
            automation = match.automation
            execution_id = derive_execution_id(event.id, automation.name)
            if match.result is MatchResult.MATCHED:
                execution = transitions.admit(
                    execution_id,
                    automation,
                    event.id,
                    now=now,
                    worker_id=self._executor.worker_id,
                    until=self._executor.lease_end(),
                    # A replay must not have it: replays are made on purpose, in the order of their events.
                    alias_reference=event.alias_reference,
                )
                compiled = self._executor.revisions.get_or_compile(automation)
                claimed.append(ClaimedExecution(execution, event, compiled))
            else:
                reason = match.reason or ""
                state = ExecutionState.SKIPPED if match.result is MatchResult.LOOP else ExecutionState.FAILED
                log.warning("event.not_answered", event_id=event.id, automation=automation.name, reason=reason)
                execution = transitions.admit_final(
                    execution_id, automation, event.id, now=now, state=state, reason=reason
                )
                if state is ExecutionState.FAILED and (failure := failure_event(execution, event)):
                    failures.append(failure)
            executions.append(execution)
        budget = None
        # The executions of an event without a chain are only counted if they alone exceed the budget.
        if event.chain or len(executions) > self._max_root_executions:
            budget = RootBudget(event.root_id, self._max_root_executions)
        return AdmittedEvent(Admission(event.id, tuple(executions), tuple(failures), budget), tuple(claimed))
