"""What every backend promises, on its real engine."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.backends.harness import Bench, Can
from tests.waiting import eventually
from upshot.backends.protocol import EngineUnavailable, OutputUnreadable, Phase, StartRefused
from upshot.domain.job import FailureKind, Network, Pull

FOR_LONG = "echo begun; sleep 600"
STUBBORN = "trap '' TERM; echo begun; while :; do sleep 0.1; done"


# --- start, run, end ------------------------------------------------------------------------------


async def test_a_job_that_ends_well(bench: Bench):
    """Its end is seen with exit code, times, job and handle; its outputs come back byte for byte."""
    begun = datetime.now(UTC)

    order, started = await bench.started("""echo '{"accuracy": 0.93}' > $UPSHOT_OUTPUT/outputs.json; echo done""")
    seen = await bench.ended(order.name)

    assert (seen.exit_code, seen.failure, seen.job_id) == (0, None, order.job_id)
    assert seen.handle == started.handle
    assert await bench.outputs(order.name) == b'{"accuracy": 0.93}\n'
    assert (await bench.log(order.name)).data == b"done\n"
    slack = timedelta(seconds=2)
    assert begun - slack <= seen.started_at <= seen.finished_at <= datetime.now(UTC) + slack


async def test_a_job_that_fails(bench: Bench):
    """Its exit code is told, and no other cause than the code."""
    seen = await bench.run("echo broken >&2; exit 3")

    assert (seen.exit_code, seen.failure) == (3, None)
    assert (await bench.log(seen.name)).data == b"broken\n"


async def test_a_command_that_is_not_there(bench: Bench):
    """Such a job is refused, or fails; and somewhere it is said what is missing."""
    order = bench.order("", command=("upshot-no-such-command",))
    refusal = None
    try:
        await bench.backend.start(order)
    except StartRefused as refused:
        refusal = str(refused)

    if refusal is None:
        seen = await bench.ended(order.name)
        assert seen.exit_code not in (0, None)
        assert "not there" in (seen.note or "") or b"such" in (await bench.log(order.name)).data
    else:
        assert "upshot-no-such-command" in refusal
        assert await bench.backend.list_containers(bench.installation) == {}


async def test_what_a_job_is_given(bench: Bench):
    """Arguments, environment and working directory arrive as they are, whatever is in them."""
    odd = "two words, 'quotes', \"more\", $HOME, `id`, ;, \\, ünï\ncode"
    script = 'printf "%s|%s|%s|%s\\n" "$1" "$2" "$ODD" "$(pwd)"'

    seen = await bench.run(
        "", command=("/bin/sh", "-c"), args=(script, "sh", odd, ""), env={"ODD": odd}, workdir="/tmp"
    )

    assert (await bench.log(seen.name)).data.decode() == f"{odd}||{odd}|/tmp\n"


async def test_the_event_is_there_as_a_file(bench: Bench):
    """A job finds the whole event where UPSHOT_EVENT_FILE says, and cannot be without it however it is run."""
    event = {"kind": "alias-added", "name": "ünïcode", "nested": {"list": [1, 2.5, None]}}

    seen = await bench.run("cat $UPSHOT_EVENT_FILE; echo", event=event)

    assert json.loads((await bench.log(seen.name)).data) == event


async def test_secret_files(bench: Bench):
    """Secrets arrive as files with their text alone, which others cannot write."""
    secrets = {"token": "s3cret\nwith a second line", "EMPTY": ""}

    seen = await bench.run(
        "cat $UPSHOT_SECRETS/token; echo; wc -c < $UPSHOT_SECRETS/EMPTY; stat -c %a $UPSHOT_SECRETS/token",
        files=secrets,
    )

    *text, size, mode = (await bench.log(seen.name)).data.decode().splitlines()
    assert (text, size.strip()) == (secrets["token"].split("\n"), "0")
    assert int(mode, 8) & 0o022 == 0


async def test_the_input_folder_is_there(bench: Bench):
    """A job finds its input folder, empty as long as nothing fills it."""
    seen = await bench.run('cd "$UPSHOT_INPUT" && ls -A | wc -l')

    assert (seen.exit_code, (await bench.log(seen.name)).data.strip()) == (0, b"0")


@pytest.mark.needs(Can.USERS)
@pytest.mark.parametrize("user", ["1234", "1234:1234", "worker"])
async def test_a_job_runs_as_its_user(bench: Bench, user):
    """Under the user that it names a job reads its event and its secrets, and writes its outputs."""
    script = "id -u; cat $UPSHOT_EVENT_FILE $UPSHOT_SECRETS/token && echo && echo {} > $UPSHOT_OUTPUT/outputs.json"

    seen = await bench.run(script, user=user, files={"token": "s3cret"})

    said = (await bench.log(seen.name)).data
    assert (seen.exit_code, said) == (0, b'1234\n{"kind": "alias-added"}s3cret\n')
    assert await bench.outputs(seen.name) == b"{}\n"


@pytest.mark.needs(Can.USERS)
@pytest.mark.parametrize("user", ["1234", "worker"])
async def test_secrets_are_the_users_alone(bench: Bench, user):
    """Whoever else is in the job's container cannot read its secrets, where its user can be told."""
    seen = await bench.run("stat -c '%a %u' $UPSHOT_SECRETS/token", user=user, files={"token": "s3cret"})

    assert (await bench.log(seen.name)).data == b"400 1234\n"


