"""One attempt of one step: render, act, and what came of it as a receipt and the next state."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from upshot.actions.protocol import ActionCall, ActionContext, Deferred, Outcome
from upshot.automations.context import DeferredSecrets, SecretsView, build_context
from upshot.clock import Clock, stopwatch
from upshot.domain.event import Actor, Cause, Event
from upshot.domain.execution import AttemptState, Execution, Receipt, StepRecord
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import (
    ActionError,
    Ambiguous,
    Blocked,
    ConfigError,
    DestinationBusy,
    JobFailed,
    Refused,
    TemplateInvalid,
    Unmet,
    Unreachable,
)
from upshot.execution import transitions
from upshot.execution.backoff import BusyBackoff
from upshot.execution.compiled import CompiledAutomation
from upshot.execution.retry import wait_before_next
from upshot.ids import delivery_id, new_nonce
from upshot.masking import Mask
from upshot.ports.executions import ExecutionUpdate
from upshot.ports.secrets import SecretSource

log = structlog.get_logger("upshot.execution")

# Beyond the time that a step may take: for waiting for a place at a destination (4 s at most), and for an
# action that does not keep to its time.
GRACE_SECONDS = 5.0
MAX_REASON_CHARS = 2_000

_ATTEMPT_STATES: tuple[tuple[type[ActionError], AttemptState], ...] = (
    (Unmet, AttemptState.UNMET),
    (JobFailed, AttemptState.FAILED),
    (Refused, AttemptState.REFUSED),
    (Blocked, AttemptState.BLOCKED),
    (Ambiguous, AttemptState.AMBIGUOUS),
    (Unreachable, AttemptState.UNREACHABLE),
)


@dataclass(frozen=True, slots=True)
class ClaimedExecution:
    """An execution that this worker holds, with all that carrying it out needs."""

    execution: Execution
    event: Event
    compiled: CompiledAutomation


@dataclass(frozen=True, slots=True)
class ExecutorContext:
    """What every attempt of this worker is made with."""

    worker_id: str
    tools: ActionContext
    secrets: SecretSource
    clock: Clock
    event_source: str  #: CloudEvents `source`
    backoff: BusyBackoff = field(default_factory=BusyBackoff)


class Attempt:
    """
    One attempt.

    Args:
        work: The execution, leased.
        record: The step whose turn it is.
        bench: What it is made with.
    """

    def __init__(self, work: ClaimedExecution, record: StepRecord, bench: ExecutorContext) -> None:
        self._work = work
        self._record = record
        self._bench = bench
        self._compiled = work.compiled.steps[record.id]
        # An action of somebody else's package says so only if it needs it.
        self._marks = (
            SecretPlaceholders(new_nonce()) if getattr(self._compiled.action, "defers_secrets", False) else None
        )
        self._secrets = DeferredSecrets(bench.secrets, self._marks) if self._marks else SecretsView(bench.secrets)
        self._delivery = delivery_id(work.execution.id, record.id)
        self._started_at = bench.clock.now()
        self._started = stopwatch()
        if record.job_id is not None and record.started_at is not None:  # it began when the job was asked for
            self._started -= (self._started_at - record.started_at).total_seconds()
            self._started_at = record.started_at

    async def make(self) -> ExecutionUpdate:
        """
        Do it; every way in which it can end is a Progress.

        Raises:
            asyncio.CancelledError: The worker stops; `interrupted` then tells what is to be kept.
        """
        try:
            context = self._context()
            condition = self._compiled.condition
            if condition is not None and self._record.job_id is None and not condition.evaluate(context):
                return self._skipped(f"if: {self._compiled.step.condition} is false")
            outcome = await self._perform(self._call(context))
        except DestinationBusy as busy:
            return self._put_off(busy)
        except ConfigError as error:  # a template that fails on this event, a secret that cannot be read
            return self._failed(Refused(str(error)), AttemptState.INVALID)
        except ActionError as error:
            return self._failed(error, _state_of(error))
        except Exception as error:
            # An action's own fault: nobody knows how far it came, and the next attempt may go well.
            log.exception("action.broke", execution=self._work.execution.id, uses=self._record.uses)
            broke = f"{self._record.uses} broke: {type(error).__name__}: {error}"
            return self._failed(Ambiguous(broke), AttemptState.AMBIGUOUS)
        return self._held(outcome) if isinstance(outcome, Deferred) else self._succeeded(outcome)

    async def _perform(self, call: ActionCall) -> Outcome | Deferred:
        timeout_seconds = self._compiled.step.timeout_seconds
        limit = timeout_seconds + GRACE_SECONDS
        try:
            async with asyncio.timeout(limit):
                return await self._compiled.action.perform(call, self._bench.tools)
        except TimeoutError as error:
            raise Ambiguous(f"no end after {limit:g} s; the step's timeout is {timeout_seconds:g} s") from error

    # --- what it is made of -----------------------------------------------------------------------

    def _context(self) -> Mapping[str, Any]:
        execution, automation = self._work.execution, self._work.compiled.automation
        failure = transitions.failed_step(execution)
        return build_context(
            self._work.event,
            automation_name=automation.name,
            vars=automation.vars,
            steps=execution.steps,
            secrets=self._secrets,
            delivery={"id": self._delivery, "attempt": self._number},
            failure={"step": failure.id, "reason": failure.reason} if failure else None,
        )

    def _call(self, context: Mapping[str, Any]) -> ActionCall:
        execution, event, compiled = self._work.execution, self._work.event, self._compiled
        cause = Cause(execution.automation, execution.id, event.id, event.version_reference)
        return ActionCall(
            with_={} if self._record.job_id else self._render(context),
            body=compiled.body.render(context).encode() if compiled.body else None,
            event=event,
            automation=execution.automation,
            execution=execution.id,
            execution_created_at=execution.created_at,
            step=self._record.id,
            attempt=self._number,
            delivery_id=self._delivery,
            now=self._started_at,
            timeout_seconds=compiled.step.timeout_seconds,
            actor=Actor(execution.automation, "automation"),
            chain=(*event.chain, cause),
            event_source=self._bench.event_source,
            retry=compiled.step.retry,
            job=self._record.job_id,
            marks=self._marks,
        )

    def _render(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(self._secrets, DeferredSecrets) or self._marks is None:
            return self._compiled.tree.render(context)  # type: ignore[no-any-return]
        self._secrets.looked_up.clear()
        rendered: Mapping[str, Any] = self._compiled.tree.render(context)
        if changed := self._secrets.looked_up - Counter(self._marks.names(rendered)):
            names = ", ".join(f"secrets.{name}" for name in sorted(changed))
            raise TemplateInvalid(
                self._work.compiled.automation.path,
                self._compiled.step.line or None,
                f"{names}: a job's secrets are filled in when it starts, so a template can neither change "
                "nor test them; write {{ secrets.NAME }} without a filter",
            )
        return rendered

    @property
    def _number(self) -> int:
        return self._record.attempts + 1

    # --- what came of it --------------------------------------------------------------------------

    def _skipped(self, reason: str) -> ExecutionUpdate:
        now = self._bench.clock.now()
        return ExecutionUpdate(transitions.step_skipped(self._work.execution, self._record, reason=reason, now=now))

    def _held(self, held: Deferred) -> ExecutionUpdate:
        job = held.job.id if held.job else self._record.job_id
        if job is None:
            broke = f"{self._record.uses} broke: it waits for a job that it does not name"
            return self._failed(Refused(broke), AttemptState.REFUSED)
        execution = transitions.step_held(
            self._work.execution, self._record, job=job, reason=held.reason, started_at=self._started_at
        )
        return ExecutionUpdate(execution, jobs=(held.job,) if held.job else ())

    def _put_off(self, busy: DestinationBusy) -> ExecutionUpdate:
        wait_seconds = self._bench.backoff.wait_seconds(busy.destination)
        due_at = self._bench.clock.now() + timedelta(seconds=wait_seconds)
        return ExecutionUpdate(transitions.reschedule(self._work.execution, reason=str(busy), due_at=due_at))

    def _succeeded(self, outcome: Outcome) -> ExecutionUpdate:
        mask = Mask(self._secrets.used.values())
        execution = transitions.step_succeeded(
            self._work.execution,
            self._record,
            outputs=mask.data(outcome.outputs),
            started_at=self._started_at,
            now=self._bench.clock.now(),
        )
        receipt = self._receipt(
            AttemptState.SUCCEEDED,
            request=mask.request(outcome.request),
            response=mask.data(outcome.response),
            timings=outcome.timings,
        )
        return _logged(execution, receipt)

    def _failed(self, error: ActionError, state: AttemptState) -> ExecutionUpdate:
        step, record, now = self._compiled.step, self._record, self._bench.clock.now()
        mask = Mask(self._secrets.used.values())
        reason = _plain(mask.text(str(error)))
        chance = random.random()  # noqa: S311 - jitter, not cryptography
        wait = wait_before_next(step.retry, failures=record.failures + 1, error=error, chance=chance)
        if wait is None:
            execution = transitions.step_failed(
                self._work.execution,
                record,
                reason=reason,
                continue_on_error=step.continue_on_error,
                started_at=self._started_at,
                now=now,
            )
        else:
            execution = transitions.step_waits(
                self._work.execution,
                record,
                reason=f"step {record.id}: {reason}",
                wait_seconds=wait,
                started_at=self._started_at,
                now=now,
            )
        receipt = self._receipt(
            state,
            request=mask.request(error.request),
            response=mask.data(error.response),
            error=reason,
            wait_seconds=wait,
        )
        return _logged(execution, receipt)

    def interrupted(self) -> ExecutionUpdate:
        """The worker stops before the answer came: due at once for another, with the same delivery id."""
        reason = "its worker stopped before an answer came"
        execution = transitions.step_waits(
            self._work.execution,
            replace(self._record, failures=self._record.failures - 1),  # a stop is nobody's failure
            reason=reason,
            wait_seconds=0,
            started_at=self._started_at,
            now=self._bench.clock.now(),
        )
        return _logged(execution, self._receipt(AttemptState.AMBIGUOUS, error=reason, wait_seconds=0))

    def _receipt(
        self,
        state: AttemptState,
        *,
        request: Mapping[str, Any] | None = None,
        response: Mapping[str, Any] | None = None,
        error: str | None = None,
        wait_seconds: float | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> Receipt:
        return Receipt(
            execution_id=self._work.execution.id,
            step_id=self._record.id,
            attempt=self._number,
            state=state,
            delivery_id=self._delivery,
            started_at=self._started_at,
            took_seconds=round(stopwatch() - self._started, 6),
            worker_id=self._bench.worker_id,
            request=request,
            response=response,
            error=error,
            wait_seconds=wait_seconds,
            timings=timings,
        )


def lost_attempt(execution: Execution, worker: str, now: datetime) -> ExecutionUpdate:
    """Keep the attempt of a worker that fell silent as ambiguous, and go on from there (see `lease_lost`)."""
    after, record = transitions.lease_lost(execution, worker=worker, now=now)
    if record is None:
        return ExecutionUpdate(after)
    receipt = Receipt(
        execution_id=execution.id,
        step_id=record.id,
        attempt=record.attempts + 1,
        state=AttemptState.AMBIGUOUS,
        delivery_id=delivery_id(execution.id, record.id),
        started_at=now,
        took_seconds=0.0,
        worker_id=worker,
        error="the worker fell silent; whether it had sent anything is not known",
        wait_seconds=0.0,
    )
    return _logged(after, receipt)


def _state_of(error: ActionError) -> AttemptState:
    return next((state for kind, state in _ATTEMPT_STATES if isinstance(error, kind)), AttemptState.REFUSED)


def _plain(text: str) -> str:
    """A reason that any database takes: no NUL, which PostgreSQL refuses in text, and no unbounded length."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:MAX_REASON_CHARS]


def _logged(execution: Execution, receipt: Receipt) -> ExecutionUpdate:
    log.info(
        "attempt.finished",
        execution=execution.id,
        automation=execution.automation,
        step=receipt.step_id,
        attempt=receipt.attempt,
        state=receipt.state.value,
        wait_seconds=receipt.wait_seconds,
        took_seconds=round(receipt.took_seconds, 4),
        error=receipt.error,
    )
    return ExecutionUpdate(execution, (receipt,))
