"""What the process of a run sends while it runs: its values, signs of life, and its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from upshot.domain.event import Actor, Origin, Role
from upshot.domain.metric_history import MAX_STEP, LogEntry, LogRow, decode_entry, encode_rows, number_of
from upshot.domain.registry import Change
from upshot.domain.run import HEARTBEAT_TIMEOUT, Run, RunState
from upshot.errors import Conflict, InvalidInput
from upshot.ports.registry import RegistryView
from upshot.registry.inputs import MAX_RUN_JSON_BYTES, check_json, check_size, check_value
from upshot.registry.metric_conditions import evaluate_conditions, read_earlier_points
from upshot.registry.mutation import Mutation
from upshot.registry.run_lookup import find_run
from upshot.registry.run_states import SILENT, continue_run, end_run
from upshot.registry.transaction import RegistryTransactions, run_lock

MAX_VALUES = 10_000  #: in one request
MAX_KEY_CHARS = 512
MAX_VALUE_BYTES = 262_144  #: of a value that is not a number
_RESERVED_KEYS = frozenset({"_step", "_timestamp"})  # columns of the history
_MAX_TIME = 253_402_300_800.0  # the year 10000
_HEARTBEAT_AFTER = timedelta(seconds=10)  # a request also counts as a heartbeat; not every one is stored
_SWEPT_RUNS = 100  # at a time
_SYSTEM = Origin(Actor("upshot", role=Role.ADMIN))


class OutOfSequence(Conflict):
    """
    A request of a session is missing.

    Args:
        expected: Number of the request that comes next.
        received: Number of the request that came.
    """

    def __init__(self, expected: int, received: int) -> None:
        super().__init__(f"sequence {received}: request {expected} of this session comes first; send it, then this one")
        self.next_sequence = expected


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What one request logs."""

    session: str
    sequence: int  #: requests of a session are numbered from 0
    rows: Sequence[LogRow] = ()
    summary: Mapping[str, Any] | None = None  #: merged into the run's
    config: Mapping[str, Any] | None = None  #: merged into the run's
    late: bool = False  #: it was logged earlier, and is no sign of life


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """The answer to a request that logs."""

    next_sequence: int
    must_stop: bool
    dropped: int = 0  #: values whose step was lower than the last step of their key


