"""What a worker says of its folder of automations while people edit it."""

from __future__ import annotations

from structlog.testing import capture_logs

from tests.unit.automations.factories import CATALOG
from upshot.adapters.memory.executions import MemoryRevisions
from upshot.automations.active import ActiveAutomations
from upshot.automations.folder import AutomationFolder
from upshot.clock import FrozenClock

GOOD = "name: a\non: custom\nsteps: [{uses: emit, with: {name: x}}]\n"


def mistakes(logs):
    return [line["error"] for line in logs if line["event"] == "automations.mistake"]


def test_a_mistake_is_told_when_the_file_is_saved_and_not_again(tmp_path):
    """With file, line and remedy, as `validate` says it; a change of another file does not repeat it."""
    (tmp_path / "a.yaml").write_text(GOOD)
    with capture_logs() as logs:
        in_force = ActiveAutomations(AutomationFolder(tmp_path, CATALOG), MemoryRevisions(), FrozenClock())
        assert mistakes(logs) == []

        (tmp_path / "b.yaml").write_text(GOOD.replace("emit", "emti"))
        in_force.refresh()
        (tmp_path / "c.yaml").write_text(GOOD.replace("name: a", "name: c"))
        in_force.refresh()

    assert mistakes(logs) == [f"{tmp_path.as_posix()}/b.yaml:3: unknown action 'emti'; did you mean 'emit'?"]
    assert [automation.name for automation in in_force.automations] == ["a", "c"]


def test_a_worker_that_starts_tells_what_it_found(tmp_path):
    """A worker on another machine has no terminal of `up` that lists what is broken."""
    (tmp_path / "b.yaml").write_text("name: b\n")

    with capture_logs() as logs:
        ActiveAutomations(AutomationFolder(tmp_path, CATALOG), MemoryRevisions(), FrozenClock())

    assert mistakes(logs) == [
        f"{tmp_path.as_posix()}/b.yaml:1: `on` is missing",
        f"{tmp_path.as_posix()}/b.yaml:1: `steps` is missing",
    ]
