"""Find runs by name."""

from __future__ import annotations

from upshot.domain.run import Run, RunSummary
from upshot.errors import NotFound
from upshot.ports.registry import RegistryView
from upshot.registry.lookup import find_project
from upshot.suggestions import did_you_mean
from upshot.unicode_text import to_nfc


def find_run(view: RegistryView, project: str, run_id: str) -> Run:
    """
    Return a run.

    Raises:
        InvalidInput: A name is invalid.
        NotFound: The project or the run does not exist.
    """
    holder = find_project(view, project)
    if run := view.run(holder, to_nfc(run_id)):
        return run
    newest = view.page_runs(holder, cursor=None, limit=200).items
    suggestion = did_you_mean(run_id, [run.summary.run_id for run in newest])
    raise NotFound(f"project {holder!r} has no run {run_id[:128]!r}{suggestion}")


def run_of_request(view: RegistryView, project: str, run_id: str | None) -> RunSummary | None:
    """
    Return the run that logs an artifact version; None if no run does.

    Raises:
        NotFound: The run does not exist.
    """
    return None if run_id is None else find_run(view, project, run_id).summary
