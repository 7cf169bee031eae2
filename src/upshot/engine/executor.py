"""
Carries executions out on one event loop, hundreds at a time: claim, render, act, receipt, decide.

Everything enters through `begin` (leased by the consumer as they were admitted) or `run` (ids, from
a Celery task or the sweeper), and everything leaves through the recorder.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from upshot.actions.protocol import Call, Outcome, Tools
from upshot.automations.context import SecretsView, build_context
from upshot.clock import Clock, stopwatch
from upshot.domain.event import Actor, Cause, Event
from upshot.domain.execution import AttemptState, Execution, ExecutionState, Receipt, StepRecord
from upshot.engine import transitions
from upshot.engine.compiled import Book, CompiledAutomation, CompiledStep
from upshot.engine.masking import Mask
from upshot.engine.recorder import Recorder
from upshot.engine.retry import wait_before_next
from upshot.errors import (
    ActionError,
    Ambiguous,
    Blocked,
    ConfigError,
    DestinationBusy,
    Refused,
    TemplateInvalid,
    Unmet,
    Unreachable,
)
from upshot.ids import delivery_id
from upshot.ports import Claim, EventStore, ExecutionStore, Offload, Progress, SecretSource

log = structlog.get_logger("upshot.engine")

GRACE_SECONDS = 5.0  # beyond the time that a step may take, for an action that does not keep to it
BUSY_WAIT_SECONDS = (1.0, 4.0)  # a destination that has its share: come again after about so long
MAX_REASON_CHARS = 2_000

_ATTEMPT_STATES: tuple[tuple[type[Exception], AttemptState], ...] = (
    (Unmet, AttemptState.UNMET),
    (Refused, AttemptState.REFUSED),
    (Blocked, AttemptState.BLOCKED),
    (Ambiguous, AttemptState.AMBIGUOUS),
    (Unreachable, AttemptState.UNREACHABLE),
)


@dataclass(frozen=True, slots=True)
class Work:
    """An execution that this worker holds, with all that carrying it out needs."""

    execution: Execution
    event: Event
    compiled: CompiledAutomation


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one engine takes on."""

    in_flight: int = 2000  #: steps performed at the same time
    lease: timedelta = field(default=timedelta(seconds=30))
    event_source: str = "upshot"  #: CloudEvents `source`


