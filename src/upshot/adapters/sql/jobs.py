"""Jobs in SQL, as the workers see them: claimed under one lock, written under their fences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.serialization.jobs import job_from_row, job_to_row
from upshot.adapters.sql.events import insert_events
from upshot.adapters.sql.job_admin import SqlJobAdmin
from upshot.adapters.sql.job_logs import append_log, log_position
from upshot.adapters.sql.job_queue import choose_queued
from upshot.adapters.sql.job_rows import change_jobs, lock_executions, wake
from upshot.adapters.sql.schema import UtcTimestamp, is_leased, is_queued, is_to_be_stopped, jobs
from upshot.domain.job import Job, JobState
from upshot.jobs.scheduling import cancel_queued, claim
from upshot.ports.jobs import JobUpdate, WorkerCapacity
from upshot.storable import to_storable

_CLAIM_LOCK = 0x6A6F_6273  # "jobs": one worker at a time claims from a PostgreSQL
_AT_ONCE = 500  # in one transaction, of what may be any number

_AMONG = jobs.c.id.in_(sa.bindparam("ids", expanding=True))
_GET = sa.select(jobs).where(_AMONG)
_QUEUED = (
    sa.select(jobs)
    .where(_AMONG, is_queued, jobs.c.stop_requested_at.is_(None))
    .order_by(jobs.c.rank, jobs.c.id)
    .with_for_update(skip_locked=True)
)
_has_run_out = jobs.c.lease_until < sa.bindparam("now")
_ABANDONED = sa.select(jobs).where(_has_run_out, jobs.c.engine_id.in_(sa.bindparam("engines", expanding=True)))
_LOST = sa.select(jobs).where(_has_run_out, jobs.c.seen_at < sa.bindparam("seen_before"))
_LEASE = (
    sa.update(jobs)
    .where(_AMONG)
    .values(lease_owner=sa.bindparam("owner"), lease_until=sa.bindparam("until"), fence=jobs.c.fence + 1)
)
# In one order everywhere, so that two workers never wait for each other in a circle.
_FENCES = sa.select(jobs.c.id, jobs.c.fence).where(_AMONG).order_by(jobs.c.id).with_for_update()
_OWN = sa.select(jobs.c.id).where(is_leased, jobs.c.lease_owner == sa.bindparam("owner"))
_OWN_LOCKED = _OWN.where(_AMONG).order_by(jobs.c.id).with_for_update()
_RENEW = (
    sa.update(jobs)
    .where(jobs.c.id.in_(_OWN_LOCKED))
    .values(
        lease_until=sa.bindparam("until"),
        seen_at=sa.func.coalesce(sa.bindparam("seen_at", type_=UtcTimestamp), jobs.c.seen_at),
    )
    .returning(jobs.c.id)
)
_UNEXPIRED = _OWN.where(jobs.c.lease_until > sa.bindparam("now"))
_EXPIRE = sa.update(jobs).where(jobs.c.id.in_(_OWN_LOCKED)).values(lease_until=sa.bindparam("now"))
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
# What the holder knows of its lease is old, for it is prolonged meanwhile: a record ends it, or leaves it as it is.
_lease_goes_on = sa.bindparam("b_is_active", type_=sa.Boolean)
_RECORD = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("b_id"), jobs.c.fence == sa.bindparam("b_fence"))
    .values({name: sa.bindparam(f"b_{name}") for name in _RECORDED})
    .values({name: sa.case((_lease_goes_on, jobs.c[name])) for name in ("lease_owner", "lease_until")})
)
_ASKED = sa.select(jobs.c.id, jobs.c.stop_requested_by).where(_AMONG, is_to_be_stopped)
_TO_BE_STOPPED = sa.select(jobs.c.id, jobs.c.execution_id, jobs.c.state).where(is_to_be_stopped)
_DROPPED = sa.select(jobs).where(_AMONG, is_queued).order_by(jobs.c.id).with_for_update()


class SqlJobs(SqlJobAdmin):
    """`JobStore` and `JobDesk` on one database."""

    # --- claims -----------------------------------------------------------------------------------

    def claim_queued(self, offer: WorkerCapacity, *, now: datetime, until: datetime) -> tuple[Job, ...]:
        """Lease due jobs that fit the offer, as STARTING: higher priority first, then older."""

        def work(connection: Connection) -> tuple[Job, ...]:
            if connection.dialect.name == "postgresql":  # an SQLite has one writer at a time anyway
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
            ids = choose_queued(connection, offer, now)
            rows = connection.execute(_QUEUED, {"ids": ids}).mappings().all() if ids else ()
            taken = tuple(claim(job_from_row(row), offer, now=now, until=until) for row in rows)
            change_jobs(connection, taken)
            return taken

        # Most rounds find nothing, or no room: they shall not take the lock, nor SQLite's one writing place.
        fits = self._database.read(lambda connection: choose_queued(connection, offer, now))
        return self._database.write(work) if fits else ()

    def claim_abandoned(
        self, engines: Collection[str], *, owner: str, now: datetime, until: datetime
    ) -> tuple[Job, ...]:
        """Lease active jobs of these engines whose lease has run out; state and engine stay."""
        return self._take_over(_ABANDONED, {"engines": list(engines), "now": now}, owner, until)

    def claim_lost(self, *, seen_before: datetime, owner: str, now: datetime, until: datetime) -> tuple[Job, ...]:
        """Lease active jobs whose lease has run out and whose engine nobody has reached since then."""
        return self._take_over(_LOST, {"seen_before": seen_before, "now": now}, owner, until)

    def _take_over(
        self, select: sa.Select[Any], asked: Mapping[str, Any], owner: str, until: datetime
    ) -> tuple[Job, ...]:
        locked = select.order_by(jobs.c.lease_until, jobs.c.id).limit(_AT_ONCE).with_for_update(skip_locked=True)

        def work(connection: Connection) -> tuple[Job, ...]:
            found = [job_from_row(row) for row in connection.execute(locked, asked).mappings()]
            if found:
                connection.execute(_LEASE, {"ids": [job.id for job in found], "owner": owner, "until": until})
            return tuple(replace(job, lease_owner=owner, lease_until=until, fence=job.fence + 1) for job in found)

        found = self._database.read(lambda connection: connection.execute(select.limit(1), asked).first())
        return self._database.write(work) if found else ()

    # --- states -----------------------------------------------------------------------------------

    def record(self, progress: Sequence[JobUpdate]) -> frozenset[str]:
        """Write states, accept events, wake executions; returns the ids whose state was refused."""
        changes = {one.job.id: _changes(one.job) for one in progress}
        woken = {one.job.execution_id: one.job.finished_at or one.job.created_at for one in progress if one.wakes}

        def work(connection: Connection) -> frozenset[str]:
            lock_executions(connection, woken)
            standing = {row.id: row.fence for row in connection.execute(_FENCES, {"ids": list(changes)})}
            held = {name for name, change in changes.items() if standing.get(name) == change["b_fence"]}
            if held:
                connection.execute(_RECORD, [changes[name] for name in sorted(held)])
            for one in progress:
                if one.events and one.job.id in held:
                    insert_events(
                        connection,
                        [replace(event, data=to_storable(event.data)) for event in one.events],
                        one.events[0].time,
                    )
            kept = {one.job.execution_id for one in progress if one.wakes and one.job.id in held}
            wake(connection, {execution: woken[execution] for execution in kept})
            return frozenset(changes.keys() - held)

        return self._database.write(work)

    def renew(self, ids: Collection[str], *, owner: str, until: datetime, seen_at: datetime | None) -> frozenset[str]:
        """Prolong leases that the owner still holds; returns those ids."""
        if not ids:
            return frozenset()
        held = {"ids": list(ids), "owner": owner, "until": until, "seen_at": seen_at}
        return self._database.write(lambda connection: frozenset(connection.execute(_RENEW, held).scalars()))

    def expire(self, owner: str, now: datetime) -> int:
        """End the leases of a worker that is known to be dead; returns how many."""
        dead = {"owner": owner, "now": now}

        def work(connection: Connection) -> int:
            ids = connection.execute(_UNEXPIRED, dead).scalars().all()
            return connection.execute(_EXPIRE, dead | {"ids": ids}).rowcount

        return self._database.write(work)

    # --- wishes to stop ---------------------------------------------------------------------------

    def stop_requests(self, ids: Collection[str]) -> Mapping[str, str]:
        """Who asked, by id: a person, or the end of the execution that the job belongs to."""
        rows = self._database.read(lambda connection: connection.execute(_ASKED, {"ids": list(ids)}).all())
        return {row.id: row.stop_requested_by for row in rows}

    def cancel_unneeded(self, now: datetime) -> int:
        """End queued jobs that nobody waits for; returns how many."""

        def queued(connection: Connection) -> list[Any]:
            wanted = connection.execute(_TO_BE_STOPPED)
            return [row for row in wanted if row.state == JobState.QUEUED.value][:_AT_ONCE]

        def work(connection: Connection) -> int:
            idle = queued(connection)
            lock_executions(connection, {row.execution_id for row in idle})
            rows = connection.execute(_DROPPED, {"ids": [row.id for row in idle]}).mappings()
            ended = [cancel_queued(job_from_row(row), now) for row in rows]
            change_jobs(connection, ended)
            wake(connection, {job.execution_id: now for job in ended})
            return len(ended)

        return self._database.write(work) if self._database.read(queued) else 0

    # --- reading ----------------------------------------------------------------------------------

    def get(self, ids: Collection[str]) -> Mapping[str, Job]:
        """The jobs of these ids; those that do not exist are left out."""
        rows = self._database.read(lambda connection: connection.execute(_GET, {"ids": list(ids)}).mappings().all())
        return {row["id"]: job_from_row(row) for row in rows}

    def append_log(self, job: str, text: str, *, position: str, now: datetime, keep_bytes: int) -> None:
        """Add a piece to a job's log, and remove its oldest pieces beyond so many bytes."""
        self._database.write(
            lambda connection: append_log(connection, job, text, position=position, now=now, keep_bytes=keep_bytes)
        )

    def log_position(self, job: str) -> str | None:
        """The position that the last piece was added with; None before the first."""
        return self._database.read(lambda connection: log_position(connection, job))


def _changes(job: Job) -> dict[str, Any]:
    row = job_to_row(job)
    names = ("id", "fence", *_RECORDED)
    return {f"b_{name}": row[name] for name in names} | {"b_is_active": job.state.is_active}
