"""The part of the registry's store that holds what runs log: metric histories and files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import orjson

from upshot.domain.metric_history import Chunk, ChunkInfo, LogEntry
from upshot.domain.run import Run, RunFile, RunSummary
from upshot.ports.paging import Page


@dataclass(frozen=True, slots=True)
class PackRules:
    """Which runs have log entries to pack."""

    entries: int  #: a run with so many entries
    points: int  #: or with so many points,
    points_of_key: int  #: if they are about so many for each key
    ended_before: datetime  #: or a run that ended before then, with any


@dataclass(slots=True)
class RunCandidate:
    """What filters and orders read of a run. Its config and summary are parsed when they are needed."""

    id: str  #: internal id
    run_id: str  #: made by the client
    name: str
    job_type: str | None
    state: str
    group: str | None
    created_by: str
    created_at: datetime | None  #: this and the next three are empty if they were not asked for
    tags_json: str = ""
    config_json: str = ""
    summary_json: str = ""
    _config: Any = field(default=None, init=False, repr=False)
    _summary: Any = field(default=None, init=False, repr=False)

    @property
    def tags(self) -> Sequence[str]:
        """The tags."""
        tags: list[str] = orjson.loads(self.tags_json or "[]")
        return tags

    @property
    def config(self) -> Mapping[str, Any]:
        """The config."""
        if self._config is None:
            self._config = orjson.loads(self.config_json or "{}")
        return self._config  # type: ignore[no-any-return] # it is an object

    @property
    def summary(self) -> Mapping[str, Any]:
        """The summary."""
        if self._summary is None:
            self._summary = orjson.loads(self.summary_json or "{}")
        return self._summary  # type: ignore[no-any-return] # it is an object


MEDIA = "media/"  #: paths of files that belong to the history begin with this


class RunHistoryView(Protocol):
    """Reads what runs have logged. A run is named by its internal id."""

    def run_candidates(self, project: str, sources: Collection[str]) -> Iterator[RunCandidate]:
        """
        Yield all runs of a project, newest first.

        Args:
            project: Name of the project.
            sources: Of `created_at`, `tags`, `config` and `summary`, what filter and order read.
        """
        ...

    def chunk_infos(self, run: str, keys: Collection[str] | None = None) -> tuple[ChunkInfo, ...]:
        """Return what is known of the chunks of these keys, or of all, sorted by key and number."""
        ...

    def chunks(self, run: str, key: str, numbers: Sequence[int]) -> Iterator[Chunk]:
        """Yield chunks of a key, in order."""
        ...

    def log_entries(self, run: str, limit: int | None = None) -> tuple[LogEntry, ...]:
        """Return the log entries that are not packed, the oldest first."""
        ...

    def page_run_files(self, run: str, *, cursor: str | None, limit: int) -> Page[RunFile]:
        """Return files whose blobs are stored, by path."""
        ...

    def run_file(self, run: str, path: str) -> RunFile | None:
        """Return a file whose blob is stored, or None."""
        ...

    def count_run_files(self, run: str) -> int:
        """Return the number of files, those included whose blobs are not stored."""
        ...

    def runs_to_pack(self, rules: PackRules, limit: int) -> tuple[RunSummary, ...]:
        """Return runs whose log entries should be packed."""
        ...

    def silent_runs(self, before: datetime, limit: int) -> tuple[RunSummary, ...]:
        """Return running runs whose last heartbeat, or without one whose request to stop, was before a time."""
        ...

    def ended_runs(self, before: datetime, *, after_id: str, limit: int) -> tuple[RunSummary, ...]:
        """Return runs that ended before a time, in the order of their internal ids, after one of them."""
        ...

    def is_deleted_run(self, project: str, run_id: str) -> bool:
        """Return whether a project had a run with this id, which was deleted."""
        ...


class RunHistoryTransaction(RunHistoryView, Protocol):
    """Writes what runs log."""

    def add_log_entry(self, run: str, entry: LogEntry) -> None:
        """Add a log entry."""
        ...

    def save_run_progress(self, run: Run) -> None:
        """Change a run's progress and heartbeat, and nothing else."""
        ...

    def save_run_values(self, run: Run) -> None:
        """Change a run's config, summary, progress and heartbeat, and nothing else."""
        ...

    def replace_log_entries(self, run: str, numbers: Sequence[int], chunks: Sequence[Chunk]) -> bool:
        """
        Remove log entries, and add the chunks that have their points.

        Returns:
            False, and nothing is changed, if one of the entries does not exist any more.
        """
        ...

    def save_run_files(self, run: str, files: Iterable[RunFile]) -> None:
        """Add files. A file with the same path is replaced."""
        ...

    def remove_run_history(self, run: str, limit: int) -> int:
        """Remove metrics and media of a run, and return how many rows; fewer than `limit` if nothing is left."""
        ...

    def remove_run(self, run: Run) -> None:
        """Remove a run with everything that it logged. Its artifact versions stay, and name no run."""
        ...
