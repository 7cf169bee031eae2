"""The engine in memory behaves as the tests of the job supervisor expect."""

import asyncio
from contextlib import aclosing

import pytest

from upshot.adapters.memory.backend import MemoryBackend, ScriptedExit
from upshot.backends.protocol import ContainerRequest, EngineUnavailable, OutputUnreadable, Phase, StartRefused
from upshot.clock import FrozenClock
from upshot.domain.job import FailureKind, JobSpec
from upshot.ids import JobId

NAME = "upshot-1-1"


def request(name: str = NAME, **spec) -> ContainerRequest:
    return ContainerRequest(
        name=name,
        installation_id="inst",
        job_id=JobId(f"job_{name}"),
        spec=JobSpec(**spec),
        env={},
        event=b"{}",
        context={},
    )


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def backend(clock) -> MemoryBackend:
    return MemoryBackend(clock)


async def status(backend: MemoryBackend, name: str = NAME):
    return (await backend.list_containers("inst"))[name]


async def test_a_container_runs_until_the_test_ends_it(backend, clock):
    """It writes the log that the test gives it, and exits as the test says."""
    await backend.start(request())
    assert backend.running == (NAME,)
    backend.write_log(NAME, b"hello\n")
    clock.advance(5)

    backend.finish(NAME, 3, outputs=b"{}")

    exited = await status(backend)
    assert exited.phase is Phase.EXITED
    assert exited.exit_code == 3
    assert (exited.finished_at - exited.started_at).total_seconds() == 5
    assert await backend.read_outputs(NAME, limit_bytes=10) == b"{}"
    assert (await backend.read_log(NAME, None, limit_bytes=100)).data == b"hello\n"


async def test_a_plan_ends_containers_as_they_start(backend):
    """The plan decides for each request how its container exits, or that it runs on."""
    out_of_memory = ScriptedExit(1, log=b"no\n", failure=FailureKind.OUT_OF_MEMORY)
    backend.plan = lambda request: out_of_memory if request.name == NAME else None

    await backend.start(request())
    await backend.start(request("other"))

    assert (await status(backend)).failure is FailureKind.OUT_OF_MEMORY
    assert backend.running == ("other",)


async def test_an_existing_container_is_not_started_again(backend):
    """It stays as it is, even if it has exited."""
    await backend.start(request())
    await backend.start(request())
    backend.finish(NAME)
    await backend.start(request())

    assert [started.name for started in backend.started] == [NAME]
    assert (await status(backend)).phase is Phase.EXITED


async def test_an_interrupted_start_leaves_a_container_that_was_never_started(backend):
    """After a crash between creating and starting, the container is CREATED. The next start starts it."""
    steps = []

    async def interrupt_second_step() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise EngineUnavailable("interrupted")

    backend.at_each_step = interrupt_second_step
    with pytest.raises(EngineUnavailable):
        await backend.start(request())
    assert (await status(backend)).phase is Phase.CREATED

    await backend.start(request())

    assert backend.running == (NAME,)


async def test_a_container_can_be_pending(backend):
    """It shows why it waits, until the test starts it."""
    backend.pending_reason = "waits for a node"

    started = await backend.start(request())

    assert started.note == "waits for a node"
    pending = await status(backend)
    assert (pending.phase, pending.note) == (Phase.PENDING, "waits for a node")
    backend.begin(NAME)
    assert backend.running == (NAME,)


async def test_a_refused_start_creates_nothing(backend):
    """A start that is refused once succeeds the next time."""
    backend.refuse(StartRefused(FailureKind.IMAGE_MISSING, "no such image"), times=1)

    with pytest.raises(StartRefused, match="no such image"):
        await backend.start(request())
    assert await backend.list_containers("inst") == {}

    await backend.start(request())
    assert backend.running == (NAME,)


async def test_an_unreachable_engine_answers_nothing(backend):
    """Every method raises. Running containers run on, and are there when the engine is back."""
    await backend.start(request())
    backend.away = True

    for call in (
        backend.engine_id(),
        backend.start(request()),
        backend.list_containers("inst"),
        backend.read_log(NAME, None, limit_bytes=1),
        backend.read_outputs(NAME, limit_bytes=1),
        backend.stop(NAME, grace_seconds=1),
        backend.remove(NAME),
    ):
        with pytest.raises(EngineUnavailable):
            await call

    backend.away = False
    assert backend.running == (NAME,)


async def test_stop_ends_a_container_at_once(backend):
    """It exits with the code of SIGTERM."""
    await backend.start(request())

    await backend.stop(NAME, grace_seconds=10)

    assert (await status(backend)).exit_code == 143


async def test_a_container_that_ignores_stop_is_killed_after_the_grace_period(backend, clock):
    """It is killed at the time that the first stop implies, even if the clock jumps past it."""
    backend.ignores_stop = True
    await backend.start(request())
    await backend.stop(NAME, grace_seconds=10)
    clock.advance(3)
    assert backend.running == (NAME,)

    clock.advance(20)

    killed = await status(backend)
    assert killed.exit_code == 137
    assert (killed.finished_at - killed.started_at).total_seconds() == 10


async def test_an_engine_can_enforce_timeouts_itself(backend, clock):
    """A container then exits at its deadline although nobody polls the engine."""
    backend.enforces_timeout = True
    await backend.start(request(timeout_seconds=60))

    clock.advance(3600)

    timed_out = await status(backend)
    assert timed_out.failure is FailureKind.TIMED_OUT
    assert (timed_out.finished_at - timed_out.started_at).total_seconds() == 60


async def test_a_log_is_read_in_increments(backend):
    """Each read continues where the last read ended. Beyond the limit, the oldest text is skipped."""
    await backend.start(request())
    backend.write_log(NAME, b"one")
    first = await backend.read_log(NAME, None, limit_bytes=10)
    backend.write_log(NAME, b"two")
    second = await backend.read_log(NAME, first.position, limit_bytes=10)
    backend.write_log(NAME, b"0123456789abc")
    third = await backend.read_log(NAME, second.position, limit_bytes=10)

    assert (first.data, second.data, third.data) == (b"one", b"two", b"3456789abc")
    assert (first.skipped, second.skipped, third.skipped) == (False, False, True)


@pytest.mark.parametrize("exit_arguments", [{"outputs": b"x" * 11}, {"unreadable": "it is a link"}])
async def test_unreadable_outputs_are_refused(backend, exit_arguments):
    """Outputs larger than the limit are refused, and so are those that the test calls unreadable."""
    await backend.start(request())
    backend.finish(NAME, **exit_arguments)

    with pytest.raises(OutputUnreadable):
        await backend.read_outputs(NAME, limit_bytes=10)


async def test_events_are_reported_until_the_engine_is_unreachable(backend):
    """A watcher receives the name of the container at its start and its exit, and then an error."""
    async with aclosing(backend.watch_events("inst")) as events:
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await backend.start(request())
        assert await first == NAME
        backend.finish(NAME)
        assert await anext(events) == NAME
        backend.away = True
        with pytest.raises(EngineUnavailable):
            await anext(events)


async def test_a_removed_container_is_not_listed(backend):
    """Removing and stopping it again is not an error."""
    await backend.start(request())
    backend.lose(NAME)
    assert await backend.list_containers("inst") == {}

    await backend.remove(NAME)
    await backend.stop(NAME, grace_seconds=1)
    assert (await backend.read_log(NAME, "7", limit_bytes=1)).position == "7"
