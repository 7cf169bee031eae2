"""The folder of automations while it changes."""

from __future__ import annotations

import os

import pytest

from tests.unit.automations.factories import CATALOG, custom_event
from upshot.adapters.memory.revisions import MemoryRevisions
from upshot.automations import folder as folder_module
from upshot.automations.folder import AutomationFolder
from upshot.clock import FrozenClock

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
    folder.refresh()
    assert folder.refresh()
    assert answering_names(folder) == ["b"]
    assert not folder.refresh()


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


def revisions_of(folder):
    return {automation.name: automation.revision_id for automation in folder.current.automations}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(GOOD.format("a") + "foo: 1\n", id="an unknown key"),
        pytest.param("name: a\non: [custom\n", id="invalid YAML"),
        pytest.param("name: \n", id="half a name"),
        pytest.param("na", id="half a key"),
        pytest.param("", id="empty"),
        pytest.param(GOOD.format("aa") + "foo: 1\n", id="another name and a mistake"),
        pytest.param(b"name: caf\xe9\n", id="another encoding"),
        pytest.param(GOOD.format("a").replace("uses: emit", "uses: webhook"), id="missing inputs"),
    ],
)
def test_the_last_sound_revision_stays_in_force(tmp_path, bad):
    """While a file is broken, its automation answers events as before, and the error is visible."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.format("a"))
    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    folder = AutomationFolder(tmp_path, CATALOG)
    before = revisions_of(folder)

    path.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
    assert folder.refresh()
    for _ in range(3):
        assert revisions_of(folder) == before
        assert folder.current.kept == {"a"}
        assert [(file.path, file.kept) for file in folder.current.broken] == [(f"{tmp_path}/a.yaml", ("a",))]
        folder.refresh()

    path.write_text(GOOD.format("a").replace("x}", "y}"))
    assert folder.refresh()
    assert answering_names(folder) == ["a", "b"]
    assert revisions_of(folder)["a"] != before["a"]
    assert (folder.current.broken, folder.current.kept) == ((), frozenset())


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(GOOD.format("a") + "foo: 1\n", id="the others are removed"),
        pytest.param(GOOD.format("a")[:20], id="the file is cut off"),
        pytest.param(GOOD.format("a") + "--\n" + GOOD.format("b"), id="a separator is misspelled"),
        pytest.param("x: [\n" + GOOD.format("a") + "---\n" + GOOD.format("b")[:9], id="two mistakes"),
    ],
)
def test_a_mistake_takes_down_nothing_of_its_file(tmp_path, bad):
    """A mistake can hide the documents after it, so all automations of the file stay in force until it is sound."""
    path = tmp_path / "a.yaml"
    path.write_text("---\n".join(map(GOOD.format, ("a", "b", "c"))))
    folder = AutomationFolder(tmp_path, CATALOG)
    before = revisions_of(folder)

    changed = GOOD.format("c").replace("x}", "y}")
    path.write_text(bad)
    folder.refresh()
    folder.refresh()
    assert revisions_of(folder) == before

    path.write_text(f"{bad}\n---\n{changed}")
    folder.refresh()
    assert revisions_of(folder) == before | {"c": revisions_of(folder)["c"]}
    assert revisions_of(folder)["c"] != before["c"]

    path.write_text(changed)
    folder.refresh()
    folder.refresh()
    assert answering_names(folder) == ["c"]


def test_an_automation_can_move_out_of_a_broken_file(tmp_path):
    """It is in force from where it is now. The broken document keeps only its own name."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.format("a") + "---\n" + GOOD.format("b"))
    folder = AutomationFolder(tmp_path, CATALOG)

    path.write_text(GOOD.format("a") + "foo: 1\n")
    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    folder.refresh()
    assert [(found.name, found.path) for found in folder.current.automations] == [("a", "a.yaml"), ("b", "b.yaml")]
    assert folder.current.kept == {"a"}
    assert len(folder.current.errors) == 1


def test_an_automation_is_gone_when_two_readings_agree(tmp_path):
    """A file that is removed for a moment, or written again from its beginning, does not unload an automation."""
    path = tmp_path / "a.yaml"
    text = "# Comment\n" + "---\n".join(map(GOOD.format, ("a", "b")))
    path.write_text(text)
    folder = AutomationFolder(tmp_path, CATALOG)

    for written in (None, "# Comment\n", "# Comment\n" + GOOD.format("a")):
        path.write_text(written) if written else path.unlink()
        folder.refresh()
        assert answering_names(folder) == ["a", "b"]
        path.write_text(text)
        folder.refresh()
        assert answering_names(folder) == ["a", "b"]

    path.write_text(GOOD.format("a"))
    folder.refresh()
    folder.refresh()
    assert answering_names(folder) == ["a"]

    path.unlink()
    folder.refresh()
    folder.refresh()
    assert answering_names(folder) == []


