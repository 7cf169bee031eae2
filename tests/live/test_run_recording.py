"""How runs end, and what is recorded when the program or the server is killed."""

import json
import signal
from functools import partial
from typing import NamedTuple

import pytest

from tests.waiting import until

pytestmark = pytest.mark.timeout(300)  # many programs at the same time

BEGIN = """\
import multiprocessing, os, signal, sys, threading, time, upshot
run = upshot.init(project="ends", id={name!r})
run.log({{"a": 1}})
"""
WAIT = """
print("ready", flush=True)
while True:
    run.summary["b"] = 1
    time.sleep(0.01)
"""


class End(NamedTuple):
    """How a program ends, and what follows."""

    program: str
    signal: int | None
    exit_code: int
    state: str
    rows: int = 1


ENDS = {
    "finished": End("", None, 0, "finished"),
    "exception": End("raise KeyError('x')", None, 1, "failed"),
    "exit-code": End("sys.exit(3)", None, 3, "failed"),
    "exit-caught": End(
        """
def work():
    try:
        sys.exit(3)
    except SystemExit:
        pass
work()
""",
        None,
        0,
        "finished",
    ),
    "exception-in-exit": End(
        """
class Broken:
    def __enter__(self):
        pass
    def __exit__(self, *error):
        raise ValueError
with run, Broken():
    pass
""",
        None,
        1,
        "failed",
    ),
    "ctrl-c": End(WAIT, signal.SIGINT, -2, "killed"),
    "sigterm": End(WAIT, signal.SIGTERM, -15, "killed"),
    "own-handler": End(
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)){WAIT}",
        signal.SIGTERM,
        4,
        "failed",
    ),
    "os-exit": End(f"signal.signal(signal.SIGUSR1, lambda *_: os._exit(0)){WAIT}", signal.SIGUSR1, 0, "running"),
    "kill": End(WAIT, signal.SIGKILL, -9, "running"),
    "fork": End(
        """
child = os.fork()
if not child:
    run.log({"a": 2})
    sys.exit(5)
os.waitpid(child, 0)
run.log({"a": 3})
""",
        None,
        0,
        "finished",
        2,
    ),
    "data-loader": End(
        """
context = multiprocessing.get_context("fork")
queue = context.Queue()
def work():
    while True:
        queue.put(1)
workers = [context.Process(target=work, daemon=True) for _ in range(2)]
for worker in workers:
    worker.start()
for _ in range(20):
    queue.get()
run.log({"a": 2})
for worker in workers:
    worker.terminate()
    worker.join()
assert [worker.exitcode for worker in workers] == [-15, -15]
""",
        None,
        0,
        "finished",
        2,
    ),
    "thread": End(
        """
def work():
    time.sleep(0.5)
    run.log({"a": 2})
threading.Thread(target=work).start()
""",
        None,
        0,
        "finished",
        2,
    ),
}


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_how_a_program_ends(run_script):
    """Exit codes, exceptions, signals, threads and forked processes lead to the right state, and no value is lost."""
    programs = {name: run_script.start("-c", BEGIN.format(name=name) + end.program) for name, end in ENDS.items()}
    for name, end in ENDS.items():
        if end.signal is not None:
            assert programs[name].stdout.readline() == "ready\n", programs[name].stderr.read()
            until(partial(run_script.rows, name), f"the first value of {name} has arrived")
            programs[name].send_signal(end.signal)
    found = {}
    for name, program in programs.items():
        _, errors = program.communicate(timeout=60)
        found[name] = (program.returncode, run_script.run(name)["state"], len(run_script.rows(name)))
        if found[name] != ENDS[name][2:]:
            print(f"--- {name}\n{errors}")

    assert found == {name: end[2:] for name, end in ENDS.items()}
    assert run_script.run("exit-code")["exit_code"] == 3


LONG = """
import sys, time, upshot
run = upshot.init(project="ends", id="long")
print("ready", flush=True)
for number in range({count}):
    run.log({{"a": number}})
    run.summary["by-hand"] = number
    time.sleep(0.01)
run.finish()
print("done", flush=True)
"""


def test_a_server_that_is_killed(run_script):
    """A program does not notice that its server is killed and away for a while, and the run is complete afterwards."""
    program = run_script.start("-c", LONG.format(count=800))
    program.stdout.readline()
    until(lambda: len(run_script.rows("long")) > 20, "the first values have arrived")
    run_script.system.kill("web")
    folder = run_script.folder / ".upshot-runs"
    until(lambda: list(folder.glob("run-*/journal.jsonl")), "the journal is in the folder")
    run_script.system.start_web()

    output, errors = program.communicate(timeout=90)
    assert (program.returncode, output) == (0, "done\n"), errors
    assert [row["a"] for row in run_script.rows("long")] == list(range(800))
    found = run_script.run("long")
    assert (found["state"], found["summary"]) == ("finished", {"a": 799, "by-hand": 799})
    assert not list(folder.glob("run-*"))


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_server_and_program_are_killed(run_script):
    """What a killed program logged while no server answered is in its folder."""
    program = run_script.start("-c", LONG.format(count=100_000))
    program.stdout.readline()
    until(lambda: len(run_script.rows("long")) > 20, "the first values have arrived")
    run_script.system.kill("web")
    folder = run_script.folder / ".upshot-runs"
    until(lambda: list(folder.glob("run-*/journal.jsonl")), "the journal is in the folder")
    program.kill()
    program.communicate()

    (journal,) = folder.glob("run-*/journal.jsonl")
    kept = [row for line in journal.read_text().splitlines() for row in json.loads(line)["body"].get("rows", ())]
    run_script.system.start_web()
    rows = run_script.rows("long")
    numbers = {row["a"] for row in rows} | {row["values"]["a"] for row in kept}
    assert numbers == set(range(len(numbers)))
    assert json.loads((journal.parent / "run.json").read_text())["id"] == "long"


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_a_run_is_stopped(run_script):
    """The id of a run that goes on is refused. If somebody asks it to stop, it is interrupted, and `killed`."""
    program = run_script.start("-c", LONG.format(count=100_000))
    program.stdout.readline()

    second = run_script("-c", "import upshot; upshot.init(project='ends', id='long')")
    assert second.returncode == 1
    assert 'resume="allow"' in second.stderr
    assert run_script.system.api.post("/projects/ends/runs/long/stop").is_success
    _, errors = program.communicate(timeout=60)

    assert "KeyboardInterrupt" in errors
    assert run_script.run("long")["state"] == "killed"
    assert run_script.rows("long")
