"""What runs log, in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.adapters.memory.blobs import MemoryBlobs
from upshot.adapters.memory.undo import UndoSteps
from upshot.domain.metric_history import Chunk, ChunkInfo, LogEntry
from upshot.domain.run import Run, RunFile, RunState, RunSummary
from upshot.ports.metric_watches import ConditionState, ConditionStates
from upshot.ports.paging import Page
from upshot.ports.run_history import MEDIA, PackRules, RunCandidate, RunHistoryTransaction


class RunTables:
    """Runs and what they log, by internal ids."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}  # `project` is the id of the project
        self.entries: dict[tuple[str, int], LogEntry] = {}
        self.chunks: dict[tuple[str, str, int], Chunk] = {}
        self.files: dict[tuple[str, str], RunFile] = {}
        self.conditions: dict[tuple[str, str, str], ConditionState] = {}
        self.deleted: dict[tuple[str, str], None] = {}  # id of the project, and the client's id of the run


class MemoryRunHistory(UndoSteps, RunHistoryTransaction, ConditionStates):
    """
    `RunHistoryTransaction` in memory.

    Args:
        tables: The state.
        blobs: Says which blobs are stored.
    """

    def __init__(self, tables: RunTables, blobs: MemoryBlobs) -> None:
        super().__init__()
        self._run_tables = tables
        self._blobs = blobs

    @abstractmethod
    def _run(self, id_: str) -> Run:
        """Return a run with the name of its project."""

    @abstractmethod
    def _project_id(self, name: str) -> str | None:
        """Return the id of a project, or None."""

    @override
    def run_candidates(self, project: str, sources: Collection[str]) -> Iterator[RunCandidate]:
        project_id = self._project_id(project)
        found = [run for run in self._run_tables.runs.values() if run.summary.project == project_id]
        for run in sorted(found, key=lambda run: run.summary.id, reverse=True):
            summary = run.summary
            yield RunCandidate(
                summary.id,
                summary.run_id,
                summary.name,
                summary.job_type,
                summary.state.value,
                run.group,
                run.created_by,
                summary.created_at,
                orjson.dumps(run.tags).decode(),
                orjson.dumps(run.config).decode(),
                orjson.dumps(run.results).decode(),
            )

    @override
    def chunk_infos(self, run: str, keys: Collection[str] | None = None) -> tuple[ChunkInfo, ...]:
        found = sorted(key for key in self._run_tables.chunks if key[0] == run and (keys is None or key[1] in keys))
        return tuple(self._run_tables.chunks[key].info for key in found)

    @override
    def chunks(self, run: str, key: str, numbers: Sequence[int]) -> Iterator[Chunk]:
        return (self._run_tables.chunks[run, key, number] for number in numbers)

    @override
    def log_entries(self, run: str, limit: int | None = None) -> tuple[LogEntry, ...]:
        found = sorted(key for key in self._run_tables.entries if key[0] == run)
        return tuple(self._run_tables.entries[key] for key in found[:limit])

    @override
    def page_run_files(self, run: str, *, cursor: str | None, limit: int) -> Page[RunFile]:
        after = decode_cursor(cursor) if cursor is not None else ""
        paths = sorted(path for id_, path in self._run_tables.files if id_ == run and path > after)
        found = tuple(file for path in paths if (file := self.run_file(run, path)))
        return Page(found[:limit], make_cursor(found[limit - 1].path) if len(found) > limit else None)

    @override
    def run_file(self, run: str, path: str) -> RunFile | None:
        file = self._run_tables.files.get((run, path))
        blobs = self._blobs.find([file.digest]) if file else {}
        return replace(file, size=blobs[file.digest].size) if file and file.digest in blobs else None

    @override
    def count_run_files(self, run: str) -> int:
        return sum(id_ == run for id_, _ in self._run_tables.files)

    @override
    def runs_to_pack(self, rules: PackRules, limit: int) -> tuple[RunSummary, ...]:
        found = sorted(run.summary.id for run in self._run_tables.runs.values() if _is_due(run, rules))
        return tuple(self._run(id_).summary for id_ in found[:limit])

    @override
    def silent_runs(self, before: datetime, limit: int) -> tuple[RunSummary, ...]:
        found = []
        for id_, run in sorted(self._run_tables.runs.items()):
            last = run.summary.heartbeat_at or run.stop_requested_at
            if run.summary.state is RunState.RUNNING and last is not None and last < before:
                found.append(self._run(id_).summary)
        return tuple(found[:limit])

    @override
    def ended_runs(self, before: datetime, *, after_id: str, limit: int) -> tuple[RunSummary, ...]:
        found = sorted(
            id_
            for id_, run in self._run_tables.runs.items()
            if id_ > after_id and run.finished_at is not None and run.finished_at < before
        )
        return tuple(self._run(id_).summary for id_ in found[:limit])

    @override
    def is_deleted_run(self, project: str, run_id: str) -> bool:
        return (self._project_id(project), run_id) in self._run_tables.deleted

    @override
    def add_log_entry(self, run: str, entry: LogEntry) -> None:
        self._put(self._run_tables.entries, (run, entry.number), entry)

    @override
    def save_run_progress(self, run: Run) -> None:
        stored = self._run_tables.runs[run.summary.id]
        summary = replace(stored.summary, heartbeat_at=run.summary.heartbeat_at)
        self._put(self._run_tables.runs, run.summary.id, replace(stored, summary=summary, progress=run.progress))

    @override
    def save_run_values(self, run: Run) -> None:
        self.save_run_progress(run)
        stored = self._run_tables.runs[run.summary.id]
        self._put(self._run_tables.runs, run.summary.id, replace(stored, config=run.config, results=run.results))

    @override
    def replace_log_entries(self, run: str, numbers: Sequence[int], chunks: Sequence[Chunk]) -> bool:
        if any((run, number) not in self._run_tables.entries for number in numbers):
            return False
        for number in numbers:
            self._delete(self._run_tables.entries, (run, number))
        for chunk in chunks:
            self._put(self._run_tables.chunks, (run, chunk.info.key, chunk.info.number), chunk)
        return True

    @override
    def save_run_files(self, run: str, files: Iterable[RunFile]) -> None:
        for file in files:
            self._put(self._run_tables.files, (run, file.path), file)

    @override
    def condition_states(self, run: str) -> tuple[ConditionState, ...]:
        return tuple(state for key, state in self._run_tables.conditions.items() if key[0] == run)

    @override
    def save_condition_states(self, run: str, states: Iterable[ConditionState]) -> None:
        for state in states:
            self._put(self._run_tables.conditions, (run, state.automation, state.condition_id), state)

    @override
    def remove_run_history(self, run: str, limit: int) -> int:
        tables = self._run_tables
        rows: list[tuple[dict[Any, Any], Any]] = [(tables.chunks, key) for key in tables.chunks if key[0] == run]
        rows += [(tables.entries, key) for key in tables.entries if key[0] == run]
        rows += [(tables.files, key) for key in tables.files if key[0] == run and key[1].startswith(MEDIA)]
        for table, key in rows[:limit]:
            self._delete(table, key)
        return len(rows[:limit])

    def _remove_everything_of(self, run: Run) -> None:
        """Remove a run and what it logged."""
        id_ = run.summary.id
        tables = self._run_tables
        self._put(tables.deleted, (tables.runs[id_].summary.project, run.summary.run_id), None)
        for entry in [key for key in tables.entries if key[0] == id_]:
            self._delete(tables.entries, entry)
        for chunk in [key for key in tables.chunks if key[0] == id_]:
            self._delete(tables.chunks, chunk)
        for condition in [key for key in tables.conditions if key[0] == id_]:
            self._delete(tables.conditions, condition)
        for file in [key for key in tables.files if key[0] == id_]:
            self._delete(tables.files, file)
        self._delete(tables.runs, id_)


def _is_due(run: Run, rules: PackRules) -> bool:
    progress = run.progress
    if not progress.unpacked_entries:
        return False
    has_ended = run.summary.state.is_final and run.finished_at is not None and run.finished_at < rules.ended_before
    has_points = progress.unpacked_points >= max(rules.points, progress.unpacked_keys * rules.points_of_key)
    return progress.unpacked_entries >= rules.entries or has_points or has_ended
