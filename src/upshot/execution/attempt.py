"""One attempt of one step: render, act, and turn the outcome into a receipt and the next state."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeVar

import structlog
from typing_extensions import override

from upshot.actions.egress_rules import InvalidUrl, parse_url
from upshot.actions.protocol import ActionCall, ActionContext, Deferred, Egress, HttpResponse, Outcome
from upshot.automations.context import DeferredSecrets, SecretsView, step_context
from upshot.automations.rendering import Compiled, LocalRenderer, Renderer
from upshot.automations.sandbox import misplaced_secret
from upshot.clock import Clock, stopwatch
from upshot.domain.event import Actor, ActorKind, Cause, Event, Origin
from upshot.domain.execution import AttemptState, Execution, Receipt, StepRecord
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import (
    ActionError,
    Ambiguous,
    Blocked,
    Busy,
    ConfigError,
    JobFailed,
    Refused,
    TemplateInvalid,
    TryLater,
    Unavailable,
    Unmet,
    Unreachable,
)
from upshot.execution import transitions
from upshot.execution.compiled import CompiledAutomation
from upshot.execution.limits import Permit, Reservation, Result
from upshot.execution.retry import wait_before_next
from upshot.execution.secret_masks import SecretMasks
from upshot.ids import WorkerId, derive_delivery_id, new_nonce
from upshot.masking import Mask
from upshot.ports.executions import ExecutionUpdate
from upshot.ports.secrets import SecretSource
from upshot.storable import ensure_storable, is_small
from upshot.unicode_text import to_storable_text

log = structlog.get_logger("upshot.execution")

GRACE_SECONDS = 5.0  # in addition to the step's timeout, for an action that ignores it
MAX_REASON_CHARS = 2_000
MAX_CHARS_ON_LOOP = 4_096  # the worst text of this length is masked in 5 ms
MAX_DESTINATION_CHARS = 300  # as the database stores it
UNAVAILABLE_PAUSE = timedelta(seconds=5)  # before a step whose store did not answer is performed again

_Data = TypeVar("_Data")
_Masked = TypeVar("_Masked")

_ATTEMPT_STATES: tuple[tuple[type[ActionError], AttemptState], ...] = (
    (Unmet, AttemptState.UNMET),
    (JobFailed, AttemptState.FAILED),
    (Refused, AttemptState.REFUSED),
    (Blocked, AttemptState.BLOCKED),
    (Ambiguous, AttemptState.AMBIGUOUS),
    (TryLater, AttemptState.UNAVAILABLE),  # before its base class
    (Unreachable, AttemptState.UNREACHABLE),
)


@dataclass(frozen=True, slots=True)
class ClaimedExecution:
    """An execution that this worker has leased, with everything needed to carry it out."""

    execution: Execution
    event: Event
    compiled: CompiledAutomation
    place: Reservation | None = None  #: reserved for its next attempt, if it has waited for room


@dataclass(frozen=True, slots=True)
class ExecutorContext:
    """The objects that every attempt of a worker uses."""

    worker_id: WorkerId
    action_context: ActionContext
    secrets: SecretSource
    masks: SecretMasks  #: for the same secrets
    clock: Clock
    event_source: str  #: CloudEvents `source`
    renderer: Renderer = field(default_factory=LocalRenderer)


class _LimitedEgress(Egress):
    """
    Sends the requests of one attempt, if their destination has room.

    A destination is a scheme, host and port together with the names of the secrets that the step uses, because a
    receiver often limits or blocks each credential on its own.
    """

    def __init__(self, egress: Egress, permit: Permit, secrets: SecretsView, mask: Callable[[], Mask]) -> None:
        self._egress = egress
        self._permit = permit
        self._secrets = secrets
        self._mask = mask

    @override
    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float,
        follow_redirects: bool = False,
    ) -> HttpResponse:
        try:
            destination = parse_url(url).destination
        except InvalidUrl:
            pass  # the egress rejects it with its request
        else:
            if self._secrets.used:
                destination = self._mask().text(destination)  # a secret can be part of the host
            words = (destination, *sorted(self._secrets.used))
            self._permit.send_to(" ".join(words)[:MAX_DESTINATION_CHARS])
        return await self._egress.send(
            method,
            url,
            headers=headers,
            body=body,
            timeout_seconds=timeout_seconds,
            follow_redirects=follow_redirects,
        )


class Attempt:
    """
    One attempt of one step.

    Args:
        claimed: The leased execution.
        record: The step to perform.
        context: Objects that every attempt uses.
        permit: Room for the attempt. Its destination needs room, too.
        stopping: Set while the worker stops.
    """

    def __init__(
        self,
        claimed: ClaimedExecution,
        record: StepRecord,
        context: ExecutorContext,
        permit: Permit,
        stopping: asyncio.Event,
    ) -> None:
        self._execution = claimed.execution
        self._event = claimed.event
        self._automation = claimed.compiled.automation
        self._compiled = claimed.compiled.steps[record.id]
        self._secret_names = claimed.compiled.secret_names
        self._record = record
        self._context = context
        # An action of a third-party package declares `defers_secrets` only if it needs it.
        defers_secrets = getattr(self._compiled.action, "defers_secrets", False)
        self._placeholders = SecretPlaceholders(new_nonce()) if defers_secrets else None
        self._secrets = (
            DeferredSecrets(context.secrets, self._placeholders) if self._placeholders else SecretsView(context.secrets)
        )
        self._permit = permit
        self._stopping = stopping
        self._action_context = replace(
            context.action_context,
            egress=_LimitedEgress(context.action_context.egress, permit, self._secrets, self._mask),
        )
        self._attempt = record.attempt_count + 1
        self._delivery_id = derive_delivery_id(claimed.execution.id, record.id)
        self._started_at = context.clock.now()
        self._stopwatch_start = stopwatch()
        if record.job_id is not None and record.started_at is not None:  # the attempt began when it created the job
            self._stopwatch_start -= (self._started_at - record.started_at).total_seconds()
            self._started_at = record.started_at

    async def make(self) -> ExecutionUpdate:
        """
        Perform the step, and return its outcome, whether it succeeded or failed.

        Raises:
            asyncio.CancelledError: The worker stops. `interrupted` then returns the update to record.
        """
        try:
            template_context = self._template_context()
            condition = self._compiled.condition
            if (
                condition is not None
                and self._record.job_id is None
                and not await self._render(condition, template_context)
            ):
                return self._skipped(f"if: {self._compiled.step.condition} is false")
            outcome = await self._perform(await self._call(template_context))
        except Busy as busy:
            return ExecutionUpdate(
                transitions.wait_for_room(
                    self._execution, reason=self._mask().text(str(busy)), waits_for=busy.waits_for
                )
            )
        except Unavailable as error:  # our own database did not answer, so nothing was decided, and no attempt was made
            due_at = self._context.clock.now() + UNAVAILABLE_PAUSE
            reason = self._mask().text(str(error))
            return ExecutionUpdate(transitions.reschedule(self._execution, reason=reason, due_at=due_at))
        except ConfigError as error:  # a template fails on this event, or a secret cannot be read
            return await self._failed(Refused(str(error)), AttemptState.INVALID)
        except ActionError as error:
            self._permit.finish(_result(error))
            states = (state for error_class, state in _ATTEMPT_STATES if isinstance(error, error_class))
            return await self._failed(error, next(states, AttemptState.REFUSED))
        except Exception as error:  # noqa: BLE001 - a bug of an action must not end the worker
            # A bug in the action. Nobody knows how far it got, and the next attempt may succeed.
            trace = await self._off_loop(self._mask().text, traceback.format_exc())
            log.error(  # noqa: TRY400 - `exception` would log the trace with its secrets
                "action.crashed", execution_id=self._execution.id, uses=self._record.uses, exception=trace
            )
            crash = f"{self._record.uses} crashed: {type(error).__name__}: {error}"
            return await self._failed(Ambiguous(crash), AttemptState.AMBIGUOUS)
        self._permit.finish(Result.ANSWERED)
        return await (self._deferred(outcome) if isinstance(outcome, Deferred) else self._succeeded(outcome))

    async def _perform(self, call: ActionCall) -> Outcome | Deferred:
        limit = call.timeout_seconds + GRACE_SECONDS
        try:
            async with asyncio.timeout(limit):
                return await self._compiled.action.perform(call, self._action_context)
        except TimeoutError as error:
            raise Ambiguous(
                f"not finished after {limit:g} s; the step's timeout is {call.timeout_seconds:g} s"
            ) from error

    def _mask(self) -> Mask:
        """Return a mask of the secrets that the execution may have used so far."""
        return self._context.masks.mask(self._secret_names, self._secrets.used)

    async def _off_loop(self, mask: Callable[[_Data], _Masked], data: _Data) -> _Masked:
        return await mask_off_loop(mask, data, self._stopping)

    # --- the call of the action -------------------------------------------------------------------

    def _template_context(self) -> Mapping[str, Any]:
        failed = transitions.failed_step(self._execution)
        return step_context(
            self._event,
            automation_name=self._automation.name,
            vars=self._automation.vars,
            steps=self._execution.steps,
            secrets=self._secrets,
            delivery={"id": self._delivery_id, "attempt": self._attempt},
            failure={"step": failed.id, "reason": failed.reason} if failed else None,
        )

    async def _render(self, compiled: Compiled, template_context: Mapping[str, Any]) -> Any:
        return await self._context.renderer.render(compiled, template_context)

    async def _call(self, template_context: Mapping[str, Any]) -> ActionCall:
        execution, event, compiled = self._execution, self._event, self._compiled
        cause = Cause(execution.automation, execution.id, event.id, event.version_reference)
        return ActionCall(
            with_={} if self._record.job_id else await self._render_inputs(template_context),
            body=(await self._render(compiled.body, template_context)).encode() if compiled.body else None,
            event=event,
            automation=execution.automation,
            execution_id=execution.id,
            execution_created_at=execution.created_at,
            step_id=self._record.id,
            attempt=self._attempt,
            delivery_id=self._delivery_id,
            now=self._started_at,
            timeout_seconds=compiled.step.timeout_seconds,
            origin=Origin(Actor(execution.automation, ActorKind.AUTOMATION), (*event.chain, cause)),
            event_source=self._context.event_source,
            retry=compiled.step.retry,
            job_id=self._record.job_id,
            placeholders=self._placeholders,
        )

    async def _render_inputs(self, template_context: Mapping[str, Any]) -> Mapping[str, Any]:
        tree, action = self._compiled.tree, self._compiled.action
        if not getattr(action, "sends", True) and (problem := misplaced_secret(self._record.uses, tree.paths)):
            # The revision is older than the check of its file.
            raise TemplateInvalid(self._automation.path, self._compiled.step.line or None, problem[1])
        if not isinstance(self._secrets, DeferredSecrets) or self._placeholders is None:
            inputs: Mapping[str, Any] = await self._render(self._compiled.tree, template_context)
            return inputs
        self._secrets.lookups.clear()
        rendered: Mapping[str, Any] = await self._render(self._compiled.tree, template_context)
        if changed := self._secrets.lookups - Counter(self._placeholders.secret_names(rendered)):
            names = ", ".join(f"secrets.{name}" for name in sorted(changed))
            raise TemplateInvalid(
                self._automation.path,
                self._compiled.step.line or None,
                f"{names}: a job's secrets are filled in when it starts, so a template can neither change "
                "nor test them; write {{ secrets.NAME }} without a filter",
            )
        return rendered

    # --- outcomes ---------------------------------------------------------------------------------

    def _skipped(self, reason: str) -> ExecutionUpdate:
        now = self._context.clock.now()
        return ExecutionUpdate(transitions.step_skipped(self._execution, self._record, reason=reason, now=now))

    async def _deferred(self, deferred: Deferred) -> ExecutionUpdate:
        job_id = deferred.job.id if deferred.job else self._record.job_id
        if job_id is None:
            bug = f"{self._record.uses} is broken: it waits for a job, but has created none"
            return await self._failed(Refused(bug), AttemptState.REFUSED)
        execution = transitions.step_deferred(
            self._execution, self._record, job_id=job_id, reason=deferred.reason, started_at=self._started_at
        )
        return ExecutionUpdate(execution, jobs=(deferred.job,) if deferred.job else ())

    async def _succeeded(self, outcome: Outcome) -> ExecutionUpdate:
        mask = self._mask()

        def store_and_mask(data: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            outputs, request, response = ensure_storable(data)
            is_cut = bool(response and response.get("truncated"))
            return mask.data(outputs, is_cut=is_cut), mask.request(request), mask.response(response)

        data = (outcome.outputs, outcome.request, outcome.response)
        outputs, request, response = await self._off_loop(store_and_mask, data)
        execution = transitions.step_succeeded(
            self._execution,
            self._record,
            outputs=outputs,
            started_at=self._started_at,
            now=self._context.clock.now(),
        )
        return self._finish(
            execution,
            AttemptState.SUCCEEDED,
            request=request,
            response=response,
            timings=outcome.timings,
        )

    async def _failed(self, error: ActionError, state: AttemptState) -> ExecutionUpdate:
        step, record, now = self._compiled.step, self._record, self._context.clock.now()
        mask = self._mask()

        def store_and_mask(data: tuple[str, Any, Any]) -> tuple[str, Any, Any]:
            reason, request, response = data
            request, response = ensure_storable((request, response))
            reason = to_storable_text(mask.text(reason))[:MAX_REASON_CHARS]
            return reason, mask.request(request), mask.response(response)

        data = (str(error), error.request, error.response)
        reason, request, response = await self._off_loop(store_and_mask, data)
        chance = random.random()  # noqa: S311 - jitter, not cryptography
        wait_seconds = wait_before_next(step.retry, failures=record.failures + 1, error=error, chance=chance)
        if wait_seconds is None:
            execution = transitions.step_failed(
                self._execution,
                record,
                reason=reason,
                continue_on_error=step.continue_on_error,
                is_invalid=state is AttemptState.INVALID,
                started_at=self._started_at,
                now=now,
            )
        else:
            execution = transitions.schedule_retry(
                self._execution,
                record,
                reason=f"step {record.id}: {reason}",
                wait_seconds=wait_seconds,
                started_at=self._started_at,
                now=now,
            )
        return self._finish(
            execution,
            state,
            request=request,
            response=response,
            error=reason,
            wait_seconds=wait_seconds,
        )

    def interrupted(self) -> ExecutionUpdate:
        """Return the update of an attempt that a stop of the worker interrupts. The next attempt is due at once."""
        reason = "its worker stopped before a response arrived"
        execution = transitions.schedule_retry(
            self._execution,
            self._record,
            reason=reason,
            wait_seconds=0,
            started_at=self._started_at,
            now=self._context.clock.now(),
            counts_as_failure=False,
        )
        return self._finish(execution, AttemptState.AMBIGUOUS, error=reason, wait_seconds=0)

    def _finish(
        self,
        execution: Execution,
        state: AttemptState,
        *,
        request: Mapping[str, Any] | None = None,
        response: Mapping[str, Any] | None = None,
        error: str | None = None,
        wait_seconds: float | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> ExecutionUpdate:
        return _with_receipt(
            execution,
            Receipt(
                execution_id=execution.id,
                step_id=self._record.id,
                attempt=self._attempt,
                state=state,
                delivery_id=self._delivery_id,
                started_at=self._started_at,
                took_seconds=round(stopwatch() - self._stopwatch_start, 6),
                worker_id=self._context.worker_id,
                request=request,
                response=response,
                error=error,
                wait_seconds=wait_seconds,
                timings=timings,
            ),
        )


async def mask_off_loop(mask: Callable[[_Data], _Masked], data: _Data, stopping: asyncio.Event) -> _Masked:
    """
    Mask data in a thread, unless it is small. A receiver can answer with what takes long to search.

    While the worker stops, a cancellation does not end this, because the outcome is known and has to be recorded.
    """
    if is_small(data, max_chars=MAX_CHARS_ON_LOOP):
        return mask(data)
    masking = asyncio.ensure_future(asyncio.to_thread(mask, data))
    try:
        return await asyncio.shield(masking)
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
        return await masking


def _result(error: ActionError) -> Result:
    """Return what the error of an attempt says about its destination."""
    if isinstance(error, Unreachable | Ambiguous):
        has_too_many = error.response is not None and error.response.get("status") == HTTPStatus.TOO_MANY_REQUESTS
        return Result.TOO_MANY if has_too_many else Result.FAILED
    return Result.UNKNOWN if isinstance(error, Blocked) else Result.ANSWERED


def lost_attempt(execution: Execution, worker_id: WorkerId, now: datetime) -> ExecutionUpdate:
    """Return the update of an attempt whose worker lost its lease (see `transitions.lease_lost`)."""
    continued, record = transitions.lease_lost(execution, worker_id=worker_id, now=now)
    if record is None:
        return ExecutionUpdate(continued)
    receipt = Receipt(
        execution_id=execution.id,
        step_id=record.id,
        attempt=record.attempt_count + 1,
        state=AttemptState.AMBIGUOUS,
        delivery_id=derive_delivery_id(execution.id, record.id),
        started_at=now,
        took_seconds=0.0,
        worker_id=worker_id,
        error="the worker was lost; it is not known whether it had sent anything",
        wait_seconds=0.0,
    )
    return _with_receipt(continued, receipt)


def _with_receipt(execution: Execution, receipt: Receipt) -> ExecutionUpdate:
    """Log a finished attempt, and return its update."""
    log.info(
        "attempt.finished",
        execution_id=execution.id,
        automation=execution.automation,
        step_id=receipt.step_id,
        attempt=receipt.attempt,
        state=receipt.state.value,
        wait_seconds=receipt.wait_seconds,
        took_seconds=round(receipt.took_seconds, 4),
        error=receipt.error,
    )
    return ExecutionUpdate(execution, (receipt,))
