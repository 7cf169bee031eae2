"""Jobs in SQL, as workers see them: claimed under one lock, and written only if the fence matches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.serialization.jobs import job_from_row, job_to_row
from upshot.adapters.sql.events import insert_events
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.job_logs import append_log, log_position
from upshot.adapters.sql.job_queue import choose_queued
from upshot.adapters.sql.job_rows import lock_executions, update_jobs, wake_executions
from upshot.adapters.sql.schema import UtcTimestamp, is_leased, is_queued, is_to_be_stopped, jobs
from upshot.domain.job import Job, JobState
from upshot.ids import ExecutionId, JobId, WorkerId
from upshot.jobs.transitions import adopt, cancel_queued, claim
from upshot.ports.jobs import JobStore, JobUpdate, WorkerCapacity
from upshot.storable import to_storable

_CLAIM_LOCK = 0x6A6F_6273  # "jobs" in ASCII: one worker at a time claims from a PostgreSQL database
_BATCH = 500  # jobs in one transaction

_has_id = jobs.c.id.in_(sa.bindparam("ids", expanding=True))
_GET = sa.select(jobs).where(_has_id)
_LOCK_QUEUED = (
    sa.select(jobs)
    .where(_has_id, is_queued, jobs.c.stop_requested_at.is_(None))
    .order_by(jobs.c.rank, jobs.c.id)
    .with_for_update(skip_locked=True)
)
_lease_expired = jobs.c.lease_until < sa.bindparam("now")
_ABANDONED = sa.select(jobs).where(_lease_expired, jobs.c.engine_id.in_(sa.bindparam("engine_ids", expanding=True)))
_LOST = sa.select(jobs).where(_lease_expired, jobs.c.seen_at < sa.bindparam("seen_before"))
_ADOPT = (
    sa.update(jobs)
    .where(_has_id)
    .values(lease_owner_id=sa.bindparam("worker_id"), lease_until=sa.bindparam("until"), fence=jobs.c.fence + 1)
)
# Rows are locked in the same order everywhere, so that two workers never wait for each other in a circle.
_LOCK_FENCES = sa.select(jobs.c.id, jobs.c.fence).where(_has_id).order_by(jobs.c.id).with_for_update()
_LEASED_BY_WORKER = sa.select(jobs.c.id).where(is_leased, jobs.c.lease_owner_id == sa.bindparam("worker_id"))
_LOCK_LEASED = _LEASED_BY_WORKER.where(_has_id).order_by(jobs.c.id).with_for_update()
_RENEW = (
    sa.update(jobs)
    .where(jobs.c.id.in_(_LOCK_LEASED))
    .values(
        lease_until=sa.bindparam("until"),
        seen_at=sa.func.coalesce(sa.bindparam("seen_at", type_=UtcTimestamp), jobs.c.seen_at),
    )
    .returning(jobs.c.id)
)
_UNEXPIRED = _LEASED_BY_WORKER.where(jobs.c.lease_until > sa.bindparam("now"))
_EXPIRE = sa.update(jobs).where(jobs.c.id.in_(_LOCK_LEASED)).values(lease_until=sa.bindparam("now"))
_RECORDED = (
    "state",
    "failure",
    "reason",
    "due_at",
    "finished_at",
    "machine",
    "engine_id",
    "details",
    "outputs",
    "log_tail",
)
# The worker's record of its lease is outdated, because the lease is renewed in the meantime.
# So a write keeps the lease of an active job, and ends it otherwise.
_is_active = sa.bindparam("b_is_active", type_=sa.Boolean)
_RECORD = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("b_id"), jobs.c.fence == sa.bindparam("b_fence"))
    .values({name: sa.bindparam(f"b_{name}") for name in _RECORDED})
    .values({name: sa.case((_is_active, jobs.c[name])) for name in ("lease_owner_id", "lease_until")})
)
_STOP_REQUESTS = sa.select(jobs.c.id, jobs.c.stop_requested_by).where(_has_id, is_to_be_stopped)
_TO_BE_STOPPED = sa.select(jobs.c.id, jobs.c.execution_id, jobs.c.state).where(is_to_be_stopped)
_LOCK_UNNEEDED = sa.select(jobs).where(_has_id, is_queued).order_by(jobs.c.id).with_for_update()


class SqlJobs(SqlJobAdmin, JobStore):
    """Stores jobs in one database."""

    # --- claims -----------------------------------------------------------------------------------

    @override
    def claim_queued(self, capacity: WorkerCapacity, *, now: datetime, until: datetime) -> tuple[Job, ...]:
        def work(connection: Connection) -> tuple[Job, ...]:
            if connection.dialect.name == "postgresql":  # SQLite has only one writer anyway
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
            job_ids = choose_queued(connection, capacity, now)
            rows = connection.execute(_LOCK_QUEUED, {"ids": job_ids}).mappings().all() if job_ids else ()
            claimed = tuple(claim(job_from_row(row), capacity, now=now, until=until) for row in rows)
            update_jobs(connection, claimed)
            return claimed

        # Most calls find no job, or no room. They must not take the lock, nor keep other writers of SQLite waiting.
        has_candidates = self._database.read(lambda connection: choose_queued(connection, capacity, now))
        return self._database.write(work) if has_candidates else ()

    @override
    def claim_abandoned(
        self, engine_ids: Collection[str], *, worker_id: WorkerId, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        return self._adopt(_ABANDONED, {"engine_ids": list(engine_ids), "now": now}, worker_id, until)

    @override
    def claim_lost(
        self, *, seen_before: datetime, worker_id: WorkerId, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        return self._adopt(_LOST, {"seen_before": seen_before, "now": now}, worker_id, until)

    def _adopt(
        self, select: sa.Select[Any], parameters: Mapping[str, Any], worker_id: WorkerId, until: datetime
    ) -> tuple[Job, ...]:
        lock = select.order_by(jobs.c.lease_until, jobs.c.id).limit(_BATCH).with_for_update(skip_locked=True)

        def work(connection: Connection) -> tuple[Job, ...]:
            found = [job_from_row(row) for row in connection.execute(lock, parameters).mappings()]
            if found:
                lease = {"ids": [job.id for job in found], "worker_id": worker_id, "until": until}
                connection.execute(_ADOPT, lease)
            return tuple(adopt(job, worker_id, until=until) for job in found)

        exists = self._database.read(lambda connection: connection.execute(select.limit(1), parameters).first())
        return self._database.write(work) if exists else ()

    # --- states -----------------------------------------------------------------------------------

    @override
    def record(self, updates: Sequence[JobUpdate]) -> frozenset[JobId]:
        rows = {update.job.id: _row_to_record(update.job) for update in updates}
        waking = [update for update in updates if update.wakes_execution]

        def work(connection: Connection) -> frozenset[JobId]:
            lock_executions(connection, {update.job.execution_id for update in waking})
            fences = {row.id: row.fence for row in connection.execute(_LOCK_FENCES, {"ids": list(rows)})}
            current = {job_id for job_id, row in rows.items() if fences.get(job_id) == row["b_fence"]}
            if current:
                connection.execute(_RECORD, [rows[job_id] for job_id in sorted(current)])
            for update in updates:
                if update.events and update.job.id in current:
                    events = [replace(event, data=to_storable(event.data)) for event in update.events]
                    insert_events(connection, events, events[0].time)
            due_at = {
                update.job.execution_id: update.job.finished_at or update.job.created_at
                for update in waking
                if update.job.id in current
            }
            wake_executions(connection, due_at)
            return frozenset(rows.keys() - current)

        return self._database.write(work)

    @override
    def renew(
        self, job_ids: Collection[JobId], *, worker_id: WorkerId, until: datetime, seen_at: datetime | None
    ) -> frozenset[JobId]:
        if not job_ids:
            return frozenset()
        lease = {"ids": list(job_ids), "worker_id": worker_id, "until": until, "seen_at": seen_at}
        return self._database.write(lambda connection: frozenset(connection.execute(_RENEW, lease).scalars()))

    @override
    def expire(self, worker_id: WorkerId, now: datetime) -> int:
        parameters = {"worker_id": worker_id, "now": now}

        def work(connection: Connection) -> int:
            job_ids = connection.execute(_UNEXPIRED, parameters).scalars().all()
            return connection.execute(_EXPIRE, parameters | {"ids": job_ids}).rowcount

        return self._database.write(work)

    # --- stop requests ----------------------------------------------------------------------------

    @override
    def stop_requests(self, job_ids: Collection[JobId]) -> Mapping[JobId, str]:
        rows = self._database.read(lambda connection: connection.execute(_STOP_REQUESTS, {"ids": list(job_ids)}).all())
        return {row.id: row.stop_requested_by for row in rows}

    @override
    def cancel_unneeded(self, now: datetime) -> int:
        def find_queued(connection: Connection) -> dict[JobId, ExecutionId]:
            rows = connection.execute(_TO_BE_STOPPED)
            queued = [(row.id, row.execution_id) for row in rows if row.state == JobState.QUEUED.value]
            return dict(queued[:_BATCH])

        def work(connection: Connection) -> int:
            queued = find_queued(connection)
            lock_executions(connection, set(queued.values()))
            rows = connection.execute(_LOCK_UNNEEDED, {"ids": list(queued)}).mappings()
            cancelled = [cancel_queued(job_from_row(row), now) for row in rows]
            update_jobs(connection, cancelled)
            wake_executions(connection, {job.execution_id: now for job in cancelled})
            return len(cancelled)

        return self._database.write(work) if self._database.read(find_queued) else 0

    # --- reading and logs -------------------------------------------------------------------------

    @override
    def get(self, job_ids: Collection[JobId]) -> Mapping[JobId, Job]:
        parameters = {"ids": list(job_ids)}
        rows = self._database.read(lambda connection: connection.execute(_GET, parameters).mappings().all())
        return {row["id"]: job_from_row(row) for row in rows}

    @override
    def append_log(self, job_id: JobId, text: str, *, position: str, now: datetime, keep_bytes: int) -> None:
        self._database.write(
            lambda connection: append_log(connection, job_id, text, position=position, now=now, keep_bytes=keep_bytes)
        )

    @override
    def log_position(self, job_id: JobId) -> str | None:
        return self._database.read(lambda connection: log_position(connection, job_id))


def _row_to_record(job: Job) -> dict[str, Any]:
    row = job_to_row(job)
    return {f"b_{name}": row[name] for name in ("id", "fence", *_RECORDED)} | {"b_is_active": job.state.is_active}