def test_a_renamed_automation_answers_once(tmp_path):
    """The automation with the old name is gone when the one with the new name is in force."""
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.format("old") + "---\n" + GOOD.format("other"))
    folder = AutomationFolder(tmp_path, CATALOG)

    path.write_text(GOOD.format("new") + "---\n" + GOOD.format("other"))
    assert folder.refresh()
    assert answering_names(folder) == ["new", "other"]


def test_a_moved_automation_answers_once(tmp_path):
    """A file can be renamed or moved. Its automation stays in force under its name."""
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    folder = AutomationFolder(tmp_path, CATALOG)

    (tmp_path / "a.yaml").rename(tmp_path / "0.yaml")
    assert folder.refresh()
    assert [(found.name, found.path) for found in folder.current.automations] == [("a", "0.yaml")]
    assert folder.current.errors == ()


@pytest.mark.parametrize("breaks", [False, True])
def test_a_name_belongs_to_the_automation_that_is_in_force(tmp_path, breaks):
    """A copy that sorts first is an error of its own, also while the original is broken."""
    original, copy = tmp_path / "deploy.yaml", tmp_path / "deploy (conflicted copy).yaml"
    original.write_text(GOOD.format("deploy"))
    folder = AutomationFolder(tmp_path, CATALOG)
    before = revisions_of(folder)

    if breaks:
        original.write_text(GOOD.format("deploy") + "foo: 1\n")
    copy.write_text(GOOD.format("deploy").replace("x}", "y}") + "---\n" + GOOD.format("new"))
    folder.refresh()

    assert revisions_of(folder) == before | {"new": folder.current.automations[0].revision_id}
    (error,) = (error for error in folder.current.errors if error.path == str(copy))
    assert f"{original}:1 already has the name 'deploy'" in str(error)

    original.unlink()
    folder.refresh()
    assert [found.path for found in folder.current.automations] == [copy.name, copy.name]
    assert folder.current.errors == ()


def test_a_restart_keeps_the_last_sound_revision(tmp_path):
    """A worker that starts while a file is broken has the revision in force that other workers stored."""
    revisions, clock = MemoryRevisions(), FrozenClock()
    (tmp_path / "a.yaml").write_text(HOOK)
    (tmp_path / "b.j2").write_text("{{ event.name }}")
    (tmp_path / "c.yaml").write_text(GOOD.format("c"))
    (tmp_path / "d.yaml").write_text(GOOD.format("d"))
    first = AutomationFolder(tmp_path, CATALOG, revisions)
    before = revisions_of(first)
    revisions.activate(first.current.automations, (), clock.now())

    (tmp_path / "a.yaml").write_text("name: [\n")
    (tmp_path / "b.j2").unlink()
    (tmp_path / "c.yaml").unlink()
    (tmp_path / "0.yaml").write_text(GOOD.format("d"))
    restarted = AutomationFolder(tmp_path, CATALOG, revisions)

    assert revisions_of(restarted) == {"hook": before["hook"], "d": before["d"]}  # c is gone: its file was removed
    assert restarted.current.kept == {"hook"}
    assert str(restarted.current.errors[0]).startswith(f"{tmp_path}/0.yaml:1: {tmp_path}/d.yaml")


def test_workers_keep_the_same_revision(tmp_path, monkeypatch):
    """A worker that missed a sound revision takes it from the worker that had it in force."""
    monkeypatch.setattr(folder_module, "RECHECK_SECONDS", 0.0)
    revisions, clock = MemoryRevisions(), FrozenClock()
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.format("a"))
    slow, quick = (AutomationFolder(tmp_path, CATALOG, revisions) for _ in range(2))
    revisions.activate(slow.current.automations, (), clock.now())

    path.write_text(GOOD.format("a").replace("x}", "y}"))
    quick.refresh()
    path.write_text("name: a\n")
    slow.refresh()
    assert revisions_of(slow) != revisions_of(quick)

    revisions.activate(quick.current.automations, (), clock.now())
    assert slow.refresh()
    assert revisions_of(slow) == revisions_of(quick)
    assert slow.current.kept == {"a"}


def test_a_stored_revision_that_is_not_valid_any_more_is_not_in_force(tmp_path):
    """If an upgrade has made the last sound revision invalid, the automation is only reported."""
    revisions, clock = MemoryRevisions(), FrozenClock()
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    revisions.activate(AutomationFolder(tmp_path, CATALOG, revisions).current.automations, (), clock.now())

    (tmp_path / "a.yaml").write_text("name: a\n")
    without_emit = {name: spec for name, spec in CATALOG.items() if name != "emit"}

    assert AutomationFolder(tmp_path, without_emit, revisions).current.automations == ()


