"""Uploads and downloads of blobs through the REST API, with bytes in memory, in a directory, and in a bucket."""

from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.blob_stores import digest_of, use_small_parts
from tests.fakes.strict_s3 import StrictS3, s3_files
from tests.web.conftest import API, ok_json, problem
from upshot.adapters.blobs.local import LocalBlobs
from upshot.blobs.service import Blobs
from upshot.domain.blob_frames import frame, parse_frames
from upshot.web.body import MAX_BODY_BYTES
from upshot.web.middleware.body_limit import limit_of
from upshot.web.transfer import MAX_TRANSFER_BYTES

CONTENT = b"abcdefghij"
DIGEST = digest_of(CONTENT)


@pytest.fixture(params=["memory", "local", "s3", "s3 without presigned addresses"])
def web(request, serve, deps, stores, clock, tmp_path, monkeypatch):
    """Return a client of a server whose parts have 4 bytes."""
    use_small_parts(monkeypatch, 4)
    if request.param == "memory":
        files = deps.blobs._files
    elif request.param == "local":
        files = LocalBlobs(tmp_path / "blobs")
    else:
        files = s3_files(request.getfixturevalue("s3"), presigned=request.param == "s3")
    with serve(blobs=Blobs(stores.blobs, files, clock)) as client:
        client.follow_redirects = True
        yield client


def begin(web: httpx.Client, content: bytes = CONTENT):
    return ok_json(web.post(f"{API}/blob-uploads", json={"digest": digest_of(content), "size": len(content)}))["upload"]


def put_part(web: httpx.Client, upload_id: str, number: int, part: bytes, checksum: str | None = None):
    headers = {"Upshot-Checksum": checksum or digest_of(part)}
    return web.put(f"{API}/blob-uploads/{upload_id}/parts/{number}", content=part, headers=headers)


def test_small_blobs_travel_together(web):
    """Many blobs are stored with one request, and read with one."""
    contents = [b"", b"a", b"b" * 3000, b"a"]
    body = b"".join(frame(digest_of(content), content) for content in contents)

    assert ok_json(web.post(f"{API}/blobs", content=body)) == {"stored": 3}
    assert ok_json(web.post(f"{API}/blobs", content=body)) == {"stored": 0}
    digests = [digest_of(content) for content in contents]
    assert ok_json(web.post(f"{API}/blobs/missing", json={"digests": [*digests, DIGEST]})) == {"missing": [DIGEST]}
    read = web.post(f"{API}/blobs/read", json={"digests": digests})
    assert parse_frames(read.content) == list(zip(digests, contents, strict=True))


def test_a_blob_in_one_request(web):
    """A blob is stored and read, in whole and in part."""
    for _ in range(2):
        assert ok_json(web.put(f"{API}/blobs/{DIGEST}", content=CONTENT)) == {"digest": DIGEST, "size": 10}

    assert web.get(f"{API}/blobs/{DIGEST}").content == CONTENT
    for header, expected in (("bytes=2-4", b"cde"), ("bytes=7-", b"hij"), ("bytes=-2", b"ij"), ("bytes=8-99", b"ij")):
        part = web.get(f"{API}/blobs/{DIGEST}", headers={"Range": header})
        assert (part.status_code, part.content) == (206, expected)
    assert web.get(f"{API}/blobs/{DIGEST}", headers={"Range": "bytes=99-"}).status_code == 416


def test_a_wrong_blob_is_refused(web):
    """A blob that changed on its way is not stored."""
    detail = problem(web.put(f"{API}/blobs/{DIGEST}", content=b"other"), 422, "invalid-input")["detail"]
    assert "changed on its way" in detail
    problem(web.put(f"{API}/blobs/sha256:abc", content=b"other"), 422, "invalid-input")
    problem(web.get(f"{API}/blobs/{DIGEST}"), 404, "not-found")
    body = frame(DIGEST, CONTENT)
    problem(web.post(f"{API}/blobs", content=body[:-1]), 422, "invalid-input")
    problem(web.get(f"{API}/blobs/{DIGEST}"), 404, "not-found")


