"""What runs log, in memory, on SQLite and on PostgreSQL: it comes back exactly, packed or not."""

import asyncio
import math
import struct
from array import array
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.databases import KINDS, open_database
from tests.run_in_place import run_in_place
from upshot.adapters.memory.blobs import MemoryBlobs
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.blobs import SqlBlobs
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, Origin
from upshot.domain.manifest import ManifestEntry
from upshot.domain.metric_history import Columns, LogRow, Point, decode_chunk, encode_chunk, thin
from upshot.domain.run import RunState
from upshot.errors import Conflict, NotFound
from upshot.execution.run_upkeep import RunUpkeep
from upshot.ports.blobs import BlobIndex, StoredBlob
from upshot.ports.registry import RegistryStore
from upshot.registry.run_filters import RunFilter, parse_run_filter
from upshot.registry.run_log import LogRequest
from upshot.registry.run_metrics import SeriesQuery
from upshot.registry.runs import RunChange
from upshot.registry.service import Registry

ANN = Origin(Actor("ann"))
DIGEST = f"sha256:{'1' * 64}"


class System:
    def __init__(self, kind, request):
        self.clock = FrozenClock()
        self.blobs: BlobIndex
        store: RegistryStore
        if kind == "memory":
            self.blobs = blobs = MemoryBlobs()
            store = MemoryRegistry(MemoryEvents(), blobs)
        else:
            database = open_database(kind, request)
            self.blobs = SqlBlobs(database)
            store = SqlRegistry(database)
        self.registry = Registry(store, MemoryStream(), self.clock)
        self.sequence = 0

    def start(self, run_id="r", session="s", **values):
        self.sequence = 0
        return self.registry.save_run("demo", run_id, RunChange(session=session, **values), origin=ANN).value

    def log(self, *rows, run_id="r", session="s", **more):
        request = LogRequest(session, self.sequence, [LogRow(step, step / 2, values) for step, values in rows], **more)
        answer = self.registry.log("demo", run_id, request, origin=ANN)
        self.sequence = answer.next_sequence
        return answer

    def finish(self):
        self.registry.finish_run("demo", "r", RunState.FINISHED, origin=ANN)
        self.clock.advance(10)

    def pack(self):
        return sum(self.registry.pack_run(run) for run in self.registry.runs_to_pack(limit=10))

    def points(self, key, **query):
        columns = self.registry.series("demo", "r", SeriesQuery(key, **query)).columns
        return list(columns.points())


@pytest.fixture(params=["memory", *KINDS])
def system(request):
    system = System(request.param, request)
    system.start()
    return system


def test_what_is_packed_comes_back_the_same(system):
    """Series, rows and summaries do not change when entries become chunks."""
    for start in range(0, 30, 10):
        system.log(
            *((step, {"a": step / 3, "b": step, f"t{step % 3}": f"x{step}"}) for step in range(start, start + 10))
        )
    system.finish()

    def read():
        metrics = system.registry.metrics("demo", "r")
        page = system.registry.history_page("demo", "r", [], from_step=0, to_step=None, limit=100)
        return metrics, page, system.points("a"), system.points("t1", points=4), system.points("b", points=10)

    before = read()
    assert system.pack() == 3
    assert read() == before
    assert system.pack() == 0
    assert len(before[1].rows) == 30


def test_points_that_come_after_a_pack_follow_it(system):
    """Later chunks of a key follow the earlier ones, and its steps do not go back."""
    session = "s"
    for number in range(3):
        system.log((number, {"a": float(number)}), session=session)
        system.finish()
        assert system.pack() == 1
        session = f"s{number}"
        system.start(session=session, resume="allow")
    assert [point.value for point in system.points("a")] == [0.0, 1.0, 2.0]
    assert system.log((1, {"a": 9.0, "b": 1.0}), session=session).dropped == 1


def test_only_one_of_two_packers_replaces_entries(system):
    """The other one finds that they are gone, and no point is doubled or lost."""
    system.log(*((step, {"a": step}) for step in range(100)))
    system.finish()
    (run,) = system.registry.runs_to_pack(limit=10)
    with ThreadPoolExecutor(4) as pool:
        packed = list(pool.map(lambda _: system.registry.pack_run(run), range(4)))
    assert sum(packed) == 1
    assert [point.value for point in system.points("a")] == list(range(100))


