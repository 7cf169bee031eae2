"""Contract of the store of revisions: what is in force, and which files had errors at what time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.databases import KINDS, open_database
from tests.unit.automations.factories import automation
from upshot.adapters.memory.revisions import MemoryRevisions
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.domain.automation import ActiveRevision, FileFault

NOW = datetime(2026, 8, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DOCUMENT = "name: {}\non: custom\nsteps: [{{uses: emit, with: {{name: {}}}}}]\n"
FAULT = FileFault("automations/a.yaml", 3, "unknown action 'emti'", 2, ("a",), NOW)


@pytest.fixture(params=["memory", *KINDS])
def revisions(request):
    return MemoryRevisions() if request.param == "memory" else SqlRevisions(open_database(request.param, request))


def test_what_is_in_force_is_what_was_activated_last(revisions):
    """A changed automation replaces its revision, a missing one is not in force, and all revisions are stored."""
    one, two, three = (automation(DOCUMENT.format(*names)) for names in ("ax", "by", "ay"))
    assert revisions.active() == ()

    revisions.activate([two, one], (), NOW)
    assert revisions.active() == tuple(ActiveRevision(item.name, item.revision_id, item.path) for item in (one, two))

    revisions.activate([replace(three, path="moved.yaml")], (), NOW + MINUTE)
    revisions.activate([replace(three, path="moved.yaml")], (), NOW + 2 * MINUTE)
    assert revisions.active() == (ActiveRevision("a", three.revision_id, "moved.yaml"),)
    for item in (one, two, three):
        stored = revisions.get(item.name, item.revision_id)
        assert stored is not None
        assert stored[0] == item.source

    revisions.activate([], (), NOW + 3 * MINUTE)
    assert revisions.active() == ()


def test_the_errors_of_a_time_are_remembered(revisions):
    """A fault lasts from the activation that has it first to the first one that does not have it."""
    other = replace(FAULT, path="automations/b.yaml", line=None, kept=())
    revisions.activate([], [FAULT], NOW)
    revisions.activate([], [other, replace(FAULT, since=NOW + MINUTE)], NOW + MINUTE)
    revisions.activate([], [other], NOW + 2 * MINUTE)
    revisions.activate([], [FAULT], NOW + 3 * MINUTE)

    first = replace(FAULT, until=NOW + 2 * MINUTE)
    second = replace(other, since=NOW + MINUTE, until=NOW + 3 * MINUTE)
    assert revisions.faults_at(NOW - MINUTE) == ()
    assert revisions.faults_at(NOW) == (first,)
    assert revisions.faults_at(NOW + 1.5 * MINUTE) == (first, second)
    assert revisions.faults_at(NOW + 2 * MINUTE) == (second,)
    assert revisions.faults_at(NOW + 9 * MINUTE) == (replace(FAULT, since=NOW + 3 * MINUTE),)


def test_two_workers_that_find_the_same_errors_report_them_once(revisions):
    """Workers share the errors. A second one with the same files changes nothing."""
    for _ in range(2):
        revisions.activate([], [FAULT, replace(FAULT, kept=("z",))], NOW)

    assert len(revisions.faults_at(NOW)) == 2
