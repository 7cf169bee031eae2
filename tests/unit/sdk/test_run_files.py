import base64
from pathlib import Path

import pytest

from upshot.sdk.journal import Journal
from upshot.sdk.run_files import RunFiles, find_files_to_save


@pytest.fixture
def folder(tmp_path, monkeypatch):
    work = tmp_path / "work"
    (work / "logs" / "deep").mkdir(parents=True)
    (work / "logs" / "a.txt").write_text("a")
    (work / "logs" / "deep" / "b.txt").write_text("b")
    (work / "odd[1].txt").write_text("odd")
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "c.txt").write_text("c")
    monkeypatch.chdir(work)
    return work


def paths(pattern, base_path=None, *, glob=True):
    return [file.path for file in find_files_to_save(pattern, base_path, policy="now", glob=glob)]


def test_what_a_pattern_means(folder):
    """Patterns, directories, names with brackets and paths elsewhere lead to paths in the run."""
    assert paths("logs/*.txt") == ["logs/a.txt"]
    assert paths("logs/**/*.txt") == ["logs/a.txt", "logs/deep/b.txt"]
    assert paths("logs") == ["logs/a.txt", "logs/deep/b.txt"]
    assert paths(b"logs/a.txt") == paths(Path("logs/a.txt")) == paths(folder / "logs/a.txt") == ["logs/a.txt"]
    assert paths("odd[1].txt") == paths("odd[1].txt", glob=False) == ["odd[1].txt"]
    assert paths("../above/c.txt") == ["above/c.txt"]
    assert paths("logs/deep/*", "logs") == ["deep/b.txt"]


def test_what_is_not_there(folder, capsys):
    """A pattern without files, and an address, are notes."""
    assert paths("nothing*") == []
    assert paths("s3://bucket/key") == []
    assert paths("logs/*.txt", glob=False) == []
    assert capsys.readouterr().err.count("save:") == 3


def test_what_is_wrong(folder):
    """A path outside of `base_path`, and an unknown policy, are errors."""
    with pytest.raises(ValueError, match="is not below"):
        paths("/etc/hostname", "logs")
    with pytest.raises(ValueError, match="policy"):
        find_files_to_save("logs", None, policy="always", glob=True)


def test_files_are_copied_when_they_are_saved(folder, capsys):
    """The content counts that a file has when it is saved; a changed one is copied again at the end."""
    journal = Journal(folder / "runs" / "run-1", {})
    files = RunFiles("/run", journal)
    (folder / "large.bin").write_bytes(b"l" * 2_000_000)
    found = find_files_to_save("*.bin", None, policy="now", glob=True)
    assert files.save(found, policy="now") == ["large.bin"]
    (folder / "large.bin").write_bytes(b"changed")
    files.save(find_files_to_save("logs/a.txt", None, policy="live", glob=True), policy="live")
    (folder / "logs" / "a.txt").write_text("aa")
    files.save_changed()

    large = journal.first(0).files[0]
    assert (journal.folder / large["source"]).read_bytes() == b"l" * 2_000_000
    journal.remove_first()
    contents = []
    while (record := journal.first(0)) is not None:
        contents.append(base64.b64decode(record.files[0]["content"]))
        journal.remove_first()
    assert contents == [b"a", b"aa"]
    (folder / "logs" / "a.txt").unlink()
    assert files.save(found, policy="now") == ["large.bin"]
    found[0].source.unlink()
    assert files.save(found, policy="now") == []
    assert "was not copied" in capsys.readouterr().err
