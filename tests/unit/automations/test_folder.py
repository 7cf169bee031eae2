"""The folder of automations while it changes."""

from __future__ import annotations

import os

from tests.unit.automations.factories import CATALOG, custom_event
from upshot.automations.folder import AutomationFolder

GOOD = "name: {}\non: custom\nsteps: [{{uses: emit, with: {{name: x}}}}]\n"
HOOK = "name: hook\non: custom\nsteps:\n  - uses: webhook\n    with: {url: 'https://x.example', body-file: b.j2}\n"


def answering_names(folder):
    return [match.automation.name for match in folder.current.matcher.match(custom_event())]


def test_changes_are_loaded(tmp_path):
    """A new, a changed and a removed file are noticed. If nothing changed, nothing is read."""
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    folder = AutomationFolder(tmp_path, CATALOG)
    assert answering_names(folder) == ["a"]
    first = folder.current

    assert not folder.refresh()
    assert folder.current is first

    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    assert folder.refresh()
    assert answering_names(folder) == ["a", "b"]

    (tmp_path / "a.yaml").write_text(GOOD.format("changed"))
    assert folder.refresh()
    assert answering_names(folder) == ["changed", "b"]

    (tmp_path / "a.yaml").unlink()
    assert folder.refresh()
    assert answering_names(folder) == ["b"]


def test_an_unchanged_file_is_not_read_again(tmp_path):
    """Only files that changed are read again."""
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    folder = AutomationFolder(tmp_path, CATALOG)
    (before,) = folder.current.automations

    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    folder.refresh()

    assert folder.current.automations[0] is before


def test_a_change_with_the_same_size_and_time_is_noticed(tmp_path):
    """A file that was replaced by another is read again, even if size and modification time are the same."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.format("a"))
    folder = AutomationFolder(tmp_path, CATALOG)
    times = path.stat()

    (tmp_path / "new").write_text(GOOD.format("b"))
    os.utime(tmp_path / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "new").rename(path)

    assert folder.refresh()
    assert answering_names(folder) == ["b"]


def test_an_error_in_a_file_disables_its_automations(tmp_path):
    """What is active is what the folder contains now. The error is visible, and other files stay active."""
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    folder = AutomationFolder(tmp_path, CATALOG)

    (tmp_path / "a.yaml").write_text(GOOD.format("a") + "foo: 1\n")
    assert folder.refresh()
    assert answering_names(folder) == ["b"]
    assert [file.path for file in folder.current.broken] == [f"{tmp_path}/a.yaml"]

    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    assert folder.refresh()
    assert answering_names(folder) == ["a", "b"]
    assert folder.current.broken == ()


def test_a_changed_body_file_is_loaded(tmp_path):
    """If a body file appears, changes or disappears, its automation is read again."""
    (tmp_path / "a.yaml").write_text(HOOK)
    folder = AutomationFolder(tmp_path, CATALOG)
    assert answering_names(folder) == []

    (tmp_path / "b.j2").write_text("one")
    assert folder.refresh()
    assert answering_names(folder) == ["hook"]
    revision = folder.current.automations[0].revision_id

    (tmp_path / "b.j2").write_text("two, longer")
    assert folder.refresh()
    assert folder.current.automations[0].revision_id != revision

    (tmp_path / "b.j2").unlink()
    assert folder.refresh()
    assert answering_names(folder) == []


def test_a_missing_folder_is_empty_until_it_exists(tmp_path):
    """A missing folder is reported once, and does not raise."""
    folder = AutomationFolder(tmp_path / "later", CATALOG)
    assert folder.current.automations == ()
    assert "this folder does not exist" in str(folder.current.broken[0].errors[0])
    assert not folder.refresh()

    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "a.yaml").write_text(GOOD.format("a"))
    assert folder.refresh()
    assert answering_names(folder) == ["a"]
    assert folder.current.broken == ()
