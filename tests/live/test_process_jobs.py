"""Jobs as processes of this machine: real commands, real signals, and everything that watches killed at will."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import Any

import psutil
import pytest

from tests.waiting import until
from upshot.backends.process import directories as process_folders
from upshot.backends.process import make, shim
from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable, find_hierarchies
from upshot.backends.process.directories import JobDirectories
from upshot.backends.process.options import read_options
from upshot.backends.protocol import (
    ContainerRequest,
    ContainerStatus,
    OutputUnreadable,
    Phase,
    StartedContainer,
    StartRefused,
)
from upshot.domain.job import FailureKind, JobSpec

NAME = "upshot-01-1"
IS_ROOT = os.geteuid() == 0
GROUP = f"upshot-tests-{os.getpid()}"


def order(*command: str, name: str = NAME, env: dict[str, str] | None = None, **spec) -> ContainerRequest:
    spec = {"timeout_seconds": 50.0, "grace_seconds": 5.0, **spec}
    return ContainerRequest(
        name=name,
        installation="inst",
        job_id=f"job_{name}",
        spec=JobSpec(command=command, **spec),
        env=env or {},
        event=b'{"id": "evt_1"}',
        fields={},
    )


def shell(script: str, **more) -> ContainerRequest:
    return order("sh", "-c", dedent(script), **more)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Engine:
    """A process backend, made anew for every question: whoever comes after a crash knows no more."""

    def __init__(self, folder: Path, **options) -> None:
        self.folder = folder
        user = {"user": "nobody"} if IS_ROOT else {}
        # Not the PATH of whoever runs the tests, parts of which another user cannot enter.
        self.options = {"folder": str(folder), "env": [], **user, **options}

    def __call__(self, verb: str, *args, **kwargs) -> Any:
        async def ask() -> Any:
            backend = make(self.options)
            try:
                return await getattr(backend, verb)(*args, **kwargs)
            finally:
                await backend.close()

        return asyncio.run(ask())

    def start(self, wanted: ContainerRequest) -> None:
        self("start", wanted)

    def seen(self, name: str = NAME) -> Any:
        return self("look", "inst").get(name)

    def ended(self, name: str = NAME) -> ContainerStatus:
        def look() -> ContainerStatus | None:
            seen = self.seen(name)
            return seen if seen is not None and seen.phase is Phase.EXITED else None

        return until(look, f"the end of {name}")

    def log(self, name: str = NAME, position: str | None = None, limit_bytes: int = 1_000_000) -> Any:
        return self("read_log", name, position, limit_bytes=limit_bytes)

    def says(self, text: str, name: str = NAME) -> None:
        until(lambda: text in self.log(name).data.decode(), f"{name} says {text}")

    def outputs(self, name: str = NAME, limit_bytes: int = 1000) -> Any:
        return self("read_outputs", name, limit_bytes=limit_bytes)

    def left(self) -> list[str]:
        """What lies in its folder, but for its own name."""
        return [path.name for path in self.folder.glob("*") if path.name != ".identity"]

    def shim(self, name: str = NAME) -> psutil.Process:
        return psutil.Process(int(json.loads((self.folder / name / "shim.json").read_text())["pid"]))

    def processes(self, name: str = NAME) -> list[psutil.Process]:
        """All that run with the job's environment."""
        own = str(self.folder / name / "output")
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("UPSHOT_OUTPUT") == own and lives(process):
                    found.append(process)
        return found

    def clean_up(self) -> None:
        if self.folder.exists():
            for name in self("look", "inst"):
                self("remove", name)


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not in pytest's own temporary folder: other accounts must not enter that one.
    with TemporaryDirectory(prefix="upshot-processes-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
def engine(folder) -> Iterator[Engine]:
    made = Engine(folder / "jobs")
    yield made
    made.clean_up()


@pytest.fixture
def open_engine(folder) -> Iterator[Engine]:
    """One whose commands run as the worker's own user."""
    made = Engine(folder / "jobs", **({"user": "root"} if IS_ROOT else {}))
    yield made
    made.clean_up()


# --- a command and its end ------------------------------------------------------------------------


def test_a_command_succeeds(engine):
    """Its exit code, times, both streams and outputs are there, and removing it leaves nothing."""
    engine.start(shell('echo hello; echo oops >&2; echo "{}" > $UPSHOT_OUTPUT/outputs.json'))

    seen = engine.ended()

    assert (seen.exit_code, seen.cause, seen.note, seen.job) == (0, None, None, f"job_{NAME}")
    assert seen.started_at <= seen.finished_at
    assert engine.log().data == b"hello\noops\n"
    assert engine.outputs() == b"{}\n"
    engine("remove", NAME)
    assert engine.seen() is None
    assert not engine.left()


def test_a_command_fails(engine):
    """Its exit code is reported as it is; no outputs are none."""
    engine.start(shell("exit 3"))

    assert engine.ended().exit_code == 3
    assert engine.outputs() is None


def test_a_command_that_is_killed_by_somebody(engine):
    """A signal is reported as a shell does, with what may be behind a kill that was not ours."""
    engine.start(shell("kill -KILL $$"))

    seen = engine.ended()

    assert seen.exit_code == 137
    assert "for want of memory" in seen.note


def test_a_script_finds_its_files(engine):
    """Event, secrets, outputs and inputs are where the environment says; it begins in a folder that it may write to."""
    engine.start(
        shell(
            """
            cat $UPSHOT_EVENT_FILE $UPSHOT_SECRETS/token
            ls $UPSHOT_INPUT
            stat -c %a $UPSHOT_SECRETS/token
            echo x > here && pwd
            """,
            files={"token": " s3cr3t\n"},
            env={"UPSHOT_EVENT_FILE": "/upshot/event.json"},
        )
    )

    assert engine.ended().exit_code == 0
    job = engine.folder / NAME
    assert engine.log().data.decode() == f'{{"id": "evt_1"}} s3cr3t\n400\n{job}/work\n'


def test_secrets_do_not_outlive_the_command(engine):
    """When the command has ended, its secret files are gone from the disk, and its environment never was there."""
    engine.start(shell("true", files={"token": "t0ps3cr3t"}, env={"KEY": "t0ps3cr3t"}))
    engine.ended()

    kept = [path for path in (engine.folder / NAME).rglob("*") if path.is_file()]

    assert kept
    assert not [path for path in kept if b"t0ps3cr3t" in path.read_bytes()]


def test_the_workers_environment_does_not_leak(engine, monkeypatch):
    """A command sees what it was given and what the operator hands on; neither it nor its watcher has the rest."""
    monkeypatch.setenv("UPSHOT_SECRET_KEY", "t0ps3cr3t")
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    engine.options["env"] = ["PATH", "CUDA_VISIBLE_DEVICES"]

    engine.start(shell("env; exec sleep 50", env={"MINE": "1"}))
    engine.says("MINE=1")

    names = {line.partition("=")[0] for line in engine.log().data.decode().splitlines()}
    assert names == {
        "CUDA_VISIBLE_DEVICES", "HOME", "LOGNAME", "MINE", "PATH", "PWD", "USER",
        "UPSHOT_EVENT_FILE", "UPSHOT_INPUT", "UPSHOT_OUTPUT", "UPSHOT_SECRETS",
    }  # fmt: skip
    assert engine.shim().environ() == {}


@pytest.mark.skipif(not IS_ROOT, reason="only root can run commands as another user; run the tests as root")
def test_a_command_runs_as_its_user(engine):
    """Under a worker that is root, a command is its user alone, and can neither read nor change its records."""
    script = "id -u; id -G; cat ../order.json; ls ../log; echo > ../end.json; rm -rf ../log; sudo -n true; true"
    engine.start(shell(script))

    engine.ended()

    said = engine.log().data.decode()
    assert said.startswith("65534\n65534\n")
    assert said.count("ermission denied") == 4


@pytest.mark.skipif(not IS_ROOT, reason="only root can run commands as another user; run the tests as root")
def test_a_folder_that_the_user_cannot_enter(engine, folder):
    """The refusal names the folder and the user, and says what is missing."""
    folder.chmod(0o700)

    with pytest.raises(StartRefused, match=r"/work: Permission denied; user 65534 must be able to enter it"):
        engine.start(order("true"))


@pytest.mark.parametrize(
    ("wanted", "finding"),
    [
        pytest.param(
            order("no-such-program"),
            "cannot run 'no-such-program': No such file or directory in PATH, which is ",
            id="no such program",
        ),
        pytest.param(order("/etc/passwd"), "cannot run '/etc/passwd': Permission denied", id="no program"),
        pytest.param(order("true", workdir="/no/such"), "cannot change to its folder /no/such", id="no such folder"),
        pytest.param(order("echo", "a\0b"), "null", id="a null byte"),
        pytest.param(order("echo", "x" * 3_000_000), "Argument list too long", id="too long an argument"),
        pytest.param(order("true", image="busybox"), "image: a process runs without one", id="an image"),
    ],
)
def test_what_cannot_be_run_is_refused(engine, wanted, finding):
    """A start that cannot succeed says why at once, and leaves nothing behind."""
    with pytest.raises(StartRefused, match=re.escape(finding)) as refused:
        engine.start(wanted)

    assert refused.value.failure is FailureKind.REFUSED
    assert not engine.left()


# --- once, whoever dies ---------------------------------------------------------------------------


def test_starts_at_the_same_time_run_one_process(engine, folder):
    """Workers that start the same job at once, over and over, run its command once, and all are told so."""
    ran = folder / "ran"
    ran.touch()
    ran.chmod(0o666)
    wanted = shell(f"echo once >> {ran}; exec sleep 50")

    async def start_all() -> list[StartedContainer]:
        backends = [make(engine.options) for _ in range(3)]
        started = await asyncio.gather(*(backend.start(wanted) for backend in backends for _ in range(3)))
        for backend in backends:
            await backend.close()
        return started

    started = asyncio.run(start_all())

    assert len({one.handle for one in started}) == 1
    assert until(ran.read_text) == "once\n"
    assert len([process for process in engine.processes() if process.name() == "sleep"]) == 1


def test_a_start_after_the_end_starts_nothing(engine, folder):
    """A job that has ended is not run again."""
    ran = folder / "ran"
    ran.touch()
    ran.chmod(0o666)
    wanted = shell(f"echo once >> {ran}; exit 4")
    engine.start(wanted)
    engine.ended()

    engine.start(wanted)

    assert engine.ended().exit_code == 4
    assert ran.read_text() == "once\n"


def test_a_job_whose_maker_died_before_it_began(engine):
    """Its folder is seen as made and not started; the next start begins it."""
    options = read_options(engine.options)
    folders = JobDirectories(options.folder, options.account)
    folders.prepare()
    folders.make(shell("echo begun"))
    assert engine.seen().phase is Phase.CREATED

    engine.start(shell("echo begun"))

    assert engine.ended().exit_code == 0
    assert engine.log().data == b"begun\n"


def test_a_job_that_is_stopped_before_it_began_never_begins(engine):
    """Neither a start that comes late nor one that was under way runs it."""
    options = read_options(engine.options)
    folders = JobDirectories(options.folder, options.account)
    folders.prepare()
    folders.make(shell("echo begun"))

    engine("stop", NAME, grace_seconds=1)
    engine.start(shell("echo begun"))

    assert engine.seen().phase is Phase.EXITED
    assert engine.seen().note == "it was stopped before it began"
    assert engine.log().data == b""


WORKER = """
import asyncio, json, sys
from upshot.domain.job import JobSpec
from upshot.backends.process import directories as process_folders
from upshot.backends.process import make, shim
from upshot.backends.protocol import Order

options, name, script, spec = json.loads(sys.argv[1])
wanted = Order(name, "inst", "job_" + name, JobSpec(command=("sh", "-c", script), **spec), {}, b"{}", {})

async def main():
    backend = make(options)
    print("ready", flush=True)
    sys.stdin.readline()
    await backend.start(wanted)
    print("started", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def worker(engine: Engine, script: str, **spec) -> subprocess.Popen[str]:
    """A process that starts a job when it is told to, and then hangs."""
    told = json.dumps([engine.options, NAME, script, spec])
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    process.stdin.write("go\n")
    process.stdin.flush()


def kill_with_all_in_its_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_job_outlives_the_worker_that_started_it(engine, folder):
    """After a kill -9 of the worker's whole group, the job goes on; the next worker has its log, outputs and code."""
    gate = folder / "gate"
    script = (
        f'echo one; until test -e {gate}; do sleep 0.02; done; echo two; echo 1 > "$UPSHOT_OUTPUT/outputs.json"; exit 5'
    )
    process = worker(engine, script)
    go(process)
    assert process.stdout.readline() == "started\n"

    kill_with_all_in_its_group(process)

    assert engine.seen().phase is Phase.RUNNING
    gate.touch()
    assert engine.ended().exit_code == 5
    assert engine.log().data == b"one\ntwo\n"
    assert engine.outputs() == b"1\n"


def test_the_deadline_holds_while_no_worker_lives(engine):
    """A command that runs for too long is ended by its own watcher, with all that it started, TERM or no TERM."""
    process = worker(
        engine,
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 50; sleep 50') & sleep 50; sleep 50",
        timeout_seconds=0.5,
        grace_seconds=0.3,
    )
    go(process)
    assert process.stdout.readline() == "started\n"
    kill_with_all_in_its_group(process)
    until((engine.folder / NAME / "end.json").exists, "the end, while nobody looks")

    seen = engine.seen()

    assert (seen.phase, seen.cause, seen.exit_code) == (Phase.EXITED, FailureKind.TIMED_OUT, 137)
    assert (seen.finished_at - seen.started_at).total_seconds() >= 0.8
    assert not engine.processes()


@pytest.mark.slow
def test_a_worker_killed_at_any_moment_of_a_start_neither_loses_nor_doubles_it(engine, folder):
    """However far the start had come, the next worker's start and end are those of one run."""
    chance = random.Random(7)
    outcomes = []
    for _ in range(12):
        ran = folder / "ran"
        ran.write_text("")
        ran.chmod(0o666)
        script = f"echo once >> {ran}"
        process = worker(engine, script)
        go(process)
        time.sleep(chance.uniform(0, 0.06))  # the moment of the kill, not a wait for anything

        kill_with_all_in_its_group(process)
        seen = engine.seen()
        outcomes.append(seen.phase.value if seen else "nothing")
        engine.start(shell(script))

        assert engine.ended().exit_code == 0, outcomes
        assert ran.read_text() == "once\n", outcomes
        engine("remove", NAME)


def test_a_killed_watcher_takes_the_command_with_it(engine):
    """After a kill -9 of the shim the job is lost, which the next look says, and nothing of it runs on."""
    engine.start(shell("(setsid sleep 50 &) ; sleep 50 & echo up; wait"))
    engine.says("up")
    assert len(engine.processes()) >= 3

    engine.shim().kill()

    seen = engine.ended()
    assert (seen.cause, seen.exit_code) == (FailureKind.ENGINE_LOST, None)
    assert seen.note == "its watcher was killed, and the command with it"
    assert not engine.processes()
    assert engine.seen() == seen
    assert engine.log().data == b"up\n"


def test_a_watcher_that_fails_ends_the_command_and_says_so(engine):
    """Where its own work cannot be done, nothing runs on unwatched."""
    options = read_options(engine.options)
    folders = JobDirectories(options.folder, options.account)
    folders.prepare()
    folders.make(shell("sleep 50"))
    (engine.folder / NAME / "log").rmdir()

    engine.start(shell("sleep 50"))

    assert engine.ended().failure is FailureKind.ENGINE_LOST
    assert "its watcher failed: FileNotFoundError" in engine.seen().note
    assert not engine.processes()


def test_a_machine_that_was_started_again_has_lost_the_job(engine):
    """A claim from before the machine's start is not believed, whoever has its number now."""
    engine.start(shell("echo up; exec sleep 50"))
    engine.says("up")
    engine.shim().kill()
    until(lambda: not engine.processes())
    claim = engine.folder / NAME / "shim.json"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "boot": "another", "pid": os.getpid()}))

    seen = engine.seen()

    assert (seen.phase, seen.cause) == (Phase.EXITED, FailureKind.ENGINE_LOST)
    assert seen.note == "the machine was started again while it ran"


