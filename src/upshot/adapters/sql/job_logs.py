"""The logs of jobs: numbered chunks, of which the oldest are removed when a log grows too large."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.sql.schema import job_logs, jobs
from upshot.ids import JobId
from upshot.ports.jobs import LogChunk
from upshot.unicode_text import to_storable_text

_BATCH = 100
_MAX_INTEGER = 2**31 - 1  # INTEGER of PostgreSQL

_of_job = job_logs.c.job_id == sa.bindparam("job_id")
_LOCK = sa.select(jobs.c.log_number, jobs.c.log_bytes).where(jobs.c.id == sa.bindparam("job_id")).with_for_update()
_INSERT = sa.insert(job_logs)
_OLDEST = (
    sa.select(job_logs.c.number, job_logs.c.bytes)
    .where(_of_job, job_logs.c.number < sa.bindparam("last"))
    .order_by(job_logs.c.number)
    .limit(_BATCH)
)
_REMOVE = sa.delete(job_logs).where(_of_job, job_logs.c.number <= sa.bindparam("up_to"))
_UPDATE = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job_id"))
    .values(
        log_number=sa.bindparam("b_number"), log_bytes=sa.bindparam("b_bytes"), log_position=sa.bindparam("b_position")
    )
)
_POSITION = sa.select(jobs.c.log_position).where(jobs.c.id == sa.bindparam("job_id"))
_CHUNKS = (
    sa.select(job_logs.c.number, job_logs.c.text)
    .where(_of_job, job_logs.c.number > sa.bindparam("after"))
    .order_by(job_logs.c.number)
    .limit(sa.bindparam("limit"))
)


def append_log(
    connection: Connection, job_id: JobId, text: str, *, position: str, now: datetime, keep_bytes: int
) -> None:
    """Append a chunk, and remove the oldest chunks beyond a size. Nothing happens if the job does not exist."""
    log = connection.execute(_LOCK, {"job_id": job_id}).first()
    if log is None:
        return
    number, kept_bytes = log
    if text:
        text = to_storable_text(text)
        number += 1
        chunk_bytes = len(text.encode())
        kept_bytes += chunk_bytes
        chunk = {"job_id": job_id, "number": number, "time": now, "bytes": chunk_bytes, "text": text}
        connection.execute(_INSERT, chunk)
    kept_bytes -= _remove_oldest(connection, job_id, last=number, excess_bytes=kept_bytes - keep_bytes)
    state = {"b_number": number, "b_bytes": kept_bytes, "b_position": to_storable_text(position)}
    connection.execute(_UPDATE, {"job_id": job_id, **state})


def _remove_oldest(connection: Connection, job_id: JobId, *, last: int, excess_bytes: int) -> int:
    """Remove chunks until `excess_bytes` are gone, but never the last chunk. Return the number of bytes removed."""
    removed_bytes = 0
    while removed_bytes < excess_bytes:
        oldest = connection.execute(_OLDEST, {"job_id": job_id, "last": last}).all()
        if not oldest:
            break
        up_to = 0
        for up_to, chunk_bytes in oldest:  # noqa: B007 - the loop leaves the last number in `up_to`
            removed_bytes += chunk_bytes
            if removed_bytes >= excess_bytes:
                break
        connection.execute(_REMOVE, {"job_id": job_id, "up_to": up_to})
    return removed_bytes


def log_position(connection: Connection, job_id: JobId) -> str | None:
    """Return the position of the last chunk."""
    return connection.execute(_POSITION, {"job_id": job_id}).scalar_one_or_none()


def read_log(connection: Connection, job_id: JobId, *, after: int, limit: int) -> tuple[LogChunk, ...]:
    """Return the chunks after a number, in order."""
    parameters = {"job_id": job_id, "after": min(after, _MAX_INTEGER), "limit": limit}
    return tuple(LogChunk(row.number, row.text) for row in connection.execute(_CHUNKS, parameters))
