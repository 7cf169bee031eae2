"""The commands about artifact versions, their files and their lineage, against a web server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.web.conftest import API, Stores, ok_json
from tests.web.test_files import log as log_files
from upshot.cli import main


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


@pytest.fixture
def run(web):
    """Return a function that runs a command, and checks its exit code."""

    def run(*words: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, words, prog_name="upshot", env={"UPSHOT_URL": str(web.base_url)})
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def graph(web):
    """Make raw:v0 → r1 → data:v0 → r2, r3 → net:v0 (model/net:production), bad:v0."""

    def log(name: str, run_id: str | None = None) -> Any:
        body = {"name": name, "artifact_type": "model", "digest": f"sha256:{name}", "run_id": run_id}
        return ok_json(web.post(f"{API}/projects/demo/artifacts", json=body))

    def make_run(run_id: str, *used: str) -> None:
        path = f"{API}/projects/demo/runs/{run_id}"
        ok_json(web.put(path, json={"name": f"swift-{run_id}", "job_type": "training"}))
        for name in used:
            ok_json(web.post(f"{path}/inputs", json={"artifact": name}))

    log("raw")
    make_run("r1", "raw")
    log("data", "r1")
    for run_id in ("r2", "r3"):
        make_run(run_id, "data")
    log("net", "r2")
    log("bad", "r3")
    for name, aliases in (("net", ["production"]), ("bad", [])):
        link = {"artifact": f"demo/{name}:v0", "aliases": aliases}
        ok_json(web.post(f"{API}/registries/model/collections/{name}/versions", json=link))


def test_the_lineage_is_a_tree(run, graph):
    """It leads from the version to what it was made from, and to what was made from it."""
    assert run("lineage", "demo/data:v0").stdout.splitlines() == [
        "demo/data:v0",
        "├─ logged by run demo/r1 swift-r1 (training, running)",
        "│  └─ which used demo/raw:v0",
        "├─ used by run demo/r2 swift-r2 (training, running)",
        "│  └─ which logged demo/net:v0  model/net:v0 [latest, production]",
        "└─ used by run demo/r3 swift-r3 (training, running)",
        "   └─ which logged demo/bad:v0  model/bad:v0 [latest]",
    ]
    assert run("lineage", "demo/data:v0", "--up", "--down").stdout == run("lineage", "demo/data:v0", "--both").stdout
    assert run("lineage", "model/net:production", "--up", "--depth", "1").stdout.splitlines() == [
        "demo/net:v0  model/net:v0 [latest, production]",
        "└─ logged by run demo/r2 swift-r2 (training, running)",
    ]


def test_what_is_in_use_is_found(run, graph):
    """`latest` alone is not a use, because every collection has it."""
    lines = run("lineage", "demo/raw", "--down", "--aliased").stdout.splitlines()
    assert [line for line in lines if "logged" in line] == [
        "   └─ which logged demo/data:v0",
        "         └─ which logged demo/net:v0  model/net:v0 [latest, production]",
    ]
    assert run("lineage", "demo/bad", "--down", "--aliased").stdout.splitlines() == [
        "demo/bad:v0  model/bad:v0 [latest]"
    ]


def test_the_lineage_has_forms_for_programs(run, graph):
    """JSON is that of the API, and DOT is read by Graphviz."""
    found = json.loads(run("lineage", "demo/data", "--down", "--format", "json").stdout)
    assert {node["reference"] for node in found["nodes"]} == {
        "demo/data:v0",
        "demo/r2",
        "demo/r3",
        "demo/net:v0",
        "demo/bad:v0",
    }
    assert json.loads(run("lineage", "demo/data", "--down", "--json").stdout) == found
    dot = run("lineage", "demo/data", "--down", "--format", "dot").stdout
    assert dot.startswith("digraph lineage {\n")
    assert dot.count(" -> ") == len(found["edges"]) == 4
    assert "has no artifact" in run("lineage", "demo/nothing", exit_code=1).stderr


def test_a_circle_ends(run, web, graph):
    """A run can log content that it used; the tree shows each branch once."""
    body = {"name": "data", "artifact_type": "model", "digest": "sha256:data", "run_id": "r2"}
    ok_json(web.post(f"{API}/projects/demo/artifacts", json=body))
    lines = run("lineage", "demo/data").stdout.splitlines()
    assert sum("r2" in line for line in lines) == 2  # it logged and used the version
    assert len(lines) < 15


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Use a cache of the test's own."""
    monkeypatch.setenv("UPSHOT_CACHE_DIR", str(tmp_path / "cache"))


