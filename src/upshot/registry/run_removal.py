"""Delete runs, and remove those that are too old. Long histories go in short transactions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from upshot.clock import format_time
from upshot.domain.event import Actor, Origin, Role
from upshot.domain.registry import Change
from upshot.domain.run import EdgeKind, Run, RunSummary
from upshot.ports.registry import RegistryView
from upshot.registry.mutation import Mutation
from upshot.registry.run_lookup import find_run
from upshot.registry.transaction import RegistryTransactions, run_lock

_ROWS = 500  # of a history, removed in one transaction
_REMOVER = Origin(Actor("upshot", role=Role.ADMIN))


class RunRemoval(RegistryTransactions):
    """Methods that remove runs."""

    def delete_run(self, project: str, run_id: str, *, origin: Origin) -> Change[None]:
        """
        Delete a run with everything that it logged, except its artifact versions. Its id is not used again.

        Raises:
            NotFound: The run does not exist.
        """

        def remove_some(mutation: Mutation) -> bool:
            return mutation.tx.remove_run_history(find_run(mutation.tx, project, run_id).summary.id, _ROWS) == _ROWS

        def remove_rest(mutation: Mutation) -> None:
            run = find_run(mutation.tx, project, run_id)
            mutation.tx.remove_run(run)
            mutation.add_history("delete-run", run.summary.reference, before=_described(run))

        locks = [run_lock(project, run_id)]
        while self._change(remove_some, locks=locks, origin=origin).value:
            pass
        return self._change(remove_rest, locks=locks, origin=origin)

    def ended_runs(self, age: timedelta, *, after_id: str, limit: int) -> tuple[RunSummary, ...]:
        """Return runs that ended so long ago, in the order of their internal ids, after one of them."""
        before = self._clock.now() - age
        return self._store.read(lambda view: view.ended_runs(before, after_id=after_id, limit=limit))

    def remove_history_of_run(self, run: RunSummary, *, limit: int) -> int:
        """Remove metrics and media of a run, and return how many rows; fewer than `limit` if nothing is left."""

        def work(mutation: Mutation) -> int:
            return mutation.tx.remove_run_history(run.id, limit) if _has_ended(mutation.tx, run) else 0

        return self._change(work, locks=[run_lock(run.project, run.run_id)], origin=_REMOVER).value

    def remove_unneeded_run(self, run: RunSummary) -> bool:
        """Remove a run that has logged or used no artifact version that exists, and return whether that is so."""

        def work(mutation: Mutation) -> bool:
            stored = _has_ended(mutation.tx, run)
            if stored is None or any(mutation.tx.edges(kind, run_ids=[run.id], limit=1) for kind in EdgeKind):
                return False
            mutation.tx.remove_run(stored)
            return True

        return self._change(work, locks=[run_lock(run.project, run.run_id)], origin=_REMOVER).value


def _has_ended(view: RegistryView, run: RunSummary) -> Run | None:
    """Return the run if it exists and was not resumed meanwhile."""
    stored = view.runs([run.id]).get(run.id)
    return stored if stored and stored.summary.state.is_final else None


def _described(run: Run) -> dict[str, Any]:
    """Return what the history keeps of a deleted run."""
    return {
        "name": run.summary.name,
        "job_type": run.summary.job_type,
        "state": run.summary.state.value,
        "created_at": format_time(run.summary.created_at),
        "created_by": run.created_by,
    }
