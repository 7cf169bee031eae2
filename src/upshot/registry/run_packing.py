"""
Pack the log entries of runs into chunks.

Entries are read, packed outside of any transaction, and then replaced in a short one. A chunk is never changed. A
process that dies in between leaves everything as it was, and of two processes that pack the same entries, one finds
that they are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from upshot.domain.event import Actor, Origin, Role
from upshot.domain.metric_history import Chunk, LogEntry, pack
from upshot.domain.run import RunSummary
from upshot.ports.run_history import PackRules
from upshot.registry.mutation import Mutation
from upshot.registry.transaction import RegistryTransactions, run_lock

MAX_ENTRIES = 1_000  #: of a run that stay unpacked, as far as workers keep up
MAX_POINTS = 50_000  #: the same, if there are
MIN_POINTS_OF_KEY = 100  #: so many for each key: chunks with few points take more space than entries
ENDED_FOR = timedelta(seconds=5)  #: a run that has ended so long ago has probably sent everything

_PACKER = Origin(Actor("upshot", role=Role.ADMIN))


class RunPacking(RegistryTransactions):
    """Methods that pack what runs have logged."""

    def runs_to_pack(self, *, limit: int) -> tuple[RunSummary, ...]:
        """Return runs with many log entries, and those that have ended."""
        rules = PackRules(MAX_ENTRIES, MAX_POINTS, MIN_POINTS_OF_KEY, self._clock.now() - ENDED_FOR)
        return self._store.read(lambda view: view.runs_to_pack(rules, limit))

    def pack_run(self, run: RunSummary) -> int:
        """Pack the oldest log entries of a run, and return how many. 0 means that nothing was packed."""
        entries = _first_batch(self._store.read(lambda view: view.log_entries(run.id, MAX_ENTRIES)))
        chunks = pack(entries) if entries else []

        def work(mutation: Mutation) -> int:
            return _replace(mutation, run, entries, chunks)

        return self._change(work, locks=[run_lock(run.project, run.run_id)], origin=_PACKER).value


def _first_batch(entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """Return the entries that one transaction replaces: so many that it stays short, and that chunks become large."""
    points = 0
    keys = 0
    for index, entry in enumerate(entries):
        points, keys = points + entry.points, max(keys, entry.keys)
        if points >= MAX_POINTS and points >= keys * MIN_POINTS_OF_KEY:
            return entries[: index + 1]
    return entries


def _replace(mutation: Mutation, run: RunSummary, entries: Sequence[LogEntry], chunks: Iterable[Chunk]) -> int:
    stored = mutation.tx.runs([run.id]).get(run.id)
    if stored is None:
        return 0  # it was deleted
    progress = stored.progress
    if not entries:  # its history was removed
        if progress.unpacked_entries and not mutation.tx.log_entries(run.id, 1):
            empty = replace(progress, unpacked_entries=0, unpacked_points=0, unpacked_keys=0)
            mutation.tx.save_run_progress(replace(stored, progress=empty))
        return 0
    if not mutation.tx.replace_log_entries(run.id, [entry.number for entry in entries], list(chunks)):
        return 0  # another process was first
    left = progress.unpacked_entries - len(entries)
    packed = replace(
        progress,
        unpacked_entries=left,
        unpacked_points=progress.unpacked_points - sum(entry.points for entry in entries),
        unpacked_keys=progress.unpacked_keys if left else 0,
    )
    mutation.tx.save_run_progress(replace(stored, progress=packed))
    return len(entries)