def test_points_are_logged_and_read_while_others_are_packed(system):
    """A reader sees every point once, whichever of the three comes first."""
    rows = 40

    def read():
        found = [point.value for point in system.points("a")]
        assert found == list(range(len(found)))
        return len(found)

    def pack():
        return system.registry.pack_run(summary)

    system.log((0, {"a": 0}))
    summary = system.registry.run("demo", "r").summary
    with ThreadPoolExecutor(3) as pool:
        packers = [pool.submit(pack) for _ in range(10)]
        readers = [pool.submit(read) for _ in range(10)]
        for step in range(1, rows):
            system.log((step, {"a": step}))
    assert sum(future.result() for future in packers) >= 1
    assert all(future.result() >= 1 for future in readers)
    assert read() == rows


def test_fast_runs_are_packed_while_they_run(system):
    """A run with many points is due before it ends; one with few points of many keys is not."""
    for number in range(5):
        system.log(*((number * 10_000 + step, {"a": float(step)}) for step in range(10_000)))
    assert len(system.registry.runs_to_pack(limit=10)) == 1
    assert system.pack() == 5
    assert system.registry.series("demo", "r", SeriesQuery("a", points=100)).count == 50_000
    system.start("wide", session="w")
    for step in range(5):
        system.log((step, {f"k{key}": key for key in range(10_000)}), run_id="wide", session="w")
    assert system.registry.runs_to_pack(limit=10) == ()


def test_a_deleted_run_leaves_nothing_behind(system):
    """Its points, packed or not, and its files are gone, and its blobs can be removed."""
    system.log((0, {"a": 1.0}))
    system.finish()
    system.pack()
    system.log((1, {"a": 1.0}), late=True)
    system.blobs.add([StoredBlob(DIGEST, 3, "k")], system.clock.now())
    assert system.registry.add_run_files("demo", "r", [ManifestEntry("f", DIGEST, 3)], origin=ANN) == ()
    later = system.clock.now().replace(year=2030)
    assert list(system.blobs.remove_unreachable(before=later, limit=10)) == []
    system.registry.delete_run("demo", "r", origin=ANN)
    assert [blob.digest for blob in system.blobs.remove_unreachable(before=later, limit=10)] == [DIGEST]
    with pytest.raises(NotFound):
        system.registry.metrics("demo", "r")
    with pytest.raises(Conflict, match="deleted"):
        system.start()
    assert system.registry.runs_to_pack(limit=10) == ()


def test_files_are_paged_by_path(system):
    """Those without bytes are left out, and their size is that of the bytes."""
    system.blobs.add([StoredBlob(DIGEST, 3, "k")], system.clock.now())
    files = [ManifestEntry(f"f{number}", DIGEST, 9) for number in range(3)]
    missing = f"sha256:{'2' * 64}"
    answer = system.registry.add_run_files("demo", "r", [*files, ManifestEntry("f", missing, 1)], origin=ANN)
    assert answer == (missing,)
    first = system.registry.run_files("demo", "r", cursor=None, limit=2)
    assert [(file.path, file.size) for file in first.items] == [("f0", 3), ("f1", 3)]
    second = system.registry.run_files("demo", "r", cursor=first.next, limit=2)
    assert ([file.path for file in second.items], second.next) == (["f2"], None)
    with pytest.raises(NotFound):
        system.registry.run_file("demo", "r", "f")


def test_runs_are_silent_by_their_last_heartbeat(system):
    """A run that never had one is silent only after it was asked to stop."""
    system.registry.save_run("demo", "plain", RunChange(), origin=ANN)
    system.clock.advance(61)
    assert system.registry.end_silent_runs() == 1
    assert system.registry.run("demo", "r").is_lost
    system.registry.stop_run("demo", "plain", origin=ANN)
    assert system.registry.end_silent_runs() == 0
    system.clock.advance(61)
    assert system.registry.end_silent_runs() == 1
    assert system.registry.run("demo", "plain").summary.state is RunState.KILLED


@given(st.lists(st.floats(), min_size=1, max_size=200))
def test_every_float_comes_back_bit_by_bit(values):
    """Packing keeps NaN, the infinities, -0.0 and subnormal numbers."""
    points = [Point(step, step / 7, value) for step, value in enumerate(values)]
    columns = decode_chunk(encode_chunk("a", 0, points))
    assert list(map(bits, columns.values)) == list(map(bits, values))
    assert list(columns.times) == [point.time for point in points]


