"""References: files of an artifact that are stored in a bucket, on another web server, or on this machine."""

import gzip
import http.client
import os
import secrets
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
import pytest
from obstore.store import S3Store

from tests.fakes.strict_s3 import ACCESS_KEY_ID, BUCKET, REGION, SECRET_ACCESS_KEY
from upshot import Artifact
from upshot.errors import InvalidInput
from upshot.sdk.stored_elsewhere import download_references


@pytest.fixture
def bucket(s3, monkeypatch):
    """Set the variables of AWS's tools, and return a store for the bucket."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    return S3Store(BUCKET, client_options={"allow_http": True})


@pytest.fixture
def folder():
    """Return a name that nobody else uses in the bucket."""
    return secrets.token_hex(4)


def entries_of(*arguments, **options):
    """Return the entries for a reference, by path."""
    artifact = Artifact("data", "dataset")
    artifact.add_reference(*arguments, **options)
    return {path: entry.to_entry() for path, entry in artifact.manifest.entries.items()}


def test_an_object_is_recorded_and_fetched(bucket, folder, tmp_path):
    """The entry has the size and the ETag, and a download writes the content, whatever characters the key has."""
    key = f"{folder}/week 1/überblick #3?.csv"
    put = obstore.put(bucket, key, b"a,b\n1,2\n")

    entries = entries_of(f"s3://{BUCKET}/{key}")
    download_references(entries.values(), tmp_path)

    (entry,) = entries.values()
    assert (entry.path, entry.size, entry.digest) == ("überblick #3?.csv", 8, f"etag:{put['e_tag']}")
    assert entry.ref == f"s3://{BUCKET}/{key}"
    assert (tmp_path / "überblick #3?.csv").read_bytes() == b"a,b\n1,2\n"


def test_all_objects_below_a_key_are_recorded(bucket, folder, tmp_path):
    """Each object below a key becomes an entry under the name, with its path below the key."""
    for path in ("train/a.csv", "train/deep/b.csv", "trainer.csv"):
        obstore.put(bucket, f"{folder}/{path}", path.encode())

    entries = entries_of(f"s3://{BUCKET}/{folder}/train", "data")
    download_references(entries.values(), tmp_path)

    assert sorted(entries) == ["data/a.csv", "data/deep/b.csv"]
    assert (tmp_path / "data/deep/b.csv").read_bytes() == b"train/deep/b.csv"
    assert sorted(entries_of(f"s3://{BUCKET}/{folder}/train/")) == ["a.csv", "deep/b.csv"]


def test_an_empty_object_can_stand_for_a_folder(bucket, folder):
    """An empty object with objects below it is not recorded, and one without them is a file."""
    for path in ("train", "empty"):
        obstore.put(bucket, f"{folder}/{path}", b"")
    obstore.put(bucket, f"{folder}/train/a.csv", b"a")

    assert sorted(entries_of(f"s3://{BUCKET}/{folder}/train")) == ["a.csv"]
    assert sorted(entries_of(f"s3://{BUCKET}/{folder}/empty")) == ["empty"]


def test_a_bucket_is_recorded_from_its_top(bucket, folder):
    """Without a key, all objects of the bucket become entries, with their keys as paths."""
    obstore.put(bucket, f"{folder}/deep/a.csv", b"a")

    assert f"{folder}/deep/a.csv" in entries_of(f"s3://{BUCKET}/")


def test_too_many_objects_are_an_error(bucket, folder):
    """`max_objects` never leaves anything out: more objects are refused."""
    for number in range(3):
        obstore.put(bucket, f"{folder}/{number}", b"x")

    with pytest.raises(ValueError, match="more than 2 files are there; raise max_objects"):
        entries_of(f"s3://{BUCKET}/{folder}", max_objects=2)
    assert len(entries_of(f"s3://{BUCKET}/{folder}", max_objects=3)) == 3


def test_an_object_that_changed_is_not_downloaded(bucket, folder, tmp_path):
    """The error names the address, and no file is left. `allow_missing_references` leaves the file out."""
    obstore.put(bucket, f"{folder}/a", b"first")
    entries = entries_of(f"s3://{BUCKET}/{folder}/a")
    obstore.put(bucket, f"{folder}/a", b"other")

    with pytest.raises(ValueError, match=f"s3://{BUCKET}/{folder}/a has changed since the artifact was logged"):
        download_references(entries.values(), tmp_path)
    download_references(entries.values(), tmp_path, allow_missing=True)

    assert not list(tmp_path.iterdir())


def test_a_version_of_an_object_stays_the_version(bucket, s3, monkeypatch, tmp_path):
    """In a bucket that keeps versions, the address has the version, which is fetched although there is a newer one."""
    name = f"versions-{secrets.token_hex(4)}"
    moto = http.client.HTTPConnection("127.0.0.1", s3.moto_port)
    constraint = f"<LocationConstraint>{REGION}</LocationConstraint>"
    location = f"<CreateBucketConfiguration>{constraint}</CreateBucketConfiguration>"
    versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    for target, body in ((f"/{name}", location), (f"/{name}?versioning", versioning)):
        moto.request("PUT", target, body)
        response = moto.getresponse()
        assert response.status == 200, response.read()
        response.read()
    store = S3Store(name, client_options={"allow_http": True})
    version = obstore.put(store, "a", b"first")["version"]
    entries = entries_of(f"s3://{name}/a")
    obstore.put(store, "a", b"second")

    download_references(entries.values(), tmp_path)

    assert entries["a"].ref == f"s3://{name}/a?versionId={version}"
    assert (tmp_path / "a").read_bytes() == b"first"
    (named,) = entries_of(f"s3://{name}/a?versionId={version}", "other").values()
    assert (named.path, named.ref, named.digest) == ("other", entries["a"].ref, entries["a"].digest)
    with pytest.raises(ValueError, match="no such object"):
        entries_of(f"s3://{name}/a?versionId=00000000-0000-0000-0000-000000000000")


@pytest.mark.parametrize("path", ["nothing", "nothing/"])
def test_an_object_that_does_not_exist_is_refused(bucket, folder, path):
    """The error says what to correct."""
    with pytest.raises(ValueError, match=r"there is no such object.*correct the address"):
        entries_of(f"s3://{BUCKET}/{folder}/{path}")


def test_wrong_credentials_are_named(bucket, s3, monkeypatch):
    """The error names the variables that the credentials come from."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")

    with pytest.raises(ValueError, match="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        entries_of(f"s3://{BUCKET}/a")
    assert s3.refusals


def test_the_address_alone_needs_no_bucket(monkeypatch):
    """`checksum=False` records an address that nobody has looked at."""
    monkeypatch.setitem(sys.modules, "obstore", None)

    (entry,) = entries_of("s3://nowhere/data/a.csv", checksum=False).values()

    assert (entry.path, entry.size, entry.ref) == ("a.csv", None, "s3://nowhere/data/a.csv")


def test_without_the_extra_the_error_names_it(monkeypatch):
    """Without the library for buckets, the error has the command that installs it."""
    monkeypatch.delitem(sys.modules, "upshot.client.buckets", raising=False)
    monkeypatch.delattr("upshot.client.buckets", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(ValueError, match=r'pip install "upshot\[s3\]"'):
        entries_of("s3://nowhere/a")


class _WebServer(BaseHTTPRequestHandler):
    """Serves one file, compressed for clients that accept it. It answers GET only, as a presigned address does."""

    content = b"text " * 1000

    def do_HEAD(self):
        self.send_error(403)

    def do_GET(self):
        is_compressed = "gzip" in self.headers.get("accept-encoding", "")
        body = gzip.compress(self.content) if is_compressed else self.content
        self.send_response(200)
        if is_compressed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Log nothing."""


@contextmanager
def web_server():
    """Start the server, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _WebServer)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients may disconnect
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_of_a_web_server_is_recorded_as_it_is_stored(tmp_path):
    """The size is that of the file, not of its compressed form, also where the server answers no HEAD request."""
    with web_server() as url:
        entries = entries_of(f"{url}/data.txt")
        download_references(entries.values(), tmp_path)

    assert (entries["data.txt"].size, entries["data.txt"].digest) == (5000, 'etag:"1"')
    assert (tmp_path / "data.txt").read_bytes() == _WebServer.content


def test_files_of_a_directory_are_counted(tmp_path):
    """`max_objects` also limits local directories."""
    for number in range(3):
        (tmp_path / str(number)).write_text("x")

    with pytest.raises(ValueError, match="more than 2 files"):
        entries_of(tmp_path.as_uri(), max_objects=2)


def test_a_web_server_that_does_not_answer_is_an_error(tmp_path):
    """The error has the address, for a download too."""
    with web_server() as url:
        entries = entries_of(f"{url}/data.txt")

    with pytest.raises(InvalidInput, match=url):
        download_references(entries.values(), tmp_path)