@pytest.mark.needs(Can.OWN_ROOT)
async def test_a_root_that_is_read_only(bench: Bench):
    """Nothing can be written but /tmp and the outputs; what is in /tmp can be run."""
    script = """
        touch /bin/x /x 2>/dev/null && echo written
        printf '#!/bin/sh\\necho runs' > /tmp/x && chmod +x /tmp/x && /tmp/x
        echo {} > $UPSHOT_OUTPUT/outputs.json
    """

    seen = await bench.run(script, read_only=True, files={"token": "s3cret"})

    assert (seen.exit_code, (await bench.log(seen.name)).data) == (0, b"runs\n")
    assert await bench.outputs(seen.name) == b"{}\n"


@pytest.mark.needs(Can.OWN_ROOT)
async def test_a_job_without_a_network(bench: Bench):
    """With `network: none` a job has no interface but its own loopback."""
    seen = await bench.run("ls /sys/class/net", network=Network.NONE)

    assert (await bench.log(seen.name)).data.split() == [b"lo"]


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.needs(Can.IMAGES)
@pytest.mark.parametrize("pull", [Pull.NEVER, Pull.MISSING])
async def test_an_image_that_is_not_there(bench: Bench, pull):
    """The job is refused for it, the reason names the image, and nothing is left behind."""
    image = "localhost:1/upshot/no-such-image:1"

    with pytest.raises(StartRefused) as refused:
        await bench.start("true", image=image, pull=pull)

    assert refused.value.failure is FailureKind.IMAGE_MISSING
    assert image in str(refused.value)
    assert ("pull: never" in str(refused.value)) == (pull is Pull.NEVER)
    assert await bench.backend.list_containers(bench.installation) == {}


@pytest.mark.needs(Can.IMAGES)
async def test_the_image_is_told_by_its_digest(bench: Bench):
    """What a job was started from is told, by the start and whenever somebody looks."""
    order, started = await bench.started("true")

    assert started.image_digest.startswith("sha256:")
    assert (await bench.ended(order.name)).image_digest == started.image_digest


# --- outputs --------------------------------------------------------------------------------------


async def test_no_outputs(bench: Bench):
    """A job that writes none has none; that is no error."""
    seen = await bench.run("true")

    assert await bench.outputs(seen.name) is None


async def test_the_outputs_of_a_job_that_is_not_there(bench: Bench):
    """What was removed has no outputs."""
    assert await bench.outputs("upshot-none-1") is None


async def test_outputs_that_are_no_json_come_through(bench: Bench):
    """Whether they mean anything is for others to say."""
    seen = await bench.run("printf 'nonsense\\377' > $UPSHOT_OUTPUT/outputs.json")

    assert await bench.outputs(seen.name) == b"nonsense\xff"


async def test_outputs_of_exactly_the_limit(bench: Bench):
    """The limit itself is allowed; one byte more is not, and the reason names both numbers."""
    seen = await bench.run("head -c 1000 /dev/zero > $UPSHOT_OUTPUT/outputs.json")

    assert await bench.outputs(seen.name, limit_bytes=1000) == bytes(1000)
    with pytest.raises(OutputUnreadable, match=r"1000.*999"):
        await bench.outputs(seen.name, limit_bytes=999)


