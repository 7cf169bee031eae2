"""A worker logs the errors of its automation files while people edit them."""

from __future__ import annotations

from structlog.testing import capture_logs

from tests.unit.automations.factories import CATALOG
from upshot.adapters.memory.revisions import MemoryRevisions
from upshot.automations.active import ActiveAutomations
from upshot.automations.folder import AutomationFolder
from upshot.clock import FrozenClock

GOOD = "name: a\non: custom\nsteps: [{uses: emit, with: {name: x}}]\n"


def logged_errors(logs):
    return [line["error"] for line in logs if line["event"] == "automations.invalid"]


def test_an_error_is_logged_once_when_the_file_is_saved(tmp_path):
    """The log has file, line and remedy, as `validate` prints them. A change of another file does not repeat it."""
    (tmp_path / "a.yaml").write_text(GOOD)
    with capture_logs() as logs:
        active = ActiveAutomations(AutomationFolder(tmp_path, CATALOG), MemoryRevisions(), FrozenClock())
        assert logged_errors(logs) == []

        (tmp_path / "b.yaml").write_text(GOOD.replace("emit", "emti"))
        active.refresh()
        (tmp_path / "c.yaml").write_text(GOOD.replace("name: a", "name: c"))
        active.refresh()

    assert logged_errors(logs) == [f"{tmp_path.as_posix()}/b.yaml:3: unknown action 'emti'; did you mean 'emit'?"]
    assert [automation.name for automation in active.automations] == ["a", "c"]


def test_a_worker_logs_errors_at_its_start(tmp_path):
    """A worker on another machine does not have the terminal of `up`, which lists the errors."""
    (tmp_path / "b.yaml").write_text("name: b\n")

    folder = AutomationFolder(tmp_path, CATALOG)
    with capture_logs() as logs:
        ActiveAutomations(folder, MemoryRevisions(), FrozenClock())

    assert logged_errors(logs) == [str(error) for error in folder.current.errors]
    assert len(logged_errors(logs)) == 2  # `on` and `steps` are missing
