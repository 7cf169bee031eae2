"""The logs of jobs: pieces that come in order, the oldest of which go when there are too many."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.sql.schema import job_logs, jobs
from upshot.ports.jobs import LogChunk
from upshot.storable import to_storable_text

_AT_ONCE = 100
_LARGEST = 2**31 - 1  # INTEGER of PostgreSQL

_of_job = job_logs.c.job_id == sa.bindparam("job")
_STANDING = sa.select(jobs.c.log_number, jobs.c.log_bytes).where(jobs.c.id == sa.bindparam("job")).with_for_update()
_INSERT = sa.insert(job_logs)
_OLDEST = (
    sa.select(job_logs.c.number, job_logs.c.bytes)
    .where(_of_job, job_logs.c.number < sa.bindparam("last"))
    .order_by(job_logs.c.number)
    .limit(_AT_ONCE)
)
_REMOVE = sa.delete(job_logs).where(_of_job, job_logs.c.number <= sa.bindparam("up_to"))
_MOVE_ON = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job"))
    .values(
        log_number=sa.bindparam("b_number"), log_bytes=sa.bindparam("b_bytes"), log_position=sa.bindparam("b_position")
    )
)
_POSITION = sa.select(jobs.c.log_position).where(jobs.c.id == sa.bindparam("job"))
_PIECES = (
    sa.select(job_logs.c.number, job_logs.c.text)
    .where(_of_job, job_logs.c.number > sa.bindparam("after"))
    .order_by(job_logs.c.number)
    .limit(sa.bindparam("limit"))
)


def append_log(connection: Connection, job: str, text: str, *, position: str, now: datetime, keep_bytes: int) -> None:
    """Add a piece, and remove the oldest beyond so many bytes; nothing where the job is gone."""
    standing = connection.execute(_STANDING, {"job": job}).first()
    if standing is None:
        return
    number, kept_bytes = standing
    if text:
        whole = to_storable_text(text)
        number += 1
        piece_bytes = len(whole.encode())
        kept_bytes += piece_bytes
        connection.execute(_INSERT, {"job_id": job, "number": number, "time": now, "bytes": piece_bytes, "text": whole})
    kept_bytes -= _remove_oldest(connection, job, last=number, too_many=kept_bytes - keep_bytes)
    moved = {"job": job, "b_number": number, "b_bytes": kept_bytes, "b_position": to_storable_text(position)}
    connection.execute(_MOVE_ON, moved)


def _remove_oldest(connection: Connection, job: str, *, last: int, too_many: int) -> int:
    """Remove pieces until so many bytes are gone, never the last one; returns how many bytes went."""
    gone = 0
    while gone < too_many:
        oldest = connection.execute(_OLDEST, {"job": job, "last": last}).all()
        if not oldest:
            break
        up_to = 0
        for up_to, piece_bytes in oldest:  # noqa: B007 - the last of them is meant
            gone += piece_bytes
            if gone >= too_many:
                break
        connection.execute(_REMOVE, {"job": job, "up_to": up_to})
    return gone


def log_position(connection: Connection, job: str) -> str | None:
    """The position that the last piece was added with."""
    return connection.execute(_POSITION, {"job": job}).scalar_one_or_none()


def read_log(connection: Connection, job: str, *, after: int, limit: int) -> tuple[LogChunk, ...]:
    """Pieces after that number, in order."""
    asked = {"job": job, "after": min(after, _LARGEST), "limit": limit}
    return tuple(LogChunk(row.number, row.text) for row in connection.execute(_PIECES, asked))
