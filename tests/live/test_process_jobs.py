"""Jobs as processes of this machine: real commands and real signals, with workers and shims killed at any moment."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import psutil
import pytest

from tests.waiting import TIMEOUT_SECONDS, until
from upshot.backends.process import directories, make, shim
from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable, find_cgroup_mount
from upshot.backends.process.directories import JobDirectories
from upshot.backends.process.options import read_options
from upshot.backends.process.orphans import kill_orphans
from upshot.backends.protocol import (
    Backend,
    ContainerRequest,
    ContainerStatus,
    JobInput,
    LogRead,
    OutputUnreadable,
    Phase,
    StartRefused,
)
from upshot.domain.job import FailureKind, JobSpec
from upshot.ids import JobId

NAME = "upshot-01-1"
IS_ROOT = os.geteuid() == 0
CGROUP = Path(f"upshot-tests-{os.getpid()}")

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can run commands as another user; run the tests as root")


def command(*argv: str, name: str = NAME, env: dict[str, str] | None = None, **spec) -> ContainerRequest:
    spec = {"timeout_seconds": 50.0, "grace_seconds": 5.0, **spec}
    return ContainerRequest(
        name=name,
        installation_id="inst",
        job_id=JobId(f"job_{name}"),
        spec=JobSpec(command=argv, **spec),
        env=env or {},
        event=b'{"id": "evt_1"}',
        context={},
    )


def shell(script: str, **options) -> ContainerRequest:
    return command("sh", "-c", dedent(script), **options)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class ProcessBackendDriver:
    """
    Calls a process backend. Every call makes a new backend, which knows no more than one after a crash.

    Args:
        directory: The jobs directory.
        options: Options of the backend, in addition to the directory and the user.
    """

    def __init__(self, directory: Path, **options) -> None:
        self.directory = directory
        user = {"user": "nobody"} if IS_ROOT else {}
        # `env` is empty because the tests' PATH may contain directories that another user cannot enter.
        self.options = {"directory": str(directory), "env": [], **user, **options}

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[Backend]:
        backend = make(self.options)
        try:
            yield backend
        finally:
            await backend.close()

    async def engine_id(self) -> str:
        async with self.backend() as backend:
            return await backend.engine_id()

    async def start(self, request: ContainerRequest) -> str:
        """Start a job, and return its handle."""
        async with self.backend() as backend:
            return (await backend.start(request)).handle

    async def stop(self, name: str = NAME, *, grace_seconds: float) -> None:
        async with self.backend() as backend:
            await backend.stop(name, grace_seconds=grace_seconds)

    async def remove(self, name: str = NAME) -> None:
        async with self.backend() as backend:
            await backend.remove(name)

    async def statuses(self, installation_id: str = "inst") -> dict[str, ContainerStatus]:
        async with self.backend() as backend:
            return dict(await backend.list_containers(installation_id))

    async def status(self, name: str = NAME) -> ContainerStatus:
        return (await self.statuses())[name]

    async def exited(self, name: str = NAME) -> ContainerStatus:
        """Wait until a job has exited, and return its status."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while (status := await self.status(name)).phase is not Phase.EXITED:
                await asyncio.sleep(0.02)
            return status

    async def log(self, name: str = NAME, position: str | None = None, limit_bytes: int = 1_000_000) -> LogRead:
        async with self.backend() as backend:
            return await backend.read_log(name, position, limit_bytes=limit_bytes)

    async def logged(self, text: str, name: str = NAME) -> None:
        """Wait until a text is in the log of a job."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while text not in (await self.log(name)).data.decode():
                await asyncio.sleep(0.02)

    async def outputs(self, name: str = NAME, limit_bytes: int = 1000) -> bytes | None:
        async with self.backend() as backend:
            return await backend.read_outputs(name, limit_bytes=limit_bytes)

    def job_directories(self) -> JobDirectories:
        options = read_options(self.options)
        return JobDirectories(options.directory, options.account)

    def create_unstarted(self, request: ContainerRequest) -> None:
        """Create a job directory, as a worker does that dies before it starts the shim."""
        job_directories = self.job_directories()
        job_directories.prepare()
        job_directories.create(request)

    def leftovers(self) -> list[str]:
        """Return the names of all files in the jobs directory, except for the engine's identity."""
        return [path.name for path in self.directory.glob("*") if path.name != ".identity"]

    def shim(self, name: str = NAME) -> psutil.Process:
        return psutil.Process(int(json.loads((self.directory / name / "shim.json").read_text())["pid"]))

    def processes(self, name: str = NAME) -> list[psutil.Process]:
        """Return all living processes with the environment of a job."""
        output = str(self.directory / name / "output")
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("UPSHOT_OUTPUT") == output and is_alive(process):
                    found.append(process)
        return found

    async def clean_up(self) -> None:
        if self.directory.exists():
            for name in await self.statuses():
                await self.remove(name)


@pytest.fixture
def directory() -> Iterator[Path]:
    # Other users may not enter pytest's own temporary directory.
    with TemporaryDirectory(prefix="upshot-processes-") as path:
        Path(path).chmod(0o711)
        yield Path(path)


