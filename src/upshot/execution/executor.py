"""
Carries out executions on one event loop, hundreds at a time: claim, render, act, store the receipt, decide.

Executions arrive through `start`, already leased when they were admitted, or through `execute`, as ids
from a Celery task or the sweeper. Every result leaves through the recorder.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from upshot.domain.automation import AutomationNames
from upshot.domain.event import Event
from upshot.domain.execution import ExecutionState, StepRecord
from upshot.errors import Busy, ConfigError, Unavailable
from upshot.execution import transitions
from upshot.execution.attempt import Attempt, ClaimedExecution, ExecutorContext, lost_attempt
from upshot.execution.compiled import RevisionCache
from upshot.execution.delivery_meter import DeliveryMeter
from upshot.execution.limits import AttemptLimits, Reservation, Result
from upshot.execution.overtaking import OvertakingLookup, late_step
from upshot.execution.recorder import Recorder
from upshot.ids import ExecutionId
from upshot.ports.events import EventStore
from upshot.ports.executions import Claim, ExecutionStore, ExecutionUpdate
from upshot.ports.run_in_thread import RunInThread

log = structlog.get_logger("upshot.execution")

FINAL_WRITE_SECONDS = 5.0  # at a stop, for writing the receipts of interrupted attempts
ROOM_POLL_SECONDS = 1.0  # a limit can also change because time has passed
DISABLED_PREFIX = "disabled:"  # in `Execution.waits_for`


def held_reason(automation: str) -> str:
    """Return why the executions of a disabled automation wait."""
    return f"automation {automation} is disabled (`enabled: false`); it continues when the automation is enabled again"


class Executor:
    """
    The executor of one worker.

    Args:
        context: Objects that every attempt uses.
        executions: Stores executions.
        events: Stores events.
        recorder: Writes results. Its `run` must run beside the executor.
        revisions: Compiled automations.
        run_in_thread: Runs the blocking calls of the stores.
        max_in_flight: Number of attempts that can be in progress at the same time.
        limits: Divides them among destinations and automations.
        meter: Counts attempts, for metrics.
        lease: Duration of a claim that is not renewed.
        may_take_over: Whether expired leases can be claimed now. They cannot be claimed while no worker can renew
            leases.
        names: Returns the names of the automations in force. The executions of disabled ones are held.
    """

    def __init__(
        self,
        *,
        context: ExecutorContext,
        executions: ExecutionStore,
        events: EventStore,
        recorder: Recorder,
        revisions: RevisionCache,
        run_in_thread: RunInThread,
        max_in_flight: int,
        limits: AttemptLimits,
        meter: DeliveryMeter,
        lease: timedelta,
        may_take_over: Callable[[], bool] = lambda: True,
        names: Callable[[], AutomationNames] = AutomationNames,
    ) -> None:
        self.worker_id = context.worker_id
        self.recorder = recorder
        self.revisions = revisions
        self._context = context
        self._clock = context.clock
        self._executions = executions
        self._events = events
        self._run_in_thread = run_in_thread
        self._lease = lease
        self._max_in_progress = 2 * max_in_flight  # includes executions that wait for a commit
        self.limits = limits
        self.meter = meter
        self._room_changed = asyncio.Event()
        self._may_take_over = may_take_over
        self._names = names
        self._held: set[str] = set()  #: disabled automations whose executions wait, as far as this worker knows
        self._in_progress: dict[ExecutionId, asyncio.Task[None]] = {}
        self._freed = asyncio.Event()
        self._overtaking = OvertakingLookup(executions, run_in_thread)
        self._stopping = asyncio.Event()

    # --- capacity ---------------------------------------------------------------------------------

    @property
    def in_progress(self) -> tuple[ExecutionId, ...]:
        """Ids of the executions that this executor holds."""
        return tuple(self._in_progress)

    @property
    def capacity(self) -> int:
        """Number of further executions that can be started."""
        return 0 if self._stopping.is_set() else max(0, self._max_in_progress - len(self._in_progress))

    async def wait_for_capacity(self) -> None:
        """Return when another execution can be started."""
        while self.capacity == 0:
            self._freed.clear()
            await self._freed.wait()

    async def wait_until_idle(self) -> None:
        """Return when no execution is in progress."""
        while self._in_progress:
            await asyncio.wait(list(self._in_progress.values()))

    def lease_end(self) -> datetime:
        """Return the end of a lease that begins now."""
        return self._clock.now() + self._lease

    # --- starting and stopping --------------------------------------------------------------------

    def start(self, executions: Iterable[ClaimedExecution]) -> None:
        """Carry out executions that this worker has leased."""
        for claimed in executions:
            execution_id = claimed.execution.id
            task = asyncio.get_running_loop().create_task(self._execute(claimed))
            self._in_progress[execution_id] = task
            task.add_done_callback(partial(self._on_done, execution_id))

    async def execute(self, execution_ids: Collection[ExecutionId]) -> None:
        """Claim the executions that are due or whose lease has expired, and carry them out. Ignore the others."""
        wanted = [execution_id for execution_id in execution_ids if execution_id not in self._in_progress]
        wanted = wanted[: self.capacity]
        if not wanted:
            return
        now = self._clock.now()
        claims = await self._run_in_thread(
            self._executions.claim,
            wanted,
            worker_id=self.worker_id,
            now=now,
            until=now + self._lease,
            with_lost=self._may_take_over(),
        )
        await self._start_claims(claims)

    async def return_waiting(self) -> int:
        """Claim as many of the executions that wait for room as there is room for, and return their number."""
        planned = self.limits.plan_return(self.capacity)
        released = self._plan_release(self.capacity - sum(planned.values()))
        if not planned and not released:
            return 0
        claims = await self._run_in_thread(
            self._executions.claim_waiting, planned | released, worker_id=self.worker_id, until=self.lease_end()
        )
        places = {
            claim.execution.id: self.limits.reserve(claim.waited_for)
            for claim in claims
            if claim.waited_for is not None and claim.waited_for in planned
        }
        claimed = Counter(claim.waited_for for claim in claims)
        for waits_for, count in planned.items():
            self.limits.record_returned(waits_for, planned=count, claimed=claimed[waits_for])
        for waits_for, count in released.items():
            if claimed[waits_for] < count:
                self._held.discard(waits_for.removeprefix(DISABLED_PREFIX))
        try:
            await self._start_claims(claims, places)
        finally:
            for execution_id, place in places.items():
                if execution_id not in self._in_progress:
                    place.release()
        return len(claims)

    def _plan_release(self, at_most: int) -> dict[str, int]:
        """Return how many held executions of automations that are enabled again can be claimed now."""
        planned: dict[str, int] = {}
        for name in self._held & self._names().enabled if self._held else ():
            if count := min(at_most - sum(planned.values()), self.limits.room_of_automation(name)):
                planned[DISABLED_PREFIX + name] = count
        return planned

    async def return_waiting_when_possible(self) -> None:
        """Wait until an attempt has ended, then return waiting executions."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._room_changed.wait(), ROOM_POLL_SECONDS)
        self._room_changed.clear()
        await self.return_waiting()

    async def find_waiting(self) -> None:
        """Find out for what executions wait, because the worker that made them wait may be gone."""
        self._record_waiting(await self._run_in_thread(self._executions.waits))
        self.limits.forget_idle()

    def _record_waiting(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key.startswith(DISABLED_PREFIX):
                self._held.add(key.removeprefix(DISABLED_PREFIX))
            else:
                self.limits.record_waiting([key])

    async def _start_claims(
        self, claims: Collection[Claim], places: Mapping[ExecutionId, Reservation] | None = None
    ) -> None:
        events = await self._run_in_thread(self._events.get, {claim.execution.event_id for claim in claims})
        for claim in claims:
            place = places.get(claim.execution.id) if places else None
            try:
                await self._start_claimed(claim, events[claim.execution.event_id], place)
            except Unavailable as error:  # its lease expires; the claims behind it must not wait for that
                log.warning("execution.start_failed", execution_id=claim.execution.id, error=str(error))

    async def _start_claimed(self, claim: Claim, event: Event, place: Reservation | None) -> None:
        execution = claim.execution
        if claim.lost_by_worker_id is not None:
            lost = lost_attempt(execution, claim.lost_by_worker_id, self._clock.now())
            self._count_lost(lost)
            if not await self.recorder.record(lost, event):
                return
            execution = lost.execution
        if execution.state.is_final:
            return
        try:
            compiled = self.revisions.get(execution.automation, execution.revision_id)
            if compiled is None:
                compiled = await self._run_in_thread(self.revisions.load, execution.automation, execution.revision_id)
        except ConfigError as error:
            failed = transitions.fail_without_attempt(execution, reason=str(error), now=self._clock.now())
            await self.recorder.record(ExecutionUpdate(failed), event)
            return
        self.start([ClaimedExecution(execution, event, compiled, place)])

    def _count_lost(self, lost: ExecutionUpdate) -> None:
        uses = {record.id: record.uses for record in lost.execution.steps}
        for receipt in lost.receipts:
            self.meter.count(receipt, uses[receipt.step_id], "")

    def _on_done(self, execution_id: ExecutionId, task: asyncio.Task[None]) -> None:
        self._in_progress.pop(execution_id, None)
        self._freed.set()
        self._room_changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease expires and it is claimed again, until it fails because too many workers were lost.
            log.error("execution.crashed", execution_id=execution_id, exc_info=error)

    async def stop(self, *, within_seconds: float) -> None:
        """Start nothing more. Finish the attempts in flight within that time, and release the rest."""
        self._stopping.set()
        tasks = list(self._in_progress.values())
        if tasks:
            await asyncio.wait(tasks, timeout=within_seconds)
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=FINAL_WRITE_SECONDS)

    # --- one execution ----------------------------------------------------------------------------

    async def _execute(self, claimed: ClaimedExecution) -> None:
        try:
            await self._perform_steps(claimed)
        finally:
            if claimed.place is not None:
                claimed.place.release()

    async def _perform_steps(self, claimed: ClaimedExecution) -> None:
        while (record := transitions.next_step(claimed.execution)) is not None:
            update = await self._skip_if_overtaken(claimed, record) or await self._attempt(claimed, record)
            # A skipped step leaves nothing to write until the next step has an outcome.
            has_outcome = update.receipts or update.execution.state is not ExecutionState.RUNNING
            if has_outcome and not await self.recorder.record(update, claimed.event):
                log.info("execution.lease_lost", execution_id=claimed.execution.id)
                return
            if update.execution.waits_for is not None:
                self._record_waiting([update.execution.waits_for])
            if update.execution.state is not ExecutionState.RUNNING:
                return
            claimed = replace(claimed, execution=update.execution)

    async def _skip_if_overtaken(self, claimed: ClaimedExecution, record: StepRecord) -> ExecutionUpdate | None:
        """Return the update that skips a late attempt of an older event, or None to make the attempt."""
        execution, now = claimed.execution, self._clock.now()
        step = late_step(execution, record, claimed.event, now)
        if step is None:
            return None
        try:
            newer = await self._overtaking.find(step)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            return ExecutionUpdate(transitions.reschedule(execution, reason="its worker stopped", due_at=now))
        if newer is None:
            return None
        log.info("execution.overtaken", execution_id=execution.id, step_id=record.id, newer_execution_id=newer)
        return ExecutionUpdate(transitions.step_overtaken(execution, record, by=newer, now=now))

    async def _attempt(self, claimed: ClaimedExecution, record: StepRecord) -> ExecutionUpdate:
        """Attempt the step if there is room. Release the execution if the worker stops, or if it has to wait."""
        name = claimed.execution.automation
        if self._stopping.is_set():
            now = self._clock.now()
            return ExecutionUpdate(transitions.reschedule(claimed.execution, reason="its worker stopped", due_at=now))
        if name in self._names().disabled:
            waits_for = DISABLED_PREFIX + name
            return ExecutionUpdate(
                transitions.wait_for_room(claimed.execution, reason=held_reason(name), waits_for=waits_for)
            )
        try:
            permit = self.limits.enter(name, claimed.place)
        except Busy as busy:
            return ExecutionUpdate(
                transitions.wait_for_room(claimed.execution, reason=str(busy), waits_for=busy.waits_for)
            )
        attempt = Attempt(claimed, record, self._context, permit, self._stopping)
        try:
            update = await attempt.make()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            update = attempt.interrupted()
        finally:
            permit.finish(Result.UNKNOWN)
            self._room_changed.set()
        for receipt in update.receipts:
            self.meter.count(receipt, record.uses, permit.destination)
        return update
