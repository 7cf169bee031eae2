import json
import os

import pytest

from upshot.sdk.journal import FILE_NAME, RUN_FILE_NAME, Journal, Record, read_journal, read_record


def record(number, size=0):
    return Record("log", "POST", "/path", json.dumps({"number": number, "text": "ü\n" + "x" * size}))


def number_of(found):
    return json.loads(found.body)["number"]


def drain(journal):
    numbers = []
    while (found := journal.first(0)) is not None:
        numbers.append(number_of(found))
        journal.remove_first()
    return numbers


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "runs" / "run-1", {"project": "p", "id": "run"})


def test_a_record_and_its_line():
    """A line of the journal is a record, with its files and its idempotency key."""
    original = Record("files", "POST", "/a", '{"b":[1.5,"NaN"]}', "key", [{"path": "p", "content": "eA=="}])

    assert read_record(original.to_line()) == original
    assert "\n" not in original.to_line()[:-1]


def test_in_memory(journal):
    """While it is read soon, nothing is written."""
    for number in range(3):
        journal.append(record(number))

    assert number_of(journal.first(0)) == 0
    journal.spill()
    assert drain(journal) == [0, 1, 2]
    assert journal.is_empty()
    assert not journal.folder.exists()


def test_moved_to_the_file(journal):
    """Records that are moved to the file keep their order, also those that are on their way meanwhile."""
    journal.append(record(0))
    journal.append(record(1))
    on_its_way = journal.first(0)
    journal.spill(all=True)
    journal.append(record(2))

    assert number_of(on_its_way) == 0
    assert [number_of(found) for found in read_journal(journal.folder)] == [0, 1]
    journal.remove_first()
    journal.append(record(3))
    journal.spill(all=True)
    journal.append(record(4))
    assert drain(journal) == [1, 2, 3, 4]
    assert journal.is_empty()
    assert not (journal.folder / FILE_NAME).exists()
    assert json.loads((journal.folder / RUN_FILE_NAME).read_text())["id"] == "run"
    assert (journal.folder.parent / ".gitignore").read_text() == "*\n"


def test_a_directory_of_the_user_gets_no_gitignore(tmp_path):
    """Only a directory that is new is kept out of Git."""
    journal = Journal(tmp_path / "run-1", {})
    journal.append(record(0))
    journal.spill(all=True)

    assert not (tmp_path / ".gitignore").exists()


def test_the_memory_is_bounded(journal):
    """More than a few megabytes are moved to the file."""
    for number in range(20):
        journal.append(record(number, size=1_000_000))
        journal.spill()

    assert not journal.is_large
    assert (journal.folder / FILE_NAME).stat().st_size > 8_000_000
    assert drain(journal) == list(range(20))


def test_a_folder_that_cannot_be_written(journal, capsys):
    """If the file cannot be written, records stay in memory up to a limit, in order, and a note says so."""
    journal.folder.parent.write_text("this is a file")

    accepted = [journal.append(record(number, size=10_000_000)) for number in range(10)]
    journal.spill()

    assert accepted == [True] * 6 + [False] * 4
    assert journal.lost == 4
    assert drain(journal) == list(range(6))
    assert "cannot be written" in capsys.readouterr().err


def test_a_full_disk(journal, monkeypatch):
    """What cannot be written whole is not written at all, and is written when there is room again."""
    journal.append(record(0))
    journal.spill(all=True)
    journal.append(record(1))
    write = os.write

    def write_a_part(descriptor, content):
        write(descriptor, content[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write_a_part)
    journal.spill(all=True)
    assert [number_of(found) for found in read_journal(journal.folder)] == [0]
    monkeypatch.setattr(os, "write", write)
    journal.append(record(2))
    journal.spill(all=True)

    assert [number_of(found) for found in read_journal(journal.folder)] == [0, 1, 2]
    assert drain(journal) == [0, 1, 2]


def test_a_torn_line(journal):
    """The last line of a program that was killed while it wrote is left out."""
    journal.append(record(0))
    journal.spill(all=True)
    with (journal.folder / FILE_NAME).open("a") as file:
        file.write('{"kind": "log", "meth')

    assert [number_of(found) for found in read_journal(journal.folder)] == [0]


def test_a_file_that_somebody_removed(journal):
    """A file that is gone stops nothing."""
    journal.append(record(0))
    journal.spill(all=True)
    (journal.folder / FILE_NAME).unlink()
    journal.append(record(1))

    assert drain(journal) == [1]