class RunLog(RegistryTransactions):
    """Methods for the process of a run."""

    def log(self, project: str, run_id: str, request: LogRequest, *, origin: Origin) -> LogAnswer:
        """
        Store what a run logs. Repeating a request changes nothing.

        Raises:
            Conflict: Another process has resumed the run, the run has ended, or a request is missing
                (`OutOfSequence`).
            InvalidInput: A key or a value is invalid, or there are too many.
            NotFound: The run does not exist.
        """
        _check(request)
        entry = _make_entry(request.rows)  # outside of the transaction, for which other writers wait
        self._metric_watches.refresh()

        def work(mutation: Mutation) -> LogAnswer:
            run = find_run(mutation.tx, project, run_id)
            check_session(run, request.session)
            progress = run.progress
            if request.sequence < progress.next_sequence:
                return LogAnswer(progress.next_sequence, run.must_stop)
            if request.sequence > progress.next_sequence:
                raise OutOfSequence(progress.next_sequence, request.sequence)
            run = _wake(mutation, run, request)
            rows, dropped = _without_earlier_steps(mutation.tx, run, request.rows)
            metrics = {key for row in rows for key in row.values}
            watches = self._metric_watches.find(run, origin.actor.name, metrics)
            earlier = read_earlier_points(mutation.tx, run, watches)
            run = _add_rows(mutation, run, rows, _make_entry(rows) if dropped else entry)
            if request.summary is None and request.config is None:
                mutation.tx.save_run_progress(run)
            else:
                run = _merge(run, request)
                mutation.tx.save_run_values(run)
            if watches:
                evaluate_conditions(mutation, run, rows, watches, earlier)
            return LogAnswer(run.progress.next_sequence, run.must_stop, dropped)

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin).value

    def record_heartbeat(self, project: str, run_id: str, *, session: str | None = None, origin: Origin) -> Change[Run]:
        """
        Record that a run is alive. After its first heartbeat, a run has failed when they stop for 60 seconds.

        Raises:
            Conflict: Another process has resumed the run.
            NotFound: The run does not exist.
        """

        def work(mutation: Mutation) -> Run:
            run = find_run(mutation.tx, project, run_id)
            check_session(run, session)
            if run.summary.state.is_final and not run.is_lost:
                return run
            alive = replace(run, summary=replace(run.summary, heartbeat_at=mutation.now))
            if run.is_lost:
                return continue_run(mutation, run, alive)
            mutation.tx.save_run_progress(alive)
            return alive

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin)

    def finish_run(
        self,
        project: str,
        run_id: str,
        state: RunState,
        *,
        exit_code: int | None = None,
        finished_at: datetime | None = None,
        session: str | None = None,
        origin: Origin,
    ) -> Change[Run]:
        """
        End a run. A run that has ended stays as it is, unless only its heartbeats had stopped.

        Args:
            project: Name of the project.
            run_id: Id of the run.
            state: How it ended.
            exit_code: Of its program, if it had one.
            finished_at: When it ended; now by default.
            session: Of the process that ends it; None for a client without one.
            origin: Who ends it.

        Raises:
            Conflict: Another process has resumed the run.
            NotFound: The run does not exist.
        """

        def work(mutation: Mutation) -> Run:
            run = find_run(mutation.tx, project, run_id)
            check_session(run, session)
            if run.summary.state.is_final and not run.is_lost:
                return run
            return end_run(mutation, run, state, at=finished_at, exit_code=exit_code)

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin)

    def stop_run(self, project: str, run_id: str, *, origin: Origin) -> Change[Run]:
        """
        Ask the process of a run to stop. The answer to its next request says so.

        Raises:
            NotFound: The run does not exist.
        """

        def work(mutation: Mutation) -> Run:
            run = find_run(mutation.tx, project, run_id)
            if run.summary.state.is_final or run.must_stop:
                return run
            asked = replace(run, stop_requested_at=mutation.now, stop_requested_by=origin.actor.name)
            mutation.tx.save_run(asked)
            mutation.add_history("stop-run", run.summary.reference)
            return asked

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin)

    def end_silent_runs(self) -> int:
        """Record that runs whose heartbeats have stopped have ended, and return how many."""
        before = self._clock.now() - HEARTBEAT_TIMEOUT
        silent = self._store.read(lambda view: view.silent_runs(before, _SWEPT_RUNS))
        return sum(self._end_if_silent(run.project, run.run_id, before) for run in silent)

    def _end_if_silent(self, project: str, run_id: str, before: datetime) -> bool:
        def work(mutation: Mutation) -> bool:
            run = mutation.tx.run(project, run_id)
            if run is None or run.summary.state.is_final:
                return False
            last = run.summary.heartbeat_at or run.stop_requested_at
            if last is None or last >= before:
                return False  # it has sent one meanwhile
            state = RunState.KILLED if run.must_stop else RunState.FAILED
            end_run(mutation, run, state, reason=SILENT, is_lost=True)
            return True

        return self._change(work, locks=[run_lock(project, run_id)], origin=_SYSTEM).value


def check_session(run: Run, session: str | None) -> None:
    """
    Refuse the request of a process whose run another process has resumed.

    Raises:
        Conflict: The run has another session.
    """
    if session is not None and session != run.progress.session:
        raise Conflict(
            f"run {run.summary.reference} belongs to another process, which has started or resumed it since; "
            "start a run with another id"
        )


def _wake(mutation: Mutation, run: Run, request: LogRequest) -> Run:
    """Return the run that logs, as running and alive, unless somebody else sends what its process has logged."""
    if request.late:
        return run
    if run.summary.state.is_final and not run.is_lost:
        raise Conflict(f"run {run.summary.reference} has ended; resume it, and log then")
    heartbeat_at = run.summary.heartbeat_at
    if not run.is_lost and heartbeat_at is not None and mutation.now - heartbeat_at <= _HEARTBEAT_AFTER:
        return run
    alive = replace(run, summary=replace(run.summary, heartbeat_at=mutation.now))
    return continue_run(mutation, run, alive) if run.is_lost else alive


def _make_entry(rows: Sequence[LogRow]) -> LogEntry | None:
    """Return rows as a log entry without its number, or None if they have no values."""
    points = sum(len(row.values) for row in rows)
    return LogEntry(0, points, len({key for row in rows for key in row.values}), encode_rows(rows)) if points else None


