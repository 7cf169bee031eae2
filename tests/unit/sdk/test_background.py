"""Uploads in the background: their order, their errors, and the copies of the files."""

import os
import shutil
import time
from functools import partial
from threading import Event

import pytest

from upshot.client.file_digest import LocalFile
from upshot.domain.manifest import ManifestEntry
from upshot.sdk.background import FileCopies, Uploads
from upshot.sdk.sdk_errors import WaitTimeout


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Keep the copies in a directory of the test, which is returned."""
    monkeypatch.setenv("UPSHOT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "uploads"


def file_of(path, **options):
    return LocalFile(ManifestEntry(path.name, "sha256:0", path.stat().st_size), path, **options)


def test_uploads_keep_their_order():
    """Each upload begins after those before it, and an error does not stop the others."""
    uploads, may_go, order = Uploads(), Event(), []

    def send(name, _files):
        may_go.wait(30)
        order.append(name)
        if name == "b":
            raise ValueError("refused")
        return {"name": name}

    started = [uploads.start(name, [], lambda: None, partial(send, name)) for name in "abc"]
    with pytest.raises(WaitTimeout, match="call wait"):
        started[0].wait(timeout=0.01)
    assert not uploads.is_idle
    may_go.set()

    assert started[2].wait() == {"name": "c"}
    assert order == ["a", "b", "c"]
    with pytest.raises(ValueError, match="refused"):
        started[1].wait()
    assert uploads.finish() == []  # `wait` has raised it


def test_an_error_that_nobody_knows_is_returned_once():
    """The end of a run reports the errors that `wait` has not raised."""
    uploads = Uploads()

    def fail(_files):
        raise ValueError("refused")

    upload = uploads.start("net", [], lambda: None, fail)
    uploads.wait_for("net")

    assert uploads.finish() == [upload]
    assert uploads.finish() == []


def test_cancelled_uploads_do_not_begin():
    """After Ctrl-C nothing new is sent, and what is missing is named."""
    uploads, began, may_go = Uploads(), Event(), Event()

    def send(_files):
        began.set()
        may_go.wait(30)

    uploads.start("first", [], lambda: None, send)
    began.wait(30)
    second = uploads.start("second", [], lambda: None, send)

    assert uploads.cancel() == ["first", "second"]
    may_go.set()
    uploads.wait_for("first")
    assert not second.is_done


def test_the_program_may_change_its_files(tmp_path, cache):
    """What is sent is what was there when the artifact was logged, and the copies are removed."""
    mutable, immutable = tmp_path / "a", tmp_path / "b"
    for path in (mutable, immutable):
        path.write_text("before")
    uploads, may_go = Uploads(), Event()

    def send(files):
        may_go.wait(30)
        return [(file.source.read_text(), file.original or file.source) for file in files]

    files = [file_of(mutable), file_of(immutable, may_change=False)]
    upload = uploads.start("net", files, lambda: None, send)
    for path in (mutable, immutable):
        path.write_text("after")
    may_go.set()

    assert upload.wait() == [("before", mutable), ("after", immutable)]
    assert list(cache.iterdir()) == []


def test_without_room_the_program_waits(tmp_path, monkeypatch, capsys):
    """If the files cannot be copied, they are uploaded before `start` returns, and a note says why."""
    (tmp_path / "a").write_text("x")

    def full(*_):
        raise OSError(28, "No space left on device", "copy")

    monkeypatch.setattr(shutil, "copyfile", full)

    upload = Uploads().start("net", [file_of(tmp_path / "a")], lambda: None, lambda files: files[0].source.read_text())

    assert upload.is_done
    assert upload.wait() == "x"
    assert "No space left on device" in capsys.readouterr().err


def test_copies_of_a_killed_program_are_removed(tmp_path, cache):
    """Those that another program still uses stay."""
    (tmp_path / "a").write_text("x")
    used = FileCopies([file_of(tmp_path / "a")], cache)
    (cache / ".upshot-killed").mkdir()
    (cache / ".upshot-killed" / "0").touch()
    long_ago = time.time() - 3600
    for path in cache.iterdir():
        os.utime(path, (long_ago, long_ago))

    FileCopies([], cache).remove()

    assert [path.read_text() for path in cache.glob("*/*")] == ["x"]
    used.remove()