def test_files_are_listed_compared_and_verified(run, web, tmp_path):
    """A directory is compared with the version, and the first difference names the file."""
    log_files(web, "ver_00000000000001", {"a.bin": b"1", "d/b.bin": b"22"}, metadata={"f1": 1})
    log_files(web, "ver_00000000000002", {"a.bin": b"3", "c.bin": b"4"}, metadata={"f1": 2})
    ok_json(web.post(f"{API}/registries/model/collections/net/versions", json={"artifact": "demo/net:v0"}))

    assert [file["path"] for file in json.loads(run("artifacts", "files", "model/net", "--json").stdout)] == [
        "a.bin",
        "d/b.bin",
    ]
    assert "1 of 2 files" in run("artifacts", "files", "demo/net:v0", "--limit", "1").stderr
    assert run("artifacts", "diff", "model/net:v0", "v1").stdout.splitlines() == [
        "+ c.bin",
        "- d/b.bin",
        "~ a.bin",
        "  metadata f1: 1 -> 2",
    ]
    assert "do not differ" in run("artifacts", "diff", "demo/net:v0", "demo/net:v0").stdout

    (tmp_path / "d").mkdir()
    (tmp_path / "a.bin").write_bytes(b"1")
    (tmp_path / "other").write_bytes(b"x")
    words = ("artifacts", "verify", "model/net:v0", "--root", str(tmp_path))
    assert "d/b.bin: missing" in run(*words, exit_code=1).stderr
    (tmp_path / "d/b.bin").write_bytes(b"2x")
    assert "d/b.bin: its content differs" in run(*words, exit_code=1).stderr
    (tmp_path / "d/b.bin").write_bytes(b"22")
    assert "has the files of demo/net:v0 (2)" in run(*words).stdout


def test_a_version_is_downloaded(run, web, tmp_path):
    """Also through a link; files that do not belong to it stay, and a version without bytes says so."""
    log_files(web, "ver_00000000000001", {"a.bin": b"1", "d/b.bin": b"22"})
    ok_json(web.post(f"{API}/registries/model/collections/net/versions", json={"artifact": "demo/net:v0"}))
    root = tmp_path / "root"
    root.mkdir()
    (root / "mine").write_bytes(b"x")
    for _ in range(2):
        assert run("download", "model/net:latest", "--root", str(root)).stdout == f"{root}\n"
    assert (root / "d/b.bin").read_bytes() == b"22"
    assert (root / "mine").read_bytes() == b"x"
    run("artifacts", "verify", "demo/net:v0", "--root", str(root))
    body = {"name": "bare", "artifact_type": "model", "digest": "sha256:1"}
    ok_json(web.post(f"{API}/projects/demo/artifacts", json=body))
    assert "nothing to download" in run("download", "demo/bare", "--root", str(root), exit_code=1).stderr