def test_a_large_blob_is_resumed(web):
    """Parts arrive in any order; what has arrived is not sent again."""
    upload = begin(web)
    assert (upload["part_count"], upload["received"]) == (3, [])
    assert ok_json(put_part(web, upload["id"], 3, b"ij"))["received"] == [3]
    problem(put_part(web, upload["id"], 1, b"abcd", digest_of(b"x")), 422, "invalid-input")
    problem(put_part(web, upload["id"], 1, b"abc"), 400, "malformed-body")
    problem(put_part(web, upload["id"], 1, b"abcdef"), 413, "body-too-large")
    problem(put_part(web, upload["id"], 4, b"x"), 422, "invalid-input")
    problem(web.post(f"{API}/blob-uploads/{upload['id']}/complete"), 409, "conflict")

    resumed = begin(web)
    assert (resumed["id"], resumed["received"]) == (upload["id"], [3])
    put_part(web, upload["id"], 1, b"abcd")
    put_part(web, upload["id"], 2, b"efgh")
    assert ok_json(put_part(web, upload["id"], 2, b"efgh"))["received"] == [1, 2, 3]
    assert ok_json(web.post(f"{API}/blob-uploads/{upload['id']}/complete")) == {"digest": DIGEST, "size": 10}

    assert web.get(f"{API}/blobs/{DIGEST}").content == CONTENT
    assert begin(web) is None
    problem(web.post(f"{API}/blob-uploads/{upload['id']}/complete"), 404, "not-found")


def test_a_truncated_upload_is_not_recorded(web):
    """A client that disconnects in the middle of a part can send it again."""
    upload = begin(web)

    def interrupted():
        yield b"ab"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        web.put(
            f"{API}/blob-uploads/{upload['id']}/parts/1",
            content=interrupted(),
            headers={"Upshot-Checksum": digest_of(b"abcd"), "Content-Length": "4"},
        )
    assert begin(web)["received"] == []
    assert ok_json(put_part(web, upload["id"], 1, b"abcd"))["received"] == [1]


@pytest.mark.parametrize(
    ("request_line", "limit"),
    [
        ("POST /blobs", MAX_TRANSFER_BYTES),
        ("PUT /blobs/sha256:0", MAX_TRANSFER_BYTES),
        ("PUT /blob-uploads/upl_1/parts/1", MAX_TRANSFER_BYTES),
        ("POST /blobs/missing", MAX_BODY_BYTES),
        ("POST /blobs/read", MAX_BODY_BYTES),
        ("POST /blob-uploads", MAX_BODY_BYTES),
        ("POST /blob-uploads/upl_1/parts/1", MAX_BODY_BYTES),
        ("PUT /blobsandmore", MAX_BODY_BYTES),
    ],
)
def test_only_bodies_with_blobs_may_be_large(request_line, limit):
    """Requests with JSON keep their small limit, also those about blobs."""
    method, _, path = request_line.partition(" ")
    assert limit_of(method, f"{API}{path}") == limit


# --- a damaged store --------------------------------------------------------------------------------


def test_a_damaged_blob_is_not_sent(serve, stores, clock, tmp_path):
    """A file that is shorter than its blob is reported, and not sent as if it were whole."""
    blobs = Blobs(stores.blobs, LocalBlobs(tmp_path / "blobs"), clock)
    blobs.put([(DIGEST, CONTENT)])
    path = Path(str(blobs.local_path(blobs.stored(DIGEST))))
    path.chmod(0o600)
    path.write_bytes(b"abc")

    with serve(blobs=blobs) as web:
        detail = problem(web.get(f"{API}/blobs/{DIGEST}"), 404, "not-found")["detail"]
        assert "has 3 of 10 bytes; restore it from a backup" in detail
        path.unlink()
        problem(web.get(f"{API}/blobs/{DIGEST}"), 404, "not-found")