async def test_outputs_that_are_far_too_large(bench: Bench):
    """A terabyte, sparse or not, is refused as a number, before a byte of it is read."""
    seen = await bench.run("truncate -s 1024G $UPSHOT_OUTPUT/outputs.json")

    with pytest.raises(OutputUnreadable, match=str(2**40)):
        await bench.outputs(seen.name)


@pytest.mark.parametrize(
    ("made", "said"),
    [pytest.param("mkdir {}", "folder", id="a folder"), pytest.param("mkfifo {}", "pipe", id="a pipe")],
)
async def test_outputs_that_are_no_plain_file(bench: Bench, made, said):
    """They are refused, and the reason says what they are."""
    seen = await bench.run(made.format("$UPSHOT_OUTPUT/outputs.json"))

    with pytest.raises(OutputUnreadable, match=said):
        await bench.outputs(seen.name)


LINKS = pytest.mark.parametrize(
    "target",
    [
        pytest.param("/etc/passwd", id="to passwd"),
        pytest.param("../../etc/passwd", id="up to passwd"),
        pytest.param("outputs.txt", id="beside it"),
        pytest.param("nowhere", id="to nowhere"),
        pytest.param("outputs.json", id="to itself"),
    ],
)
FOLDER_LINKS = pytest.mark.parametrize("target", ["/", "/etc", "/bin/..", "/upshot/input", "/nowhere", "output"])


async def outputs_behind_a_link(bench: Bench, target: str) -> bytes | None:
    seen = await bench.run(f"cd $UPSHOT_OUTPUT && echo beside > outputs.txt && ln -s {target} outputs.json")
    assert seen.exit_code == 0
    return await bench.outputs(seen.name)


async def outputs_in_a_folder_behind_a_link(bench: Bench, target: str) -> bytes | None:
    seen = await bench.run(
        f"""
        echo elsewhere | tee /outputs.json /etc/outputs.json > /dev/null
        cd / && rm -rf $UPSHOT_OUTPUT && ln -s {target} $UPSHOT_OUTPUT
        """
    )
    assert seen.exit_code == 0
    return await bench.outputs(seen.name)


@pytest.mark.needs(Can.TELLS_LINKS)
@LINKS
async def test_outputs_that_are_a_link(bench: Bench, target):
    """They are refused, and the reason says that they are a link."""
    with pytest.raises(OutputUnreadable, match="link"):
        await outputs_behind_a_link(bench, target)


@LINKS
async def test_no_link_leads_out_of_the_outputs(bench: Bench, target):
    """Nothing comes back that was not in the output folder."""
    try:
        content = await outputs_behind_a_link(bench, target)
    except OutputUnreadable:
        content = None

    assert content in (None, b"beside\n")


@pytest.mark.needs(Can.LINKS, Can.TELLS_LINKS)
@FOLDER_LINKS
async def test_an_output_folder_that_is_a_link_now(bench: Bench, target):
    """A job that puts a link in place of its output folder is told so, wherever the link leads."""
    with pytest.raises(OutputUnreadable, match="link"):
        await outputs_in_a_folder_behind_a_link(bench, target)


@pytest.mark.needs(Can.LINKS)
@FOLDER_LINKS
async def test_no_link_leads_the_output_folder_elsewhere(bench: Bench, target):
    """A job that puts a link in place of its output folder has no outputs."""
    try:
        content = await outputs_in_a_folder_behind_a_link(bench, target)
    except OutputUnreadable:
        content = None

    assert content is None


@pytest.mark.needs(Can.LINKS)
async def test_an_output_folder_that_is_no_folder_now(bench: Bench):
    """A job that puts a file in place of its output folder is told so; one that removes it has no outputs."""
    replaced = await bench.run("cd / && rm -r $UPSHOT_OUTPUT && echo {} > $UPSHOT_OUTPUT")
    removed = await bench.run("cd / && rm -r $UPSHOT_OUTPUT")

    with pytest.raises(OutputUnreadable, match="no folder"):
        await bench.outputs(replaced.name)
    assert await bench.outputs(removed.name) is None


# --- the log --------------------------------------------------------------------------------------