def test_logged_files_are_uploaded(run, tmp_path):
    """What was logged can be downloaded, and the same content makes no second version."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.bin").write_bytes(folder.encode())
    words = ("artifacts", "log", "demo/new", "--file", str(tmp_path / "a/w.bin"), "--file", str(tmp_path / "b/w.bin"))
    assert run(*words).stdout.startswith("logged demo/new:v0 (sha256:")
    assert run(*words).stdout.startswith("no new version: demo/new:v0")
    run("download", "demo/new", "--root", str(tmp_path / "down"))
    assert (tmp_path / "down/b/w.bin").read_bytes() == b"b"
    assert "leave --digest out" in run(*words, "--digest", "x", exit_code=2).stderr


def test_a_damaged_file_on_the_server_is_stored_again(run, deps, tmp_path):
    """A verification and a download find it. Logging the same content repairs the version, and makes no other one."""
    (tmp_path / "w.bin").write_bytes(b"weights")
    log = ("artifacts", "log", "demo/new", "--file", str(tmp_path / "w.bin"))
    verify = ("artifacts", "verify", "demo/new", "--server")
    download = ("download", "demo/new", "--root", str(tmp_path / "down"))
    for find in (download, verify):  # the first one fetches nothing from the cache
        run(*log)
        assert run(*verify).stdout == "the server has the files of demo/new:v0 (1)\n"
        for key in deps.blobs._files._files:
            deps.blobs._files._files[key] = b"damaged"

        assert "log an artifact with the same content again" in run(*find, exit_code=1).stderr

        assert run(*log).stdout.startswith("no new version: demo/new:v0")
        run(*download)
        assert (tmp_path / "down/w.bin").read_bytes() == b"weights"
        (tmp_path / "down/w.bin").unlink()


def test_a_directory_that_cannot_be_written_is_named(run, web, tmp_path):
    """An error of the disk is a line for people, with the path first."""
    log_files(web, "ver_00000000000001", {"a.bin": b"1"})
    (tmp_path / "file").write_bytes(b"")
    root = tmp_path / "file" / "x"
    assert run("download", "demo/net", "--root", str(root), exit_code=1).stderr == f"Error: {root}: Not a directory\n"


def test_only_stored_files_are_downloaded(run, tmp_path):
    """With `--stored`, what a version only refers to is left out, as in a job's input."""
    (tmp_path / "w.bin").write_bytes(b"weights")
    reference = (tmp_path / "gone.bin").as_uri()
    (tmp_path / "gone.bin").write_bytes(b"elsewhere")
    run("artifacts", "log", "demo/new", "--file", str(tmp_path / "w.bin"), "--reference", reference)
    (tmp_path / "gone.bin").unlink()

    run("download", "--stored", "--root", str(tmp_path / "down"), "--", "demo/new:v0")

    assert [path.name for path in (tmp_path / "down").iterdir()] == ["w.bin"]


def test_a_login_is_kept_for_the_user_only(web, tmp_path):
    """Later commands use it when UPSHOT_URL is not set, and a server that does not answer is not kept."""
    environment = {"HOME": str(tmp_path), "UPSHOT_URL": None, "UPSHOT_TOKEN": None}

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, words, prog_name="upshot", env=environment)

    kept = tmp_path / ".config/upshot/login.json"
    assert run("login", "a-token", "--host", "http://127.0.0.1:9").exit_code == 1
    assert not kept.exists()
    logged_in = run("login", "a-token", "--host", str(web.base_url))
    assert logged_in.exit_code == 0, logged_in.output
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text())["token"] == "a-token"
    assert run("registry", "projects", "list").exit_code == 0
    assert run("login", "", "--host", str(web.base_url)).exit_code == 1


def test_a_version_is_deleted_after_a_question(run, web):
    """The question names the version and its links, also for an alias or a collection. A missing version asks none."""
    log_files(web, "ver_00000000000001", {"a.bin": b"1"})
    run("registry", "link", "demo/net:v0", "model/net", "--alias", "staging")
    for reference in ("demo/net:v0", "demo/net", "model/net:staging"):
        asked = run("artifacts", "delete", reference, exit_code=1).output
        assert "Delete the artifact version demo/net:v0 and every link to it (model/net:v0)?" in asked
    missing = run("artifacts", "delete", "demo/net:v7", exit_code=1).output
    assert "has no version 'v7'" in missing
    assert "Delete" not in missing
    assert "deleted demo/net:v0" in run("artifacts", "delete", "model/net:staging", "--yes").stdout
    assert "has no" in run("artifacts", "files", "demo/net:v0", exit_code=1).stderr


def test_a_version_without_files_says_so(run):
    """A version that was logged with a digest only shows that, and so does a link to it."""
    run("artifacts", "log", "demo/net", "--digest", "d0")
    run("registry", "link", "demo/net:v0", "model/net")
    for words in (("artifacts", "show", "demo/net:v0"), ("registry", "show", "model/net:v0")):
        assert "\nfiles        none: it was logged with a digest only\n" in run(*words).output
    assert (
        "leave one of them out"
        in run("artifacts", "verify", "demo/net:v0", "--server", "--root", "a", exit_code=2).stderr
    )


