"""The files of artifact versions over REST: reading one, and comparing two versions."""

import hashlib

import pytest

from tests.web.conftest import API, ok_json, problem
from upshot.domain.manifest import ManifestEntry, manifest_digest
from upshot.registry import diffs

PROJECT = f"{API}/projects/demo"
VERSIONS = f"{PROJECT}/artifacts/net/versions"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


def log(web, version_id, files, *, references=(), **more):
    """Log demo/net with these files, by path, and references to other servers."""
    entries = [
        ManifestEntry(path, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
        for path, content in files.items()
    ]
    entries += [ManifestEntry(path, "etag", None, "https://example.com/x") for path in references]
    body = {"id": version_id, "name": "net", "artifact_type": "model", **more}
    body |= {"digest": manifest_digest(entries), "file_count": len(entries)}
    ok_json(web.post(f"{PROJECT}/pending-versions", json=body))
    pending = f"{API}/pending-versions/{version_id}"
    listed = [{"path": file.path, "digest": file.digest, "size": file.size, "ref": file.ref} for file in entries]
    ok_json(web.post(f"{pending}/files", json={"files": listed}))
    for entry in entries:
        if entry.ref is None:
            ok_json(web.put(f"{API}/blobs/{entry.digest}", content=files[entry.path]))
    return ok_json(web.post(f"{pending}/commit"))


def test_a_file_is_an_attachment_that_no_browser_runs(web):
    """A file of somebody else's artifact cannot act as a page of the server."""
    log(web, "ver_00000000000001", {"pages/ü \"x'.html": b"<script>"}, references=["big.bin"])
    path = f"{VERSIONS}/v0/files/pages/%C3%BC%20%22x'.html"

    response = web.get(path)
    assert response.content == b"<script>"
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "sandbox"
    assert response.headers["content-disposition"].startswith("attachment; filename*=utf-8''%C3%BC%20%22x")
    assert web.get(f"{VERSIONS}/latest/files/pages/%C3%BC%20%22x'.html").content == b"<script>"

    problem(web.get(f"{VERSIONS}/v0/files/pages"), 404, "not-found")
    problem(web.get(f"{VERSIONS}/v0/files/"), 404, "not-found")
    assert "https://example.com/x" in problem(web.get(f"{VERSIONS}/v0/files/big.bin"), 409, "conflict")["detail"]


def test_a_version_without_bytes_says_so(web):
    """It was logged with a digest only, or with the digests of its files."""
    for name, content in (("a", {"digest": "sha256:1"}), ("b", {"manifest": {"x.bin": "sha256:" + "0" * 64}})):
        ok_json(web.post(f"{PROJECT}/artifacts", json={"name": name, "artifact_type": "model", **content}))
        response = web.get(f"{PROJECT}/artifacts/{name}/versions/v0/files/x.bin")
        assert "nothing to download" in problem(response, 409, "conflict")["detail"]


def test_two_versions_are_compared(web, monkeypatch):
    """Files that were added, removed or changed, and the metadata; long lists are cut, and the counts are complete."""
    log(web, "ver_00000000000001", {"a": b"1", "b": b"2", "c": b"3"}, metadata={"f1": 1, "lr": 1})
    log(web, "ver_00000000000002", {"b": b"2", "c": b"4", "d": b"5", "e": b"6"}, metadata={"f1": 2})

    def compare(version, other):
        return ok_json(web.get(f"{VERSIONS}/{version}/diff", params={"with": other}))

    found = compare("v0", "v1")
    assert (found["before"], found["after"], found["files_compared"]) == ("demo/net:v0", "demo/net:v1", True)
    assert [file["path"] for file in found["added"]] == ["d", "e"]
    assert [file["path"] for file in found["removed"]] == ["a"]
    assert [file["path"] for file in found["changed"]] == ["c"]
    assert found["changed"][0]["before"]["digest"] != found["changed"][0]["after"]["digest"]
    assert found["metadata"] == {"f1": {"before": 1, "after": 2}, "lr": {"before": 1, "after": None}}
    back = compare("latest", "demo/net:v0")
    assert (back["added"], back["removed"]) == (found["removed"], found["added"])
    assert compare("v1", "ver_00000000000002")["changed_count"] == 0

    monkeypatch.setattr(diffs, "MAX_LISTED", 1)
    cut = compare("v0", "v1")
    assert ([file["path"] for file in cut["added"]], cut["added_count"]) == (["d"], 2)
    ok_json(web.post(f"{PROJECT}/artifacts", json={"name": "bare", "artifact_type": "model", "metadata": {"f1": 3}}))
    bare = compare("v0", "demo/bare")
    assert (bare["files_compared"], bare["metadata"]["f1"]) == (False, {"before": 1, "after": 3})
    problem(web.get(f"{VERSIONS}/v0/diff", params={"with": "v7"}), 404, "not-found")
    problem(web.get(f"{VERSIONS}/v0/diff"), 422, "invalid-input")