@pytest.fixture
async def engine(directory) -> AsyncIterator[ProcessBackendDriver]:
    engine = ProcessBackendDriver(directory / "jobs")
    yield engine
    await engine.clean_up()


@pytest.fixture
async def same_user_engine(directory) -> AsyncIterator[ProcessBackendDriver]:
    """Make an engine that runs commands as the worker's own user."""
    engine = ProcessBackendDriver(directory / "jobs", **({"user": "root"} if IS_ROOT else {}))
    yield engine
    await engine.clean_up()


@pytest.fixture
def runs_file(directory: Path) -> Path:
    """Create a file to which jobs append a line when they run. All users can write to it."""
    path = directory / "runs"
    path.touch()
    path.chmod(0o666)
    return path


# --- a command and its end ------------------------------------------------------------------------


async def test_a_command_succeeds(engine):
    """Its exit code, times, both streams and outputs can be read. Removing it leaves nothing behind."""
    await engine.start(shell('echo hello; echo oops >&2; echo "{}" > $UPSHOT_OUTPUT/outputs.json'))

    status = await engine.exited()

    assert (status.exit_code, status.failure, status.note, status.job_id) == (0, None, None, f"job_{NAME}")
    assert status.started_at <= status.finished_at
    assert (await engine.log()).data == b"hello\noops\n"
    assert await engine.outputs() == b"{}\n"
    await engine.remove()
    assert await engine.statuses() == {}
    assert not engine.leftovers()


async def test_a_command_fails(engine):
    """Its exit code is reported unchanged. Its missing outputs are None."""
    await engine.start(shell("exit 3"))

    assert (await engine.exited()).exit_code == 3
    assert await engine.outputs() is None


async def test_a_command_that_somebody_else_kills(engine):
    """The signal is reported as a shell reports it, with a note about possible reasons."""
    await engine.start(shell("kill -KILL $$"))

    status = await engine.exited()

    assert status.exit_code == 137
    assert "the kernel because memory ran out" in status.note


async def test_a_command_finds_its_files(engine):
    """The environment names event, secrets, outputs and inputs. The command starts in a directory it can write to."""
    await engine.start(
        shell(
            """
            cat $UPSHOT_EVENT_FILE $UPSHOT_SECRETS/token
            ls $UPSHOT_INPUT
            stat -c %a $UPSHOT_SECRETS/token
            echo x > here && pwd
            """,
            secret_files={"token": " s3cr3t\n"},
            env={"UPSHOT_EVENT_FILE": "/upshot/event.json"},
        )
    )

    assert (await engine.exited()).exit_code == 0
    job = engine.directory / NAME
    assert (await engine.log()).data.decode() == f'{{"id": "evt_1"}} s3cr3t\n400\n{job}/work\n'