def test_a_time_to_live_is_set_and_shown(run, web):
    """`ttl` sets that of a version or of an artifact, `update --ttl` that of a collection, and `show` shows it."""
    run("artifacts", "log", "demo/net", "--digest", "d0", "--ttl", "12h")
    assert "\nttl          12h\n" in run("artifacts", "show", "demo/net:v0").output

    run("artifacts", "ttl", "demo/net:v0", "never")
    assert "\nttl          never\n" in run("artifacts", "show", "demo/net:v0").output
    run("artifacts", "ttl", "demo/net:latest", "inherit")
    assert "\nttl " not in run("artifacts", "show", "demo/net:v0").output
    run("artifacts", "ttl", "demo/net", "30d")
    assert ok_json(web.get(f"{API}/projects/demo/artifacts/net"))["ttl_seconds"] == 30 * 86_400
    run("artifacts", "ttl", "demo/net", "never")
    assert ok_json(web.get(f"{API}/projects/demo/artifacts/net"))["ttl_seconds"] is None

    run("registry", "link", "demo/net:v0", "model/net")
    assert "updated the ttl of model/net" in run("registry", "collections", "update", "model/net", "--ttl", "7d").output
    assert "\nttl          7d\n" in run("registry", "collections", "show", "model/net").output
    run("registry", "collections", "update", "model/net", "--ttl", "never")
    assert "ttl" not in run("registry", "collections", "show", "model/net").output


@pytest.mark.parametrize("words", [("demo/net", "inherit"), ("demo/net:v0", "soon"), ("demo/net:v0", "0s")])
def test_an_invalid_time_to_live_is_refused(run, web, words):
    """The message says what to write."""
    assert "is not a time to live; write 30d" in run("artifacts", "ttl", *words, exit_code=2).output


def test_a_directory_and_references_are_logged(run, tmp_path):
    """`--dir` uploads the content of a directory, and `--reference` records a file that stays where it is."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a.bin").write_bytes(b"a")
    (tmp_path / "elsewhere.bin").write_bytes(b"elsewhere")
    reference = (tmp_path / "elsewhere.bin").as_uri()

    run("artifacts", "log", "demo/new", "--dir", str(tmp_path / "data"), "--reference", reference)

    files = json.loads(run("artifacts", "files", "demo/new:v0", "--json").stdout)
    assert [(file["path"], file["ref"]) for file in files] == [("deep/a.bin", None), ("elsewhere.bin", reference)]
    run("download", "demo/new", "--root", str(tmp_path / "down"))
    assert (tmp_path / "down" / "elsewhere.bin").read_bytes() == b"elsewhere"
    (tmp_path / "elsewhere.bin").unlink()
    nothing = run("artifacts", "log", "demo/new", "--reference", reference, exit_code=1)
    assert "does not exist" in nothing.stderr


def test_a_version_is_shown_with_its_run(run, graph):
    """`show` names the run that logged the version, and so does its JSON."""
    assert "\nrun          demo/r2\n" in run("artifacts", "show", "demo/net:v0").output
    assert json.loads(run("artifacts", "show", "demo/net:v0", "--json").stdout)["run"] == "demo/r2"


def test_programs_that_download_a_version_are_printed(run, tmp_path):
    """`usage` prints all programs, or one of them, for an alias that is named."""
    (tmp_path / "w.bin").write_bytes(b"w")
    run("artifacts", "log", "demo/net", "--file", str(tmp_path / "w.bin"), "--alias", "best")
    run("registry", "link", "demo/net:v0", "model/Net", "--alias", "staging")

    for reference in ("model/Net:latest", "model-registry/Net:latest"):
        assert "download model/Net:latest" in run("artifacts", "usage", reference, "--format", "cli").output
    assert "curl -fL" in run("artifacts", "usage", "demo/net:best").output
    assert (
        run("artifacts", "usage", "model/Net:staging", "--format", "cli").output
        == "upshot download model/Net:staging\n"
    )
    found = json.loads(run("artifacts", "usage", "demo/net", "--json").stdout)
    assert found["reference"] == "demo/net:latest"
