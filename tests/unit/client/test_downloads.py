"""Downloads and the cache, with a server that exists in memory."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any

import pytest

from upshot.client.blob_cache import BlobCache
from upshot.client.downloads import download
from upshot.client.file_digest import digest_of
from upshot.domain.blob_frames import frame
from upshot.domain.manifest import ManifestEntry
from upshot.errors import InvalidInput, Unavailable

LARGE = os.urandom(3_000_000)


class Server:
    """Answers with blobs, and counts what it sends."""

    def __init__(self, *contents: bytes) -> None:
        self.blobs = {digest_of(content): content for content in contents}
        self.sent: list[str] = []
        self.broken_after: int | None = None  #: bytes after which the connection breaks, once
        self.starts: list[int] = []
        self.verified: list[str] = []

    def read_bytes(self, _path: str, body: Any) -> bytes:
        self.sent += body["digests"]
        return b"".join(frame(digest, self.blobs[digest]) for digest in body["digests"])

    def post(self, path: str, body: Any, *, takes_long: bool) -> Any:
        assert (path, takes_long) == ("/blobs/verify", True)
        self.verified += body["digests"]
        return {"missing": [digest for digest in body["digests"] if digest_of(self.blobs[digest]) != digest]}

    @contextmanager
    def stream(self, path: str, *, start: int = 0) -> Any:
        digest = path.removeprefix("/blobs/").replace("%3A", ":")
        self.sent.append(digest)
        self.starts.append(start)
        content = self.blobs[digest][start:]
        if self.broken_after is None:
            yield iter([content])
            return
        part, self.broken_after = content[: self.broken_after], None

        def chunks() -> Any:
            yield part
            raise Unavailable("the connection broke")

        yield chunks()


def entry(path, content):
    return ManifestEntry(path, digest_of(content), len(content))


def fetch(server, root, *entries, cache=None):
    download(server, entries, root, cache=cache, what="test")


def test_what_is_there_is_not_fetched_again(tmp_path):
    """Equal files stay, changed ones are replaced, and other files are left alone."""
    server = Server(b"one", LARGE)
    entries = [entry("a/one", b"one"), entry("two", LARGE), entry("again", LARGE)]
    fetch(server, tmp_path / "root", *entries)
    assert (tmp_path / "root" / "a" / "one").read_bytes() == b"one"
    assert (tmp_path / "root" / "again").read_bytes() == LARGE
    assert len(server.sent) == 2  # equal content travels once
    (tmp_path / "root" / "mine").touch()
    (tmp_path / "root" / "a" / "one").write_bytes(b"eno")

    fetch(server, tmp_path / "root", *entries)

    assert server.sent[2:] == [digest_of(b"one")]
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["a", "again", "mine", "two"]


def test_a_broken_connection_is_resumed(tmp_path):
    """The rest is asked for, not the whole; an earlier program's unfinished file is continued, too."""
    server = Server(LARGE)
    server.broken_after = 1_000_000
    fetch(server, tmp_path, entry("x", LARGE))
    assert server.starts == [0, 1_000_000]

    (tmp_path / "x").unlink()
    (tmp_path / f".upshot-{digest_of(LARGE)[7:23]}.part").write_bytes(LARGE[:2_000_000])
    fetch(server, tmp_path, entry("x", LARGE))
    assert server.starts[2:] == [2_000_000]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_wrong_bytes_are_refused(tmp_path):
    """Bytes with another digest never appear under the name of the file."""
    server = Server()
    server.blobs = {digest_of(b"small"): b"wrong", digest_of(LARGE): LARGE[:-1] + b"x"}

    for name, content in (("small", b"small"), ("large", LARGE)):
        with pytest.raises(InvalidInput, match=f"{name}: the server's copy of .* is damaged or lost; log an artifact"):
            fetch(server, tmp_path, entry(name, content))
    assert server.verified == [digest_of(b"small"), digest_of(LARGE)]

    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".upshot-")]


def test_a_download_that_is_changed_changes_no_other(tmp_path):
    """A program may write to a file that it has downloaded: the next download gets the right content."""
    server, cache = Server(b"model"), BlobCache(tmp_path / "cache", 1_000)
    fetch(server, tmp_path / "a", entry("x", b"model"), cache=cache)
    fetch(server, tmp_path / "b", entry("x", b"model"), cache=cache)
    assert len(server.sent) == 1
    for name in ("a", "b"):
        (tmp_path / name / "x").write_bytes(b"OTHER")

        fetch(server, tmp_path / f"after {name}", entry("x", b"model"), cache=cache)

        assert (tmp_path / f"after {name}" / "x").read_bytes() == b"model"
    assert (tmp_path / "b" / "x").read_bytes() == b"OTHER"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a\\b", "a\x00"])
def test_paths_that_lead_out_are_refused(tmp_path, path):
    """A manifest cannot make a program write outside of the directory."""
    with pytest.raises(InvalidInput, match="inside the artifact"):
        fetch(Server(b"x"), tmp_path / "root", entry(path, b"x"))


def test_a_link_that_leads_out_is_refused(tmp_path):
    """A folder of the artifact that is a link to somewhere else is not written to."""
    (tmp_path / "root").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "other")

    with pytest.raises(InvalidInput, match="leads out"):
        fetch(Server(b"x"), tmp_path / "root", entry("a/x", b"x"))
    assert not list((tmp_path / "other").iterdir())


def test_the_cache_answers_and_a_damaged_blob_is_fetched_again(tmp_path):
    """A second directory is filled from the cache. A blob that was changed on the disk is noticed."""
    server, cache = Server(b"one"), BlobCache(tmp_path / "cache", 1_000_000)
    fetch(server, tmp_path / "first", entry("x", b"one"), cache=cache)
    fetch(server, tmp_path / "second", entry("x", b"one"), cache=cache)
    assert len(server.sent) == 1

    (kept,) = (tmp_path / "cache").glob("*/*")
    kept.write_bytes(b"two")
    fetch(server, tmp_path / "third", entry("x", b"one"), cache=cache)

    assert len(server.sent) == 2
    assert (tmp_path / "third" / "x").read_bytes() == b"one"
    assert kept.read_bytes() == b"one"


def test_the_cache_keeps_to_its_limit(tmp_path):
    """The blobs that were not used for the longest time are removed first, and a very large one is not kept."""
    cache = BlobCache(tmp_path / "cache", 1_000)
    for number in range(6):
        content = bytes([number]) * 200
        (tmp_path / f"file {number}").write_bytes(content)
        cache.add(digest_of(content), tmp_path / f"file {number}")
        (kept,) = (tmp_path / "cache").glob(f"*/{digest_of(content)[7:]}")
        os.utime(kept, (number, number))
    (tmp_path / "file").write_bytes(b"x" * 500)
    cache.add(digest_of(b"x" * 500), tmp_path / "file")

    cache.trim()

    kept_times = sorted(path.stat().st_atime for path in (tmp_path / "cache").glob("*/*"))
    assert kept_times == [2, 3, 4, 5]
