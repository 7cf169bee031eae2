"""Uploads whose client or server is killed: nothing half-written is seen, and the next try sends the rest."""

import os
import signal
import subprocess
import sys

import pytest

from tests.system import TOKEN
from upshot.client import uploads
from upshot.client.downloads import download
from upshot.client.file_digest import LocalFile, digest_of
from upshot.client.http import Client
from upshot.client.uploads import log_version
from upshot.clock import SystemClock
from upshot.domain.manifest import ManifestEntry
from upshot.errors import Unavailable
from upshot.ids import new_id
from upshot.ports.blobs import PART_BYTES

LARGE_BYTES = 2 * PART_BYTES + 1_000  # three parts
REQUEST = {"name": "net", "artifact_type": "model"}


@pytest.fixture
def system(make_system):
    """Start a server on SQLite."""
    system = make_system(automations={})
    system.start_web()
    return system


@pytest.fixture
def files(tmp_path):
    """Return a file of three parts, one that takes a request, and small ones."""
    folder = tmp_path / "files"
    folder.mkdir()
    sizes = {"large.bin": LARGE_BYTES, "middle.bin": 2_000_000, **{f"{number}.txt": number for number in range(20)}}
    found = []
    for name, size in sizes.items():
        content = os.urandom(size)
        (folder / name).write_bytes(content)
        found.append(LocalFile(ManifestEntry(name, digest_of(content), size), folder / name))
    return found


class LossyClient(Client):
    """A client that kills the server after one request, before it has read the answer, and counts what it sends."""

    def __init__(self, system, phase):
        super().__init__(system.url, TOKEN, is_local=True)
        self.system = system
        self.phase = phase  #: end of the path of the request
        self.sent = []

    def _send(self, method, path, **options):
        if self.phase == "stopped":
            raise Unavailable("the server was killed")
        self.sent.append(path)
        response = super()._send(method, path, **options)
        if self.phase and path.endswith(self.phase):
            self.system.kill("web")
            self.phase = "stopped"
            raise Unavailable("the server was killed")
        return response


def log(client, files):
    version_id = new_id("ver", SystemClock().now())  # each try is one of a new program
    return log_version(client, "faults", {"id": version_id, **REQUEST}, files, what="net")


def check(system, files, folder):
    """Check that there is one version, with all bytes."""
    versions = system.api.get("/projects/faults/artifacts/net/versions").json()["items"]
    assert [version["name"] for version in versions] == ["v0"]
    with Client(system.url, TOKEN, is_local=True) as client:
        download(client, [file.entry for file in files], folder, cache=None, what="net")
    for file in files:
        assert (folder / file.entry.path).read_bytes() == file.source.read_bytes()


@pytest.mark.timeout(300)  # it starts the server seven times
def test_the_server_is_killed_at_each_phase(system, files, tmp_path, monkeypatch):
    """Each try continues where the one before it ended, and the version appears once, when it is complete."""
    monkeypatch.setattr(uploads, "THREADS", 1)
    sent = []
    for phase in ("/pending-versions", "/files", "/blobs", "/parts/1", "/complete", "/commit"):
        with LossyClient(system, phase) as client:
            with pytest.raises(Unavailable):
                log(client, files)
            assert client.phase == "stopped", f"no request ends with {phase}"
        sent += client.sent
        system.start_web()
        found = system.api.get("/projects/faults/artifacts/net/versions")
        assert found.is_success == (phase == "/commit"), phase

    with LossyClient(system, None) as client:
        assert log(client, files)["name"] == "v0"

    assert len(client.sent) == 1  # the version is complete: the program hears of it at once
    for number in (1, 2, 3):
        assert len([path for path in sent if path.endswith(f"/parts/{number}")]) == 1
    assert len([path for path in sent if path == "/blobs"]) == 1
    check(system, files, tmp_path / "copy")


KILLED = """\
import sys, threading
import upshot
from upshot.client import uploads
from upshot.client.http import Client

uploads.THREADS = 1
send_bytes = Client.send_bytes

def stop_after_a_part(self, method, path, *arguments, **options):
    result = send_bytes(self, method, path, *arguments, **options)
    if "/parts/" in path:
        print("part", flush=True)
        threading.Event().wait()
    return result

Client.send_bytes = stop_after_a_part
artifact = upshot.Artifact("net", "model")
artifact.add_dir(sys.argv[1])
upshot.init(project="faults").log_artifact(artifact).wait()
"""


def test_a_killed_client_sends_the_rest(system, files, tmp_path):
    """Nothing of the first try is visible, and the second one sends only what is missing."""
    settings = {"UPSHOT_URL": system.url, "HOME": str(tmp_path)}
    folder = str(files[0].source.parent)
    program = subprocess.Popen(
        [sys.executable, "-c", KILLED, folder], env=system.environment | settings, stdout=subprocess.PIPE
    )
    assert program.stdout.readline() == b"part\n"
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert system.api.get("/projects/faults/artifacts/net/versions").status_code == 404

    with LossyClient(system, None) as client:
        log(client, files)

    assert sorted(path[-8:] for path in client.sent if "/parts/" in path and "address" not in path) == [
        "/parts/2",
        "/parts/3",
    ]
    assert "/blobs" not in client.sent  # the small files were complete
    check(system, files, tmp_path / "copy")


INTERRUPTED = """\
import sys, threading
import upshot
from upshot.client.http import Client

send_bytes = Client.send_bytes

def stop_at_a_part(self, method, path, *arguments, **options):
    if "/parts/" in path:
        print("part", flush=True)
        threading.Event().wait()
    return send_bytes(self, method, path, *arguments, **options)

Client.send_bytes = stop_at_a_part
artifact = upshot.Artifact("net", "model")
artifact.add_dir(sys.argv[1])
run = upshot.init(project="faults")
run.log_artifact(artifact)
run.finish()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_program_that_uploads(system, files, tmp_path, number):
    """Ctrl-C and SIGTERM do not wait for an upload. The program says what is missing, and nothing of it is visible."""
    settings = {"UPSHOT_URL": system.url, "HOME": str(tmp_path)}
    folder = str(files[0].source.parent)
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, folder],
        env=system.environment | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout.readline() == b"part\n"
    program.send_signal(number)
    _, messages = program.communicate(timeout=60)

    assert program.returncode == -number
    assert b"artifact net is not uploaded completely; log it again, which sends the rest" in messages
    assert system.api.get("/projects/faults/artifacts/net/versions").status_code == 404
    assert [run["state"] for run in system.api.get("/projects/faults/runs").json()["items"]] == ["killed"]
    assert [path for path in tmp_path.glob(".cache/**/*") if path.is_file() and path.name.endswith(".bin")] == []
    with LossyClient(system, None) as client:
        log(client, files)
    check(system, files, tmp_path / "copy")
