"""The folder of automations while it changes."""

from __future__ import annotations

import os

from tests.unit.automations.factories import CATALOG, custom_event
from upshot.automations.folder import AutomationFolder

GOOD = "name: {}\non: custom\nsteps: [{{uses: emit, with: {{name: x}}}}]\n"
HOOK = "name: hook\non: custom\nsteps:\n  - uses: webhook\n    with: {url: 'https://x.example', body-file: b.j2}\n"


def answering(folder):
    return [match.automation.name for match in folder.current.matcher.match(custom_event())]


def test_what_changes_is_read_again(tmp_path):
    """A new file, a changed one, one that is removed; nothing is read when nothing changed."""
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    folder = AutomationFolder(tmp_path, CATALOG)
    assert answering(folder) == ["a"]
    first = folder.current

    assert not folder.refresh()
    assert folder.current is first

    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    assert folder.refresh()
    assert answering(folder) == ["a", "b"]

    (tmp_path / "a.yaml").write_text(GOOD.format("changed"))
    assert folder.refresh()
    assert answering(folder) == ["changed", "b"]

    (tmp_path / "a.yaml").unlink()
    assert folder.refresh()
    assert answering(folder) == ["b"]


def test_an_unchanged_file_is_the_same_automation(tmp_path):
    """Only what changed is read again."""
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    folder = AutomationFolder(tmp_path, CATALOG)
    (before,) = folder.current.automations

    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    folder.refresh()

    assert folder.current.automations[0] is before


def test_a_change_of_the_same_length_and_time_is_seen(tmp_path):
    """A file that was replaced is another one, whatever its time says."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.format("a"))
    folder = AutomationFolder(tmp_path, CATALOG)
    times = path.stat()

    (tmp_path / "new").write_text(GOOD.format("b"))
    os.utime(tmp_path / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "new").rename(path)

    assert folder.refresh()
    assert answering(folder) == ["b"]


def test_a_file_that_breaks_takes_its_automations_out_of_force(tmp_path):
    """What is in force is what the folder holds now; the error is visible, the others stay."""
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    folder = AutomationFolder(tmp_path, CATALOG)

    (tmp_path / "a.yaml").write_text(GOOD.format("a") + "foo: 1\n")
    assert folder.refresh()
    assert answering(folder) == ["b"]
    assert [file.path for file in folder.current.broken] == [f"{tmp_path}/a.yaml"]

    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    assert folder.refresh()
    assert answering(folder) == ["a", "b"]
    assert folder.current.broken == ()


def test_a_body_file_counts(tmp_path):
    """One that appears, changes or goes makes its automation be read again."""
    (tmp_path / "a.yaml").write_text(HOOK)
    folder = AutomationFolder(tmp_path, CATALOG)
    assert answering(folder) == []

    (tmp_path / "b.j2").write_text("one")
    assert folder.refresh()
    assert answering(folder) == ["hook"]
    revision = folder.current.automations[0].revision

    (tmp_path / "b.j2").write_text("two, longer")
    assert folder.refresh()
    assert folder.current.automations[0].revision != revision

    (tmp_path / "b.j2").unlink()
    assert folder.refresh()
    assert answering(folder) == []


def test_a_missing_folder_is_empty_until_it_is_there(tmp_path):
    """Not a crash, but a visible finding; and once only."""
    folder = AutomationFolder(tmp_path / "later", CATALOG)
    assert folder.current.automations == ()
    assert "no such folder" in str(folder.current.broken[0].errors[0])
    assert not folder.refresh()

    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "a.yaml").write_text(GOOD.format("a"))
    assert folder.refresh()
    assert answering(folder) == ["a"]
    assert folder.current.broken == ()
