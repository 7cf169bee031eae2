"""What runs log, in SQL. Every method runs statements that are built once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row
from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.adapters.sql.runs import REMOVE_RUN, RUN_SUMMARIES, progress_values, summary_from_row
from upshot.adapters.sql.schema import (
    blobs,
    deleted_runs,
    metric_chunks,
    projects,
    run_files,
    run_log_entries,
    runs,
)
from upshot.domain.metric_history import Chunk, ChunkInfo, ChunkKind, LogEntry
from upshot.domain.run import Run, RunFile, RunState, RunSummary
from upshot.ports.paging import Page
from upshot.ports.run_history import MEDIA, PackRules, RunCandidate, RunHistoryTransaction, RunHistoryView

_KEYS = 500  # of one statement
_CANDIDATES = 250  # fetched at a time
_CHUNKS = 20  # read at a time: about 5 MB

_INFO = tuple(
    metric_chunks.c[name]
    for name in ("key", "number", "kind", "first_step", "last_step", "count", "nan_count", "minimum", "maximum", "last")
)
_of_run = metric_chunks.c.run_id == sa.bindparam("run")
_INFOS: sa.Select[Any] = sa.select(*_INFO).where(_of_run).order_by(metric_chunks.c.key, metric_chunks.c.number)
_INFOS_OF_KEYS = _INFOS.where(metric_chunks.c.key.in_(sa.bindparam("keys", expanding=True)))
_CHUNKS_OF_KEY: sa.Select[Any] = (
    sa.select(*_INFO, metric_chunks.c.steps, metric_chunks.c.times, metric_chunks.c["values"])
    .where(
        _of_run,
        metric_chunks.c.key == sa.bindparam("key"),
        metric_chunks.c.number.in_(sa.bindparam("numbers", expanding=True)),
    )
    .order_by(metric_chunks.c.number)
)
_ADD_CHUNK = sa.insert(metric_chunks)

_entry_of_run = run_log_entries.c.run_id == sa.bindparam("run")
_ENTRIES = sa.select(run_log_entries).where(_entry_of_run).order_by(run_log_entries.c.number)
_SOME_ENTRIES = _ENTRIES.limit(sa.bindparam("limit"))
_ADD_ENTRY = sa.insert(run_log_entries)
_COUNT_ENTRIES = sa.select(sa.func.count()).where(
    _entry_of_run, run_log_entries.c.number.between(sa.bindparam("first"), sa.bindparam("last"))
)
_REMOVE_ENTRIES = sa.delete(run_log_entries).where(
    _entry_of_run, run_log_entries.c.number.between(sa.bindparam("first"), sa.bindparam("last"))
)

_stored_file = (
    sa.select(run_files.c.path, run_files.c.digest, blobs.c.size, run_files.c.updated_at)
    .join(blobs, blobs.c.digest == run_files.c.digest)
    .where(run_files.c.run_id == sa.bindparam("run"))
)
_FILES = (
    _stored_file.where(run_files.c.path > sa.bindparam("after")).order_by(run_files.c.path).limit(sa.bindparam("limit"))
)
_FILE = _stored_file.where(run_files.c.path == sa.bindparam("path"))
_COUNT_FILES = sa.select(sa.func.count()).where(run_files.c.run_id == sa.bindparam("run"))
_SAVE_FILE = {
    dialect: insert.on_conflict_do_update(
        index_elements=[run_files.c.run_id, run_files.c.path],
        set_={name: insert.excluded[name] for name in ("digest", "size", "updated_at")},
    )
    for dialect, insert in (("sqlite", sqlite.insert(run_files)), ("postgresql", postgresql.insert(run_files)))
}

_PROGRESS = (
    "session",
    "next_sequence",
    "last_step",
    "next_entry",
    "unpacked_entries",
    "unpacked_points",
    "unpacked_keys",
    "heartbeat_at",
)
_SAVE_PROGRESS = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("key_id"))
    .values({name: sa.bindparam(f"new_{name}") for name in _PROGRESS})
)
_SAVE_VALUES = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("key_id"))
    .values({name: sa.bindparam(f"new_{name}") for name in (*_PROGRESS, "config", "summary")})
)
_is_due = sa.or_(
    runs.c.unpacked_entries >= sa.bindparam("entries"),
    sa.and_(
        runs.c.unpacked_points >= sa.bindparam("points"),
        runs.c.unpacked_points >= runs.c.unpacked_keys * sa.bindparam("points_of_key"),
    ),
    sa.and_(runs.c.state != RunState.RUNNING.value, runs.c.finished_at < sa.bindparam("ended_before")),
)
_TO_PACK: sa.Select[Any] = (
    RUN_SUMMARIES.where(runs.c.unpacked_entries > sa.literal_column("0"), _is_due)
    .order_by(runs.c.id)
    .limit(sa.bindparam("limit"))
)
_SILENT: sa.Select[Any] = (
    RUN_SUMMARIES.where(
        runs.c.state == sa.literal_column("'running'"),
        sa.func.coalesce(runs.c.heartbeat_at, runs.c.stop_requested_at) < sa.bindparam("before"),
    )
    .order_by(runs.c.id)
    .limit(sa.bindparam("limit"))
)
_ENDED: sa.Select[Any] = (
    RUN_SUMMARIES.where(
        runs.c.id > sa.bindparam("after_id"),
        runs.c.state != RunState.RUNNING.value,
        runs.c.finished_at < sa.bindparam("before"),
    )
    .order_by(runs.c.id)
    .limit(sa.bindparam("limit"))
)


def _remove_some(table: sa.Table, key: str, *conditions: sa.ColumnElement[bool]) -> sa.Delete:
    """Build a statement that removes a limited number of rows of a run."""
    columns = [table.c[name] for name in key.split()]
    of_run = table.c.run_id == sa.bindparam("run")
    some = sa.select(*columns).where(of_run, *conditions).limit(sa.bindparam("limit"))
    return sa.delete(table).where(of_run, sa.tuple_(*columns).in_(some))


_REMOVE_HISTORY = (
    _remove_some(metric_chunks, "key number"),
    _remove_some(run_log_entries, "number"),
    _remove_some(run_files, "path", run_files.c.path.startswith(MEDIA, autoescape=True)),
)
_IS_DELETED = (
    sa.select(sa.literal(1))
    .select_from(deleted_runs)
    .join(projects, projects.c.id == deleted_runs.c.project_id)
    .where(projects.c.name == sa.bindparam("project"), deleted_runs.c.run_id == sa.bindparam("run"))
)


@cache
def _candidates(sources: frozenset[str]) -> sa.Select[Any]:
    """Return the statement for all runs of a project. Columns that are not needed take time, and are left out."""
    nothing = sa.literal_column("''", sa.Text)
    return (
        sa.select(
            runs.c.id,
            runs.c.run_id,
            runs.c.name,
            runs.c.job_type,
            runs.c.state,
            runs.c.run_group,
            runs.c.created_by,
            runs.c.created_at if "created_at" in sources else sa.null(),
            *(
                sa.type_coerce(runs.c[name], sa.Text) if name in sources else nothing
                for name in ("tags", "config", "summary")
            ),
        )
        .join(projects, projects.c.id == runs.c.project_id)
        .where(projects.c.name == sa.bindparam("project"))
        .order_by(runs.c.id.desc())
    )


class SqlRunHistoryView(RunHistoryView):
    """
    `RunHistoryView` on one connection.

    Args:
        connection: In a transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name

    @override
    def run_candidates(self, project: str, sources: Collection[str]) -> Iterator[RunCandidate]:
        statement = _candidates(frozenset(sources))
        result = self._connection.execute(statement, {"project": project})
        return (RunCandidate(*row) for rows in result.partitions(_CANDIDATES) for row in rows)

    @override
    def chunk_infos(self, run: str, keys: Collection[str] | None = None) -> tuple[ChunkInfo, ...]:
        if keys is None:
            return tuple(map(_info, self._connection.execute(_INFOS, {"run": run})))
        listed = sorted(keys)
        found: list[ChunkInfo] = []
        for start in range(0, len(listed), _KEYS):
            rows = self._connection.execute(_INFOS_OF_KEYS, {"run": run, "keys": listed[start : start + _KEYS]})
            found.extend(map(_info, rows))
        return tuple(found)

    @override
    def chunks(self, run: str, key: str, numbers: Sequence[int]) -> Iterator[Chunk]:
        for start in range(0, len(numbers), _CHUNKS):
            some = {"run": run, "key": key, "numbers": numbers[start : start + _CHUNKS]}
            for row in self._connection.execute(_CHUNKS_OF_KEY, some).all():
                yield Chunk(_info(row), row.steps, row.times, row.values)

    @override
    def log_entries(self, run: str, limit: int | None = None) -> tuple[LogEntry, ...]:
        statement = _ENTRIES if limit is None else _SOME_ENTRIES
        rows = self._connection.execute(statement, {"run": run} if limit is None else {"run": run, "limit": limit})
        return tuple(LogEntry(row.number, row.points, row.keys, row.data) for row in rows)

    @override
    def page_run_files(self, run: str, *, cursor: str | None, limit: int) -> Page[RunFile]:
        after = decode_cursor(cursor) if cursor is not None else ""
        rows = self._connection.execute(_FILES, {"run": run, "after": after, "limit": limit + 1})
        found = tuple(RunFile(*row) for row in rows)
        return Page(found[:limit], make_cursor(found[limit - 1].path) if len(found) > limit else None)

    @override
    def run_file(self, run: str, path: str) -> RunFile | None:
        row = self._connection.execute(_FILE, {"run": run, "path": path}).first()
        return RunFile(*row) if row else None

    @override
    def count_run_files(self, run: str) -> int:
        return int(self._connection.execute(_COUNT_FILES, {"run": run}).scalar_one())

    @override
    def runs_to_pack(self, rules: PackRules, limit: int) -> tuple[RunSummary, ...]:
        return tuple(map(summary_from_row, self._connection.execute(_TO_PACK, {**asdict(rules), "limit": limit})))

    @override
    def silent_runs(self, before: datetime, limit: int) -> tuple[RunSummary, ...]:
        rows = self._connection.execute(_SILENT, {"before": before, "limit": limit})
        return tuple(map(summary_from_row, rows))

    @override
    def ended_runs(self, before: datetime, *, after_id: str, limit: int) -> tuple[RunSummary, ...]:
        rows = self._connection.execute(_ENDED, {"before": before, "after_id": after_id, "limit": limit})
        return tuple(map(summary_from_row, rows))

    @override
    def is_deleted_run(self, project: str, run_id: str) -> bool:
        return self._connection.execute(_IS_DELETED, {"project": project, "run": run_id}).first() is not None


