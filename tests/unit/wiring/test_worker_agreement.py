"""One worker's part in the agreement on automations, on stores in memory."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.automations.factories import CATALOG
from upshot.adapters.memory.automation_sets import MemoryAutomationSets
from upshot.adapters.memory.revisions import MemoryRevisions
from upshot.automations import folder as folder_module
from upshot.automations.active import ActiveAutomations
from upshot.automations.folder import AutomationFolder
from upshot.clock import FrozenClock
from upshot.ids import WorkerId
from upshot.worker.agreement import WorkerAgreement

AUTOMATION = "name: {name}\non: version-linked\nsteps:\n  - {{uses: emit, with: {{name: seen}}}}\n"


class Installation:
    """Stores and a clock that workers share, and a folder for each worker."""

    def __init__(self, path) -> None:
        self.path = path
        self.sets = MemoryAutomationSets()
        self.revisions = MemoryRevisions()
        self.clock = FrozenClock()
        self.trusted = True

    def write(self, name, **automations):
        """Write one file per automation; the value is what follows in the file."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        for automation, end in automations.items():
            (folder / f"{automation}.yaml").write_text(AUTOMATION.format(name=automation) + end)
        return folder

    def worker(self, name):
        """Return the automations of a worker in the folder of that name, and its agreement."""
        active = ActiveAutomations(
            AutomationFolder(self.path / name, CATALOG, self.revisions), self.revisions, self.clock
        )
        agreement = WorkerAgreement(
            active,
            self.sets,
            self.clock,
            worker_id=WorkerId(name),
            source=name,
            lease=timedelta(seconds=30),
            heartbeat_seconds=0,
            can_trust_leases=lambda: self.trusted,
        )
        agreement.check()
        return active, agreement


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


def test_a_worker_that_stands_by_names_the_difference(installation):
    """It says what is in force, and who has it."""
    installation.write("old", a="")
    installation.write("new", a="description: changed\n", b="")
    _, old = installation.worker("old")
    _, new = installation.worker("new")
    old.check()

    assert (old.matches, new.matches) == (False, True)
    difference = installation.sets.read().holdings["old"].difference
    assert "without b; another revision of a" in difference
    assert "of new" in difference
    assert "number 1" in difference
    assert installation.sets.read().holdings["new"].difference is None


def test_a_worker_that_stands_by_does_not_decide_what_is_in_force(installation):
    """Its older files change neither the recorded revisions nor which automations are disabled."""
    installation.write("old", a="")
    installation.write("new", a="enabled: false\n")
    _, old = installation.worker("old")
    installation.worker("new")
    in_force = installation.revisions.active()
    old.check()
    assert (old.names.disabled, old.names.enabled) == ({"a"}, set())

    active, restarted = installation.worker("old")
    assert not restarted.matches
    assert installation.revisions.active() == in_force
    assert active.names.enabled == {"a"}


def test_a_worker_that_takes_over_records_its_automations(installation):
    """After one lease without the newest worker. During an outage it does not."""
    installation.write("old", a="")
    installation.write("new", a="description: changed\n")
    old_active, old = installation.worker("old")
    installation.worker("new")
    old.check()
    installation.clock.advance(31)
    installation.trusted = False
    old.check()
    assert not old.matches
    assert "had time to report" in installation.sets.read().holdings["old"].difference

    installation.trusted = True
    old.check()
    assert old.matches
    assert installation.revisions.active()[0].revision_id == old_active.automations[0].revision_id


def test_a_worker_without_a_folder_waits_and_says_so(installation):
    """It matches when the folder is there."""
    active, worker = installation.worker("missing")
    assert not worker.matches
    assert "folder cannot be read" in installation.sets.read().holdings["missing"].difference

    installation.write("missing", a="")
    active.refresh()
    worker.check()
    assert worker.matches


def test_a_worker_waits_until_its_bad_files_are_read(installation, monkeypatch):
    """Until then it answers nothing, because automations can be missing. Reading them is not a reload."""
    folder = installation.write("new", a="")
    installation.worker("new")
    installation.sets.end(WorkerId("new"))
    monkeypatch.setattr(folder_module, "MAX_READ_SECONDS", -1)
    monkeypatch.setattr(folder_module, "MIN_READ_CPU_SECONDS", -1)
    broken = "---\n".join(["name: [\n"] * 20)
    (folder / "broken.yaml").write_text(f"{broken}---\n{AUTOMATION.format(name='b')}")

    active, worker = installation.worker("new")

    assert not worker.matches
    assert "still being read" in installation.sets.read().holdings["new"].difference
    monkeypatch.setattr(folder_module, "MAX_READ_SECONDS", 10)
    active.refresh()
    worker.check()
    assert worker.matches
    assert active.names.enabled == {"a", "b"}
