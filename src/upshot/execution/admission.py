"""From an event to the executions that answer it: what the consumer asks of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from upshot.automations.matcher import Match, Matcher, Verdict
from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.domain.execution import Execution, ExecutionState
from upshot.execution import transitions
from upshot.execution.attempt import Work
from upshot.execution.executor import Engine
from upshot.execution.failure import admission
from upshot.ids import execution_id
from upshot.ports.executions import Admission

log = structlog.get_logger("upshot.execution")


class Reception:
    """
    Admits events with the automations that are loaded at that moment.

    Args:
        engine: Carries out what is admitted.
        matcher: Gives the matcher that is in force now.
        clock: Tells the time.
    """

    def __init__(self, engine: Engine, matcher: Callable[[], Matcher], clock: Clock) -> None:
        self._engine = engine
        self._matcher = matcher
        self._clock = clock

    @property
    def room(self) -> int:
        """How many more executions the engine takes."""
        return self._engine.room

    async def wait_for_room(self) -> None:
        """Return when the engine takes more."""
        await self._engine.wait_for_room()

    def answers(self, event: Event) -> Admission:
        """The executions that answer an event: leased, or final from the start where the match itself failed."""
        return admission(event, tuple(self._answer(event, match) for match in self._matcher().match(event)))

    def _answer(self, event: Event, match: Match) -> Execution:
        automation = match.automation
        name, now = execution_id(event.id, automation.name), self._clock.now()
        if match.verdict is Verdict.MATCHED:
            # Compiled now, so that the engine finds this very revision though the file changes meanwhile.
            self._engine.book.compiled(automation)
            return transitions.admit(
                name, automation, event.id, now=now, owner=self._engine.worker, until=self._engine.lease_end()
            )
        state = ExecutionState.SKIPPED if match.verdict is Verdict.LOOP else ExecutionState.FAILED
        log.warning("event.not_answered", event_id=event.id, automation=automation.name, reason=match.reason)
        return transitions.admit_final(name, automation, event.id, now=now, state=state, reason=match.reason or "")

    def take(self, admitted: Iterable[tuple[Execution, Event]]) -> None:
        """Carry out executions that are kept now; those that were final from the start need nothing more."""
        works = []
        for execution, event in admitted:
            compiled = self._engine.book.known(execution.automation, execution.revision)
            if compiled is not None and not execution.state.is_final:
                works.append(Work(execution, event, compiled))
        self._engine.begin(works)

    async def announce(self, events: Sequence[Event]) -> None:
        """Publish events that were accepted with an admission."""
        await self._engine.announce(events)
