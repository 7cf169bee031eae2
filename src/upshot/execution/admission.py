"""From an event to the executions that answer it: what the consumer asks of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from upshot.automations.matcher import Match, Matcher, MatchResult
from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.domain.execution import Execution, ExecutionState
from upshot.execution import transitions
from upshot.execution.attempt import ClaimedExecution
from upshot.execution.executor import Executor
from upshot.execution.failure import admission
from upshot.ids import execution_id
from upshot.ports.executions import Admission

log = structlog.get_logger("upshot.execution")


class Admitter:
    """
    Admits events with the automations that are loaded at that moment.

    Args:
        engine: Carries out what is admitted.
        matcher: Gives the matcher that is in force now.
        clock: Tells the time.
    """

    def __init__(self, engine: Executor, matcher: Callable[[], Matcher], clock: Clock) -> None:
        self._engine = engine
        self._matcher = matcher
        self._clock = clock

    @property
    def capacity(self) -> int:
        """How many more executions the engine takes."""
        return self._engine.capacity

    async def wait_for_capacity(self) -> None:
        """Return when the engine takes more."""
        await self._engine.wait_for_capacity()

    def admit(self, event: Event) -> Admission:
        """The executions that answer an event: leased, or final from the start where the match itself failed."""
        return admission(event, tuple(self._answer(event, match) for match in self._matcher().match(event)))

    def _answer(self, event: Event, match: Match) -> Execution:
        automation = match.automation
        name, now = execution_id(event.id, automation.name), self._clock.now()
        if match.verdict is MatchResult.MATCHED:
            # Compiled now, so that the engine finds this very revision though the file changes meanwhile.
            self._engine.revisions.get_or_compile(automation)
            return transitions.admit(
                name, automation, event.id, now=now, owner=self._engine.worker_id, until=self._engine.lease_end()
            )
        state = ExecutionState.SKIPPED if match.verdict is MatchResult.LOOP else ExecutionState.FAILED
        log.warning("event.not_answered", event_id=event.id, automation=automation.name, reason=match.reason)
        return transitions.admit_final(name, automation, event.id, now=now, state=state, reason=match.reason or "")

    def start(self, admitted: Iterable[tuple[Execution, Event]]) -> None:
        """Carry out executions that are kept now; those that were final from the start need nothing more."""
        works = []
        for execution, event in admitted:
            compiled = self._engine.revisions.get(execution.automation, execution.revision)
            if compiled is not None and not execution.state.is_final:
                works.append(ClaimedExecution(execution, event, compiled))
        self._engine.start(works)

    async def publish(self, events: Sequence[Event]) -> None:
        """Publish events that were accepted with an admission."""
        await self._engine.publish(events)