async def test_a_command_finds_its_input(engine, tmp_path):
    """The command gets a copy of the files, which it can read and not change. It is removed with the job."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "ünï code").write_bytes(b"x" * 20_000_000)
    (tree / "empty").touch()
    files = JobInput("project/model:v0", 2, 20_000_000, tree)
    script = """
        cd $UPSHOT_INPUT && ls -R && cat sub/* | sha256sum
        touch new; echo >> empty; rm empty; true
    """

    await engine.start(replace(shell(script, name="upshot-02-1"), input=files))

    assert (await engine.exited("upshot-02-1")).exit_code == 0
    output = (await engine.log("upshot-02-1")).data.decode()
    digest = hashlib.sha256(b"x" * 20_000_000).hexdigest()
    assert output.startswith(f".:\nempty\nsub\n\n./sub:\nünï code\n{digest}  -\n")
    assert output.count("ermission denied") == 3
    await engine.remove("upshot-02-1")
    assert (tree / "empty").read_bytes() == b""
    assert not [path for path in engine.directory.iterdir() if path.name != ".identity"]


@needs_root
async def test_only_the_commands_user_can_read_its_input(engine, tmp_path):
    """A model is not shown to other users of the machine."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "weights").write_text("secret")
    request = replace(shell("exec sleep 50"), input=JobInput("project/model:v0", 1, 6, tmp_path / "tree"))

    await engine.start(request)

    path = f"{engine.directory}/{NAME}/input/weights"
    other = await asyncio.create_subprocess_exec("cat", path, user=2, group=2, extra_groups=[])
    assert await other.wait() != 0


async def test_an_input_that_cannot_be_copied(engine, tmp_path):
    """The attempt fails before the command starts, another one may succeed, and nothing is left."""
    request = replace(shell("true"), input=JobInput("project/model:v0", 1, 6, tmp_path / "none" / "tree"))

    with pytest.raises(StartRefused, match="the job's input cannot be copied") as caught:
        await engine.start(request)

    assert caught.value.failure is FailureKind.INPUT_UNAVAILABLE
    assert not await engine.statuses()
    assert not [path for path in engine.directory.iterdir() if path.name != ".identity"]


async def test_secrets_do_not_outlive_the_command(engine):
    """Secret files are deleted when the command has ended. Its environment is never written to disk."""
    await engine.start(shell("true", secret_files={"token": "t0ps3cr3t"}, env={"KEY": "t0ps3cr3t"}))
    await engine.exited()

    files = [path for path in (engine.directory / NAME).rglob("*") if path.is_file()]

    assert files
    assert not [path for path in files if b"t0ps3cr3t" in path.read_bytes()]


async def test_the_workers_environment_does_not_leak(engine, monkeypatch):
    """A command gets the job's variables and those that the operator has listed. The shim gets none at all."""
    monkeypatch.setenv("UPSHOT_SECRET_KEY", "t0ps3cr3t")
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    engine.options["env"] = ["PATH", "CUDA_VISIBLE_DEVICES"]

    await engine.start(shell("env; exec sleep 50", env={"MINE": "1"}))
    await engine.logged("MINE=1")

    names = {line.partition("=")[0] for line in (await engine.log()).data.decode().splitlines()}
    assert names == {
        "CUDA_VISIBLE_DEVICES", "HOME", "LOGNAME", "MINE", "PATH", "PWD", "USER",
        "UPSHOT_EVENT_FILE", "UPSHOT_INPUT", "UPSHOT_OUTPUT", "UPSHOT_SECRETS",
    }  # fmt: skip
    assert engine.shim().environ() == {}


@needs_root
async def test_a_command_runs_as_its_user(engine):
    """Under a worker that is root, a command has only the rights of its user, and cannot access its records."""
    script = "id -u; id -G; cat ../labels.json; ls ../log; echo > ../result.json; rm -rf ../log; sudo -n true; true"
    await engine.start(shell(script))

    await engine.exited()

    output = (await engine.log()).data.decode()
    assert output.startswith("65534\n65534\n")
    assert output.count("ermission denied") == 4


@needs_root
async def test_a_directory_that_the_user_cannot_enter(engine, directory):
    """The refusal names the directory, the user and what is missing."""
    directory.chmod(0o700)

    with pytest.raises(StartRefused, match=r"/work: Permission denied; user 65534 must be able to enter it"):
        await engine.start(command("true"))


@pytest.mark.parametrize(
    ("request_", "finding"),
    [
        pytest.param(
            command("no-such-program"),
            "cannot run 'no-such-program': No such file or directory in PATH, which is ",
            id="no such program",
        ),
        pytest.param(command("/etc/passwd"), "cannot run '/etc/passwd': Permission denied", id="not a program"),
        pytest.param(
            command("true", workdir="/no/such"),
            "cannot change to its working directory /no/such: No such file or directory",
            id="no such directory",
        ),
        pytest.param(command("echo", "a\0b"), "null", id="a null byte"),
        pytest.param(command("echo", "x" * 3_000_000), "Argument list too long", id="too long an argument"),
        pytest.param(command("true", image="busybox"), "image: a process has no image", id="an image"),
    ],
)
async def test_what_cannot_be_run_is_refused(engine, request_, finding):
    """A start that cannot succeed fails at once with the reason, and leaves nothing behind."""
    with pytest.raises(StartRefused, match=re.escape(finding)) as refused:
        await engine.start(request_)

    assert refused.value.failure is FailureKind.REFUSED
    assert not engine.leftovers()


# --- started once, whatever is killed -------------------------------------------------------------


async def test_concurrent_starts_run_one_process(engine, runs_file):
    """Workers that start the same job at once and repeatedly run its command once. All of them get its handle."""
    request = shell(f"echo once >> {runs_file}; exec sleep 50")
    backends = [make(engine.options) for _ in range(3)]

    started = await asyncio.gather(*(backend.start(request) for backend in backends for _ in range(3)))

    for backend in backends:
        await backend.close()
    assert len({container.handle for container in started}) == 1
    assert until(runs_file.read_text) == "once\n"
    assert len([process for process in engine.processes() if process.name() == "sleep"]) == 1


async def test_a_start_after_the_end_starts_nothing(engine, runs_file):
    """A job that has exited is not run again."""
    request = shell(f"echo once >> {runs_file}; exit 4")
    await engine.start(request)
    await engine.exited()

    await engine.start(request)

    assert (await engine.exited()).exit_code == 4
    assert runs_file.read_text() == "once\n"


async def test_a_job_whose_worker_died_before_the_start(engine):
    """Its directory is reported as created. The next start runs the command."""
    engine.create_unstarted(shell("echo started"))
    assert (await engine.status()).phase is Phase.CREATED

    await engine.start(shell("echo started"))

    assert (await engine.exited()).exit_code == 0
    assert (await engine.log()).data == b"started\n"


async def test_a_job_that_is_stopped_before_its_start_never_starts(engine):
    """A start that comes later does not run the command."""
    engine.create_unstarted(shell("echo started"))

    await engine.stop(grace_seconds=1)
    await engine.start(shell("echo started"))

    status = await engine.status()
    assert (status.phase, status.note) == (Phase.EXITED, "it was stopped before it started")
    assert (await engine.log()).data == b""


WORKER = """
import asyncio, json, sys
from upshot.domain.job import JobSpec
from upshot.backends.process import make
from upshot.backends.protocol import ContainerRequest

options, name, script, spec = json.loads(sys.argv[1])
request = ContainerRequest(name, "inst", "job_" + name, JobSpec(command=("sh", "-c", script), **spec), {}, b"{}", {})

async def main():
    backend = make(options)
    print("ready", flush=True)
    sys.stdin.readline()
    await backend.start(request)
    print("started", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


class StartingWorker:
    """A process that starts a job on request, and then hangs."""

    def __init__(self, engine: ProcessBackendDriver, script: str, **spec) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps([engine.options, NAME, script, spec])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def begin_start(self) -> None:
        self._process.stdin.write("start\n")
        self._process.stdin.flush()

    def start(self) -> None:
        self.begin_start()
        assert self._process.stdout.readline() == "started\n"

    def kill_process_group(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


async def test_a_job_outlives_the_worker_that_started_it(engine, directory):
    """After a `kill -9` of the worker's process group, the job continues. The next worker gets its log and outputs."""
    continue_file = directory / "continue"
    worker = StartingWorker(
        engine,
        f"echo one; until test -e {continue_file}; do sleep 0.02; done; echo two; "
        'echo 1 > "$UPSHOT_OUTPUT/outputs.json"; exit 5',
    )
    worker.start()

    worker.kill_process_group()

    assert (await engine.status()).phase is Phase.RUNNING
    continue_file.touch()
    assert (await engine.exited()).exit_code == 5
    assert (await engine.log()).data == b"one\ntwo\n"
    assert await engine.outputs() == b"1\n"


async def test_the_deadline_is_enforced_without_a_worker(engine):
    """The shim ends a command that runs for too long, with everything that it started, even if SIGTERM is ignored."""
    worker = StartingWorker(
        engine,
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 50; sleep 50') & sleep 50; sleep 50",
        timeout_seconds=0.5,
        grace_seconds=0.3,
    )
    worker.start()
    worker.kill_process_group()
    until((engine.directory / NAME / "result.json").exists, "the result of the job")

    status = await engine.status()

    assert (status.phase, status.failure, status.exit_code) == (Phase.EXITED, FailureKind.TIMED_OUT, 137)
    assert (status.finished_at - status.started_at).total_seconds() >= 0.8
    assert not engine.processes()


@pytest.mark.slow
async def test_a_worker_killed_at_any_moment_of_a_start_neither_loses_nor_repeats_it(engine, runs_file):
    """However far the start had come, the next worker's start and the first one's run the command once."""
    chance = random.Random(7)
    outcomes = []
    for _ in range(12):
        runs_file.write_text("")
        script = f"echo once >> {runs_file}"
        worker = StartingWorker(engine, script)
        worker.begin_start()
        await asyncio.sleep(chance.uniform(0, 0.06))  # the kill comes at a random moment of the start

        worker.kill_process_group()
        status = (await engine.statuses()).get(NAME)
        outcomes.append(status.phase.value if status else "nothing")
        await engine.start(shell(script))

        assert (await engine.exited()).exit_code == 0, outcomes
        assert runs_file.read_text() == "once\n", outcomes
        await engine.remove()


async def test_a_killed_shim_takes_the_command_with_it(engine):
    """After a `kill -9` of the shim, the job is lost. The next status says so, and none of its processes is left."""
    await engine.start(shell("(setsid sleep 50 &) ; sleep 50 & echo up; wait"))
    await engine.logged("up")
    assert len(engine.processes()) >= 3

    engine.shim().kill()

    status = await engine.exited()
    assert (status.failure, status.exit_code) == (FailureKind.ENGINE_LOST, None)
    assert status.note == "its shim was killed, and the command with it"
    assert not engine.processes()
    assert await engine.status() == status
    assert (await engine.log()).data == b"up\n"


async def test_a_shim_that_fails_ends_the_command(engine):
    """If the shim cannot do its work, the command does not run unsupervised."""
    engine.create_unstarted(shell("sleep 50"))
    (engine.directory / NAME / "log").rmdir()

    await engine.start(shell("sleep 50"))

    status = await engine.exited()
    assert status.failure is FailureKind.ENGINE_LOST
    assert "its shim failed: FileNotFoundError" in status.note
    assert not engine.processes()


async def test_a_result_that_is_still_linked_to_its_draft_is_read(engine):
    """The shim may be killed, or just be at work, between making a result visible and removing its draft."""
    await engine.start(shell("exit 3"))
    assert (await engine.exited()).exit_code == 3
    directory = engine.directory / NAME
    draft = directory / ".result.json.0123456789abcdef"
    draft.hardlink_to(directory / "result.json")

    assert (await engine.status()).exit_code == 3

    assert not draft.exists()


async def test_a_restart_of_the_machine_loses_the_job(engine):
    """A record from before the restart is not trusted, even if another process now has the shim's pid."""
    await engine.start(shell("echo up; exec sleep 50"))
    await engine.logged("up")
    engine.shim().kill()
    until(lambda: not engine.processes())
    record = engine.directory / NAME / "shim.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot_id": "another", "pid": os.getpid()}))

    status = await engine.status()

    assert (status.phase, status.failure) == (Phase.EXITED, FailureKind.ENGINE_LOST)
    assert status.note == "the machine was restarted while it ran"


async def test_a_terminated_shim_ends_the_command_cleanly(engine):
    """When the machine shuts down, init sends SIGTERM to all processes. The job counts as lost."""
    await engine.start(shell("echo up; exec sleep 50"))
    await engine.logged("up")

    engine.shim().terminate()

    status = await engine.exited()
    assert (status.failure, status.exit_code) == (FailureKind.ENGINE_LOST, 143)


# --- stop and remove ------------------------------------------------------------------------------


async def test_a_stop_sends_sigterm_first(engine):
    """A command that handles the signal ends in its own way within the grace period."""
    await engine.start(shell("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"))
    await engine.logged("up")

    await engine.stop(grace_seconds=40)

    assert (await engine.exited()).exit_code == 7
    assert (await engine.log()).data == b"up\nbye\n"


async def test_the_grace_period_applies_to_everything_that_a_command_started(engine):
    """If the first process ends at the signal, the others are signalled too, and have the rest of the grace period."""
    child = "trap 'sleep 0.3; echo saved; exit' TERM; echo up; while :; do sleep 0.05; done"
    await engine.start(shell(f'sh -c "{child}"; echo never'))
    await engine.logged("up")

    await engine.stop(grace_seconds=40)

    assert (await engine.exited()).exit_code == 143
    assert (await engine.log()).data.endswith(b"\nsaved\n")


async def test_a_command_that_ignores_the_signal_is_killed(engine):
    """It is killed at the end of the grace period. A later stop can shorten the period."""
    await engine.start(shell("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    await engine.logged("up")

    await engine.stop(grace_seconds=1000)
    assert (await engine.status()).phase is Phase.RUNNING
    await engine.stop(grace_seconds=0.2)

    status = await engine.exited()
    assert (status.exit_code, status.failure, status.note) == (137, None, None)
    assert not engine.processes()


async def test_a_shim_that_hangs_does_not_prevent_the_end_of_a_job(engine):
    """If the shim does not react to a stop without a grace period, the shim and all processes of the job are killed."""
    await engine.start(shell("trap '' TERM; echo up; (setsid sleep 50 &); while :; do sleep 0.05; done"))
    await engine.logged("up")
    engine.shim().suspend()

    await engine.stop(grace_seconds=0)

    assert (await engine.exited()).phase is Phase.EXITED
    assert not engine.processes()


async def test_processes_that_a_command_leaves_running_end_with_it(engine):
    """A daemon in a session of its own, whose parent has ended, is killed too."""
    await engine.start(
        shell("(setsid sh -c 'trap \"\" TERM HUP; sleep 50; sleep 50' > /dev/null 2>&1 &) ; sleep 0.2; exit 6")
    )

    assert (await engine.exited()).exit_code == 6
    assert not engine.processes()


async def test_stopping_and_removing_a_missing_job_does_nothing(engine):
    """The job may have exited, may be removed already, or may have a name that no job can have."""
    await engine.start(shell("exit 2"))
    await engine.exited()
    await engine.stop(grace_seconds=1)
    assert (await engine.status()).exit_code == 2

    await engine.remove()
    for name in (NAME, "never-created", "../..", ".", "a/b", "A"):
        await engine.remove(name)
        await engine.stop(name, grace_seconds=1)
        assert (await engine.log(name, "5")).position == "5"
        assert await engine.outputs(name) is None

    assert engine.directory.exists()


async def test_removing_a_running_job_ends_it(engine):
    """Its processes are killed, even if they ignore SIGTERM."""
    await engine.start(shell("trap '' TERM; (setsid sleep 50 &); echo up; while :; do sleep 0.05; done"))
    await engine.logged("up")
    shim_process = engine.shim()

    await engine.remove()

    assert not engine.processes()
    assert not is_alive(shim_process)
    assert await engine.statuses() == {}


async def test_a_job_whose_directory_is_deleted_ends(engine):
    """No worker could ever find the job again, so it does not continue."""
    await engine.start(shell("echo up; (setsid sleep 50 &) ; sleep 50"))
    await engine.logged("up")
    shim_process, processes = engine.shim(), engine.processes()

    shutil.rmtree(engine.directory / NAME)

    until(lambda: not is_alive(shim_process))
    assert not [process for process in processes if is_alive(process)]


@pytest.mark.parametrize("method", ["remove", "stop"])
async def test_a_job_can_be_stopped_and_removed_on_a_full_disk(engine, monkeypatch, method):
    """A job that fills the disk can be removed although nothing can be written."""
    await engine.start(shell("echo up; exec sleep 50"))
    await engine.logged("up")

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(shim, "create_file", fail)
        patched.setattr(directories, "create_file", fail)
        if method == "stop":
            await engine.stop(grace_seconds=20)
            assert (await engine.exited()).exit_code == 143
        await engine.remove()

    assert not engine.processes()
    assert not engine.leftovers()


async def test_remove_deletes_what_a_hostile_job_leaves(same_user_engine, directory):
    """Deep trees, locked directories, links and FIFOs are deleted. What the links point to stays."""
    kept = directory / "kept"
    kept.write_text("precious")
    await same_user_engine.start(
        command(
            sys.executable,
            "-c",
            dedent(f"""
                import os
                os.symlink({str(directory)!r}, "link"); os.mkfifo("fifo"); os.symlink({str(kept)!r}, "file")
                for _ in range(3000):
                    os.mkdir("d"); os.chdir("d")
                os.mkdir("locked", 0)
                os.chmod(os.environ["UPSHOT_OUTPUT"], 0)
            """),
        )
    )
    assert (await same_user_engine.exited()).exit_code == 0, (await same_user_engine.log()).data

    await same_user_engine.remove()

    assert not same_user_engine.leftovers()
    assert kept.read_text() == "precious"


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["bomb() { bomb | bomb & }; bomb", "while :; do sleep 50 & done"])
async def test_a_fork_bomb_ends_at_its_limit(engine, script):
    """A job that keeps forking reaches its limit of processes, and all of it ends with the timeout."""
    await engine.start(shell(f"{script}; sleep 50", pids=40, timeout_seconds=1.5, grace_seconds=0.2))

    highest_count = 0
    while (await engine.status()).phase is Phase.RUNNING:
        highest_count = max(highest_count, len(engine.processes()))

    assert 1 < highest_count < 200  # the limit also counts what the user ran before the start
    assert (await engine.exited()).phase is Phase.EXITED
    assert not engine.processes()


ALLOCATE = "import sys; x = bytearray(300 << 20); print('allocated')"


async def test_without_a_cgroup_address_space_is_limited(same_user_engine):
    """A job gets no more address space than its memory, and fails when it asks for more."""
    await same_user_engine.start(command(sys.executable, "-S", "-c", ALLOCATE, memory_bytes=200 << 20))

    assert (await same_user_engine.exited()).exit_code == 1
    assert b"MemoryError" in (await same_user_engine.log()).data


async def test_other_limits_are_enforced(engine):
    """Core files are off. The number and size of files and the number of CPUs are limited."""
    engine.options["limits"] = {"open-files": 100, "file-size": "4KiB"}
    await engine.start(shell("ulimit -c; ulimit -n; nproc; head -c 10000 /dev/zero > big; stat -c %s big", cpus=0.5))

    await engine.exited()

    core, files, cpus, *_, size = (await engine.log()).data.decode().split()
    assert (core, files, cpus, size) == ("0", "100", "1", "4096")


# --- cgroups --------------------------------------------------------------------------------------

CGROUP_HOW_TO = "run the tests as root on a machine that was started with systemd.unified_cgroup_hierarchy=1"


@pytest.fixture
def parent_cgroup() -> Iterator[Cgroup]:
    """Return a cgroup in which jobs can get cgroups of their own."""
    try:
        parent = Cgroup(find_cgroup_mount(Path("/proc/self/mountinfo").read_text()), CGROUP)
        probe = parent.child("probe")
        probe.create(JobSpec())
    except CgroupsUnavailable as error:
        pytest.skip(f"{error}: {CGROUP_HOW_TO}")
    probe.remove()
    yield parent
    parent.remove()


@pytest.fixture
async def cgroup_engine(directory, parent_cgroup) -> AsyncIterator[ProcessBackendDriver]:
    """Make an engine that gives each job a cgroup, and runs commands as the worker's own user."""
    user = {"user": "root"} if IS_ROOT else {}
    engine = ProcessBackendDriver(directory / "jobs", cgroup=str(parent_cgroup.path), **user)
    yield engine
    await engine.clean_up()


async def test_a_job_that_runs_out_of_memory_is_recognized(cgroup_engine):
    """The kernel kills a job that uses more than its memory, and the failure says so."""
    await cgroup_engine.start(command(sys.executable, "-S", "-c", ALLOCATE, memory_bytes=64 << 20))

    status = await cgroup_engine.exited()

    assert (status.failure, status.exit_code) == (FailureKind.OUT_OF_MEMORY, 137)


async def test_a_fork_bomb_of_root_ends_at_the_limit_of_its_cgroup(cgroup_engine, parent_cgroup):
    """In a cgroup, the limit of processes applies to root, too. The cgroup is removed with the job."""
    await cgroup_engine.start(
        shell("bomb() { bomb | bomb & }; bomb; sleep 50", pids=30, timeout_seconds=1.5, grace_seconds=0.2)
    )

    highest_count = 0
    while (await cgroup_engine.status()).phase is Phase.RUNNING:
        highest_count = max(highest_count, len(cgroup_engine.processes()))

    assert 1 < highest_count <= 30
    assert not cgroup_engine.processes()
    assert not parent_cgroup.child(NAME).directory.exists()


async def test_in_a_cgroup_no_process_escapes_a_killed_shim(cgroup_engine):
    """A process that has changed its environment, session and parent is found by its cgroup."""
    await cgroup_engine.start(shell("(setsid env -i /bin/sleep 4242 &) ; echo up; sleep 50"))
    await cgroup_engine.logged("up")
    escaped = until(find_escaped)

    cgroup_engine.shim().kill()

    assert (await cgroup_engine.exited()).failure is FailureKind.ENGINE_LOST
    assert not [process for process in escaped if is_alive(process)]


def find_escaped() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if "4242" in (process.info["cmdline"] or ())]


@pytest.fixture
def bare_cgroup() -> Iterator[Path]:
    """Create a real cgroup v2 without limits. It works even if all controllers belong to cgroups v1."""
    mounts = [mount.mountpoint for mount in psutil.disk_partitions(all=True) if mount.fstype == "cgroup2"]
    if not mounts or not os.access(mounts[0], os.W_OK):
        pytest.skip(f"no writable cgroup v2 mount: {CGROUP_HOW_TO}")
    path = Path(mounts[0]) / f"{CGROUP}-bare"
    path.mkdir()
    yield path
    with suppress(FileNotFoundError):  # a shim that has ended has removed it
        path.rmdir()


def test_the_kernel_tracks_the_processes_of_a_cgroup(bare_cgroup, directory):
    """A shim puts its command into the cgroup. If it is killed, even escaped processes are found there and killed."""
    job = directory / "job"
    (job / "log").mkdir(parents=True)
    request = shim.ShimRequest(
        directory=str(job),
        argv=["sh", "-c", "(setsid env -i /bin/sleep 4242 &) ; exec sleep 50"],
        env={"PATH": os.defpath},
        workdir=str(job),
        timeout_seconds=50.0,
        grace_seconds=5.0,
        log_bytes=8192,
        rlimits={},
        cpus=[],
        uid=None,
        gid=0,
        groups=[],
        cgroup=str(bare_cgroup),
        memory_events=None,
    )
    answer = subprocess.run(
        [sys.executable, shim.__file__], input=json.dumps(request._asdict()).encode(), capture_output=True, check=True
    )
    escaped = until(find_escaped)
    assert len(shim.cgroup_pids(str(bare_cgroup))) == 2

    psutil.Process(json.loads(answer.stdout)["pid"]).kill()

    assert kill_orphans(b"NO=marker", str(bare_cgroup))
    assert not [process for process in escaped if is_alive(process)]
    assert not shim.cgroup_pids(str(bare_cgroup))


# --- the log --------------------------------------------------------------------------------------


async def test_a_log_is_read_while_it_grows(engine):
    """The data of successive reads is the whole log, without gaps and repetitions."""
    await engine.start(shell("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"))
    data, position, has_exited = b"", None, False

    while not has_exited:
        has_exited = (await engine.status()).phase is Phase.EXITED
        read = await engine.log(position=position)
        data, position = data + read.data, read.position
        assert not read.skipped

    assert data == b"".join(b"line %d\n" % i for i in range(3000))


async def test_a_log_of_a_gigabyte_is_capped(engine):
    """It uses no more disk space than its limit, the newest part is kept, and the job is not blocked."""
    engine.options["log-size"] = "1MiB"
    await engine.start(shell("yes | head -c 1G; echo the end"))

    assert (await engine.exited()).exit_code == 0

    assert sum(path.stat().st_size for path in (engine.directory / NAME / "log").iterdir()) <= 1 << 20
    read = await engine.log(limit_bytes=12)
    assert (read.data, read.position, read.skipped) == (b"y\ny\nthe end\n", str((1 << 30) + 8), True)


async def test_a_command_can_open_its_streams_by_name(engine):
    """What it writes to /dev/stdout and /dev/stderr is kept, whatever user it runs as."""
    await engine.start(shell("echo a > /dev/stdout; echo b > /dev/stderr"))

    await engine.exited()

    assert (await engine.log()).data == b"a\nb\n"


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "finding"),
    [
        pytest.param("ln -s /etc/passwd $F", "is a link", id="a link to a file"),
        pytest.param("ln -s $F $F", "is a link", id="a link to itself"),
        pytest.param("echo '{}' > here; ln here $F", "2 names", id="a hard link"),
        pytest.param("mkdir $F", "is a directory", id="a directory"),
        pytest.param("mkfifo $F", "is a named pipe", id="a FIFO without a writer"),
        pytest.param("head -c 1001 /dev/zero > $F", "has 1001 bytes, and the limit is 1000", id="too large"),
        pytest.param("truncate -s 1T $F", "and the limit is 1000", id="larger than the disk"),
    ],
)
async def test_outputs_must_be_a_regular_file(engine, script, finding):
    """Anything else, or a file larger than the limit, is refused by name, and nothing hangs."""
    await engine.start(shell(f"F=$UPSHOT_OUTPUT/outputs.json; {script}"))
    assert (await engine.exited()).exit_code == 0, (await engine.log()).data

    with pytest.raises(OutputUnreadable, match=re.escape(finding)):
        await engine.outputs()


async def test_outputs_that_are_a_socket_are_refused(same_user_engine):
    """The worker does not connect to it."""
    bind = (
        "import os, socket; os.chdir(os.environ['UPSHOT_OUTPUT']); socket.socket(socket.AF_UNIX).bind('outputs.json')"
    )
    await same_user_engine.start(command(sys.executable, "-c", bind))
    assert (await same_user_engine.exited()).exit_code == 0, (await same_user_engine.log()).data

    with pytest.raises(OutputUnreadable, match="is a socket"):
        await same_user_engine.outputs()


async def test_a_link_in_place_of_the_output_directory_is_refused(same_user_engine, directory):
    """A job cannot pass off a file of another directory as its outputs."""
    (directory / "outputs.json").write_text('{"secret": 1}')
    await same_user_engine.start(shell(f"rm -r $UPSHOT_OUTPUT; ln -s {directory} $UPSHOT_OUTPUT"))
    await same_user_engine.exited()

    with pytest.raises(OutputUnreadable, match="the job replaced its directory with a link"):
        await same_user_engine.outputs()


async def test_an_output_directory_that_is_gone(same_user_engine):
    """A file in its place is an error. A job that has removed it has no outputs."""
    await same_user_engine.start(shell("rm -r $UPSHOT_OUTPUT; echo > $UPSHOT_OUTPUT", name="replaced"))
    await same_user_engine.start(shell("rm -r $UPSHOT_OUTPUT", name="removed"))
    await same_user_engine.exited("replaced")
    await same_user_engine.exited("removed")

    with pytest.raises(OutputUnreadable, match="the job replaced its directory with something else"):
        await same_user_engine.outputs("replaced")
    assert await same_user_engine.outputs("removed") is None


async def test_a_job_that_tampers_with_its_own_records_harms_only_itself(same_user_engine):
    """If jobs run as the worker's own user, FIFOs, links and nonsense in place of records do not block the worker."""
    scripts = (
        "rm ../labels.json; mkfifo ../labels.json",
        "rm ../shim.json; mkfifo ../shim.json",
        "mkfifo ../result.json",
        "ln -s /dev/zero ../result.json",
        "echo '[]' > ../shim.json",
        'echo \'{"pid": 1, "start_ticks": "x"}\' > ../shim.json',
        "rm -r ../log; mkfifo ../log",
        "for i in ../log/*; do rm $i; mkfifo $i; done",
        "rm -rf ..",
        "chmod 000 ../shim.json",
        "chmod 000 ../labels.json ../log; chmod 000 ..",
        "sleep 50 & chmod 000 ..; wait",
    )
    for number, script in enumerate(scripts):
        await same_user_engine.start(shell(f"{script}; exit 0", name=f"hostile-{number}"))
    await same_user_engine.start(shell("echo fine", name="honest"))

    assert (await same_user_engine.exited("honest")).exit_code == 0
    await same_user_engine.stop(f"hostile-{len(scripts) - 1}", grace_seconds=0)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while any(status.phase is not Phase.EXITED for status in (await same_user_engine.statuses()).values()):
            await asyncio.sleep(0.02)
    for number in range(len(scripts)):
        with suppress(OutputUnreadable):
            await same_user_engine.outputs(f"hostile-{number}")
        await same_user_engine.remove(f"hostile-{number}")
    assert (await same_user_engine.log("honest")).data == b"fine\n"


async def test_a_worker_without_free_files_does_not_give_up_a_job(engine):
    """If the worker cannot open another file, it does not know whether a shim is running, and raises an error."""
    await engine.start(shell("echo up; exec sleep 50"))
    await engine.logged("up")

    with engine.job_directories().open(NAME) as job:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                job.has_shim()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert (await engine.status()).phase is Phase.RUNNING


# --- the engine -----------------------------------------------------------------------------------


async def test_the_engine_id_identifies_a_directory_on_a_machine(engine, directory):
    """All workers that use the directory see the same engine. Another directory is another engine."""
    assert await engine.engine_id() == await engine.engine_id()
    assert await ProcessBackendDriver(directory / "others").engine_id() != await engine.engine_id()


async def test_only_jobs_of_the_installation_are_listed(engine):
    """Jobs of another installation in the same directory are not shown."""
    await engine.start(shell("true"))

    assert await engine.statuses("another") == {}
    assert list(await engine.statuses()) == [NAME]


async def test_events_arrive_when_a_job_starts_and_exits(engine, directory):
    """A watcher receives the name of the job both times."""
    continue_file = directory / "continue"
    async with engine.backend() as backend, aclosing(backend.watch_events("inst")) as events:
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await backend.start(shell(f"until test -e {continue_file}; do sleep 0.02; done"))
        assert await first == NAME
        continue_file.touch()
        assert await anext(events) == NAME


async def test_a_cancelled_start_completes_before_a_removal(engine):
    """A caller that cancels a start and removes the job can rely on it not starting afterwards."""
    async with engine.backend() as backend:
        start = asyncio.ensure_future(backend.start(shell("sleep 50")))
        await asyncio.sleep(0.001)
        start.cancel()
        await backend.remove(NAME)
        assert await backend.list_containers("inst") == {}

    assert not engine.processes()


async def test_what_a_killed_worker_left_half_created_is_removed(engine):
    """A directory that was never completed is deleted after some time, but not while it may still be completed."""
    await engine.engine_id()
    half_created = engine.directory / ".new-a-1"
    half_created.mkdir()
    (half_created / "secret").write_text("s3cr3t")
    job_directories = engine.job_directories()

    job_directories.remove_stale(datetime.now(UTC))
    assert half_created.exists()

    job_directories.remove_stale(datetime.now(UTC) + timedelta(hours=1))
    assert not half_created.exists()