@given(
    st.lists(st.floats() | st.sampled_from([0.0, -0.0, math.nan]), min_size=1, max_size=300),
    st.integers(4, 40),
    st.integers(1, 50),
)
def test_few_points_keep_what_a_chart_shows(values, wanted, part):
    """They have each bucket's extremes, the first and the last point, in order and only once, and not too many."""
    columns = Columns(range(len(values)), [0.0] * len(values), array("d", values))
    parts = [
        Columns(columns.steps[at : at + part], columns.times[at : at + part], columns.values[at : at + part])
        for at in range(0, len(values), part)
    ]
    kept = thin(parts, count=len(values), wanted=wanted)
    steps = [int(step) for step in kept.steps]
    assert len(steps) == len(set(steps)) <= wanted
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, len(values) - 1)
    assert [bits(value) for value in kept.values] == [bits(values[step]) for step in steps]
    comparable = [value for value in values if not math.isnan(value)]
    if comparable:
        found = [value for value in kept.values if not math.isnan(value)]
        assert (min(found), max(found)) == (min(comparable), max(comparable))
    if len(values) <= wanted:
        assert steps == list(range(len(values)))


def bits(value):
    return b"nan" if math.isnan(value) else struct.pack(">d", value)


@pytest.mark.parametrize("order", [None, "-summary_metrics.acc", "config.lr", "-createdAt", "name"])
def test_lists_are_paged_in_every_order(system, order):
    """Every run comes once, runs without a value come last, and equal runs come newest first."""
    for number in range(12):
        summary = {} if number % 4 == 3 else {"acc": float(number % 3)}
        config = {"lr": "high" if number % 5 == 0 else number % 2}
        system.clock.advance(1)
        system.registry.save_run("demo", f"r{number:02}", RunChange(config=config, summary=summary), origin=ANN)
    where = parse_run_filter('{"name": {"$regex": "^r[0-9]+"}}', order)
    whole = [run.summary.run_id for run in system.registry.runs("demo", where, limit=100).runs]
    found: list[str] = []
    position = None
    for _ in range(10):
        page = system.registry.runs("demo", where, after=position, limit=5)
        found += [run.summary.run_id for run in page.runs]
        position = page.position
        if position is None:
            break
    assert found == whole
    assert sorted(found) == [f"r{number:02}" for number in range(12)]
    if order == "-summary_metrics.acc":
        assert whole == ["r08", "r05", "r02", "r10", "r04", "r01", "r09", "r06", "r00", "r11", "r07", "r03"]


def test_old_runs_are_removed_unless_versions_need_them(system):
    """A run with a version loses its metrics and media and keeps the rest; one that runs or is younger keeps all."""
    system.blobs.add([StoredBlob(DIGEST, 3, "k")], system.clock.now())
    for run_id in ("bare", "logger", "runs", "young"):
        system.start(run_id)
        system.log((0, {"a": 1.0}), run_id=run_id)
        files = [ManifestEntry(path, DIGEST, 3) for path in ("media/a.png", "code/a.py")]
        system.registry.add_run_files("demo", run_id, files, origin=ANN)
        if run_id != "runs":
            if run_id == "young":
                system.clock.advance(3 * 86_400)
            system.registry.finish_run("demo", run_id, RunState.FINISHED, origin=ANN)
    system.registry.log_artifact("demo", "net", "model", digest="sha256:1", run_id="logger", origin=ANN)
    system.clock.advance(10)
    system.pack()

    async def remove_old():
        upkeep = RunUpkeep(system.registry, timedelta(days=2), run_in_place, asyncio.Event())
        await upkeep.remove_old()

    asyncio.run(remove_old())
    kept = {run.summary.run_id for run in system.registry.runs("demo", RunFilter(), limit=10).runs}
    assert kept == {"r", "logger", "runs", "young"}
    for run_id, (metric_count, file_count) in {"logger": (0, 1), "runs": (1, 2), "young": (1, 2)}.items():
        assert len(system.registry.metrics("demo", run_id)) == metric_count
        assert len(system.registry.run_files("demo", run_id, cursor=None, limit=10).items) == file_count
    assert system.registry.run("demo", "logger").progress.next_step == 1
