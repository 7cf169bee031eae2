"""The contract of all backends, tested on real engines."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.contract.backends.harness import BackendHarness, Capability, EngineUnderTest
from tests.waiting import eventually
from upshot.backends.protocol import EngineUnavailable, JobInput, OutputUnreadable, Phase, StartRefused
from upshot.domain.job import FailureKind, Network, Pull

LONG_RUNNING = "echo started; sleep 600"
IGNORES_SIGTERM = "trap '' TERM; echo started; while :; do sleep 0.1; done"


# --- start, run, exit -----------------------------------------------------------------------------


async def test_successful_job(harness: BackendHarness):
    """A successful job has its exit code, times, job id and handle in its status. Its outputs are read unchanged."""
    before = datetime.now(UTC)

    request = harness.request("""echo '{"accuracy": 0.93}' > $UPSHOT_OUTPUT/outputs.json; echo done""")
    started = await harness.backend.start(request)
    status = await harness.wait_for_exit(request.name)

    assert (status.exit_code, status.failure, status.job_id) == (0, None, request.job_id)
    assert status.handle == started.handle
    assert await harness.read_outputs(request.name) == b'{"accuracy": 0.93}\n'
    assert (await harness.read_log(request.name)).data == b"done\n"
    slack = timedelta(seconds=2)
    assert before - slack <= status.started_at <= status.finished_at <= datetime.now(UTC) + slack


async def test_failed_job(harness: BackendHarness):
    """The status of a failed job has its exit code, and no other failure."""
    status = await harness.run("echo broken >&2; exit 3")

    assert (status.exit_code, status.failure) == (3, None)
    assert (await harness.read_log(status.name)).data == b"broken\n"


async def test_command_that_does_not_exist(harness: BackendHarness):
    """A job whose command does not exist is refused or fails, and the reason, the note or the log says so."""
    request = harness.request("", command=("upshot-no-such-command",))
    reason = None
    try:
        await harness.backend.start(request)
    except StartRefused as error:
        reason = str(error)

    if reason is None:
        status = await harness.wait_for_exit(request.name)
        assert status.exit_code not in (0, None)
        assert "does not exist" in (status.note or "") or b"such" in (await harness.read_log(request.name)).data
    else:
        assert "upshot-no-such-command" in reason
        assert await harness.backend.list_containers(harness.installation_id) == {}


async def test_arguments_environment_and_working_directory(harness: BackendHarness):
    """Arguments, environment and working directory reach the job unchanged, whatever characters they contain."""
    odd = "two words, 'quotes', \"more\", $HOME, `id`, ;, \\, ünï\ncode"
    script = 'printf "%s|%s|%s|%s\\n" "$1" "$2" "$ODD" "$(pwd)"'

    status = await harness.run(
        "", command=("/bin/sh", "-c"), args=(script, "sh", odd, ""), env={"ODD": odd}, workdir="/tmp"
    )

    assert (await harness.read_log(status.name)).data.decode() == f"{odd}||{odd}|/tmp\n"


async def test_event_file(harness: BackendHarness):
    """UPSHOT_EVENT_FILE names a file that contains the whole event."""
    event = {"kind": "alias-added", "name": "ünïcode", "nested": {"list": [1, 2.5, None]}}

    status = await harness.run("cat $UPSHOT_EVENT_FILE; echo", event=event)

    assert json.loads((await harness.read_log(status.name)).data) == event


async def test_secret_files(harness: BackendHarness):
    """Each secret file contains exactly its text, and other users cannot write to it."""
    secrets = {"token": "s3cret\nwith a second line", "EMPTY": ""}

    status = await harness.run(
        "cat $UPSHOT_SECRETS/token; echo; wc -c < $UPSHOT_SECRETS/EMPTY; stat -c %a $UPSHOT_SECRETS/token",
        secret_files=secrets,
    )

    *text, size, mode = (await harness.read_log(status.name)).data.decode().splitlines()
    assert (text, size.strip()) == (secrets["token"].split("\n"), "0")
    assert int(mode, 8) & 0o022 == 0


async def test_input_directory_exists(harness: BackendHarness):
    """The input directory exists and is empty."""
    status = await harness.run('cd "$UPSHOT_INPUT" && ls -A | wc -l')

    assert (status.exit_code, (await harness.read_log(status.name)).data.strip()) == (0, b"0")


@pytest.fixture
def input_tree(tmp_path: Path) -> Path:
    """Return a directory with files of an input."""
    tree = tmp_path / "tree"
    long_name = "n" * 90
    (tree / long_name / long_name).mkdir(parents=True)
    (tree / long_name / long_name / "ünï code").write_bytes(b"deep")
    (tree / "model.bin").write_bytes(os.urandom(2_500_000))
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o444)
    return tree


READ_INPUT = """
    cd "$UPSHOT_INPUT" && sha256sum < model.bin && cat */*/* && ls && echo {} > $UPSHOT_OUTPUT/outputs.json
    touch new 2> /dev/null || echo read-only
"""


def read_input_log(tree: Path) -> bytes:
    """Return what `READ_INPUT` writes."""
    digest = hashlib.sha256((tree / "model.bin").read_bytes()).hexdigest()
    return f"{digest}  -\ndeepmodel.bin\n{'n' * 90}\n".encode()


@pytest.mark.needs(Capability.INPUT)
@pytest.mark.parametrize("spec", [{}, {"user": "1234", "read_only": True}], ids=["as it is", "restricted"])
async def test_input_files(harness: BackendHarness, engine: EngineUnderTest, input_tree: Path, spec: dict[str, Any]):
    """The input directory contains the files of the input, and every user of the image can read them."""
    if not engine.image:
        spec = {}
    files = JobInput("project/model:v0", 2, 2_500_004, input_tree)

    status = await harness.run(READ_INPUT, input_=files, **spec)

    log = (await harness.read_log(status.name)).data
    assert (status.exit_code, log.removesuffix(b"read-only\n")) == (0, read_input_log(input_tree))
    assert await harness.read_outputs(status.name) == b"{}\n"
    await harness.backend.remove(status.name)
    assert (input_tree / "model.bin").exists()


@pytest.mark.needs(Capability.INPUT)
async def test_input_of_a_container_that_was_not_started(
    harness: BackendHarness, engine: EngineUnderTest, input_tree: Path
):
    """A worker that takes over a container which was created only gives it its files."""
    request = harness.request(READ_INPUT, input_=JobInput("project/model:v0", 2, 2_500_004, input_tree))
    await engine.create_without_starting(request)

    await harness.backend.start(request)

    await harness.wait_for_exit(request.name)
    assert (await harness.read_log(request.name)).data.startswith(read_input_log(input_tree))


@pytest.mark.needs(Capability.USERS)
@pytest.mark.parametrize("user", ["1234", "1234:1234", "worker"])
async def test_job_runs_as_its_user(harness: BackendHarness, user):
    """A job runs as the user in its spec, who can read the event and the secrets and write the outputs."""
    script = "id -u; cat $UPSHOT_EVENT_FILE $UPSHOT_SECRETS/token && echo && echo {} > $UPSHOT_OUTPUT/outputs.json"

    status = await harness.run(script, user=user, secret_files={"token": "s3cret"})

    output = (await harness.read_log(status.name)).data
    assert (status.exit_code, output) == (0, b'1234\n{"kind": "alias-added"}s3cret\n')
    assert await harness.read_outputs(status.name) == b"{}\n"


@pytest.mark.needs(Capability.USERS)
@pytest.mark.parametrize("user", ["1234", "worker"])
async def test_only_the_user_can_read_secrets(harness: BackendHarness, user):
    """Only the job's user can read the secrets, if the user's id is known."""
    status = await harness.run("stat -c '%a %u' $UPSHOT_SECRETS/token", user=user, secret_files={"token": "s3cret"})

    assert (await harness.read_log(status.name)).data == b"400 1234\n"


@pytest.mark.needs(Capability.OWN_ROOT)
async def test_read_only_root(harness: BackendHarness):
    """With a read-only root, only /tmp and the output directory are writable, and programs in /tmp can be executed."""
    script = """
        touch /bin/x /x 2>/dev/null && echo written
        printf '#!/bin/sh\\necho runs' > /tmp/x && chmod +x /tmp/x && /tmp/x
        echo {} > $UPSHOT_OUTPUT/outputs.json
    """

    status = await harness.run(script, read_only=True, secret_files={"token": "s3cret"})

    assert (status.exit_code, (await harness.read_log(status.name)).data) == (0, b"runs\n")
    assert await harness.read_outputs(status.name) == b"{}\n"


@pytest.mark.needs(Capability.OWN_ROOT)
async def test_no_network(harness: BackendHarness):
    """With `network: none` a job has only the loopback interface."""
    status = await harness.run("ls /sys/class/net", network=Network.NONE)

    assert (await harness.read_log(status.name)).data.split() == [b"lo"]


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.needs(Capability.IMAGES)
@pytest.mark.parametrize("pull", [Pull.NEVER, Pull.MISSING])
async def test_missing_image(harness: BackendHarness, pull):
    """A job with a missing image is refused. The reason names the image, and no container is left."""
    image = "localhost:1/upshot/no-such-image:1"

    with pytest.raises(StartRefused) as refused:
        await harness.start("true", image=image, pull=pull)

    assert refused.value.failure is FailureKind.IMAGE_MISSING
    assert image in str(refused.value)
    assert ("pull: never" in str(refused.value)) == (pull is Pull.NEVER)
    assert await harness.backend.list_containers(harness.installation_id) == {}


@pytest.mark.needs(Capability.IMAGES)
async def test_image_digest(harness: BackendHarness):
    """The digest of the image is in the result of the start and in every later status."""
    request = harness.request("true")
    started = await harness.backend.start(request)

    assert started.image_digest.startswith("sha256:")
    assert (await harness.wait_for_exit(request.name)).image_digest == started.image_digest


# --- outputs --------------------------------------------------------------------------------------


async def test_no_outputs(harness: BackendHarness):
    """Reading the outputs of a job that wrote none returns None."""
    status = await harness.run("true")

    assert await harness.read_outputs(status.name) is None


async def test_outputs_of_an_unknown_job(harness: BackendHarness):
    """Reading the outputs of a container that does not exist returns None."""
    assert await harness.read_outputs("upshot-none-1") is None


async def test_outputs_are_not_parsed(harness: BackendHarness):
    """A backend returns outputs that are not JSON unchanged."""
    status = await harness.run("printf 'nonsense\\377' > $UPSHOT_OUTPUT/outputs.json")

    assert await harness.read_outputs(status.name) == b"nonsense\xff"


async def test_outputs_at_the_limit(harness: BackendHarness):
    """Outputs may be as large as the limit. One byte more is an error that names both sizes."""
    status = await harness.run("head -c 1000 /dev/zero > $UPSHOT_OUTPUT/outputs.json")

    assert await harness.read_outputs(status.name, limit_bytes=1000) == bytes(1000)
    with pytest.raises(OutputUnreadable, match=r"1000.*999"):
        await harness.read_outputs(status.name, limit_bytes=999)


async def test_outputs_far_beyond_the_limit(harness: BackendHarness):
    """The size of a sparse file of a terabyte is reported without reading the file."""
    status = await harness.run("truncate -s 1024G $UPSHOT_OUTPUT/outputs.json")

    with pytest.raises(OutputUnreadable, match=str(2**40)):
        await harness.read_outputs(status.name)


@pytest.mark.parametrize(
    ("command", "kind"),
    [pytest.param("mkdir {}", "directory", id="directory"), pytest.param("mkfifo {}", "pipe", id="pipe")],
)
async def test_outputs_that_are_not_a_regular_file(harness: BackendHarness, command, kind):
    """Outputs that are not a regular file are unreadable, and the reason names their kind."""
    status = await harness.run(command.format("$UPSHOT_OUTPUT/outputs.json"))

    with pytest.raises(OutputUnreadable, match=kind):
        await harness.read_outputs(status.name)


LINKS = pytest.mark.parametrize(
    "target",
    [
        pytest.param("/etc/passwd", id="absolute path"),
        pytest.param("../../etc/passwd", id="relative path"),
        pytest.param("outputs.txt", id="file beside it"),
        pytest.param("nowhere", id="nowhere"),
        pytest.param("outputs.json", id="itself"),
    ],
)
DIRECTORY_LINKS = pytest.mark.parametrize("target", ["/", "/etc", "/bin/..", "/upshot/input", "/nowhere", "output"])


async def read_linked_outputs(harness: BackendHarness, target: str) -> bytes | None:
    status = await harness.run(f"cd $UPSHOT_OUTPUT && echo beside > outputs.txt && ln -s {target} outputs.json")
    assert status.exit_code == 0
    return await harness.read_outputs(status.name)


async def read_outputs_in_linked_directory(harness: BackendHarness, target: str) -> bytes | None:
    status = await harness.run(
        f"""
        echo elsewhere | tee /outputs.json /etc/outputs.json > /dev/null
        cd / && rm -rf $UPSHOT_OUTPUT && ln -s {target} $UPSHOT_OUTPUT
        """
    )
    assert status.exit_code == 0
    return await harness.read_outputs(status.name)


@pytest.mark.needs(Capability.DETECTS_LINKS)
@LINKS
async def test_link_in_place_of_the_outputs(harness: BackendHarness, target):
    """A link in place of the outputs is unreadable, and the reason says that it is a link."""
    with pytest.raises(OutputUnreadable, match="link"):
        await read_linked_outputs(harness, target)


@LINKS
async def test_link_does_not_leave_the_output_directory(harness: BackendHarness, target):
    """Through a link in place of the outputs, only a file in the output directory can be read."""
    try:
        content = await read_linked_outputs(harness, target)
    except OutputUnreadable:
        content = None

    assert content in (None, b"beside\n")


@pytest.mark.needs(Capability.LINKS, Capability.DETECTS_LINKS)
@DIRECTORY_LINKS
async def test_output_directory_replaced_by_a_link(harness: BackendHarness, target):
    """If a job replaces its output directory with a link, the outputs are unreadable, and the reason says so."""
    with pytest.raises(OutputUnreadable, match="link"):
        await read_outputs_in_linked_directory(harness, target)


@pytest.mark.needs(Capability.LINKS)
@DIRECTORY_LINKS
async def test_output_directory_link_is_not_followed(harness: BackendHarness, target):
    """If a job replaces its output directory with a link, nothing is read through the link."""
    try:
        content = await read_outputs_in_linked_directory(harness, target)
    except OutputUnreadable:
        content = None

    assert content is None


@pytest.mark.needs(Capability.LINKS)
async def test_output_directory_replaced_by_a_file(harness: BackendHarness):
    """If a job replaces its output directory with a file, the outputs are unreadable. If it removes it, it has none."""
    replaced = await harness.run("cd / && rm -r $UPSHOT_OUTPUT && echo {} > $UPSHOT_OUTPUT")
    removed = await harness.run("cd / && rm -r $UPSHOT_OUTPUT")

    with pytest.raises(OutputUnreadable, match="not a directory"):
        await harness.read_outputs(replaced.name)
    assert await harness.read_outputs(removed.name) is None


# --- the log --------------------------------------------------------------------------------------


async def test_log_continues_at_a_position(harness: BackendHarness):
    """A read from a position returns only what was written since, and the same position if nothing was."""
    name = await harness.start(
        "echo one; echo two; while [ ! -e $UPSHOT_OUTPUT/go ]; do sleep 0.05; done; echo three; echo three; echo four; "
        "sleep 0.2; echo five"
    )
    await harness.wait_for_log(name, b"two\n")

    first = await harness.read_log(name)
    again = await harness.read_log(name, first.position)
    assert (first.data, again.data, first.skipped, again.skipped) == (b"one\ntwo\n", b"", False, False)
    assert again.position == first.position  # tells the caller that there was nothing new
    await harness.backend.stop(name, grace_seconds=0)
    await harness.wait_for_exit(name)


async def test_increments_of_a_log_add_up(harness: BackendHarness):
    """Reads of a growing log add up to the whole log, without losses and duplicates."""
    script = """
        i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); [ $((i % 40)) = 0 ] && sleep 0.05; done
        i=0; while [ $i -lt 50 ]; do echo same; i=$((i+1)); done; echo between; echo same; echo between
    """
    reads = await harness.read_log_until_exit(await harness.start(script))

    expected = "".join(f"line {number}\n" for number in range(400)) + "same\n" * 50 + "between\nsame\nbetween\n"
    assert b"".join(read.data for read in reads).decode() == expected
    assert not any(read.skipped for read in reads)
    assert len(reads) > 2


async def test_empty_log(harness: BackendHarness):
    """An empty log has a position from which a later read can continue."""
    status = await harness.run("true")

    first = await harness.read_log(status.name)
    second = await harness.read_log(status.name, first.position)

    assert (first.data, second.data, second.position, first.skipped) == (b"", b"", first.position, False)


async def test_log_of_an_unknown_job(harness: BackendHarness):
    """The log of a container that does not exist is empty at every position."""
    read = await harness.read_log("upshot-none-1", None)

    assert (read.data, read.skipped) == (b"", False)
    assert (await harness.read_log("upshot-none-1", read.position)).data == b""


async def test_both_streams_are_in_the_log(harness: BackendHarness):
    """The log contains standard output and standard error."""
    status = await harness.run("echo out; echo err >&2")

    assert sorted((await harness.read_log(status.name)).data.splitlines()) == [b"err", b"out"]


@pytest.mark.needs(Capability.ORDERED_LOGS)
async def test_order_of_both_streams(harness: BackendHarness):
    """Lines of both streams are in the order in which they were written, if there were short pauses between them."""
    script = "i=0; while [ $i -lt 10 ]; do echo out $i; sleep 0.02; echo err $i >&2; sleep 0.02; i=$((i+1)); done"

    status = await harness.run(script)

    expected = [line for number in range(10) for line in (f"out {number}", f"err {number}")]
    assert (await harness.read_log(status.name)).data.decode().splitlines() == expected


async def test_log_beyond_the_limit(harness: BackendHarness):
    """A read returns the newest text up to the limit and reports the skipped text. The next read returns nothing."""
    status = await harness.run("i=0; while [ $i -lt 3000 ]; do echo this is line $i; i=$((i+1)); done")

    read = await harness.read_log(status.name, limit_bytes=1000)

    whole = "".join(f"this is line {number}\n" for number in range(3000)).encode()
    assert read.skipped
    assert 500 < len(read.data) <= 1000
    assert whole.endswith(read.data)
    assert (await harness.read_log(status.name, read.position)).data == b""


@pytest.mark.needs(Capability.RAW_TEXT)
async def test_long_and_incomplete_lines(harness: BackendHarness):
    """Very long lines and lines without an end are read as they were written, while they grow."""
    name = await harness.start(
        "for i in 1 2 3; do head -c 100000 /dev/zero | tr '\\0' x; sleep 0.2; done; printf '\\nend'"
    )

    reads = await harness.read_log_until_exit(name)

    assert b"".join(read.data for read in reads) == b"x" * 300_000 + b"\nend"


@pytest.mark.needs(Capability.RAW_TEXT)
async def test_line_longer_than_the_limit(harness: BackendHarness):
    """The end of a line that is longer than the limit is read."""
    status = await harness.run("head -c 50000 /dev/zero | tr '\\0' x; echo; echo end")

    read = await harness.read_log(status.name, limit_bytes=100)

    assert read.skipped
    assert len(read.data) <= 100
    assert read.data.endswith(b"end\n")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.needs(Capability.BIG_LOGS)
async def test_log_of_a_gigabyte(harness: BackendHarness):
    """A log of a gigabyte does not fill the engine's disk, and its newest lines can be read at any time."""
    line = "x" * 1000
    name = await harness.start(f"yes {line} | head -c 1000000000; echo the end")
    reads, newest, max_stored, position = 0, b"", 0, None

    has_exited = False
    while not has_exited:
        has_exited = (await harness.status(name)).phase is Phase.EXITED
        read = await harness.read_log(name, position, limit_bytes=100_000)
        assert len(read.data) <= 100_000
        position, newest, reads = read.position, read.data or newest, reads + 1
        max_stored = max(max_stored, harness.engine.stored_log_bytes(name))
        await asyncio.sleep(0.2)

    assert newest.endswith(b"the end\n")
    assert reads > 3
    assert 0 < max_stored < 150_000_000  # the default limit, and what the engine adds to each line


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.needs(Capability.MEMORY)
async def test_out_of_memory(harness: BackendHarness):
    """A job that exceeds its memory limit is killed, and its status says why."""
    status = await harness.run("tail /dev/zero", memory_bytes=32 * 1024**2)

    assert (status.failure, status.exit_code) == (FailureKind.OUT_OF_MEMORY, 137)


@pytest.mark.needs(Capability.MEMORY)
async def test_child_out_of_memory(harness: BackendHarness):
    """If a child process runs out of memory and the job fails with its own exit code, the failure is out of memory."""
    status = await harness.run("sh -c 'tail /dev/zero' || exit 7", memory_bytes=32 * 1024**2)

    assert (status.failure, status.exit_code) == (FailureKind.OUT_OF_MEMORY, 7)


@pytest.mark.needs(Capability.MEMORY)
async def test_job_that_survives_a_child_out_of_memory(harness: BackendHarness):
    """A job that exits with 0 has succeeded, even if a child process ran out of memory."""
    status = await harness.run("sh -c 'tail /dev/zero'; exit 0", memory_bytes=32 * 1024**2)

    assert (status.failure, status.exit_code) == (None, 0)


@pytest.mark.needs(Capability.PIDS)
async def test_fork_bomb(harness: BackendHarness):
    """A fork bomb cannot exceed its limit of processes, other jobs run, and it can be stopped."""
    name = await harness.start("echo started; b() { b | b & b; }; b; sleep 600", pids=64, memory_bytes=256 * 1024**2)
    await harness.wait_for_log(name, b"started")
    other = await harness.run("echo fine")
    assert other.exit_code == 0

    await harness.backend.stop(name, grace_seconds=1)
    await harness.wait_for_exit(name)


# --- privileges -----------------------------------------------------------------------------------


@pytest.mark.needs(Capability.ISOLATION)
async def test_root_in_a_job_cannot_control_the_machine(harness: BackendHarness):
    """A job cannot control the machine, even as root."""
    status = await harness.run(f"{harness.engine.privileged_command} && echo was allowed", user="0")

    assert status.exit_code != 0
    assert b"was allowed" not in (await harness.read_log(status.name)).data


@pytest.mark.needs(Capability.ISOLATION, Capability.PRIVILEGED)
async def test_privileged_job(harness: BackendHarness):
    """A privileged job, which only an operator can allow, can control the machine."""
    status = await harness.run(harness.engine.privileged_command, user="0", privileged=True)

    assert status.exit_code == 0


@pytest.mark.needs(Capability.ISOLATION)
async def test_no_new_privileges(harness: BackendHarness):
    """No program in an image can gain privileges."""
    status = await harness.run("grep NoNewPrivs /proc/self/status", user="1234")

    assert (await harness.read_log(status.name)).data.split() == [b"NoNewPrivs:", b"1"]


# --- stop -----------------------------------------------------------------------------------------


async def test_stop_leaves_time_to_exit(harness: BackendHarness):
    """A stopped job has its grace period to exit in its own way."""
    name = await harness.start("trap 'echo cleaned up; exit 0' TERM; echo started; while :; do sleep 0.1; done")
    await harness.wait_for_log(name, b"started")

    await harness.backend.stop(name, grace_seconds=30)

    assert (await harness.wait_for_exit(name)).exit_code == 0
    assert (await harness.read_log(name)).data == b"started\ncleaned up\n"


async def test_kill_after_the_grace_period(harness: BackendHarness):
    """A job that ignores the signal is killed after its grace period, and `stop` does not wait for that."""
    name = await harness.start(IGNORES_SIGTERM, grace_seconds=3)
    await harness.wait_for_log(name, b"started")

    await asyncio.wait_for(harness.backend.stop(name, grace_seconds=3), 2.5)

    assert (await harness.status(name)).phase is Phase.RUNNING
    assert (await harness.wait_for_exit(name)).exit_code == 137


@pytest.mark.needs(Capability.SHORTER_GRACE)
async def test_stop_without_grace_period(harness: BackendHarness):
    """A stop without a grace period kills at once, even if an earlier stop left time."""
    name = await harness.start(IGNORES_SIGTERM)
    await harness.wait_for_log(name, b"started")
    await harness.backend.stop(name, grace_seconds=600)

    await harness.backend.stop(name, grace_seconds=0)

    assert (await harness.wait_for_exit(name)).exit_code == 137


@pytest.mark.needs(Capability.INDEPENDENT_KILL)
async def test_kill_does_not_need_the_caller(harness: BackendHarness):
    """The engine waits for the grace period and kills, even if the caller has closed its connection."""
    name = await harness.start(IGNORES_SIGTERM, grace_seconds=2)
    await harness.wait_for_log(name, b"started")
    caller = harness.engine.connect()

    await caller.stop(name, grace_seconds=2)
    await caller.close()

    assert (await harness.status(name)).phase is Phase.RUNNING
    assert (await harness.wait_for_exit(name)).exit_code == 137


async def test_stopping_an_exited_or_unknown_job(harness: BackendHarness):
    """Stopping a container that has exited or does not exist changes nothing."""
    status = await harness.run("exit 4")

    await harness.backend.stop(status.name, grace_seconds=1)
    await harness.backend.stop("upshot-none-1", grace_seconds=1)
    await harness.backend.stop("upshot-none-1", grace_seconds=0)

    assert (await harness.status(status.name)).exit_code == 4


# --- starting twice -------------------------------------------------------------------------------


async def test_starting_a_running_job(harness: BackendHarness):
    """Starting a job that runs already returns the running container."""
    request = harness.request(LONG_RUNNING)
    first = await harness.backend.start(request)
    await harness.wait_for_log(request.name, b"started")

    other = harness.engine.connect()
    second = await other.start(request)
    await other.close()

    assert second.handle == first.handle
    assert set(await harness.backend.list_containers(harness.installation_id)) == {request.name}
    assert (await harness.read_log(request.name)).data == b"started\n"


async def test_concurrent_starts(harness: BackendHarness):
    """Workers that start the same job at the same time get the same container."""
    request = harness.request("cat $UPSHOT_EVENT_FILE; echo; sleep 600")

    started = await asyncio.gather(*(harness.backend.start(request) for _ in range(4)))

    assert len({container.handle for container in started}) == 1
    await harness.wait_for_log(request.name, b"\n")
    assert (await harness.read_log(request.name)).data == b'{"kind": "alias-added"}\n'


async def test_starting_an_exited_job(harness: BackendHarness):
    """Starting a job that has exited does not run it again, and its status and log stay."""
    request = harness.request("echo ran; exit 5")
    first = await harness.backend.start(request)
    status = await harness.wait_for_exit(request.name)

    assert (await harness.backend.start(request)).handle == first.handle

    assert await harness.status(request.name) == status
    assert (await harness.read_log(request.name)).data == b"ran\n"


@pytest.mark.needs(Capability.CREATED_PHASE)
async def test_starting_a_created_job(harness: BackendHarness):
    """If a worker dies between creating and starting a job, the status is CREATED, and the next start completes it."""
    request = harness.request("cat $UPSHOT_EVENT_FILE $UPSHOT_SECRETS/token; echo", secret_files={"token": "s3cret"})
    await harness.engine.create_without_starting(request)
    assert (await harness.status(request.name)).phase is Phase.CREATED

    await harness.backend.start(request)

    assert (await harness.wait_for_exit(request.name)).exit_code == 0
    assert (await harness.read_log(request.name)).data == b'{"kind": "alias-added"}s3cret\n'


@pytest.mark.needs(Capability.CREATED_PHASE)
async def test_removing_a_created_job(harness: BackendHarness):
    """A job that was created and not started can be stopped and removed."""
    request = harness.request("echo ran")
    await harness.engine.create_without_starting(request)

    await harness.backend.stop(request.name, grace_seconds=1)
    await harness.backend.remove(request.name)

    assert await harness.backend.list_containers(harness.installation_id) == {}


async def test_name_taken_by_another_installation(harness: BackendHarness):
    """A start is refused if another installation's job has the name, and that job is not touched."""
    theirs = BackendHarness(harness.engine)
    async with theirs:
        name = await theirs.start(LONG_RUNNING)

        with pytest.raises(StartRefused, match=name):
            await harness.start("true", name=name)

        assert (await theirs.status(name)).phase is Phase.RUNNING


# --- list, remove ---------------------------------------------------------------------------------


async def test_list_contains_only_the_installation(harness: BackendHarness):
    """The list does not contain jobs of another installation on the same engine."""
    theirs = BackendHarness(harness.engine)
    async with theirs:
        their_name = await theirs.start(LONG_RUNNING)
        our_name = await harness.start(LONG_RUNNING)

        assert set(await harness.backend.list_containers(harness.installation_id)) == {our_name}
        assert set(await theirs.backend.list_containers(theirs.installation_id)) == {their_name}


async def test_list_of_many_jobs(harness: BackendHarness):
    """The list shows exited and running jobs to every worker."""
    exited = [await harness.start(f"exit {code}") for code in range(6)]
    running = [await harness.start(LONG_RUNNING) for _ in range(3)]
    for name in exited:
        await harness.wait_for_exit(name)

    other = harness.engine.connect()
    statuses = await other.list_containers(harness.installation_id)
    await other.close()

    assert [statuses[name].exit_code for name in exited] == list(range(6))
    assert {statuses[name].phase for name in running} == {Phase.RUNNING}
    assert all(statuses[name].started_at is not None for name in running)


async def test_remove(harness: BackendHarness):
    """Running and exited jobs can be removed, and removing them again is not an error."""
    running = await harness.start(LONG_RUNNING)
    exited = (await harness.run("true")).name

    for name in (running, exited, exited, "upshot-none-1"):
        await harness.backend.remove(name)

    assert await harness.backend.list_containers(harness.installation_id) == {}
    assert (await harness.read_log(exited)).data == b""


async def test_name_is_free_after_removal(harness: BackendHarness):
    """After a job is removed, a job of the same name starts anew."""
    request = harness.request("echo ran")
    await harness.backend.start(request)
    await harness.wait_for_exit(request.name)
    await harness.backend.remove(request.name)

    await harness.backend.start(request)

    assert (await harness.wait_for_exit(request.name)).exit_code == 0
    assert (await harness.read_log(request.name)).data == b"ran\n"


# --- events, identity, unreachable engines --------------------------------------------------------


async def test_exit_is_an_event(harness: BackendHarness):
    """A watch yields the name of a job that exits."""
    names: set[str] = set()

    async def watch() -> None:
        async with aclosing(harness.backend.watch_events(harness.installation_id)) as events:  # type: ignore[type-var]
            async for name in events:
                names.add(name)

    async def has_event() -> bool:
        # Events may be lost while the watch starts. The next job has others.
        return (await harness.run("true")).name in names

    watching = asyncio.create_task(watch())
    try:
        await eventually(has_event)
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_engine_id(harness: BackendHarness):
    """The id of the engine is the same on every connection."""
    other = harness.engine.connect()
    ids = {await harness.backend.engine_id(), await other.engine_id(), await other.engine_id()}
    await other.close()

    assert len(ids) == 1
    assert ids.pop()


@pytest.mark.timeout(200)
async def test_unreachable_engine(harness: BackendHarness):
    """If the engine cannot be reached, every method raises EngineUnavailable with a reason, within a limited time."""
    for backend in harness.engine.connect_to_unreachable_engines():
        request = harness.request("true")
        calls = [
            backend.engine_id(),
            backend.start(request),
            backend.list_containers(harness.installation_id),
            backend.read_log(request.name, None, limit_bytes=100),
            backend.read_outputs(request.name, limit_bytes=100),
            backend.stop(request.name, grace_seconds=1),
            backend.remove(request.name),
            anext(aiter(backend.watch_events(harness.installation_id))),
        ]
        errors = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
        assert {type(error) for error in errors} == {EngineUnavailable}, errors
        assert all(str(error) for error in errors)
        await backend.close()
