"""The engine in memory does what tests of the keeper are told that it does."""

import asyncio
from contextlib import aclosing

import pytest

from upshot.adapters.memory.backend import MemoryBackend, ScriptedExit
from upshot.backends.protocol import ContainerRequest, EngineUnavailable, OutputUnreadable, Phase, StartRefused
from upshot.clock import FrozenClock
from upshot.domain.job import FailureKind, JobSpec

NAME = "upshot-1-1"


def order(name: str = NAME, **spec) -> ContainerRequest:
    return ContainerRequest(
        name=name, installation="inst", job_id=f"job_{name}", spec=JobSpec(**spec), env={}, event=b"{}", fields={}
    )


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def backend(clock) -> MemoryBackend:
    return MemoryBackend(clock)


def run(work):
    return asyncio.run(work)


def seen(backend: MemoryBackend, name: str = NAME):
    return run(backend.list_containers("inst"))[name]


def test_a_job_runs_until_it_is_told_otherwise(backend, clock):
    """A started job runs, says what it is told to say, and ends as it is told to."""
    run(backend.start(order()))
    assert backend.running == (NAME,)
    backend.say(NAME, b"hello\n")
    clock.advance(5)

    backend.finish(NAME, 3, outputs=b"{}")

    assert seen(backend).phase is Phase.EXITED
    assert seen(backend).exit_code == 3
    assert (seen(backend).finished_at - seen(backend).started_at).total_seconds() == 5
    assert run(backend.read_outputs(NAME, limit_bytes=10)) == b"{}"
    assert run(backend.read_log(NAME, None, limit_bytes=100)).data == b"hello\n"


def test_a_plan_ends_each_job_as_it_starts(backend):
    """What the plan says of an order is how its job ends."""
    backend.plan = lambda one: (
        ScriptedExit(1, log=b"no\n", failure=FailureKind.OUT_OF_MEMORY) if one.name == NAME else None
    )

    run(backend.start(order()))
    run(backend.start(order("other")))

    assert seen(backend).failure is FailureKind.OUT_OF_MEMORY
    assert backend.running == ("other",)


def test_starting_twice_begins_once(backend):
    """A job that is there already is left as it is."""
    run(backend.start(order()))
    run(backend.start(order()))
    backend.finish(NAME)
    run(backend.start(order()))

    assert [one.name for one in backend.begun] == [NAME]
    assert seen(backend).phase is Phase.EXITED


def test_a_start_that_breaks_off_leaves_a_container_that_was_never_started(backend):
    """After a crash between making and starting, the engine shows CREATED, and the next start begins it."""
    steps = []

    async def dies_at_the_second() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise EngineUnavailable("broke off")

    backend.at_each_step = dies_at_the_second
    with pytest.raises(EngineUnavailable):
        run(backend.start(order()))
    assert seen(backend).phase is Phase.CREATED

    run(backend.start(order()))

    assert backend.running == (NAME,)


def test_a_held_back_job_is_pending(backend):
    """While the engine begins nothing, a job shows why it waits."""
    backend.holds_back = "waits for a node"

    started = run(backend.start(order()))

    assert started.note == "waits for a node"
    assert (seen(backend).phase, seen(backend).note) == (Phase.PENDING, "waits for a node")
    backend.begin(NAME)
    assert backend.running == (NAME,)


def test_refusals_leave_nothing_behind(backend):
    """A refused start makes nothing; refused once, the next one goes well."""
    backend.refuse(StartRefused(FailureKind.IMAGE_MISSING, "no such image"), times=1)

    with pytest.raises(StartRefused, match="no such image"):
        run(backend.start(order()))
    assert run(backend.list_containers("inst")) == {}

    run(backend.start(order()))
    assert backend.running == (NAME,)


def test_an_engine_that_is_away_answers_nothing(backend):
    """Every verb raises; what runs goes on, and is there when the engine is back."""
    run(backend.start(order()))
    backend.away = True

    for verb in (
        backend.engine_id(),
        backend.start(order()),
        backend.list_containers("inst"),
        backend.read_log(NAME, None, limit_bytes=1),
        backend.read_outputs(NAME, limit_bytes=1),
        backend.stop(NAME, grace_seconds=1),
        backend.remove(NAME),
    ):
        with pytest.raises(EngineUnavailable):
            run(verb)

    backend.away = False
    assert backend.running == (NAME,)


def test_stop_ends_at_once_what_listens(backend):
    """A job that is told to stop ends with SIGTERM's code."""
    run(backend.start(order()))

    run(backend.stop(NAME, grace_seconds=10))

    assert seen(backend).exit_code == 143


def test_what_ignores_stop_is_killed_when_its_grace_is_over(backend, clock):
    """The kill comes with the clock, at the time that the grace said; an earlier kill counts."""
    backend.ignores_stop = True
    run(backend.start(order()))
    run(backend.stop(NAME, grace_seconds=10))
    clock.advance(3)
    assert backend.running == (NAME,)

    clock.advance(20)

    assert seen(backend).exit_code == 137
    assert (seen(backend).finished_at - seen(backend).started_at).total_seconds() == 10


def test_an_engine_may_keep_deadlines_itself(backend, clock):
    """Where the engine does, a job ends at its deadline though nobody looked."""
    backend.keeps_deadlines = True
    run(backend.start(order(timeout_seconds=60)))

    clock.advance(3600)

    assert seen(backend).failure is FailureKind.TIMED_OUT
    assert (seen(backend).finished_at - seen(backend).started_at).total_seconds() == 60


def test_a_log_is_read_in_increments(backend):
    """Each read goes on where the last one ended; more than the limit leaves the older text out, and says so."""
    run(backend.start(order()))
    backend.say(NAME, b"one")
    first = run(backend.read_log(NAME, None, limit_bytes=10))
    backend.say(NAME, b"two")
    second = run(backend.read_log(NAME, first.position, limit_bytes=10))
    backend.say(NAME, b"0123456789abc")
    third = run(backend.read_log(NAME, second.position, limit_bytes=10))

    assert (first.data, second.data, third.data) == (b"one", b"two", b"3456789abc")
    assert (first.skipped, second.skipped, third.skipped) == (False, False, True)


@pytest.mark.parametrize("end", [{"outputs": b"x" * 11}, {"unreadable": "it is a link"}])
def test_outputs_that_cannot_be_taken(backend, end):
    """Outputs larger than the limit, and those said to be unreadable, are refused."""
    run(backend.start(order()))
    backend.finish(NAME, **end)

    with pytest.raises(OutputUnreadable):
        run(backend.read_outputs(NAME, limit_bytes=10))


def test_hints_arrive_until_the_engine_goes_away(backend):
    """Whoever watches hears of a start and an end, and of the engine's going."""

    async def watch() -> list[str]:
        heard = []
        async with aclosing(backend.watch_events("inst")) as hints:
            waiting = asyncio.ensure_future(anext(hints))
            await asyncio.sleep(0)
            await backend.start(order())
            heard.append(await waiting)
            backend.finish(NAME)
            heard.append(await anext(hints))
            backend.away = True
            with pytest.raises(EngineUnavailable):
                await anext(hints)
        return heard

    assert run(watch()) == [NAME, NAME]


def test_a_lost_or_removed_job_is_not_seen(backend):
    """Neither is there any more, and removing or stopping again is fine."""
    run(backend.start(order()))
    backend.lose(NAME)
    assert run(backend.list_containers("inst")) == {}

    run(backend.remove(NAME))
    run(backend.stop(NAME, grace_seconds=1))
    assert run(backend.read_log(NAME, "7", limit_bytes=1)).position == "7"