async def test_the_log_is_read_on(bench: Bench):
    """From each position on comes what was said since, once, also when it came in the same instant."""
    name = await bench.start(
        "echo one; echo two; while [ ! -e $UPSHOT_OUTPUT/go ]; do sleep 0.05; done; echo three; echo three; echo four; "
        "sleep 0.2; echo five"
    )
    await bench.said(name, b"two\n")

    first = await bench.log(name)
    again = await bench.log(name, first.position)
    assert (first.data, again.data, first.skipped, again.skipped) == (b"one\ntwo\n", b"", False, False)
    assert again.position == first.position  # so that the caller knows that nothing came
    await bench.backend.stop(name, grace_seconds=0)
    await bench.ended(name)


async def test_increments_of_a_log_add_up_to_it(bench: Bench):
    """However often it is read while it grows, the pieces are the whole: nothing is lost, nothing doubled."""
    script = """
        i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); [ $((i % 40)) = 0 ] && sleep 0.05; done
        i=0; while [ $i -lt 50 ]; do echo same; i=$((i+1)); done; echo between; echo same; echo between
    """
    name = await bench.start(script)
    pieces: list[bytes] = []
    position: str | None = None

    has_ended = False
    while not has_ended:
        has_ended = (seen := await bench.seen(name)) is not None and seen.phase is Phase.EXITED
        read = await bench.log(name, position)
        assert not read.skipped
        pieces.append(read.data)
        position = read.position

    wanted = "".join(f"line {number}\n" for number in range(400)) + "same\n" * 50 + "between\nsame\nbetween\n"
    assert b"".join(pieces).decode() == wanted
    assert len(pieces) > 2


async def test_a_log_that_is_empty(bench: Bench):
    """A job that says nothing has an empty log, whose position is one to go on from."""
    seen = await bench.run("true")

    first = await bench.log(seen.name)
    second = await bench.log(seen.name, first.position)

    assert (first.data, second.data, second.position, first.skipped) == (b"", b"", first.position, False)


async def test_the_log_of_a_job_that_is_not_there(bench: Bench):
    """It has said nothing more."""
    read = await bench.log("upshot-none-1", None)

    assert (read.data, read.skipped) == (b"", False)
    assert (await bench.log("upshot-none-1", read.position)).data == b""


async def test_both_streams_are_in_the_log(bench: Bench):
    """What a job says as errors is there, too."""
    seen = await bench.run("echo out; echo err >&2")

    assert sorted((await bench.log(seen.name)).data.splitlines()) == [b"err", b"out"]


@pytest.mark.needs(Can.LOSES_NO_LINE)
async def test_both_streams_are_in_order(bench: Bench):
    """Lines of both streams come in the order in which they were written, pauses of a moment between them."""
    script = "i=0; while [ $i -lt 10 ]; do echo out $i; sleep 0.02; echo err $i >&2; sleep 0.02; i=$((i+1)); done"

    seen = await bench.run(script)

    wanted = [line for number in range(10) for line in (f"out {number}", f"err {number}")]
    assert (await bench.log(seen.name)).data.decode().splitlines() == wanted


async def test_the_newest_of_a_log_that_is_too_long(bench: Bench):
    """Where more was said than the limit, the newest is read, it is told that older text is missing, and no more."""
    seen = await bench.run("i=0; while [ $i -lt 3000 ]; do echo this is line $i; i=$((i+1)); done")

    read = await bench.log(seen.name, limit_bytes=1000)

    whole = "".join(f"this is line {number}\n" for number in range(3000)).encode()
    assert read.skipped
    assert 500 < len(read.data) <= 1000
    assert whole.endswith(read.data)
    assert (await bench.log(seen.name, read.position)).data == b""


@pytest.mark.needs(Can.RAW_TEXT)
async def test_long_lines_and_those_without_an_end(bench: Bench):
    """They are read as they were said, while they grow, though their pieces be the same."""
    name = await bench.start(
        "for i in 1 2 3; do head -c 100000 /dev/zero | tr '\\0' x; sleep 0.2; done; printf '\\nend'"
    )
    pieces: list[bytes] = []
    position: str | None = None

    has_ended = False
    while not has_ended:
        has_ended = (seen := await bench.seen(name)) is not None and seen.phase is Phase.EXITED
        read = await bench.log(name, position)
        pieces.append(read.data)
        position = read.position

    assert b"".join(pieces) == b"x" * 300_000 + b"\nend"