def test_a_watcher_that_is_told_to_end_says_that_the_machine_went_down(engine):
    """SIGTERM to the shim, as an init sends it to all, ends the command in good order, and the job is lost."""
    engine.start(shell("echo up; exec sleep 50"))
    engine.says("up")

    engine.shim().terminate()

    assert (engine.ended().cause, engine.ended().exit_code) == (FailureKind.ENGINE_LOST, 143)


# --- ended by us ----------------------------------------------------------------------------------


def test_stop_is_a_signal_first(engine):
    """What listens ends in its own way, within its grace."""
    engine.start(shell("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"))
    engine.says("up")

    engine("stop", NAME, grace_seconds=40)

    assert engine.ended().exit_code == 7
    assert engine.log().data == b"up\nbye\n"


def test_the_grace_is_for_all_that_a_command_has_started(engine):
    """Where the first process ends at the signal, the others hear of it, and have the rest of the grace."""
    child = "trap 'sleep 0.3; echo saved; exit' TERM; echo up; while :; do sleep 0.05; done"
    engine.start(shell(f'sh -c "{child}"; echo never'))
    engine.says("up")

    engine("stop", NAME, grace_seconds=40)

    assert engine.ended().exit_code == 143
    assert engine.log().data.endswith(b"\nsaved\n")


