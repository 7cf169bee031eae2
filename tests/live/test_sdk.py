"""Programs that use `import upshot as wandb`, against a real server."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from tests.project.repository import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted((Path(__file__).parent / "sdk").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts(run_script, script):
    """Each script in the directory `sdk` runs to its end."""
    done = run_script(script)

    assert done.returncode == 0, done.stderr


def test_the_examples_train_and_quantize_a_model(run_script):
    """The examples run by hand: a checkpoint is linked by its alias, used, converted and linked, with its lineage."""
    trained = run_script(EXAMPLES / "train" / "train.py")
    assert trained.returncode == 0, trained.stderr
    assert "linked fraud/logistic:v2 as model/fraud:v0, alias candidate" in trained.stdout

    quantized = run_script(EXAMPLES / "quantize" / "quantize.py", "model/fraud:candidate")

    assert quantized.returncode == 0, quantized.stderr
    assert "linked it as model/fraud:v1, alias quantized" in quantized.stdout
    lineage = run_script("-m", "upshot", "lineage", "model/fraud:candidate", "--both").stdout
    assert re.search(r"logged by run fraud/\w+ .*\(training, finished\)", lineage)
    assert re.search(r"used by run fraud/\w+ .*\(quantization, finished\)", lineage)
    assert "which logged fraud/logistic-int8:v0  model/fraud:v1 [latest, quantized]" in lineage
    downloaded = run_script("-m", "upshot", "download", "model/fraud:quantized", "--root", "here")
    assert downloaded.returncode == 0, downloaded.stderr
    assert json.loads((run_script.folder / "here" / "model.json").read_text())["weights"]["log_amount"] == 127


UPLOAD = """\
import upshot
upshot.init(project="big")
artifact = upshot.Artifact("big", "model")
artifact.add_file("big.bin")
artifact.add_dir("small")
print(upshot.log_artifact(artifact).wait().version)
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


LOG_AND_END = """\
import upshot, sys
run = upshot.init(project="ends", id="only")
artifact = upshot.Artifact("net", "model")
with open("net.bin", "wb") as file:
    file.write(b"weights")
artifact.add_file("net.bin", policy="immutable")
if "change" in sys.argv:
    with open("net.bin", "wb") as file:
        file.write(b"others")
run.log_artifact(artifact)
"""


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
@pytest.mark.parametrize("change", [[], ["change"]], ids=["uploaded", "failed"])
def test_the_end_of_a_program_waits_for_uploads(run_script, change):
    """A program that ends at once leaves a complete version, or says why not, and its run has failed."""
    done = run_script("-c", LOG_AND_END, *change)

    api = run_script.system.api
    assert api.get("/projects/ends/artifacts/net/versions/v0").is_success is not bool(change)
    assert api.get("/projects/ends/runs/only").json()["state"] == ("failed" if change else "finished")
    assert ("artifact net was not logged" in done.stderr) is bool(change)
