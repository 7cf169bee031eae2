"""Requests of users: retry an execution, and replay an event."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from upshot.automations.matcher import Match, Matcher, MatchResult, check_condition
from upshot.domain.automation import Automation
from upshot.domain.event import Event
from upshot.domain.execution import Execution, Receipt
from upshot.errors import Conflict, NotFound
from upshot.execution import transitions
from upshot.execution.overtaking import ordered_step
from upshot.ids import ExecutionId, RevisionId, derive_execution_id, new_nonce
from upshot.ports.events import EventStore, StoredEvent
from upshot.ports.executions import ExecutionAdmin, RevisionStore
from upshot.suggestions import did_you_mean


class RevisionChoice(StrEnum):
    """The revision of the automation that a retried execution continues with."""

    ORIGINAL = "original"  #: the revision that the execution has
    CURRENT = "current"  #: the revision that answers events now


@dataclass(frozen=True, slots=True)
class ReplayAnswer:
    """The answer of one automation to a replayed event."""

    automation: str
    execution: Execution | None  #: None if it does not answer the event
    reason: str | None  #: why it does not answer the event; None if it does


@dataclass(frozen=True, slots=True)
class Replay:
    """The replay of one event."""

    answers: tuple[ReplayAnswer, ...]
    reason: str | None = None  #: why nothing answers the event


class UserRequests:
    """
    Retries executions and replays events.

    Args:
        executions: Stores executions.
        events: Stores events.
        revisions: Stores the revisions of automations.
        automations: The automations that answer events now, by name.
        matcher: Their matcher.
        load_revision: Builds an automation from a stored revision: name, document, body files, path.
    """

    def __init__(
        self,
        executions: ExecutionAdmin,
        events: EventStore,
        revisions: RevisionStore,
        *,
        automations: Mapping[str, Automation],
        matcher: Matcher,
        load_revision: Callable[[str, Mapping[str, Any], Mapping[str, str], str], Automation],
    ) -> None:
        self._executions = executions
        self._events = events
        self._revisions = revisions
        self._automations = automations
        self._matcher = matcher
        self._load_revision = load_revision

    # --- retry ------------------------------------------------------------------------------------

    def retry(
        self, execution_id: ExecutionId, now: datetime, *, force: bool = False, revision: RevisionChoice | None = None
    ) -> Execution:
        """
        Continue a failed, cancelled or overtaken execution.

        An execution that failed because of its `if` is skipped if the `if` is false by now.

        Args:
            execution_id: The execution.
            now: The current time.
            force: Continue even if a newer execution has completed the step.
            revision: The revision to continue with. None is the current one if the execution failed because of its
                automation (a template, an input or an action), and the original one otherwise.

        Returns:
            The execution, with the revision that it continues with.

        Raises:
            NotFound: There is no such execution.
            Conflict: Its state does not allow it; or it was overtaken and `force` is not set; or it cannot continue
                with the revision.
            ConfigError: Its original revision is needed, and is not valid any more.
        """
        found = self._executions.find(execution_id)
        if found is None:
            raise NotFound(f"there is no execution {execution_id!r}; see `upshot executions list`")
        execution, receipts = found
        kept = transitions.kept_steps(execution)
        if revision is None:
            invalid = transitions.ended_as_invalid(execution)
            revision = RevisionChoice.CURRENT if invalid else RevisionChoice.ORIGINAL
        other = self._other_revision(execution, len(kept)) if revision is RevisionChoice.CURRENT else None
        attempt_counts = _attempt_counts(receipts)

        def continued(before: Execution) -> Execution:
            return transitions.retry_by_user(before, now, force=force, revision=other, attempt_counts=attempt_counts)

        if not force:
            self._ensure_not_overtaken(continued(execution))
        if transitions.ended_by_condition(execution):
            reason = self._condition_miss(execution, other)
            if reason is not None:
                return self._executions.amend(
                    execution_id,
                    lambda before: transitions.skip_by_condition(continued(before), reason=reason, now=now),
                )
        if other is not None:
            self._revisions.save([other], now)
        return self._executions.amend(execution_id, continued)

    def _other_revision(self, execution: Execution, kept_count: int) -> Automation | None:
        """Return the current revision, or None if the execution has it."""
        automation = self._automations.get(execution.automation)
        if automation is None:
            raise Conflict(
                f"automation {execution.automation!r} is not loaded, so it has no current revision; correct or restore "
                "its file, or use `--revision original` (REST: `revision`)"
            )
        if automation.revision_id == execution.revision_id:
            return None
        # A step without an id is identified by its position, which an edit can change.
        stored = self._revisions.get(execution.automation, execution.revision_id)
        sources = [_main_steps(automation.source), _main_steps(stored[0]) if stored else []]
        for index, record in enumerate(execution.steps[:kept_count]):
            current, original = (steps[index] if index < len(steps) else {} for steps in sources)
            if "id" not in current and current != original:
                raise Conflict(
                    f"execution {execution.id} has completed step {record.id!r}, which the current revision of "
                    f"{automation.path} has changed; {transitions.OTHER_STEPS_REMEDY}"
                )
        return automation

    def _ensure_not_overtaken(self, retried: Execution) -> None:
        record = transitions.next_step(retried)
        step = ordered_step(retried, record) if record else None
        newer = self._executions.find_overtaking([step])[0] if step else None
        if newer is not None and record is not None:
            raise Conflict(
                f"execution {retried.id} is overtaken by {newer}: the newer execution has completed step "
                f"{record.id!r}, and repeating it would restore an older state; to repeat it all the same, use "
                "--force (REST: `force`)"
            )

    def _condition_miss(self, execution: Execution, other: Automation | None) -> str | None:
        """
        Evaluate the `if` that failed, and return why the execution must not start, or None.

        Raises:
            Conflict: The `if` fails again.
        """
        event = self._events.get([execution.event_id]).get(execution.event_id)
        if event is None:
            raise NotFound(f"event {execution.event_id} has been removed; see UPSHOT_EVENTS_DAYS")
        checked = check_condition(other or self._original(execution.automation, execution.revision_id), event)
        if isinstance(checked, str):
            return checked
        if checked.result is MatchResult.ERROR:
            raise Conflict(f"execution {execution.id} would fail again: {checked.reason}; correct it, then retry")
        return checked.reason

    def _original(self, name: str, revision_id: RevisionId) -> Automation:
        stored = self._revisions.get(name, revision_id)
        if stored is None:
            raise NotFound(f"automation {name!r}: the database does not have revision {revision_id}")
        source, body_files, path = stored
        return self._load_revision(name, source, body_files, path)

    # --- replay -----------------------------------------------------------------------------------

    def replay(
        self,
        stored: StoredEvent,
        now: datetime,
        *,
        user_name: str,
        automation: str | None = None,
        dry_run: bool = False,
    ) -> Replay:
        """
        Answer an event again, with the automations that answer events now.

        Every execution is new. It has an id and delivery ids of its own.

        Args:
            stored: The event.
            now: The current time.
            user_name: Name of the user.
            automation: Only this automation.
            dry_run: Return the answers without starting executions.

        Raises:
            NotFound: There is no such automation.
        """
        if stored.matched_at is None:
            return Replay((), "no worker has matched it yet; it will be answered without a replay")
        answers = []
        for match in self._matches(stored.event, automation):
            if isinstance(match, ReplayAnswer):
                answers.append(match)
            elif match.result is MatchResult.MATCHED:
                answers.append(ReplayAnswer(match.automation.name, _replay(match, stored.event, now, user_name), None))
            else:
                answers.append(ReplayAnswer(match.automation.name, None, match.reason))
        executions = [answer.execution for answer in answers if answer.execution is not None]
        if executions and not dry_run:
            self._revisions.save([self._automations[execution.automation] for execution in executions], now)
            self._executions.add(executions)
        return Replay(tuple(answers), None if answers else "no automation answers it now")

    def _matches(self, event: Event, name: str | None) -> list[Match | ReplayAnswer]:
        if name is None:
            return list(self._matcher.match(event))
        if name not in self._automations:
            raise NotFound(f"there is no automation {name!r}{did_you_mean(name, self._automations)}")
        matcher = Matcher([self._automations[name]])
        matches: list[Match | ReplayAnswer] = list(matcher.match(event))
        return matches or [ReplayAnswer(name, None, explanation.reason) for explanation in matcher.explain(event)]


def _replay(match: Match, event: Event, now: datetime, user_name: str) -> Execution:
    automation = match.automation
    execution_id = derive_execution_id(event.id, automation.name, new_nonce())
    return transitions.replay(execution_id, automation, event.id, now=now, user_name=user_name)


def _attempt_counts(receipts: tuple[Receipt, ...]) -> Mapping[str, int]:
    """Return the highest attempt with a receipt, by the id of the step."""
    counts: dict[str, int] = defaultdict(int)
    for receipt in receipts:
        counts[receipt.step_id] = max(counts[receipt.step_id], receipt.attempt)
    return counts


def _main_steps(source: Mapping[str, Any]) -> list[Any]:
    steps = source.get("steps")
    return steps if isinstance(steps, list) else []
