"""The contracts of `BlobIndex` and `BlobFiles`, and the blobs that are built on them."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.blob_stores import (
    HOUR,
    MEMBER,
    FileStore,
    age_files,
    digest_of,
    open_file_store,
    stored_files,
    use_small_parts,
)
from tests.contract.databases import KINDS
from tests.fakes.strict_s3 import s3_files
from upshot.adapters.blobs.local import LocalBlobs
from upshot.adapters.memory.blobs import MemoryBlobFiles
from upshot.clock import FrozenClock
from upshot.errors import Conflict, InvalidInput, NoSpace, NotFound
from upshot.ports.blobs import BlobFiles, BlobUpload, StoredBlob

A, B = digest_of(b"a"), digest_of(b"b")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    use_small_parts(monkeypatch)


@pytest.fixture(params=["memory", *KINDS])
def store(request, tmp_path) -> FileStore:
    return open_file_store(request.param, request, tmp_path / "blobs")


@pytest.fixture
def local_store(request, tmp_path) -> FileStore:
    """Return a store on SQLite and a directory."""
    return open_file_store("sqlite", request, tmp_path / "blobs")


@pytest.fixture(params=["memory", "local", "s3"])
def files(request, tmp_path) -> BlobFiles:
    if request.param == "s3":
        return s3_files(request.getfixturevalue("s3"))
    return MemoryBlobFiles() if request.param == "memory" else LocalBlobs(tmp_path / "blobs")


def upload_of(content: bytes, upload_id: str = "upl_1") -> BlobUpload:
    """Return an upload of which all parts have arrived."""
    upload = BlobUpload(upload_id, digest_of(content), len(content), FrozenClock().now(), {})
    starts = [upload.part_start(number) for number in range(1, upload.part_count + 1)]
    parts = {number: digest_of(content[start : start + 4]) for number, start in enumerate(starts, start=1)}
    return replace(upload, parts=parts)


def send(files: BlobFiles, upload: BlobUpload, number: int, part: bytes) -> None:
    writer = files.open_part(upload, number, digest_of(part))
    writer.write(part)
    writer.close()


# --- files ----------------------------------------------------------------------------------------


def test_files_are_written_together(files):
    """Everything that was written in one call can be read, in whole and in part."""
    keys = [f"sha256/{number:02x}/{number}-1" for number in range(20)]

    files.write({key: key.encode() for key in keys})

    assert [b"".join(files.read(key)) for key in keys] == [key.encode() for key in keys]
    assert b"".join(files.read(keys[3], 7, 9)) == b"03"
    assert b"".join(files.read(keys[3], 10)) == b"3-1"


def test_a_missing_file_is_reported(files):
    """Reading a file that is not there says so."""
    with pytest.raises(NotFound, match="missing"):
        b"".join(files.read("sha256/00/0-1"))


def test_a_deleted_file_is_gone(files):
    """Deleting can be repeated."""
    files.write({"sha256/00/0-1": b"x", "sha256/00/0-2": b"y"})
    files.delete(["sha256/00/0-1"])
    files.delete(["sha256/00/0-1"])

    assert [key for key, _ in files.page_keys(after="", limit=9)] == ["sha256/00/0-2"]


def test_a_streamed_file_is_there_when_it_is_closed(files):
    """A file can be written piece by piece; one that was given up leaves nothing."""
    writer = files.open_file("sha256/00/0-1")
    writer.write(b"ab")
    writer.write(b"cd")
    writer.close()
    other = files.open_file("sha256/00/0-2")
    other.write(b"ab")
    other.abort()

    assert b"".join(files.read("sha256/00/0-1")) == b"abcd"
    assert [key for key, _ in files.page_keys(after="", limit=9)] == ["sha256/00/0-1"]


def test_parts_become_one_file(files):
    """Parts arrive in any order, and the result is read back."""
    upload = upload_of(b"abcdefghij")
    for number, part in ((3, b"ij"), (1, b"abcd"), (2, b"efgh")):
        send(files, upload, number, part)

    assert files.finish(upload, "sha256/00/0-1") == upload.digest
    files.discard(upload.id)
    files.discard(upload.id)
    assert b"".join(files.read("sha256/00/0-1")) == b"abcdefghij"
    assert [key for key, _ in files.page_keys(after="", limit=9)] == ["sha256/00/0-1"]


def test_finishing_can_be_repeated(files):
    """After a crash, before or after the parts were deleted, the file is finished again under the same key."""
    upload = upload_of(b"abcdef")
    send(files, upload, 1, b"abcd")
    send(files, upload, 2, b"ef")

    assert files.finish(upload, "sha256/00/0-1") == upload.digest
    assert files.finish(upload, "sha256/00/0-1") == upload.digest
    files.discard(upload.id)
    assert files.finish(upload, "sha256/00/0-1") == upload.digest


def test_finishing_without_parts_is_reported(files):
    """If neither the parts nor the file are there, the caller learns it."""
    with pytest.raises(NotFound):
        files.finish(upload_of(b"abcdef"), "sha256/00/0-1")


def test_an_empty_upload_becomes_an_empty_file(files):
    """A blob of no bytes has no parts."""
    assert files.finish(upload_of(b""), "sha256/00/0-1") == digest_of(b"")
    assert b"".join(files.read("sha256/00/0-1")) == b""


def test_keys_are_paged(files):
    """Files and unfinished uploads are listed in pages, in order, with the time of writing."""
    keys = [f"sha256/{first}{second}/{number}" for first in "0a" for second in "3f" for number in range(3)]
    files.write(dict.fromkeys(keys, b"x"))
    send(files, upload_of(b"abcdef"), 1, b"abcd")

    found, after = [], ""
    while page := files.page_keys(after=after, limit=5):
        found += [key for key, _ in page]
        after = found[-1]

    assert [key if key.startswith("sha256") else key[:13] for key in found] == [*sorted(keys), "uploads/upl_1"]


def test_a_late_part_changes_nothing(tmp_path):
    """A client that still sends a part, while the upload is finished, does not change the verified file."""
    files = LocalBlobs(tmp_path)
    upload = upload_of(b"abcdef")
    late = files.open_part(upload, 1, digest_of(b"XXXX"))
    send(files, upload, 1, b"abcd")
    send(files, upload, 2, b"ef")

    files.finish(upload, "sha256/00/0-1")
    late.write(b"XXXX")
    late.close()
    send(files, upload, 1, b"YYYY")

    assert b"".join(files.read("sha256/00/0-1")) == b"abcdef"


def test_a_part_after_the_end_does_not_harm_the_file(tmp_path):
    """Parts that arrive after the upload ended do not replace the file when somebody completes the upload again."""
    files = LocalBlobs(tmp_path)
    upload = upload_of(b"abcdef")
    send(files, upload, 1, b"abcd")
    send(files, upload, 2, b"ef")
    files.finish(upload, "sha256/00/0-1")
    files.discard(upload.id)
    send(files, upload, 1, b"YYYY")

    assert files.finish(upload, "sha256/00/0-1") == upload.digest
    assert b"".join(files.read("sha256/00/0-1")) == b"abcdef"


def test_files_without_hard_links(tmp_path, monkeypatch):
    """A file system without hard links works, too."""

    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files = LocalBlobs(tmp_path)
    upload = upload_of(b"abcdef")
    send(files, upload, 1, b"abcd")
    send(files, upload, 2, b"ef")

    assert files.finish(upload, "sha256/00/0-1") == upload.digest
    assert files.finish(upload, "sha256/00/0-1") == upload.digest


def test_only_the_owner_can_read(tmp_path):
    """Directories and files are private, also those above."""
    files = LocalBlobs(tmp_path / "blobs")
    files.write({"sha256/00/0-1": b"x"})
    send(files, upload_of(b"abcdef"), 1, b"abcd")

    assert [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_leaves_nothing(local_store, tmp_path, monkeypatch, failing):
    """If the disk is full, the error says so, nothing is stored, and the next try works."""
    original = getattr(os, failing)
    calls = iter(range(1_000))

    def fail(*args):
        if next(calls) < 3:
            return original(*args)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(NoSpace, match="No space left"):
            local_store.put(*(bytes([number]) for number in range(10)))

    assert stored_files(tmp_path / "blobs") == []
    assert local_store.put(b"a", b"b") == 2


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_leaves_nothing_of_a_blob_that_arrives(local_store, tmp_path, monkeypatch, failing):
    """The file of a blob that is sent in one request is removed, and the next try works."""

    def fail(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    def receive() -> None:
        receiver = local_store.blobs.open_blob(A)
        try:
            receiver.write(b"a")
        except BaseException:
            receiver.abort()
            raise
        receiver.finish()

    local_store.put(b"b")  # makes the directories
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(NoSpace, match="No space left"):
            receive()

    assert len(stored_files(tmp_path / "blobs")) == 1
    receive()
    assert local_store.read(b"a") == b"a"


def test_a_full_disk_of_the_database_leaves_no_file(local_store, tmp_path, monkeypatch):
    """A blob that the index has no room for takes no space itself, also if it is sent again and again."""

    def fail(*_args):
        raise NoSpace("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(local_store.index, "add", fail)
        receiver = local_store.blobs.open_blob(A)
        receiver.write(b"a")
        for work in (receiver.finish, lambda: local_store.put(b"b", b"c")):
            with pytest.raises(NoSpace):
                work()

    assert stored_files(tmp_path / "blobs") == []


# --- index ----------------------------------------------------------------------------------------


def test_the_first_of_two_equal_blobs_counts(store):
    """Adding a content twice returns the second blob, whose file is not needed."""
    now = store.clock.now()
    first, second = StoredBlob(A, 1, "k1"), StoredBlob(A, 1, "k2")

    assert store.index.add([first, StoredBlob(B, 1, "k3")], now) == []
    assert store.index.add([second], now) == [second]
    assert store.index.add([first], now) == []
    assert store.index.find([A, "sha256:other"]) == {A: first}
    assert store.index.find([]) == {}


def test_many_blobs_in_one_call(store):
    """A call with more blobs than a statement can have parameters works."""
    blobs = [StoredBlob(digest_of(b"%d" % number), 1, f"k{number}") for number in range(12_000)]

    assert store.index.add(blobs, store.clock.now()) == []
    assert len(store.index.find([blob.digest for blob in blobs])) == 12_000
    store.index.keep([blob.digest for blob in blobs], store.clock.now() + timedelta(hours=2))


def test_blobs_in_use_are_kept(store):
    """A blob that somebody uploads or uses again is as good as new."""
    now = store.clock.now()
    store.index.add([StoredBlob(A, 1, "ka"), StoredBlob(B, 1, "kb")], now)
    later = now + timedelta(hours=25)
    store.index.keep([A], later)
    store.index.add([StoredBlob(B, 1, "other")], later)

    assert store.index.remove_unreachable(before=later - timedelta(hours=24), limit=9) == []
    after = later + timedelta(seconds=1)
    assert {blob.key for blob in store.index.remove_unreachable(before=after, limit=1)} < {"ka", "kb"}
    assert len(store.index.remove_unreachable(before=after, limit=9)) == 1
    assert store.index.find([A, B]) == {}


def test_uploads_are_found_with_their_parts(store):
    """An upload remembers its parts; an upload that is gone takes no more."""
    now = store.clock.now()
    store.index.create_upload(BlobUpload("upl_1", A, 10, now, {}))
    store.index.create_upload(BlobUpload("upl_2", A, 10, now, {}))
    store.index.add_part("upl_2", 1, "sha256:x", now)
    store.index.add_part("upl_2", 1, "sha256:y", now)
    store.index.add_part("upl_9", 1, "sha256:y", now)

    assert store.index.find_upload_of(A) == BlobUpload("upl_2", A, 10, now, {1: "sha256:y"})
    store.index.remove_upload("upl_2")
    assert store.index.find_upload("upl_2") is None
    assert store.index.find_upload_of(A).id == "upl_1"
    assert store.index.find_upload_of(B) is None


def test_uploads_without_progress_expire(store):
    """A new part, and beginning again, keep an upload."""
    now = store.clock.now()
    for name in ("upl_1", "upl_2", "upl_3"):
        store.index.create_upload(BlobUpload(name, A, 10, now, {}))
        store.index.add_part(name, 1, "sha256:x", now)
    later = now + timedelta(hours=1)
    store.index.touch_upload("upl_1", later)
    store.index.add_part("upl_2", 2, "sha256:x", later)

    assert store.index.remove_expired_uploads(before=later, limit=9) == ["upl_3"]
    assert store.index.find_upload("upl_3") is None
    assert store.index.find_upload("upl_2").parts == {1: "sha256:x", 2: "sha256:x"}


# --- blobs ----------------------------------------------------------------------------------------


def test_a_wrong_digest_stores_nothing(store):
    """One wrong content refuses the whole request, and names the digest."""
    with pytest.raises(InvalidInput, match=A):
        store.blobs.put([(B, b"b"), (A, b"x")])

    assert store.blobs.missing([A, B]) == [A, B]


def test_a_blob_is_stored_once(store):
    """Sending a blob again, alone or with others, stores nothing."""
    assert store.put(b"a", b"b", b"a") == 2
    assert store.put(b"a", b"b", b"c") == 1
    assert store.read(b"c") == b"c"


def test_an_upload_is_resumed(store):
    """A second client begins where the first one stopped, and completing can be repeated."""
    content = b"abcdefghij"
    upload = store.begin_upload(content)
    store.send_part(upload, content, 2)
    with pytest.raises(Conflict, match="2 parts are missing, the first is 1"):
        store.blobs.complete(store.blobs.upload(upload.id))

    assert store.begin_upload(content).parts == {2: digest_of(b"efgh")}
    upload = store.send_all(content)
    blob = store.blobs.complete(upload)
    assert store.blobs.complete(upload) == blob
    assert store.read(content) == content
    assert store.blobs.begin_upload(blob.digest, blob.size) is None
    with pytest.raises(NotFound, match="begin again"):
        store.blobs.upload(upload.id)


def test_a_part_with_a_wrong_digest_is_not_kept(store):
    """The part can be sent again; a part that was right stays right when somebody sends garbage for it."""
    content = b"abcdef"
    upload = store.begin_upload(content)
    receiver = store.blobs.open_part(upload, 1, digest_of(b"abcd"))
    receiver.write(b"XXXX")
    with pytest.raises(InvalidInput, match="part 1"):
        receiver.finish()
    assert store.blobs.upload(upload.id).parts == {}

    upload = store.send_all(content)
    again = store.blobs.open_part(upload, 1, digest_of(b"abcd"))
    again.write(b"XX")
    again.abort()

    store.blobs.complete(upload)
    assert store.read(content) == content


@pytest.mark.parametrize("number", [0, 3, -1])
def test_a_part_that_does_not_exist(store, number):
    """Parts are numbered from 1 to the number that the upload says."""
    upload = store.begin_upload(b"abcdef")
    with pytest.raises(InvalidInput, match="counted from 1"):
        store.blobs.open_part(upload, number, A)


def test_an_upload_with_another_content_is_refused(store, tmp_path):
    """Parts that are right by themselves, but make another content, are refused, and the upload begins anew."""
    upload = store.blobs.begin_upload(A, 6)
    store.send_part(upload, b"abcdef", 1)
    store.send_part(upload, b"abcdef", 2)

    with pytest.raises(InvalidInput, match="begin again"):
        store.blobs.complete(store.blobs.upload(upload.id))

    assert store.blobs.begin_upload(A, 6).parts == {}
    assert stored_files(tmp_path / "blobs") == []


def test_an_upload_whose_parts_are_gone(store):
    """If somebody removed the files, the client is asked to begin again."""
    content = b"abcdef"
    upload = store.send_all(content)
    store.files.discard(upload.id)

    with pytest.raises(Conflict, match="begin again"):
        store.blobs.complete(upload)
    assert store.begin_upload(content).parts == {}


def test_a_streamed_blob(store):
    """A blob that is sent piece by piece is verified, and stored once."""
    for _ in range(2):
        receiver = store.blobs.open_blob(digest_of(b"abcdef"))
        receiver.write(b"abc")
        receiver.write(b"def")
        receiver.finish()
    assert store.read(b"abcdef") == b"abcdef"

    receiver = store.blobs.open_blob(A)
    receiver.write(b"x")
    with pytest.raises(InvalidInput, match="changed on its way"):
        receiver.finish()
    assert store.blobs.missing([A]) == [A]


@pytest.mark.parametrize("kind", KINDS)
def test_ten_clients_upload_the_same_blob(request, tmp_path, kind):
    """Ten clients that upload one content at the same time all succeed, and one file remains."""
    store = open_file_store(kind, request, tmp_path / "blobs")
    content = bytes(range(40))
    start = threading.Barrier(10)

    def upload(number: int) -> None:
        start.wait()
        if number % 3 == 0:
            store.put(content)
            return
        for _ in range(20):  # as a client does that finds the upload completed by another one
            try:
                upload = store.blobs.begin_upload(digest_of(content), len(content))
                if upload is None:
                    return
                for part in range(1, upload.part_count + 1):
                    store.send_part(upload, content, part)
                store.blobs.complete(store.blobs.upload(upload.id))
            except (NotFound, Conflict):
                continue
            return
        raise AssertionError("the upload was never complete")

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(upload, range(10)))

    assert store.read(content) == content
    store.clock.advance(25 * HOUR)
    store.blobs.remove_unreachable(limit=0)
    keys = [name for name in stored_files(tmp_path / "blobs") if name.startswith("sha256")]
    assert len([name for name in keys if store.blobs.stored(digest_of(content)).key == name]) == 1


# --- faults and garbage -----------------------------------------------------------------------------


def test_a_damaged_file_is_reported(local_store, tmp_path):
    """A file that is too short or missing is reported, and not sent as if it were the content."""
    local_store.put(b"abcdef")
    blob = local_store.blobs.stored(digest_of(b"abcdef"))
    path = Path(local_store.blobs.local_path(blob))
    path.chmod(0o600)
    path.write_bytes(b"abc")

    with pytest.raises(NotFound, match="has 3 of 6 bytes; restore it from a backup"):
        local_store.blobs.local_path(blob)
    path.unlink()
    with pytest.raises(NotFound, match="missing"):
        local_store.blobs.local_path(blob)


def path_of(store: FileStore, content: bytes) -> Path:
    """Return the file of a stored blob in a directory."""
    return Path(str(store.blobs.local_path(store.blobs.stored(digest_of(content)))))


def change(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"ABCDEF")


def truncate(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"abc")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [change, truncate, Path.unlink])
def test_a_damaged_blob_is_stored_again(request, tmp_path, kind, damage):
    """A verification finds it. Logging the same content sends only this blob, and the version stays what it was."""
    store = open_file_store(kind, request, tmp_path / "blobs")
    files = {"a": b"abcdef", "b": b"other"}
    version = store.log(files)
    digest = digest_of(b"abcdef")
    damage(path_of(store, b"abcdef"))

    assert store.blobs.find_damaged([digest_of(b"other"), digest]) == [digest]
    with pytest.raises(NotFound, match="log an artifact with the same content again"):
        store.blobs.stored(digest)
    again = store.begin(files)
    assert store.add_files(again, files) == (digest,)
    store.put(b"abcdef")

    assert store.commit(again) == version
    assert store.read(b"abcdef") == b"abcdef"
    assert store.blobs.find_damaged([digest]) == []
    assert store.begin(files).logged.value == version


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_comes_back_is_used_again(request, tmp_path, kind):
    """A file that was missing, such as on a disk that was not mounted, is kept if its content is right and needed."""
    store = open_file_store(kind, request, tmp_path / "blobs")
    contents = {"a": b"abcdef", "b": b"ghijkl"}
    store.log(contents)
    paths = [path_of(store, content) for content in contents.values()]
    for path in paths:
        path.rename(f"{path}.away")
    digests = [digest_of(content) for content in contents.values()]
    assert store.blobs.find_damaged(digests) == digests
    for path in paths:
        Path(f"{path}.away").rename(path)
    change(paths[1])
    age_files(tmp_path / "blobs", store.clock, hours=25)

    store.remove_garbage()

    assert store.read(b"abcdef") == b"abcdef"
    assert store.blobs.missing(digests) == [digest_of(b"ghijkl")]
    assert not paths[1].exists()


def test_unreachable_blobs_are_removed_after_a_day(store, tmp_path):
    """A blob that no manifest names goes after 24 hours; one that a version or a pending version names stays."""
    store.log({"a": b"kept"})
    pending = store.begin({"b": b"pending"})
    store.put(b"pending", b"garbage")
    store.add_files(pending, {"b": b"pending"})

    store.clock.advance(23 * HOUR)
    store.remove_garbage()
    assert store.read(b"garbage") == b"garbage"

    store.clock.advance(2 * HOUR)
    store.blobs.remove_unreachable(limit=9)

    assert (store.read(b"kept"), store.read(b"pending")) == (b"kept", b"pending")
    assert store.blobs.missing([digest_of(b"garbage")]) == [digest_of(b"garbage")]
    store.registry.remove_expired_versions(limit=9)
    store.blobs.remove_unreachable(limit=9)
    assert store.read(b"kept") == b"kept"
    assert store.blobs.missing([digest_of(b"pending")]) == [digest_of(b"pending")]


def test_blobs_of_a_deleted_version_are_removed(store):
    """Deleting a version frees what only it needs."""
    store.log({"a": b"shared", "b": b"old"})
    store.log({"a": b"shared", "c": b"new"})
    store.registry.delete_artifact_version("fraud/net:v0", origin=MEMBER)
    store.clock.advance(25 * HOUR)
    store.remove_garbage()

    assert store.read(b"shared") == b"shared"
    assert store.read(b"new") == b"new"
    assert store.blobs.missing([digest_of(b"old")]) == [digest_of(b"old")]


def test_expired_uploads_are_removed(local_store, tmp_path):
    """An upload without progress for 24 hours is removed with its parts; resuming it in time keeps it."""
    stale = local_store.begin_upload(b"abcdef")
    local_store.send_part(stale, b"abcdef", 1)
    resumed = local_store.begin_upload(b"ABCDEF")
    local_store.send_part(resumed, b"ABCDEF", 1)
    local_store.clock.advance(23 * HOUR)
    local_store.begin_upload(b"ABCDEF")
    local_store.clock.advance(2 * HOUR)

    local_store.remove_garbage()

    assert stored_files(tmp_path / "blobs") == [f"uploads/{resumed.id}"]
    local_store.blobs.complete(local_store.send_all(b"ABCDEF"))
    assert local_store.read(b"ABCDEF") == b"ABCDEF"


def test_orphans_are_removed_after_a_day(local_store, tmp_path):
    """Files of processes that died are removed; blobs, uploads and new files stay."""
    local_store.put(b"kept")
    upload = local_store.begin_upload(b"abcdef")
    local_store.send_part(upload, b"abcdef", 1)
    finished = local_store.send_all(b"ABCDEF")
    key = f"sha256/{finished.digest[7:9]}/{finished.digest[7:]}-{finished.id[4:]}"
    local_store.files.finish(finished, key)  # and died
    orphans = {f"sha256/ab/ab{'0' * 62}-1": b"x", f"sha256/cd/cd{'0' * 62}-1": b"x"}
    local_store.files.write(orphans)
    send(local_store.files, upload_of(b"abcdef", "upl_gone"), 1, b"abcd")
    known = {local_store.blobs.stored(digest_of(b"kept")).key, f"uploads/{upload.id}", f"uploads/{finished.id}", key}

    age_files(tmp_path, local_store.clock, 23)
    local_store.remove_garbage()
    assert set(stored_files(tmp_path / "blobs")) == {*known, *orphans, "uploads/upl_gone"}

    age_files(tmp_path, local_store.clock, 25)
    local_store.remove_garbage()
    assert set(stored_files(tmp_path / "blobs")) == known
    local_store.blobs.complete(local_store.blobs.upload(finished.id))
    assert local_store.read(b"ABCDEF") == b"ABCDEF"


def test_another_copy_of_a_blob_is_an_orphan(local_store, tmp_path):
    """A second file with the same content, which the index does not name, is removed; the blob stays."""
    local_store.put(b"kept")
    blob = local_store.blobs.stored(digest_of(b"kept"))
    local_store.files.write({f"{blob.key}x": b"kept"})
    age_files(tmp_path, local_store.clock, 25)

    local_store.remove_garbage()

    assert stored_files(tmp_path / "blobs") == [blob.key]