class Engine:
    """
    One worker's engine.

    Args:
        worker: This worker's id, which owns its leases.
        executions: Where executions are kept.
        events: Where events are kept.
        book: Compiled automations.
        tools: What actions act with.
        secrets: Where `secrets.NAME` comes from.
        clock: Tells the time.
        offload: Runs the stores' blocking calls.
        limits: How much it takes on.
    """

    def __init__(
        self,
        *,
        worker: str,
        executions: ExecutionStore,
        events: EventStore,
        book: Book,
        tools: Tools,
        secrets: SecretSource,
        clock: Clock,
        offload: Offload,
        limits: Limits,
    ) -> None:
        self.worker = worker
        self.book = book
        self.limits = limits
        self._executions = executions
        self._events = events
        self._tools = tools
        self._secrets = secrets
        self._clock = clock
        self._offload = offload
        self._recorder = Recorder(self._write)
        self._slots = asyncio.Semaphore(limits.in_flight)
        self._in_hand: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = False

    # --- in and out -------------------------------------------------------------------------------

    @property
    def in_hand(self) -> tuple[str, ...]:
        """Ids of the executions that this engine holds."""
        return tuple(self._in_hand)

    @property
    def room(self) -> int:
        """How many more executions it takes; those that wait for a place or a commit fill it up, too."""
        return 0 if self._stopping else max(0, 2 * self.limits.in_flight - len(self._in_hand))

    async def wait_for_room(self) -> None:
        """Return when it takes more."""
        self._room.clear()
        if self.room == 0:
            await self._room.wait()

    def lease_end(self) -> datetime:
        """Until when a lease that begins now holds."""
        return self._clock.now() + self.limits.lease

    async def write_records(self) -> None:
        """Write what happens, until cancelled; must run beside everything else."""
        await self._recorder.run()

    def begin(self, works: Iterable[Work]) -> None:
        """Carry out executions that this worker has leased."""
        for work in works:
            task = asyncio.get_running_loop().create_task(self._carry_out(work))
            self._in_hand[work.execution.id] = task
            task.add_done_callback(lambda _task, done=work.execution.id: self._let_go(done))  # type: ignore[misc]  # mypy cannot type a lambda's default

    async def run(self, ids: Collection[str]) -> None:
        """Claim those of the executions that are due or abandoned, and carry them out."""
        wanted = [one for one in ids if one not in self._in_hand][: self.room]
        if not wanted:
            return
        now = self._clock.now()
        claims = await self._offload(
            self._executions.claim, wanted, owner=self.worker, now=now, until=now + self.limits.lease
        )
        events = await self._offload(self._events.get, {claim.execution.event for claim in claims})
        for claim in claims:
            await self._enter(claim, events[claim.execution.event])

    async def _enter(self, claim: Claim, event: Event) -> None:
        execution, receipt = claim.execution, None
        if claim.lost_by is not None:
            execution, receipt = self._count_loss(execution, claim.lost_by)
        try:
            compiled = self.book.known(execution.automation, execution.revision) or await self._offload(
                self.book.fetch, execution.automation, execution.revision
            )
        except ConfigError as error:
            execution = self._fail_without_attempt(execution, str(error))
            await self._recorder.record(Progress(execution, (receipt,) if receipt else ()))
            return
        if receipt and not await self._recorder.record(Progress(execution, (receipt,))):
            return
        if not execution.state.is_final:
            self.begin([Work(execution, event, compiled)])

    def _let_go(self, execution: str) -> None:
        self._in_hand.pop(execution, None)
        self._room.set()

    async def _write(self, batch: Sequence[Progress]) -> frozenset[str]:
        return await self._offload(self._executions.record, batch)

    async def idle(self) -> None:
        """Return when nothing is in hand."""
        while self._in_hand:
            await asyncio.wait(list(self._in_hand.values()))

    async def stop(self, *, within_seconds: float) -> None:
        """Take nothing more, finish what is in flight for so long, and hand the rest back."""
        self._stopping = True
        tasks = list(self._in_hand.values())
        if tasks:
            await asyncio.wait(tasks, timeout=within_seconds)
        rest = [task for task in tasks if not task.done()]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=GRACE_SECONDS)

    # --- one execution ----------------------------------------------------------------------------

    async def _carry_out(self, work: Work) -> None:
        execution = work.execution
        while (record := transitions.next_step(execution)) is not None and not execution.state.is_final:
            progress = await self._in_turn(replace(work, execution=execution), record)
            if progress.receipts or progress.execution.state is not ExecutionState.RUNNING:
                held = await self._recorder.record(progress)
                if not held:
                    log.info("execution.taken_away", execution=execution.id)
                    return
            execution = progress.execution
            if execution.state is not ExecutionState.RUNNING:
                return

    async def _in_turn(self, work: Work, record: StepRecord) -> Progress:
        """Attempt the step when there is a place; hand the execution back if the worker stops before that."""
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return self._handed_back(work.execution)
        try:
            return self._handed_back(work.execution) if self._stopping else await self._attempt(work, record)
        finally:
            self._slots.release()

    def _handed_back(self, execution: Execution) -> Progress:
        return Progress(transitions.put_back(execution, reason="its worker stopped", due_at=self._clock.now()))

    async def _attempt(self, work: Work, record: StepRecord) -> Progress:
        attempt = _Attempt(
            work=work,
            record=record,
            compiled=work.compiled.steps[record.id],
            secrets=SecretsView(self._secrets),
            delivery=delivery_id(work.execution.id, record.id),
            worker=self.worker,
            started_at=self._clock.now(),
            started=stopwatch(),
        )
        try:
            context = attempt.context()
            if (condition := attempt.compiled.condition) is not None and not condition.holds(context):
                return Progress(
                    transitions.step_skipped(
                        work.execution, record, reason=f"if: {condition.text} is false", now=self._clock.now()
                    )
                )
            call = attempt.call(context, self.limits.event_source)
            outcome = await self._perform(attempt.compiled, call)
        except DestinationBusy as busy:
            wait = random.uniform(*BUSY_WAIT_SECONDS)  # noqa: S311 - jitter, not cryptography
            due_at = self._clock.now() + timedelta(seconds=wait)
            return Progress(transitions.put_back(work.execution, reason=str(busy), due_at=due_at))
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return self._interrupted(attempt)
        except TemplateInvalid as error:
            return self._failed(attempt, Refused(str(error)), AttemptState.INVALID)
        except ActionError as error:
            return self._failed(attempt, error, _state_of(error))
        except Exception as error:
            # An action's own fault: nobody knows how far it came, and the next attempt may go well.
            log.exception("action.broke", execution=work.execution.id, step=record.id, uses=record.uses)
            return self._failed(
                attempt, Ambiguous(f"{record.uses} broke: {type(error).__name__}: {error}"), AttemptState.AMBIGUOUS
            )
        return self._succeeded(attempt, outcome)

    async def _perform(self, compiled: CompiledStep, call: Call) -> Outcome:
        limit = 2 * compiled.step.timeout_seconds + GRACE_SECONDS  # half of it, at most, waiting for a place
        try:
            async with asyncio.timeout(limit):
                return await compiled.action.perform(call, self._tools)
        except TimeoutError as error:
            raise Ambiguous(f"no end after {limit:g} s; the step's timeout is {compiled.step.timeout_seconds:g} s") from error

    # --- what it came to --------------------------------------------------------------------------

    def _succeeded(self, attempt: _Attempt, outcome: Outcome) -> Progress:
        now = self._clock.now()
        mask = attempt.mask()
        execution = transitions.step_succeeded(
            attempt.work.execution,
            attempt.record,
            outputs=mask.data(outcome.outputs),
            started_at=attempt.started_at,
            now=now,
        )
        receipt = attempt.receipt(
            AttemptState.SUCCEEDED,
            mask,
            request=outcome.request,
            response=outcome.response,
            timings=outcome.timings,
        )
        _log_attempt(receipt, execution)
        return Progress(execution, (receipt,))

    def _failed(self, attempt: _Attempt, error: ActionError, state: AttemptState) -> Progress:
        step, record, now = attempt.compiled.step, attempt.record, self._clock.now()
        mask = attempt.mask()
        reason = _plain(mask.text(str(error)))
        wait = wait_before_next(
            step.retry, failures=record.failures + 1, error=error, chance=random.random()  # noqa: S311 - jitter
        )
        if wait is None:
            execution = transitions.step_failed(
                attempt.work.execution,
                record,
                reason=reason,
                continue_on_error=step.continue_on_error,
                started_at=attempt.started_at,
                now=now,
            )
        else:
            execution = transitions.step_waits(
                attempt.work.execution,
                record,
                reason=f"step {record.id}: {reason}",
                wait_seconds=wait,
                started_at=attempt.started_at,
                now=now,
            )
        receipt = attempt.receipt(
            state, mask, request=error.request, response=error.response, error=reason, wait_seconds=wait
        )
        _log_attempt(receipt, execution)
        return Progress(execution, (receipt,))

    def _interrupted(self, attempt: _Attempt) -> Progress:
        """The worker stops before the answer came: sent again at once by whoever takes it, same delivery id."""
        reason = "its worker stopped before an answer came"
        execution = transitions.step_waits(
            attempt.work.execution,
            replace(attempt.record, failures=attempt.record.failures - 1),  # a stop is nobody's failure
            reason=reason,
            wait_seconds=0,
            started_at=attempt.started_at,
            now=self._clock.now(),
        )
        receipt = attempt.receipt(AttemptState.AMBIGUOUS, attempt.mask(), error=reason, wait_seconds=0)
        return Progress(execution, (receipt,))

    def _count_loss(self, execution: Execution, worker: str) -> tuple[Execution, Receipt | None]:
        now = self._clock.now()
        execution, record = transitions.lease_lost(execution, worker=worker, now=now)
        if record is None:
            return execution, None
        receipt = Receipt(
            execution=execution.id,
            step=record.id,
            number=record.attempts + 1,
            state=AttemptState.AMBIGUOUS,
            delivery_id=delivery_id(execution.id, record.id),
            started_at=now,
            took_seconds=0.0,
            worker=worker,
            error="the worker fell silent; whether it had sent anything is not known",
            wait_seconds=0.0,
        )
        _log_attempt(receipt, execution)
        return execution, receipt

    def _fail_without_attempt(self, execution: Execution, reason: str) -> Execution:
        record = transitions.next_step(execution)
        if record is None:
            return execution
        now = self._clock.now()
        failed = transitions.step_failed(
            execution, record, reason=reason, continue_on_error=False, started_at=now, now=now
        )
        return replace(failed, state=ExecutionState.FAILED, reason=reason, finished_at=now, lease_owner=None, lease_until=None)


