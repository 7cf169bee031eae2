"""Artifact versions with files, in two phases: in memory, on SQLite and on PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.blob_stores import HOUR, MEMBER, FileStore, digest_of, entries_of, open_file_store
from tests.contract.databases import KINDS
from upshot.domain.manifest import ManifestEntry, manifest_digest
from upshot.domain.pending_version import VersionRequest
from upshot.errors import Conflict, InvalidInput, NotFound

FILES = {"a.bin": b"a", "d/b.bin": b"b"}


@pytest.fixture(params=["memory", *KINDS])
def store(request, tmp_path) -> FileStore:
    return open_file_store(request.param, request, tmp_path / "blobs")


def test_a_version_is_seen_after_the_commit(store):
    """Until the commit nobody sees the version; then it has number, files and size, and the blobs are stored."""
    started = store.begin(FILES, "ver_" + "1" * 26)
    assert store.add_files(started, FILES) == (digest_of(b"a"), digest_of(b"b"))
    store.put(b"a")
    assert store.registry.missing_blobs(started.pending.id) == (digest_of(b"b"),)
    with pytest.raises(NotFound):
        store.registry.artifact_version("fraud/net:latest")
    with pytest.raises(Conflict, match="1 blobs are not stored"):
        store.commit(started)
    store.put(b"b")

    version = store.commit(started)

    assert (version.id, version.number, version.aliases) == ("ver_" + "1" * 26, 0, ("latest",))
    assert (version.manifest.file_count, version.manifest.size, version.manifest.is_stored) == (2, 2, True)
    assert store.registry.artifact_version("fraud/net:latest") == version
    with pytest.raises(NotFound, match="committed or it expired"):
        store.registry.pending_version(version.id)


def test_every_step_can_be_repeated(store):
    """A client that lost an answer sends the same request again, at any step."""
    version_id = "ver_" + "1" * 26
    for _ in range(2):
        started = store.begin(FILES, version_id)
    for _ in range(2):
        store.add_files(started, FILES)
    store.put(*FILES.values())
    versions = [store.commit(started) for _ in range(2)]

    assert versions[0] == versions[1]
    assert store.begin(FILES, version_id).logged.value == versions[0]


def test_a_version_without_files(store):
    """An empty version is a version."""
    version = store.log({})
    assert (version.manifest.file_count, version.manifest.size, version.manifest.is_stored) == (0, 0, True)


def test_equal_content_is_not_uploaded(store):
    """If the newest version has the content, nothing has to be sent; if an older one has it, only the manifest."""
    first = store.log(FILES)
    assert store.begin(FILES).logged.value.id == first.id
    store.log({"a.bin": b"other"})

    started = store.begin(FILES)
    assert store.add_files(started, FILES) == ()
    assert store.commit(started).number == 2


def test_an_id_belongs_to_one_version(store):
    """An id that is taken, by a version or a pending one, is refused for something else."""
    version = store.log(FILES)
    for contents, name in ((FILES, "other"), ({"a": b"x"}, "net")):
        with pytest.raises(Conflict, match="is another version"):
            store.begin(contents, version.id, name)

    pending_id = "ver_" + "2" * 26
    store.begin({"a": b"x"}, pending_id)
    with pytest.raises(Conflict, match="use a new id"):
        store.begin({"a": b"y"}, pending_id)


def test_another_type_is_refused(store):
    """An artifact has one type, also when two begin it at the same time with different types."""
    started = store.begin(FILES)
    request = VersionRequest("fraud", "net", "dataset", manifest_digest([]), 0, {}, "", (), ())
    other = store.registry.begin_version("ver_" + "3" * 26, request, origin=MEMBER)
    store.add_files(started, FILES)
    store.put(*FILES.values())
    store.commit(started)

    with pytest.raises(Conflict, match="'model', not 'dataset'"):
        store.commit(other)
    with pytest.raises(Conflict, match="'model', not 'dataset'"):
        store.registry.begin_version("ver_" + "4" * 26, request, origin=MEMBER)


def test_a_wrong_digest_is_refused(store):
    """Files that are not those that were announced are refused at the commit."""
    started = store.begin(FILES)
    other = {"a.bin": b"a", "d/b.bin": b"changed"}
    store.add_files(started, other)
    store.put(*other.values())

    with pytest.raises(InvalidInput, match="a file changed meanwhile"):
        store.commit(started)


def test_a_wrong_count_is_refused(store):
    """Too few files cannot be committed, and too many cannot be added."""
    started = store.begin(FILES)
    store.add_files(started, {"a.bin": b"a"})
    with pytest.raises(Conflict, match="1 of 2 announced files"):
        store.commit(started)
    with pytest.raises(Conflict, match="3 files with these, and 2 were announced"):
        store.add_files(started, {"d/b.bin": b"b", "c.bin": b"c"})

    store.add_files(started, FILES)
    store.put(*FILES.values())
    assert store.commit(started).manifest.file_count == 2


def test_a_wrong_size_is_refused(store):
    """The size in the manifest is that of the blob."""
    started = store.begin(FILES)
    entries = [ManifestEntry("a.bin", digest_of(b"a"), 1), ManifestEntry("d/b.bin", digest_of(b"b"), 5)]
    store.registry.add_files(started.pending.id, entries, origin=MEMBER)
    store.put(*FILES.values())

    with pytest.raises(InvalidInput, match=r"'d/b.bin' was announced with 5 bytes"):
        store.commit(started)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"ü": b"a", "u\u0308": b"b"}, "Unicode form"),
        ({"a": b"a", "a/b": b"b"}, "'a' is a file, and 'a/b' is below it"),
        ({"a/b": b"a", "a/b/c/d": b"b"}, "'a/b' is a file"),
    ],
)
def test_paths_that_exclude_each_other_are_refused(store, contents, message):
    """Two files that cannot be written side by side are refused before the version exists."""
    with pytest.raises(InvalidInput, match=message):
        store.log(contents)


@pytest.mark.parametrize("path", ["../a", "/a", "a//b", "a/./b", "a\\b", "a\x00b", "", "."])
def test_paths_outside_of_the_artifact_are_refused(store, path):
    """A path names a file inside the artifact."""
    started = store.begin({"x": b"a"})
    with pytest.raises(InvalidInput):
        store.registry.add_files(started.pending.id, entries_of({path: b"a"}), origin=MEMBER)


def test_names_are_kept_as_they_are(store):
    """Unicode, spaces and capital letters are kept; names that differ in case are different files."""
    contents = {"Ünïcode ☃/a b.txt": b"a", "README": b"b", "readme": b"c"}
    version = store.log(contents)
    page = store.registry.files(version.reference, cursor=None, limit=9)
    assert {entry.path for entry in page.items} == set(contents)


def test_references_need_no_blobs(store):
    """A reference is part of the manifest, and nothing is uploaded for it."""
    entry = ManifestEntry("r", "etag-1", None, "s3://bucket/key")
    request = VersionRequest("fraud", "net", "model", manifest_digest([entry]), 1, {}, "", (), ())
    started = store.registry.begin_version("ver_" + "3" * 26, request, origin=MEMBER)

    assert store.registry.add_files(started.pending.id, [entry], origin=MEMBER) == ()
    assert store.commit(started).manifest.size is None


def test_a_pending_version_expires(store):
    """After 24 hours without progress it is gone; adding files is progress."""
    stale, active = store.begin(FILES), store.begin({"a.bin": b"x", "b.bin": b"y"})
    store.clock.advance(23 * HOUR)
    store.add_files(active, {"a.bin": b"x"})
    store.clock.advance(2 * HOUR)

    assert store.registry.remove_expired_versions(limit=9) == 1

    with pytest.raises(NotFound, match="expired"):
        store.commit(stale)
    store.add_files(active, {"b.bin": b"y"})
    store.put(b"x", b"y")
    assert store.commit(active).number == 0


def test_an_abandoned_version_is_gone(store):
    """A client can give up."""
    started = store.begin(FILES)
    store.add_files(started, FILES)
    store.registry.abandon_version(started.pending.id, origin=MEMBER)

    with pytest.raises(NotFound):
        store.add_files(started, FILES)


@pytest.mark.parametrize("same", [True, False])
def test_two_writers_of_the_same_artifact(store, same):
    """Two who log at the same time get two numbers, or one version if the content is the same."""
    contents = [FILES, FILES if same else {"c": b"c"}]
    started = [store.begin(files) for files in contents]
    for writer, files in zip(started, contents, strict=True):
        store.add_files(writer, files)
        store.put(*files.values())
    start = threading.Barrier(2)

    def commit(writer):
        start.wait()
        return store.commit(writer)

    with ThreadPoolExecutor(2) as threads:
        versions = list(threads.map(commit, started))

    assert sorted(version.number for version in versions) == ([0, 0] if same else [0, 1])
    assert len({version.id for version in versions}) == (1 if same else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_while_it_expires(request, tmp_path, kind):
    """A version is committed or it expires; it never loses its files when both happen at once."""
    store = open_file_store(kind, request, tmp_path / "blobs")
    for number in range(8):
        contents = {"a": b"%d" % number}
        started = store.begin(contents)
        store.add_files(started, contents)
        store.put(*contents.values())
        store.clock.advance(25 * HOUR)
        start = threading.Barrier(2)

        def commit(started=started, start=start):
            start.wait()
            try:
                return store.commit(started)
            except NotFound:
                return None

        def expire(start=start):
            start.wait()
            store.registry.remove_expired_versions(limit=9)
            store.blobs.remove_unreachable(limit=9)

        with ThreadPoolExecutor(2) as threads:
            committed, _ = threads.submit(commit), threads.submit(expire).result()
            version = committed.result()
        if version is not None:
            assert [entry.path for entry in store.registry.files(version.reference, cursor=None, limit=9).items]
            assert store.read(contents["a"]) == contents["a"]
