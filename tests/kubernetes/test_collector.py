"""How outputs come out of a pod: the sidecar's script, run for real, and what is made of its words."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.waiting import until
from upshot.backends.kubernetes.outputs_sidecar import MAX_SAID_BYTES, SCRIPT, read_said
from upshot.backends.protocol import OutputUnreadable
from upshot.domain.job import MAX_OUTPUTS_BYTES

SHELLS = [["/bin/sh"], ["bash", "--posix"], ["busybox", "sh"]]


def listens(pid: int) -> bool:
    """Whether it has said what to do with a SIGTERM."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def say(folder: Path, shell: list[str]) -> bytes:
    """What the sidecar says when it is told to end."""
    script = SCRIPT.replace("/upshot/output", str(folder))
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([*shell, "-c", script], stdout=said, start_new_session=True)
    try:
        until(lambda: listens(process.pid))
        process.terminate()
        process.wait(30)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the `sleep` that it leaves behind, which ends with its container
    return (folder / "said").read_bytes()


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0].rpartition("/")[2])
def shell(request):
    return request.param


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"accuracy": 0.93}\n', id="small"),
        pytest.param(bytes(range(256)) * 4096, id="exactly the limit, any bytes"),
        pytest.param(b"upshot-outputs: end\nupshot-outputs: none\n", id="our own marks"),
    ],
)
def test_a_file_comes_out_as_it_is(tmp_path, shell, content):
    """Every byte, whatever it is, within what is read of a log."""
    (tmp_path / "outputs.json").write_bytes(content)

    said = say(tmp_path, shell)

    assert len(said) <= MAX_SAID_BYTES
    assert read_said(said, limit_bytes=MAX_OUTPUTS_BYTES) == content


def test_no_file(tmp_path, shell):
    """That is no error."""
    assert read_said(say(tmp_path, shell), limit_bytes=10) is None


def test_a_file_beyond_the_limit(tmp_path, shell):
    """It is named, not read."""
    with (tmp_path / "outputs.json").open("wb") as file:
        file.truncate(2**40)

    said = say(tmp_path, shell)

    assert len(said) < 100
    with pytest.raises(OutputUnreadable, match=str(2**40)):
        read_said(said, limit_bytes=MAX_OUTPUTS_BYTES)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), "link", id="a link"),
        pytest.param(lambda path: path.symlink_to("/nowhere"), "link", id="a link to nowhere"),
        pytest.param(lambda path: path.mkdir(), "a folder", id="a folder"),
        pytest.param(os.mkfifo, "a pipe", id="a pipe"),
    ],
)
def test_what_is_no_plain_file(tmp_path, shell, make, word):
    """It is named, not read."""
    make(tmp_path / "outputs.json")

    with pytest.raises(OutputUnreadable, match=word):
        read_said(say(tmp_path, shell), limit_bytes=MAX_OUTPUTS_BYTES)


def test_the_readers_limit_counts():
    """Whoever reads may want less than the sidecar says; the reason has both numbers."""
    with pytest.raises(OutputUnreadable, match=r"5 bytes; at most 4"):
        read_said(b"upshot-outputs: begin 5\naGVsbG8=\nupshot-outputs: end\n", limit_bytes=4)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"sh: something is wrong\n", id="words of others"),
        pytest.param(b"upshot-outputs: begin 5\naGVsbG8=\n", id="no end"),
        pytest.param(b"upshot-outputs: begin 6\naGVsbG8=\nupshot-outputs: end\n", id="too little"),
        pytest.param(b"upshot-outputs: begin 5\naGV***8=\nupshot-outputs: end\n", id="broken"),
        pytest.param(b"aGVsbG8=\nupshot-outputs: end\n", id="no beginning"),
    ],
)
def test_a_sentence_that_was_cut_off(said):
    """It is no job without outputs."""
    with pytest.raises(OutputUnreadable, match="was killed before"):
        read_said(said, limit_bytes=100)


def test_a_file_that_may_not_be_read():
    """It is said what to do."""
    with pytest.raises(OutputUnreadable, match="let others read it"):
        read_said(b"upshot-outputs: unreadable\n", limit_bytes=100)