def test_what_ignores_the_signal_is_killed(engine):
    """The kill comes when the grace is over; a shorter one that is given later counts."""
    engine.start(shell("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    engine.says("up")

    engine("stop", NAME, grace_seconds=1000)
    assert engine.seen().phase is Phase.RUNNING
    engine("stop", NAME, grace_seconds=0.2)

    seen = engine.ended()
    assert (seen.exit_code, seen.cause, seen.note) == (137, None, None)
    assert not engine.processes()


def test_a_watcher_that_hangs_does_not_keep_a_job_from_its_end(engine):
    """A stop without grace that the shim does not answer ends the shim, too, and all that runs."""
    engine.start(shell("trap '' TERM; echo up; (setsid sleep 50 &); while :; do sleep 0.05; done"))
    engine.says("up")
    engine.shim().suspend()

    engine("stop", NAME, grace_seconds=0)

    assert engine.ended().phase is Phase.EXITED
    assert not engine.processes()


def test_what_a_command_leaves_running_ends_with_it(engine):
    """A daemon that it has started, in a session of its own and as nobody's child, does not stay behind."""
    engine.start(
        shell("(setsid sh -c 'trap \"\" TERM HUP; sleep 50; sleep 50' > /dev/null 2>&1 &) ; sleep 0.2; exit 6")
    )

    assert engine.ended().exit_code == 6
    assert not engine.processes()


def test_stop_and_remove_of_what_is_not_there_are_fine(engine):
    """Once more, after the end, after the removal, and for names that no job can have."""
    engine.start(shell("exit 2"))
    engine.ended()
    engine("stop", NAME, grace_seconds=1)
    assert engine.seen().exit_code == 2

    engine("remove", NAME)
    for name in (NAME, "never-made", "../..", ".", "a/b", "A"):
        engine("remove", name)
        engine("stop", name, grace_seconds=1)
        assert engine.log(name, "5").position == "5"
        assert engine.outputs(name) is None

    assert engine.folder.exists()


def test_remove_ends_what_runs(engine):
    """A job that is removed while it runs, TERM or no TERM, has nothing left."""
    engine.start(shell("trap '' TERM; (setsid sleep 50 &); echo up; while :; do sleep 0.05; done"))
    engine.says("up")
    shim = engine.shim()

    engine("remove", NAME)

    assert not engine.processes()
    assert not lives(shim)
    assert engine.seen() is None


def test_a_job_whose_folder_somebody_removes_ends(engine):
    """Nobody would ever see it again, so it does not run on."""
    engine.start(shell("echo up; (setsid sleep 50 &) ; sleep 50"))
    engine.says("up")
    shim_of_it, running = engine.shim(), engine.processes()

    shutil.rmtree(engine.folder / NAME)

    until(lambda: not lives(shim_of_it))
    assert not [one for one in running if lives(one)]


@pytest.mark.parametrize("verb", ["remove", "stop"])
def test_a_job_can_be_ended_and_removed_on_a_full_disk(engine, monkeypatch, verb):
    """What fills the disk can be got rid of, though nothing can be written."""
    engine.start(shell("echo up; exec sleep 50"))
    engine.says("up")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(shim, "write_new", full)
        patched.setattr(process_folders, "write_new", full)
        if verb == "stop":
            engine("stop", NAME, grace_seconds=20)
            assert engine.ended().exit_code == 143
        engine("remove", NAME)

    assert not engine.processes()
    assert not engine.left()


def test_remove_clears_what_a_hostile_job_leaves(open_engine, folder):
    """Deep trees, shut folders, links and FIFOs go; what links lead to stays."""
    kept = folder / "kept"
    kept.write_text("precious")
    open_engine.start(
        order(
            sys.executable,
            "-c",
            dedent(f"""
                import os
                os.symlink({str(folder)!r}, "link"); os.mkfifo("fifo"); os.symlink({str(kept)!r}, "file")
                for _ in range(3000):
                    os.mkdir("d"); os.chdir("d")
                os.mkdir("shut", 0)
                os.chmod(os.environ["UPSHOT_OUTPUT"], 0)
            """),
        )
    )
    assert open_engine.ended().exit_code == 0, open_engine.log().data

    open_engine("remove", NAME)

    assert not open_engine.left()
    assert kept.read_text() == "precious"


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grows", ["bomb() { bomb | bomb & }; bomb", "while :; do sleep 50 & done"])
def test_a_fork_bomb_ends_at_its_limit(engine, grows):
    """A job that multiplies comes to its limit of processes, and to its end with the time-out, all of it."""
    engine.start(shell(f"{grows}; sleep 50", pids=40, timeout_seconds=1.5, grace_seconds=0.2))

    most = 0
    while engine.seen().phase is Phase.RUNNING:
        most = max(most, len(engine.processes()))

    assert 1 < most < 200  # the limit is a crude one: what the user ran at the start counts
    assert engine.ended().phase is Phase.EXITED
    assert not engine.processes()


def test_memory_is_held_by_a_crude_limit(open_engine):
    """Without control groups a job gets no more addresses than memory, and fails at that."""
    script = "import sys; x = bytearray(300 << 20); print('got it')"
    open_engine.start(order(sys.executable, "-S", "-c", script, memory_bytes=200 << 20))

    assert open_engine.ended().exit_code == 1
    assert b"MemoryError" in open_engine.log().data


def test_other_limits_hold(engine):
    """No core files, no more and no larger files than the operator allows, no more processors than asked for."""
    engine.options["limits"] = {"open-files": 100, "file-size": "4KiB"}
    engine.start(shell("ulimit -c; ulimit -n; nproc; head -c 10000 /dev/zero > big; stat -c %s big", cpus=0.5))

    engine.ended()

    core, files, processors, *_, size = engine.log().data.decode().split()
    assert (core, files, processors, size) == ("0", "100", "1", "4096")


@pytest.fixture
def grouped(folder) -> Iterator[Engine]:
    """An engine with control groups, and root's commands."""
    try:
        hierarchies = find_hierarchies(Path("/proc/self/mountinfo").read_text())
        probe = Cgroup(hierarchies, GROUP, "probe")
        probe.make(JobSpec())
    except CgroupsUnavailable as error:
        pytest.skip(f"{error}: run the tests as root, on a machine or in a container that may write to /sys/fs/cgroup")
    probe.remove()
    made = Engine(folder / "jobs", cgroup=GROUP, **({"user": "root"} if IS_ROOT else {}))
    yield made
    made.clean_up()
    for group in hierarchies.folders(GROUP, "."):
        group.resolve().rmdir()


def test_a_job_that_runs_out_of_memory_is_told_apart(grouped):
    """In a control group the kernel ends what takes more than its memory, and the cause is known."""
    script = "import sys; x = bytearray(300 << 20); print('got it')"
    grouped.start(order(sys.executable, "-S", "-c", script, memory_bytes=64 << 20))

    seen = grouped.ended()

    assert (seen.cause, seen.exit_code) == (FailureKind.OUT_OF_MEMORY, 137)


def test_a_fork_bomb_of_root_ends_at_its_groups_limit(grouped):
    """In a control group the limit on processes holds for root, too, and the group goes with the job."""
    grouped.start(shell("bomb() { bomb | bomb & }; bomb; sleep 50", pids=30, timeout_seconds=1.5, grace_seconds=0.2))

    most = 0
    while grouped.seen().phase is Phase.RUNNING:
        most = max(most, len(grouped.processes()))

    assert 1 < most <= 30
    assert not grouped.processes()
    hierarchies = find_hierarchies(Path("/proc/self/mountinfo").read_text())
    assert not [path for path in hierarchies.folders(GROUP, NAME) if path.exists()]


def test_in_a_control_group_nobody_escapes_a_killed_watcher(grouped):
    """What has thrown away its environment, its session and its parent is found by its group."""
    grouped.start(shell("(setsid env -i /bin/sleep 4242 &) ; echo up; sleep 50"))
    grouped.says("up")
    escaped = until(lambda: [one for one in psutil.process_iter(["cmdline"]) if "4242" in (one.info["cmdline"] or ())])

    grouped.shim().kill()

    assert grouped.ended().failure is FailureKind.ENGINE_LOST
    assert not [one for one in escaped if lives(one)]


# --- what it says ---------------------------------------------------------------------------------


def test_a_log_is_read_while_it_grows(engine):
    """Increments from position to position make up the whole, with nothing left out and nothing twice."""
    engine.start(shell("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"))
    said, position, is_over = b"", None, False

    while not is_over:
        is_over = engine.seen().phase is Phase.EXITED
        read = engine.log(position=position)
        said, position = said + read.data, read.position
        assert not read.skipped

    assert said == b"".join(b"line %d\n" % i for i in range(3000))


def test_a_gigabyte_of_log_is_capped(engine):
    """It takes no more of the disk than the cap, the newest is kept, and the job is not held up for ever."""
    engine.options["log-size"] = "1MiB"
    engine.start(shell("yes | head -c 1G; echo the end"))

    assert engine.ended().exit_code == 0

    assert sum(path.stat().st_size for path in (engine.folder / NAME / "log").iterdir()) <= 1 << 20
    read = engine.log(limit_bytes=12)
    assert (read.data, read.position, read.skipped) == (b"y\ny\nthe end\n", str((1 << 30) + 8), True)


def test_what_is_written_to_the_streams_by_name_is_kept(engine):
    """A program that opens /dev/stderr anew may, whoever it runs as."""
    engine.start(shell("echo a > /dev/stdout; echo b > /dev/stderr"))

    engine.ended()

    assert engine.log().data == b"a\nb\n"


# --- what it gives back ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "finding"),
    [
        pytest.param("ln -s /etc/passwd $F", "is a link", id="a link to a file"),
        pytest.param("ln -s $F $F", "is a link", id="a link to itself"),
        pytest.param("echo '{}' > here; ln here $F", "2 names", id="a hard link"),
        pytest.param("mkdir $F", "is a folder", id="a folder"),
        pytest.param("mkfifo $F", "is a named pipe", id="a FIFO that nobody writes to"),
        pytest.param("head -c 1001 /dev/zero > $F", "has 1001 bytes, and at most 1000", id="too large"),
        pytest.param("truncate -s 1T $F", "at most 1000 are taken", id="larger than any disk"),
    ],
)
def test_outputs_that_are_no_plain_file_are_refused(engine, script, finding):
    """What is no plain file of the job's own, or larger than the limit, is named and not taken, and nothing hangs."""
    engine.start(shell(f"F=$UPSHOT_OUTPUT/outputs.json; {script}"))
    assert engine.ended().exit_code == 0, engine.log().data

    with pytest.raises(OutputUnreadable, match=re.escape(finding)):
        engine.outputs()


def test_outputs_that_are_a_socket_are_refused(open_engine):
    """Nobody calls who may be there."""
    bind = (
        "import os, socket; os.chdir(os.environ['UPSHOT_OUTPUT']); socket.socket(socket.AF_UNIX).bind('outputs.json')"
    )
    open_engine.start(order(sys.executable, "-c", bind))
    assert open_engine.ended().exit_code == 0, open_engine.log().data

    with pytest.raises(OutputUnreadable, match="is a socket"):
        open_engine.outputs()


def test_an_output_folder_that_leads_elsewhere_is_refused(open_engine, folder):
    """A job that swaps its output folder for a link does not have another folder's file taken for its own."""
    (folder / "outputs.json").write_text('{"secret": 1}')
    open_engine.start(shell(f"rm -r $UPSHOT_OUTPUT; ln -s {folder} $UPSHOT_OUTPUT"))
    open_engine.ended()

    with pytest.raises(OutputUnreadable, match="its folder is a link now"):
        open_engine.outputs()


def test_an_output_folder_that_is_none_any_more(open_engine):
    """A job that puts a file in place of its output folder is told so; one that removes it has no outputs."""
    open_engine.start(shell("rm -r $UPSHOT_OUTPUT; echo > $UPSHOT_OUTPUT", name="replaced"))
    open_engine.start(shell("rm -r $UPSHOT_OUTPUT", name="removed"))
    open_engine.ended("replaced")
    open_engine.ended("removed")

    with pytest.raises(OutputUnreadable, match="its folder is no folder now"):
        open_engine.outputs("replaced")
    assert open_engine.outputs("removed") is None


def test_a_job_that_plays_with_its_own_records_harms_itself_alone(open_engine):
    """Where jobs are the worker's own user, FIFOs, links and nonsense in place of records hold nobody up."""
    tricks = (
        "rm ../order.json; mkfifo ../order.json",
        "rm ../shim.json; mkfifo ../shim.json",
        "mkfifo ../end.json",
        "ln -s /dev/zero ../end.json",
        "echo '[]' > ../shim.json",
        'echo \'{"pid": 1, "ticks": "x"}\' > ../shim.json',
        "rm -r ../log; mkfifo ../log",
        "for i in ../log/*; do rm $i; mkfifo $i; done",
        "rm -rf ..",
        "chmod 000 ../shim.json",
        "chmod 000 ../order.json ../log; chmod 000 ..",
        "sleep 50 & chmod 000 ..; wait",
    )
    for number, trick in enumerate(tricks):
        open_engine.start(shell(f"{trick}; exit 0", name=f"trick-{number}"))
    open_engine.start(shell("echo fine", name="honest"))

    assert open_engine.ended("honest").exit_code == 0
    open_engine("stop", f"trick-{len(tricks) - 1}", grace_seconds=0)
    until(lambda: all(one.phase is Phase.EXITED for one in open_engine("look", "inst").values()))
    for number in range(len(tricks)):
        with suppress(OutputUnreadable):
            open_engine.outputs(f"trick-{number}")
        open_engine("remove", f"trick-{number}")
    assert open_engine.log("honest").data == b"fine\n"


def test_a_worker_that_cannot_tell_gives_no_job_up(engine):
    """Where the worker has no files left to open, it does not know whether a job is watched, and does not say no."""
    engine.start(shell("echo up; exec sleep 50"))
    engine.says("up")
    folders = JobDirectories(engine.folder, read_options(engine.options).account)

    with folders.open(NAME) as job:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                job.is_watched()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert engine.seen().phase is Phase.RUNNING


# --- the engine itself ----------------------------------------------------------------------------


def test_an_engine_is_a_folder_on_a_machine(engine, folder):
    """Whoever uses the folder names the same engine; another folder is another one."""
    assert engine("identity") == engine("identity")
    assert Engine(folder / "others")("identity") != engine("identity")


def test_only_jobs_of_the_installation_are_seen(engine):
    """Another installation's jobs in the same folder are its own business."""
    engine.start(shell("true"))

    assert engine("look", "another") == {}
    assert list(engine("look", "inst")) == [NAME]


def test_hints_come_when_a_job_begins_and_when_it_ends(engine, folder):
    """Whoever watches hears its name each time."""
    gate = folder / "gate"

    async def watch() -> list[str]:
        backend, heard = make(engine.options), []
        async with aclosing(backend.watch_events("inst")) as hints:  # type: ignore[type-var]  # it is a generator
            first = asyncio.ensure_future(anext(hints))
            await asyncio.sleep(0)
            await backend.start(shell(f"until test -e {gate}; do sleep 0.02; done"))
            heard.append(await first)
            gate.touch()
            heard.append(await anext(hints))
        await backend.close()
        return heard

    assert asyncio.run(watch()) == [NAME, NAME]


def test_a_start_that_nobody_waits_for_any_more_is_over_before_a_removal(engine):
    """Whoever gives up on a start and removes the job can be sure that it does not begin afterwards."""

    async def give_up() -> None:
        backend = make(engine.options)
        start = asyncio.ensure_future(backend.start(shell("sleep 50")))
        await asyncio.sleep(0.001)
        start.cancel()
        await backend.remove(NAME)
        assert await backend.list_containers("inst") == {}
        await backend.close()

    asyncio.run(give_up())

    assert not engine.processes()


def test_what_a_dead_worker_left_half_made_is_swept(engine):
    """A folder that was never finished goes after a time; one that is being made does not."""
    engine("identity")
    old, young = engine.folder / ".new-a-1", engine.folder / ".new-b-2"
    for half_made in (old, young):
        half_made.mkdir()
        (half_made / "secret").write_text("s3cr3t")
    sweeper = JobDirectories(engine.folder, read_options(engine.options).account)
    sweeper.sweep(datetime.now(UTC))
    assert old.exists()
    sweeper.sweep(datetime.now(UTC) + timedelta(hours=1))

    assert not old.exists()
    shutil.rmtree(young, ignore_errors=True)
