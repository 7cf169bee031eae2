"""Programs that use `import upshot as wandb`, against a real server."""

import hashlib
import os
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent / "sdk").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts(run_script, script):
    """Each script in the directory `sdk` runs to its end."""
    done = run_script(script)

    assert done.returncode == 0, done.stderr


UPLOAD = """\
import upshot
upshot.init(project="big")
artifact = upshot.Artifact("big", "model")
artifact.add_file("big.bin")
artifact.add_dir("small")
print(upshot.log_artifact(artifact).version)
"""

DOWNLOAD = """\
import upshot
print(upshot.Api().artifact("big/big").download(root="copy"))
"""


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_a_file_in_parts_and_many_small_files(run_script):
    """A file of several parts and 3,000 small files arrive, and a second download fetches nothing."""
    with (run_script.folder / "big.bin").open("wb") as file:
        for _ in range(70):
            file.write(os.urandom(1_000_000))
    (run_script.folder / "small").mkdir()
    for number in range(3_000):
        (run_script.folder / "small" / f"{number}.txt").write_text(str(number))

    done = run_script("-c", UPLOAD)
    assert done.stdout == "v0\n", done.stderr
    assert run_script("-c", UPLOAD).stdout == "v0\n"  # equal content
    done = run_script("-c", DOWNLOAD)
    assert done.returncode == 0, done.stderr

    copy = run_script.folder / "copy"
    assert sha256(copy / "big.bin") == sha256(run_script.folder / "big.bin")
    assert len(list(copy.iterdir())) == 3_001
    assert (copy / "2999.txt").read_text() == "2999"
    before = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
    (copy / "7.txt").unlink()
    assert run_script("-c", DOWNLOAD).returncode == 0
    assert (copy / "7.txt").read_text() == "7"
    changed = [path.name for path in copy.iterdir() if before[path] != path.stat().st_mtime_ns]
    assert changed == ["7.txt"]


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
@pytest.mark.parametrize(
    ("end", "state"),
    [("", "finished"), ("raise KeyError('x')", "failed"), ("raise KeyboardInterrupt", "killed")],
    ids=["finished", "failed", "killed"],
)
def test_the_end_of_a_program_ends_its_run(run_script, end, state):
    """A program that does not call `finish` ends its run: finished, failed after an exception, killed by Ctrl-C."""
    run_script("-c", f"import upshot\nupshot.init(project='ends', id='only')\n{end}")

    assert run_script.system.api.get("/projects/ends/runs/only").json()["state"] == state