# --- a bucket --------------------------------------------------------------------------------------


@pytest.fixture
def bucket_web(serve, stores, clock, s3, monkeypatch):
    """Return a client of a server with a bucket."""
    use_small_parts(monkeypatch, 4)
    with serve(blobs=Blobs(stores.blobs, s3_files(s3), clock)) as client:
        yield client


def address(web: httpx.Client, upload_id: str, number: int, part: bytes) -> str:
    """Return the presigned address of a part."""
    body = {"digest": digest_of(part)}
    url: str = ok_json(web.post(f"{API}/blob-uploads/{upload_id}/parts/{number}/address", json=body))["url"]
    return url


def test_parts_go_to_the_bucket(bucket_web, s3: StrictS3):
    """A client sends parts to presigned addresses, and fetches the blob from one; the server records and verifies."""
    upload = begin(bucket_web)
    record = f"{API}/blob-uploads/{upload['id']}/parts"
    for number, part in ((1, b"abcd"), (2, b"efgh"), (3, b"ij")):
        problem(bucket_web.post(f"{record}/{number}", json={"digest": digest_of(part)}), 409, "conflict")
        assert httpx.put(address(bucket_web, upload["id"], number, part), content=part).status_code == 200
        ok_json(bucket_web.post(f"{record}/{number}", json={"digest": digest_of(part)}))
    assert not [request for request in s3.requests if "sha256" in request], (
        "nothing has a final key before it is verified"
    )

    ok_json(bucket_web.post(f"{API}/blob-uploads/{upload['id']}/complete"))

    answer = bucket_web.get(f"{API}/blobs/{DIGEST}")
    assert answer.status_code == 307
    assert answer.headers["location"].startswith(s3.url)
    assert httpx.get(answer.headers["location"]).content == CONTENT
    assert s3.refusals == []


def test_a_wrong_part_in_the_bucket(bucket_web):
    """Bytes that a client sent to the bucket are verified before the blob is visible."""
    upload = begin(bucket_web)
    for number, part in ((1, b"abcd"), (2, b"efgh"), (3, b"ij")):
        sent = b"XXXX" if number == 2 else part
        assert httpx.put(address(bucket_web, upload["id"], number, part), content=sent).status_code == 200
        ok_json(bucket_web.post(f"{API}/blob-uploads/{upload['id']}/parts/{number}", json={"digest": digest_of(part)}))

    problem(bucket_web.post(f"{API}/blob-uploads/{upload['id']}/complete"), 422, "invalid-input")
    problem(bucket_web.get(f"{API}/blobs/{DIGEST}"), 404, "not-found")
    assert begin(bucket_web)["received"] == []


def test_an_address_is_for_one_request(bucket_web, s3: StrictS3):
    """An address that expired, was changed, or is used otherwise is refused by the bucket."""
    upload = begin(bucket_web)
    url = address(bucket_web, upload["id"], 1, b"abcd")
    assert httpx.get(url).status_code == 403
    assert httpx.put(url.replace("00001-", "00002-"), content=b"abcd").status_code == 403
    s3.skew = timedelta(hours=2)
    assert httpx.put(url, content=b"abcd").status_code == 403
    assert s3.refusals == ["SignatureDoesNotMatch", "SignatureDoesNotMatch", "ExpiredToken"]


def test_wrong_keys_are_reported(serve, stores, clock, s3):
    """If the bucket refuses the server, clients learn that the store cannot be used, and nothing is stored."""
    blobs = Blobs(stores.blobs, s3_files(s3, secret_access_key="wrong"), clock)
    with serve(blobs=blobs) as web:
        assert web.put(f"{API}/blobs/{DIGEST}", content=CONTENT).status_code == 503
        assert ok_json(web.post(f"{API}/blobs/missing", json={"digests": [DIGEST]})) == {"missing": [DIGEST]}
    assert set(s3.refusals) == {"SignatureDoesNotMatch"}
