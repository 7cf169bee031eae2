"""The client's uploads with a bucket: parts go to presigned addresses, or else through the web process."""

import pytest

from tests.blob_stores import digest_of, use_small_parts
from tests.fakes.strict_s3 import s3_files
from tests.servers import free_port
from upshot.blobs.service import Blobs
from upshot.client import uploads
from upshot.client.file_digest import LocalFile
from upshot.client.http import ApiError, Client
from upshot.client.uploads import upload
from upshot.domain.manifest import ManifestEntry
from upshot.web.routes import blobs as blobs_routes

CONTENT = b"abcdefghij"
DIGEST = digest_of(CONTENT)


class Bucket:
    """A server whose blobs are in a bucket, and a client that notes which parts it sends through the server."""

    def __init__(self, s3, blobs, client, file):
        self.s3 = s3
        self.blobs = blobs
        self.client = client
        self.file = file
        self.through_server = []
        self._send_bytes = client.send_bytes
        client.send_bytes = self._note_and_send

    def _note_and_send(self, method, path, content, **options):
        if method == "PUT":
            self.through_server.append(int(path.rpartition("/")[2]))
        return self._send_bytes(method, path, content, **options)

    def upload(self):
        """Upload the file."""
        upload(self.client, [self.file], what="test")

    def sent_to_store(self):
        """Return the numbers of the parts that were written to the bucket."""
        paths = [request for request in self.s3.requests if request.startswith("PUT") and "/uploads/" in request]
        return sorted(int(path.rpartition("/")[2][:5]) for path in paths)

    @property
    def content(self):
        return b"".join(self.blobs.read(self.blobs.stored(DIGEST)))


@pytest.fixture
def bucket(serve, stores, clock, s3, tmp_path, monkeypatch):
    """Return a bucket for a file of three parts."""
    use_small_parts(monkeypatch, 4)
    monkeypatch.setattr(blobs_routes, "PART_BYTES", 4)
    monkeypatch.setattr(uploads, "_SINGLE_BYTES", 4)
    monkeypatch.setattr(uploads, "SMALL_BYTES", 1)
    monkeypatch.setattr(uploads, "THREADS", 1)
    source = tmp_path / "model.bin"
    source.write_bytes(CONTENT)
    blobs = Blobs(stores.blobs, s3_files(s3), clock)
    with (
        serve(blobs=blobs) as web,
        Client(str(web.base_url), None, is_local=True) as client,
    ):
        yield Bucket(s3, blobs, client, LocalFile(ManifestEntry("model.bin", DIGEST, len(CONTENT)), source))


def test_parts_go_to_the_store(bucket):
    """The bytes do not pass through the web process, and the bucket accepts signature and checksum."""
    bucket.upload()

    assert (bucket.sent_to_store(), bucket.through_server, bucket.s3.refusals) == ([1, 2, 3], [], [])
    assert bucket.content == CONTENT


def test_an_interrupted_upload_sends_the_rest(bucket, monkeypatch):
    """A second try sends only the parts that the bucket does not have."""
    put = bucket.client.put_elsewhere
    sent: list[None] = []

    def interrupted(*arguments, **options):
        if sent:
            raise ConnectionAbortedError
        sent.append(put(*arguments, **options))

    monkeypatch.setattr(bucket.client, "put_elsewhere", interrupted)
    with pytest.raises(ConnectionAbortedError):
        bucket.upload()
    assert bucket.sent_to_store() == [1]
    bucket.s3.requests.clear()
    monkeypatch.setattr(bucket.client, "put_elsewhere", put)

    bucket.upload()

    assert bucket.sent_to_store() == [2, 3]
    assert bucket.content == CONTENT


def refused_signature(url):
    return url[:-4] + "0000"


def closed_port(_url):
    return f"http://127.0.0.1:{free_port()}/part"


@pytest.mark.parametrize("address", [refused_signature, closed_port])
def test_a_store_that_refuses_parts(bucket, monkeypatch, capsys, address):
    """If the bucket refuses an address, or cannot be reached, the bytes go through the web process, with a note."""
    sign = bucket.blobs.sign_part
    monkeypatch.setattr(Blobs, "sign_part", lambda _, *part: address(sign(*part)))

    bucket.upload()

    assert bucket.through_server == [1, 2, 3]
    assert bucket.content == CONTENT
    assert capsys.readouterr().err.count("the bytes go through") == 1


def test_a_part_that_changes_on_its_way(bucket, monkeypatch):
    """The bucket compares the checksum of each part that it receives, and refuses a wrong one."""
    monkeypatch.setattr(uploads, "md5_of_range", lambda *_: "AAAAAAAAAAAAAAAAAAAAAA==")

    bucket.upload()

    assert bucket.s3.refusals == ["BadDigest"]
    assert bucket.content == CONTENT


def test_a_file_that_changes_meanwhile(bucket):
    """A file with another content than the announced one is refused, and nothing of it is visible."""
    bucket.file.source.write_bytes(b"ABCDEFGHIJ")

    with pytest.raises(Exception, match="has changed since it was added"):
        bucket.upload()

    assert bucket.blobs.find([DIGEST]) == {}
    with pytest.raises(ApiError):
        bucket.client.get(f"/blobs/{DIGEST}")