@pytest.mark.needs(Can.RAW_TEXT)
async def test_a_line_longer_than_the_limit(bench: Bench):
    """Its end is read."""
    seen = await bench.run("head -c 50000 /dev/zero | tr '\\0' x; echo; echo end")

    read = await bench.log(seen.name, limit_bytes=100)

    assert read.skipped
    assert len(read.data) <= 100
    assert read.data.endswith(b"end\n")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.needs(Can.BIG_LOGS)
async def test_a_gigabyte_of_log(bench: Bench):
    """A job that says a gigabyte does not fill the engine's disk, and its newest lines are read all the while."""
    line = "x" * 1000
    name = await bench.start(f"yes {line} | head -c 1000000000; echo the end")
    reads, newest, most, position = 0, b"", 0, None

    has_ended = False
    while not has_ended:
        has_ended = (await bench.seen(name)).phase is Phase.EXITED
        read = await bench.log(name, position, limit_bytes=100_000)
        assert len(read.data) <= 100_000
        position, newest, reads = read.position, read.data or newest, reads + 1
        most = max(most, bench.ground.log_bytes_kept(name))
        await asyncio.sleep(0.2)

    assert newest.endswith(b"the end\n")
    assert reads > 3
    assert 0 < most < 150_000_000  # what a backend keeps by default, and its engine's own words around each line


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.needs(Can.MEMORY)
async def test_out_of_memory(bench: Bench):
    """A job that takes more than it may is ended, and the cause is told."""
    seen = await bench.run("tail /dev/zero", memory_bytes=32 * 1024**2)

    assert (seen.failure, seen.exit_code) == (FailureKind.OUT_OF_MEMORY, 137)


@pytest.mark.needs(Can.MEMORY)
async def test_a_child_out_of_memory(bench: Bench):
    """It is the cause as well where a child ran out, and the job failed for that with a code of its own."""
    seen = await bench.run("sh -c 'tail /dev/zero' || exit 7", memory_bytes=32 * 1024**2)

    assert (seen.failure, seen.exit_code) == (FailureKind.OUT_OF_MEMORY, 7)


@pytest.mark.needs(Can.MEMORY)
async def test_a_child_out_of_memory_that_was_coped_with(bench: Bench):
    """A job that lost a child and ended well has ended well."""
    seen = await bench.run("sh -c 'tail /dev/zero'; exit 0", memory_bytes=32 * 1024**2)

    assert (seen.failure, seen.exit_code) == (None, 0)


@pytest.mark.needs(Can.PIDS)
async def test_a_fork_bomb(bench: Bench):
    """It stays within its number of processes, the machine and the engine answer, and it can be ended."""
    name = await bench.start("echo begun; b() { b | b & b; }; b; sleep 600", pids=64, memory_bytes=256 * 1024**2)
    await bench.said(name, b"begun")
    other = await bench.run("echo fine")
    assert other.exit_code == 0

    await bench.backend.stop(name, grace_seconds=1)
    await bench.ended(name)


# --- power ----------------------------------------------------------------------------------------


@pytest.mark.needs(Can.PRIVILEGES)
async def test_no_power_over_the_machine(bench: Bench):
    """What takes power over the machine fails in a job, though it is root there."""
    seen = await bench.run(f"{bench.ground.use_of_power} && echo was allowed", user="0")

    assert seen.exit_code != 0
    assert b"was allowed" not in (await bench.log(seen.name)).data


@pytest.mark.needs(Can.PRIVILEGES, Can.ALL_POWER)
async def test_power_for_a_job_that_was_given_it(bench: Bench):
    """A spec that says `privileged`, which only an operator can allow, has power over the machine."""
    seen = await bench.run(bench.ground.use_of_power, user="0", privileged=True)

    assert seen.exit_code == 0


@pytest.mark.needs(Can.PRIVILEGES)
async def test_no_new_privileges(bench: Bench):
    """No program of an image gives a job more rights than it began with."""
    seen = await bench.run("grep NoNewPrivs /proc/self/status", user="1234")

    assert (await bench.log(seen.name)).data.split() == [b"NoNewPrivs:", b"1"]


# --- stop -----------------------------------------------------------------------------------------


async def test_a_job_that_is_told_to_stop(bench: Bench):
    """It has its grace to end as it likes."""
    name = await bench.start("trap 'echo cleaned up; exit 0' TERM; echo begun; while :; do sleep 0.1; done")
    await bench.said(name, b"begun")

    await bench.backend.stop(name, grace_seconds=30)

    assert (await bench.ended(name)).exit_code == 0
    assert (await bench.log(name)).data == b"begun\ncleaned up\n"


