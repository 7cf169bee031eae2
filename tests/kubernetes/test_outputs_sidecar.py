"""Outputs leave a pod through the sidecar's log: its script runs in real shells, and its log is parsed."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.waiting import until
from upshot.backends.kubernetes.outputs_sidecar import MAX_LOG_BYTES, SCRIPT, parse_log
from upshot.backends.protocol import OutputUnreadable
from upshot.domain.job import MAX_OUTPUTS_BYTES

SHELLS = [["/bin/sh"], ["bash", "--posix"], ["busybox", "sh"]]


def handles_sigterm(pid: int) -> bool:
    """Return whether a process has set a handler for SIGTERM."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def sidecar_log(directory: Path, shell: list[str]) -> bytes:
    """Run the sidecar's script on a directory, stop it, and return its log."""
    script = SCRIPT.replace("/upshot/output", str(directory))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*shell, "-c", script], stdout=log, start_new_session=True)
    try:
        until(lambda: handles_sigterm(process.pid))
        process.terminate()
        process.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the script may leave its `sleep` behind
    return (directory / "log").read_bytes()


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0].rpartition("/")[2])
def shell(request):
    """Return the command of a shell."""
    return request.param


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"accuracy": 0.93}\n', id="small"),
        pytest.param(bytes(range(256)) * 4096, id="exactly the limit, any bytes"),
        pytest.param(b"upshot-outputs: end\nupshot-outputs: none\n", id="the sidecar's own markers"),
    ],
)
def test_file_is_unchanged(tmp_path, shell, content):
    """A file of any content is read unchanged, and fits into the limit for the log."""
    (tmp_path / "outputs.json").write_bytes(content)

    log = sidecar_log(tmp_path, shell)

    assert len(log) <= MAX_LOG_BYTES
    assert parse_log(log, limit_bytes=MAX_OUTPUTS_BYTES) == content


def test_no_file(tmp_path, shell):
    """A missing file is not an error."""
    assert parse_log(sidecar_log(tmp_path, shell), limit_bytes=10) is None


def test_file_beyond_the_limit(tmp_path, shell):
    """The size of a file beyond the limit is reported, and the file is not read."""
    with (tmp_path / "outputs.json").open("wb") as file:
        file.truncate(2**40)

    log = sidecar_log(tmp_path, shell)

    assert len(log) < 100
    with pytest.raises(OutputUnreadable, match=str(2**40)):
        parse_log(log, limit_bytes=MAX_OUTPUTS_BYTES)


@pytest.mark.parametrize(
    ("create", "kind"),
    [
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), "link", id="link"),
        pytest.param(lambda path: path.symlink_to("/nowhere"), "link", id="broken link"),
        pytest.param(lambda path: path.mkdir(), "a directory", id="directory"),
        pytest.param(os.mkfifo, "a pipe", id="pipe"),
    ],
)
def test_not_a_regular_file(tmp_path, shell, create, kind):
    """The kind of anything but a regular file is reported, and nothing is read."""
    create(tmp_path / "outputs.json")

    with pytest.raises(OutputUnreadable, match=kind):
        parse_log(sidecar_log(tmp_path, shell), limit_bytes=MAX_OUTPUTS_BYTES)


def test_smaller_limit_of_the_caller():
    """The caller's limit applies even if the sidecar's is larger, and the reason has both sizes."""
    with pytest.raises(OutputUnreadable, match=r"5 bytes; the limit is 4"):
        parse_log(b"upshot-outputs: begin 5\naGVsbG8=\nupshot-outputs: end\n", limit_bytes=4)


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"sh: something is wrong\n", id="another message"),
        pytest.param(b"upshot-outputs: begin 5\naGVsbG8=\n", id="no end"),
        pytest.param(b"upshot-outputs: begin 6\naGVsbG8=\nupshot-outputs: end\n", id="too short"),
        pytest.param(b"upshot-outputs: begin 5\naGV***8=\nupshot-outputs: end\n", id="invalid base64"),
        pytest.param(b"aGVsbG8=\nupshot-outputs: end\n", id="no beginning"),
    ],
)
def test_incomplete_log(log):
    """An incomplete log is an error, not a job without outputs."""
    with pytest.raises(OutputUnreadable, match="was killed before"):
        parse_log(log, limit_bytes=100)


def test_unreadable_file():
    """The reason for a file without permissions says what to do."""
    with pytest.raises(OutputUnreadable, match="make the file readable for all users"):
        parse_log(b"upshot-outputs: unreadable\n", limit_bytes=100)