def _add_rows(mutation: Mutation, run: Run, rows: Sequence[LogRow], entry: LogEntry | None) -> Run:
    """Store the log entry of rows, and return the run with its new progress."""
    progress = replace(run.progress, next_sequence=run.progress.next_sequence + 1)
    if rows:
        last_step = max(row.step for row in rows)
        progress = replace(progress, last_step=max(last_step, progress.last_step or 0))
    if entry is not None:
        mutation.tx.add_log_entry(run.summary.id, replace(entry, number=progress.next_entry))
        progress = replace(
            progress,
            next_entry=progress.next_entry + 1,
            unpacked_entries=progress.unpacked_entries + 1,
            unpacked_points=progress.unpacked_points + entry.points,
            unpacked_keys=max(progress.unpacked_keys, entry.keys),
        )
    return replace(run, progress=progress)


def _merge(run: Run, request: LogRequest) -> Run:
    merged = replace(
        run, config={**run.config, **(request.config or {})}, results={**run.results, **(request.summary or {})}
    )
    check_size(merged.config, "config", max_bytes=MAX_RUN_JSON_BYTES)
    check_size(merged.results, "summary", max_bytes=MAX_RUN_JSON_BYTES)
    return merged


def _without_earlier_steps(view: RegistryView, run: Run, rows: Sequence[LogRow]) -> tuple[Sequence[LogRow], int]:
    """Return the rows without the values whose step is lower than the last step of their key, and their number."""
    steps = [row.step for row in rows]
    goes_on = not steps or run.progress.last_step is None or steps[0] > run.progress.last_step
    if goes_on and steps == sorted(steps):
        return rows, 0
    last = {} if run.progress.last_step is None else last_steps(view, run, {key for row in rows for key in row.values})
    kept, dropped = [], 0
    for row in rows:
        values = {key: value for key, value in row.values.items() if row.step >= last.get(key, 0)}
        last.update(dict.fromkeys(values, row.step))
        dropped += len(row.values) - len(values)
        if values or not row.values:
            kept.append(replace(row, values=values))
    return kept, dropped


def last_steps(view: RegistryView, run: Run, keys: set[str]) -> dict[str, int]:
    """Return the last step of each of these keys that has one."""
    last = {info.key: info.last_step for info in view.chunk_infos(run.summary.id, keys)}  # sorted by number
    for entry in view.log_entries(run.summary.id):
        last.update((key, points[-1].step) for key, points in decode_entry(entry, keys).items())
    return last


# --- checks -------------------------------------------------------------------------------------


def _check(request: LogRequest) -> None:
    if not 0 < len(request.session) <= 80:  # noqa: PLR2004 - the width of its column
        raise InvalidInput("session: must have 1 to 80 characters")
    values = sum(len(row.values) for row in request.rows)
    if values > MAX_VALUES:
        raise InvalidInput(f"rows: {values:,} values in one request; at most {MAX_VALUES:,} are allowed")
    known: set[str] = set()
    for index, row in enumerate(request.rows):
        _check_row(row, f"rows.{index}", known)
    for what in ("summary", "config"):
        if (values := getattr(request, what)) is not None:
            check_json(values, what, max_bytes=MAX_RUN_JSON_BYTES)


def _check_row(row: LogRow, place: str, known: set[str]) -> None:
    if not 0 <= row.step <= MAX_STEP:
        raise InvalidInput(f"{place}.step: {row.step} is not a step; it must be from 0 to {MAX_STEP:,}")
    if not (math.isfinite(row.time) and -_MAX_TIME < row.time < _MAX_TIME):
        raise InvalidInput(f"{place}.time: {row.time} is not a time in seconds since 1970")
    for key, value in row.values.items():
        if key not in known:
            _check_key(key, place)
            known.add(key)
        if not isinstance(value, float) and number_of(value) is None:
            check_value(value, f"{place}.values.{key[:80]}", max_bytes=MAX_VALUE_BYTES)


def _check_key(key: str, place: str) -> None:
    if not 0 < len(key) <= MAX_KEY_CHARS:
        raise InvalidInput(f"{place}: key {key[:80]!r}: must have 1 to {MAX_KEY_CHARS} characters")
    if key in _RESERVED_KEYS:
        raise InvalidInput(f"{place}: key {key!r}: the history has a column of this name; choose another key")
    check_value(key, f"{place}: a key", max_bytes=MAX_VALUE_BYTES)