async def test_a_job_that_will_not_stop(bench: Bench):
    """It is killed when its grace is over; whoever asked for it was not kept waiting."""
    name = await bench.start(STUBBORN, grace_seconds=3)
    await bench.said(name, b"begun")

    await asyncio.wait_for(bench.backend.stop(name, grace_seconds=3), 2.5)

    assert (await bench.seen(name)).phase is Phase.RUNNING
    assert (await bench.ended(name)).exit_code == 137


@pytest.mark.needs(Can.SHORTENS_GRACE)
async def test_a_stop_without_grace(bench: Bench):
    """It kills at once, also what was told to stop before and has grace left."""
    name = await bench.start(STUBBORN)
    await bench.said(name, b"begun")
    await bench.backend.stop(name, grace_seconds=600)

    await bench.backend.stop(name, grace_seconds=0)

    assert (await bench.ended(name)).exit_code == 137


@pytest.mark.needs(Can.KILLS_ALONE)
async def test_the_kill_comes_though_the_caller_is_gone(bench: Bench):
    """Who said stop may hang up at once: grace and kill are the engine's."""
    name = await bench.start(STUBBORN, grace_seconds=2)
    await bench.said(name, b"begun")
    caller = bench.ground.connect()

    await caller.stop(name, grace_seconds=2)
    await caller.close()

    assert (await bench.seen(name)).phase is Phase.RUNNING
    assert (await bench.ended(name)).exit_code == 137


async def test_stopping_what_has_ended_or_is_not_there(bench: Bench):
    """That is fine, and changes nothing."""
    seen = await bench.run("exit 4")

    await bench.backend.stop(seen.name, grace_seconds=1)
    await bench.backend.stop("upshot-none-1", grace_seconds=1)
    await bench.backend.stop("upshot-none-1", grace_seconds=0)

    assert (await bench.seen(seen.name)).exit_code == 4


# --- once -----------------------------------------------------------------------------------------


async def test_started_twice_is_one_job(bench: Bench):
    """Who starts what runs already finds it, and it runs once."""
    order, first = await bench.started(FOR_LONG)
    await bench.said(order.name, b"begun")

    other = bench.ground.connect()
    second = await other.start(order)
    await other.close()

    assert second.handle == first.handle
    assert set(await bench.backend.list_containers(bench.installation)) == {order.name}
    assert (await bench.log(order.name)).data == b"begun\n"


async def test_started_by_many_at_the_same_time_is_one_job(bench: Bench):
    """Workers that start the same job in the same moment get the same one."""
    order = bench.order("cat $UPSHOT_EVENT_FILE; echo; sleep 600")

    started = await asyncio.gather(*(bench.backend.start(order) for _ in range(4)))

    assert len({one.handle for one in started}) == 1
    await bench.said(order.name, b"alias-added")
    assert (await bench.log(order.name)).data == b'{"kind": "alias-added"}\n'


async def test_started_after_its_end_is_left_as_it_is(bench: Bench):
    """What has ended is not run again, and what it was is still to be read."""
    order, first = await bench.started("echo ran; exit 5")
    ended = await bench.ended(order.name)

    assert (await bench.backend.start(order)).handle == first.handle

    assert await bench.seen(order.name) == ended
    assert (await bench.log(order.name)).data == b"ran\n"


@pytest.mark.needs(Can.LEFT_CREATED)
async def test_what_was_made_and_not_started_is_taken_up(bench: Bench):
    """A worker that died in between leaves a job that is seen as made; who starts it again finds it whole."""
    order = bench.order("cat $UPSHOT_EVENT_FILE $UPSHOT_SECRETS/token; echo", files={"token": "s3cret"})
    await bench.ground.leave_created(order)
    assert (await bench.seen(order.name)).phase is Phase.CREATED

    await bench.backend.start(order)

    assert (await bench.ended(order.name)).exit_code == 0
    assert (await bench.log(order.name)).data == b'{"kind": "alias-added"}s3cret\n'


@pytest.mark.needs(Can.LEFT_CREATED)
async def test_what_was_made_and_not_started_can_be_stopped_and_removed(bench: Bench):
    """It never runs then, and nothing is left."""
    order = bench.order("echo ran")
    await bench.ground.leave_created(order)

    await bench.backend.stop(order.name, grace_seconds=1)
    await bench.backend.remove(order.name)

    assert await bench.backend.list_containers(bench.installation) == {}