def test_a_folder_that_cannot_be_read_takes_nothing_down(tmp_path):
    """A folder that is not mounted for a while, or a nested one, keeps its automations in force."""
    root = tmp_path / "automations"
    (root / "team").mkdir(parents=True)
    (root / "a.yaml").write_text(GOOD.format("a"))
    (root / "team" / "b.yaml").write_text(GOOD.format("b"))
    folder = AutomationFolder(root, CATALOG)

    root.rename(tmp_path / "elsewhere")
    for _ in range(3):
        folder.refresh()
        assert answering_names(folder) == ["a", "b"]
        assert [file.kept for file in folder.current.broken] == [("a", "b")]

    (tmp_path / "elsewhere").rename(root)
    folder.refresh()
    assert (answering_names(folder), folder.current.broken) == (["a", "b"], ())


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("a: 1\n---\n" * 60_000, id="documents that are no automations"),
        pytest.param("{name: a b, on: b, steps: c}\n---\n" * 5_000, id="automations in name only"),
        pytest.param("name: [\n---\n" * 30_000, id="invalid YAML"),
        pytest.param(("name: a\non: custom\n" + "x: 1\n" * 300 + "---\n") * 100, id="many errors each"),
    ],
)
def test_bad_documents_have_bounded_findings(tmp_path, monkeypatch, bad):
    """At most 1,000 errors of the folder are kept, whatever its files contain. Sound files are loaded."""
    monkeypatch.setattr(folder_module, "MAX_READ_SECONDS", 1_000)
    for number in range(15):
        (tmp_path / f"bad{number}.yaml").write_text(bad[: len(bad) // 15])
    (tmp_path / "good.yaml").write_text(GOOD.format("good"))

    folder = AutomationFolder(tmp_path, CATALOG)

    assert answering_names(folder) == ["good"]
    assert len(folder.current.errors) <= 1_000
    assert "more errors" in str(folder.current.errors[-1])


def test_a_refresh_that_takes_long_is_continued(tmp_path, monkeypatch):
    """The next refresh continues where the time of one ended. Small files are read first."""
    folder = AutomationFolder(tmp_path, CATALOG)
    now = iter(range(1_000))
    monkeypatch.setattr(folder_module, "monotonic", lambda: next(now))
    monkeypatch.setattr(folder_module, "MIN_READ_CPU_SECONDS", -1)
    monkeypatch.setattr(folder_module, "MAX_READ_SECONDS", 10)

    (tmp_path / "large.yaml").write_text(
        "---\n".join(map("name: n{}\n".format, range(50))) + "---\n" + GOOD.format("late")
    )
    (tmp_path / "small.yaml").write_text(GOOD.format("small"))
    folder.refresh()
    assert answering_names(folder) == ["small"]
    assert "still being read" in str(folder.current.errors[0])

    for _ in range(10):
        folder.refresh()
    assert answering_names(folder) == ["late", "small"]
    assert len(folder.current.errors) == 100


def test_a_start_reads_bad_files_for_a_limited_time(tmp_path, monkeypatch):
    """Files without errors are read to their end. The rest of a bad file is left to the next refresh."""
    now = iter(range(1_000))
    monkeypatch.setattr(folder_module, "monotonic", lambda: next(now))
    monkeypatch.setattr(folder_module, "MIN_READ_CPU_SECONDS", -1)
    monkeypatch.setattr(folder_module, "MAX_READ_SECONDS", 3)
    (tmp_path / "bad.yaml").write_text("---\n".join(["name: [\n"] * 20) + "---\n" + GOOD.format("late"))
    (tmp_path / "good.yaml").write_text("---\n".join(GOOD.format(f"n{number}") for number in range(50)))

    folder = AutomationFolder(tmp_path, CATALOG)

    assert (len(answering_names(folder)), folder.is_complete) == (50, False)
    for _ in range(10):
        folder.refresh()
    assert folder.is_complete
    assert "late" in answering_names(folder)


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

    revision = folder.current.automations[0].revision_id
    (tmp_path / "b.j2").unlink()
    assert folder.refresh()
    assert folder.current.automations[0].revision_id == revision
    assert "there is no file" in str(folder.current.errors[0])


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


def test_an_automation_that_is_not_stored_yet_stays_in_force(tmp_path):
    """A new automation keeps its revision if its file breaks before the revision is stored. A removed one does not."""
    revisions, clock = MemoryRevisions(), FrozenClock()
    folder = AutomationFolder(tmp_path, CATALOG, revisions)
    (tmp_path / "a.yaml").write_text(GOOD.format("a"))
    folder.refresh()

    (tmp_path / "a.yaml").write_text("name: a\n")
    folder.refresh()
    assert folder.current.kept == {"a"}
    revisions.activate(folder.current.automations, (), clock.now())

    revisions.activate((), (), clock.now())
    (tmp_path / "b.yaml").write_text(GOOD.format("b"))
    folder.refresh()
    assert answering_names(folder) == ["b"]