@dataclass(slots=True)
class _Attempt:
    """One attempt under way."""

    work: Work
    record: StepRecord
    compiled: CompiledStep
    secrets: SecretsView
    delivery: str
    worker: str
    started_at: datetime
    started: float

    @property
    def number(self) -> int:
        return self.record.attempts + 1

    def context(self) -> Mapping[str, Any]:
        execution, automation = self.work.execution, self.work.compiled.automation
        failure = transitions.failed_step(execution)
        return build_context(
            self.work.event,
            automation_name=automation.name,
            vars=automation.vars,
            steps={
                step.id: {"outputs": step.outputs or {}, "state": step.state.value, "reason": step.reason}
                for step in execution.steps
                if step.state.is_final
            },
            secrets=self.secrets,
            delivery={"id": self.delivery, "attempt": self.number},
            failure={"step": failure.id, "reason": failure.reason} if failure else None,
        )

    def call(self, context: Mapping[str, Any], event_source: str) -> Call:
        execution, event = self.work.execution, self.work.event
        cause = Cause(execution.automation, execution.id, event.id, event.version_reference)
        step = self.compiled.step
        return Call(
            with_=self.compiled.tree.render(context),
            body=self.compiled.body.render(context).encode() if self.compiled.body else None,
            event=event,
            automation=execution.automation,
            execution=execution.id,
            execution_created_at=execution.created_at,
            step=self.record.id,
            attempt=self.number,
            delivery_id=self.delivery,
            now=self.started_at,
            timeout_seconds=step.timeout_seconds,
            actor=Actor(execution.automation, "automation"),
            chain=(*event.chain, cause),
            event_source=event_source,
        )

    def mask(self) -> Mask:
        return Mask(self.secrets.used)

    def receipt(
        self,
        state: AttemptState,
        mask: Mask,
        *,
        request: Mapping[str, Any] | None = None,
        response: Mapping[str, Any] | None = None,
        error: str | None = None,
        wait_seconds: float | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> Receipt:
        return Receipt(
            execution=self.work.execution.id,
            step=self.record.id,
            number=self.number,
            state=state,
            delivery_id=self.delivery,
            started_at=self.started_at,
            took_seconds=round(stopwatch() - self.started, 6),
            worker=self.worker,
            request=mask.data(request),
            response=mask.data(response),
            error=error,
            wait_seconds=wait_seconds,
            timings=timings,
        )


def _state_of(error: ActionError) -> AttemptState:
    return next((state for kind, state in _ATTEMPT_STATES if isinstance(error, kind)), AttemptState.REFUSED)


def _plain(text: str) -> str:
    """A reason that any database takes: no NUL, which PostgreSQL refuses in text, and no unbounded length."""
    return text.replace("\x00", "�")[:MAX_REASON_CHARS]


def _log_attempt(receipt: Receipt, execution: Execution) -> None:
    log.info(
        "attempt.finished",
        execution=execution.id,
        automation=execution.automation,
        step=receipt.step,
        attempt=receipt.number,
        state=receipt.state.value,
        execution_state=execution.state.value,
        wait_seconds=receipt.wait_seconds,
        took_seconds=round(receipt.took_seconds, 4),
        error=receipt.error,
    )