class SqlRunHistoryTransaction(SqlRunHistoryView, RunHistoryTransaction):
    """`RunHistoryTransaction` on one connection."""

    @override
    def add_log_entry(self, run: str, entry: LogEntry) -> None:
        row = {"run_id": run, "number": entry.number, "points": entry.points, "keys": entry.keys, "data": entry.data}
        self._connection.execute(_ADD_ENTRY, row)

    @override
    def save_run_progress(self, run: Run) -> None:
        self._connection.execute(_SAVE_PROGRESS, _new_values(run))

    @override
    def save_run_values(self, run: Run) -> None:
        self._connection.execute(
            _SAVE_VALUES, {**_new_values(run), "new_config": run.config, "new_summary": run.results}
        )

    @override
    def replace_log_entries(self, run: str, numbers: Sequence[int], chunks: Sequence[Chunk]) -> bool:
        span = {"run": run, "first": numbers[0], "last": numbers[-1]}
        if self._connection.execute(_COUNT_ENTRIES, span).scalar_one() != len(numbers):
            return False
        self._connection.execute(_REMOVE_ENTRIES, span)
        rows = [
            {
                "run_id": run,
                **asdict(chunk.info),
                "kind": chunk.info.kind.value,
                "steps": chunk.steps,
                "times": chunk.times,
                "values": chunk.values,
            }
            for chunk in chunks
        ]
        if rows:
            self._connection.execute(_ADD_CHUNK, rows)
        return True

    @override
    def save_run_files(self, run: str, files: Iterable[RunFile]) -> None:
        rows = [{"run_id": run, **asdict(file)} for file in files]
        if rows:
            self._connection.execute(_SAVE_FILE[self._dialect], rows)

    @override
    def remove_run_history(self, run: str, limit: int) -> int:
        removed = 0
        for statement in _REMOVE_HISTORY:
            if removed < limit:
                removed += self._connection.execute(statement, {"run": run, "limit": limit - removed}).rowcount
        return removed

    @override
    def remove_run(self, run: Run) -> None:
        for statement in REMOVE_RUN:
            self._connection.execute(statement, {"key_id": run.summary.id})


def _new_values(run: Run) -> dict[str, Any]:
    values = {**progress_values(run.progress), "heartbeat_at": run.summary.heartbeat_at}
    return {"key_id": run.summary.id, **{f"new_{name}": value for name, value in values.items()}}


def _info(row: Row[Any]) -> ChunkInfo:
    return ChunkInfo(
        key=row.key,
        number=row.number,
        kind=ChunkKind(row.kind),
        first_step=row.first_step,
        last_step=row.last_step,
        count=row._mapping["count"],  # noqa: SLF001 - public; `count` is a method of a row
        nan_count=row.nan_count,
        minimum=row.minimum,
        maximum=row.maximum,
        last=row.last,
    )
