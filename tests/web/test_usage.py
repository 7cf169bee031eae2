"""Programs that download a version, and the files behind a link."""

import shlex

import pytest

from tests.web.conftest import API, ok_json
from tests.web.test_files import log

COLLECTION = f"{API}/registries/model/collections/It's a model"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


def link(web, *files):
    log(web, "ver_00000000000001", dict(files), aliases=["best"])
    body = {"artifact": "demo/net:v0", "aliases": ["staging"]}
    return ok_json(web.post(f"{COLLECTION}/versions", json=body))


def test_the_programs_name_what_was_asked_for(web):
    """The programs for an alias name the alias, also quoted for the shell, and those for a number the number."""
    link(web, ("a file.bin", b"x"))

    usage = ok_json(web.get(f"{COLLECTION}/versions/staging/usage"))
    assert usage["reference"] == "model/It's a model:staging"
    assert 'run.use_artifact("model-registry/It\'s a model:staging", type="model")' in usage["python"]
    assert shlex.split(usage["cli"]) == ["upshot", "download", "model/It's a model:staging"]
    *_, target, address = shlex.split(usage["curl"])
    assert target == "net:v0/a file.bin"
    assert address.endswith("/collections/It%27s%20a%20model/versions/staging/files/a%20file.bin")

    assert ok_json(web.get(f"{COLLECTION}/versions/v0/usage"))["reference"] == "model/It's a model:v0"
    usage = ok_json(web.get(f"{API}/projects/demo/artifacts/net/versions/best/usage"))
    assert (usage["reference"], usage["cli"]) == ("demo/net:best", "upshot download demo/net:best\n")
    assert web.get(f"{COLLECTION}/versions/nothing/usage").status_code == 404


def test_many_files_are_not_all_named(web):
    """The curl program names 20 files, and says where the others are listed."""
    link(web, *((f"{number:02}", b"x") for number in range(21)))

    lines = ok_json(web.get(f"{COLLECTION}/versions/v0/usage"))["curl"].splitlines()

    assert len(lines) == 21
    assert lines[-1].startswith("# There are more files. This lists them: http")


def test_a_version_without_files_has_no_program(web):
    """A version that was logged with a digest only is a conflict, which says why."""
    ok_json(web.post(f"{API}/projects/p/artifacts", json={"name": "n", "artifact_type": "model", "digest": "d"}))

    refused = web.get(f"{API}/projects/p/artifacts/n/versions/v0/usage")

    assert (refused.status_code, "without its bytes" in refused.json()["detail"]) == (409, True)


def test_files_are_read_through_a_link(web):
    """The files of a version of a collection are listed and returned under its own address."""
    link(web, ("data/a.bin", b"abc"))

    listed = ok_json(web.get(f"{COLLECTION}/versions/staging/files"))["items"]

    assert [file["path"] for file in listed] == ["data/a.bin"]
    assert web.get(f"{COLLECTION}/versions/staging/files/data/a.bin").content == b"abc"
    assert web.get(f"{COLLECTION}/versions/staging/files/other").status_code == 404