async def test_a_name_that_is_taken_by_a_stranger(bench: Bench):
    """A job of another installation is neither taken for ours nor touched."""
    theirs = Bench(bench.ground)
    async with theirs:
        order = theirs.order(FOR_LONG)
        await theirs.backend.start(order)
        ours = bench.order("true", name=order.name)

        with pytest.raises(StartRefused, match=order.name):
            await bench.backend.start(ours)

        assert (await theirs.seen(order.name)).phase is Phase.RUNNING


# --- see, remove ----------------------------------------------------------------------------------


async def test_only_our_installation_is_seen(bench: Bench):
    """Jobs of another installation on the same engine are none of ours."""
    theirs = Bench(bench.ground)
    async with theirs:
        their_name = await theirs.start(FOR_LONG)
        our_name = await bench.start(FOR_LONG)

        assert set(await bench.backend.list_containers(bench.installation)) == {our_name}
        assert set(await theirs.backend.list_containers(theirs.installation)) == {their_name}


async def test_many_jobs_are_seen_at_once(bench: Bench):
    """Ended and running ones are told apart, by whoever looks."""
    ended = [await bench.start(f"exit {code}") for code in range(6)]
    running = [await bench.start(FOR_LONG) for _ in range(3)]
    for name in ended:
        await bench.ended(name)

    other = bench.ground.connect()
    seen = await other.list_containers(bench.installation)
    await other.close()

    assert [seen[name].exit_code for name in ended] == list(range(6))
    assert {seen[name].phase for name in running} == {Phase.RUNNING}
    assert all(seen[name].started_at is not None for name in running)


async def test_what_is_removed_is_gone(bench: Bench):
    """Running or ended, it is gone for all, and to remove it once more is fine."""
    running = await bench.start(FOR_LONG)
    ended = (await bench.run("true")).name

    for name in (running, ended, ended, "upshot-none-1"):
        await bench.backend.remove(name)

    assert await bench.backend.list_containers(bench.installation) == {}
    assert (await bench.log(ended)).data == b""


async def test_a_name_can_be_used_again_after_removal(bench: Bench):
    """What was removed is started anew."""
    order, _ = await bench.started("echo ran")
    await bench.ended(order.name)
    await bench.backend.remove(order.name)

    await bench.backend.start(order)

    assert (await bench.ended(order.name)).exit_code == 0
    assert (await bench.log(order.name)).data == b"ran\n"


# --- hints, names, hanging up ---------------------------------------------------------------------


async def test_an_end_is_hinted_at(bench: Bench):
    """Who watches hears of a job that ends."""
    heard: set[str] = set()

    async def listen() -> None:
        async with aclosing(bench.backend.watch_events(bench.installation)) as hints:  # type: ignore[type-var]
            async for name in hints:
                heard.add(name)

    listening = asyncio.create_task(listen())
    try:

        async def is_heard() -> bool:
            # Hints may be lost while the watch begins; those of another job come then.
            return (await bench.run("true")).name in heard

        await eventually(is_heard)
    finally:
        listening.cancel()
        await asyncio.wait([listening])


async def test_the_engine_has_a_name(bench: Bench):
    """It is the same from every connection."""
    other = bench.ground.connect()
    names = {await bench.backend.engine_id(), await other.engine_id(), await other.engine_id()}
    await other.close()

    assert len(names) == 1
    assert names.pop()


@pytest.mark.timeout(200)
async def test_an_engine_that_cannot_be_reached(bench: Bench):
    """Every verb says so, within a bearable time, and in no other way."""
    for backend in bench.ground.connect_to_nothing():
        order = bench.order("true")
        verbs = [
            backend.engine_id(),
            backend.start(order),
            backend.list_containers(bench.installation),
            backend.read_log(order.name, None, limit_bytes=100),
            backend.read_outputs(order.name, limit_bytes=100),
            backend.stop(order.name, grace_seconds=1),
            backend.remove(order.name),
            anext(aiter(backend.watch_events(bench.installation))),
        ]
        said = await asyncio.wait_for(asyncio.gather(*verbs, return_exceptions=True), 60)
        assert {type(one) for one in said} == {EngineUnavailable}, said
        assert all(str(one) for one in said)
        await backend.close()
