"""One supervised process: kept alive, heard, stopped."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.waiting import eventually
from upshot.embedded.child_process import ChildProcess

pytestmark = pytest.mark.live

FOREVER = "import time; print('hello', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('hello', flush=True); time.sleep(60)"
)


class World:
    """A part, and what became of it."""

    def __init__(self, program: str, folder: Path) -> None:
        self.pids: list[int] = []
        self.said: list[str] = []
        self.log = folder / "part.log"
        self.hurry = asyncio.Event()
        self.part = ChildProcess(
            "worker", [sys.executable, "-c", program], log=self.log, say=self.said.append, on_start=self.pids.append
        )

    async def hear(self, text: str) -> None:
        async def heard() -> bool:
            return any(text in line for line in self.said)

        await eventually(heard)


def test_what_dies_is_started_again_after_a_growing_pause(tmp_path):
    """A part that dies comes back, each time a little later, and the person is told why it died."""

    async def story() -> World:
        world = World("import sys; print('no luck'); sys.exit(3)", tmp_path)
        world.part.start()
        await world.hear("in 0.8 s")
        await world.part.stop(5, world.hurry)
        return world

    world = asyncio.run(story())

    assert [line for line in world.said if line.startswith("worker ended")] == [
        f"worker ended (exit 3); starting it again in {pause} s" for pause in ("0.2", "0.4", "0.8")
    ]
    assert len(set(world.pids)) == 3
    assert world.log.read_text() == "no luck\n" * 3


def test_a_stop_lets_the_process_end_by_itself(tmp_path):
    """SIGTERM is enough for a process that obeys; one that ends otherwise than with 0 did not end well."""

    async def story(program: str) -> bool:
        world = World(program, tmp_path)
        world.part.start()
        await world.hear("hello")
        return await world.part.stop(10, world.hurry)

    obedient = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));" + FOREVER
    assert asyncio.run(story(obedient)) is True
    assert asyncio.run(story(FOREVER)) is False


def test_a_process_that_ignores_the_stop_is_killed_after_the_grace(tmp_path):
    """Nothing holds `upshot up` up for longer than it allows."""

    async def story() -> World:
        world = World(STUBBORN, tmp_path)
        world.part.start()
        await world.hear("hello")
        assert await world.part.stop(0.2, world.hurry) is False
        return world

    assert asyncio.run(story()).said[-1] == "worker is killed: not ended after 0.2 s"


def test_a_second_ctrl_c_does_not_wait_for_the_grace(tmp_path):
    """Who is in a hurry gets the prompt back at once."""

    async def story() -> World:
        world = World(STUBBORN, tmp_path)
        world.part.start()
        await world.hear("hello")
        asyncio.get_running_loop().call_later(0.1, world.hurry.set)
        async with asyncio.timeout(10):
            await world.part.stop(60, world.hurry)
        return world

    assert asyncio.run(story()).said[-1] == "worker is killed"


def test_everything_printed_is_kept_and_shown(tmp_path):
    """Lines of any length, bytes that are not UTF-8 and a last line without an end arrive."""
    program = (
        "import sys; sys.stdout.buffer.write(b'a' * 200000 + b'\\n' + b'\\xff\\n' + b'the end'); sys.stdout.flush();"
        "import time; time.sleep(60)"
    )

    async def story() -> World:
        world = World(program, tmp_path)
        world.part.start()
        await world.hear("\ufffd")
        await world.part.stop(5, world.hurry)
        return world

    world = asyncio.run(story())

    text = world.log.read_text()
    assert text.count("a") == 200_000
    assert text.endswith("\ufffd\nthe end\n")
    assert world.part.last_line == "the end"


def test_a_part_that_is_stopped_before_it_was_started_again_stays_down(tmp_path):
    """A stop during the pause between two starts ends the part."""

    async def story() -> World:
        world = World("import sys; sys.exit(1)", tmp_path)
        world.part.start()
        await world.hear("starting it again")
        await world.part.stop(5, world.hurry)
        return world

    assert len(asyncio.run(story()).pids) == 1
