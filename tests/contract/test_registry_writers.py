"""Many writers at once, on SQLite and on PostgreSQL: all succeed, one after the other, and nothing is lost."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contract.databases import KINDS, open_database
from tests.contract.writers import ROUNDS, THREADS
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import SystemClock
from upshot.domain.event import Actor, Role
from upshot.errors import AlreadyExists, NotFound
from upshot.ports.events import EventQuery
from upshot.registry.service import Registry

PROCESSES = 3
ANN = Actor("ann")
BOSS = Actor("boss", role=Role.ADMIN)


@pytest.fixture(params=KINDS)
def database(request):
    return open_database(request.param, request)


@pytest.fixture
def registry(database):
    """A registry with `shared/net:v0`."""
    made = Registry(SqlRegistry(database), MemoryStream(), SystemClock())
    made.log_artifact("shared", "net", "model", digest="x", actor=ANN)
    return made


def at_once(work, count=8):
    """Run the work for 0, 1, 2, … in as many threads; an error is a result."""

    def one(number):
        try:
            return work(number)
        except Exception as error:  # noqa: BLE001 - the test looks at all of them
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def all_events(database, **query):
    return [stored.event for stored in SqlEvents(database).page(EventQuery(**query), cursor=None, limit=10_000).items]


def test_processes_and_threads_link_move_tag_and_describe_at_once(database, registry):
    """Numbers are contiguous, every alias passes from hand to hand, and no tag or key is lost."""
    url = database.url.render_as_string(hide_password=False)
    program = [sys.executable, "-m", "tests.contract.writers", url]
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([*program, name], cwd=root, stderr=subprocess.PIPE, text=True) for name in "abc"[:PROCESSES]
    ]
    errors = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * PROCESSES, "\n".join(errors)

    links = PROCESSES * THREADS * ROUNDS
    versions = registry.versions("model", "churn", cursor=None, limit=10_000).items
    assert [version.number for version in versions] == list(reversed(range(links)))
    assert len({version.artifact.reference for version in versions}) == links
    logged = registry.artifact_versions("shared", "candidates", cursor=None, limit=10_000).items
    assert [one.number for one in logged] == list(reversed(range(links)))

    shared = registry.artifact_version("shared/net:v0")
    names = {
        f"{process}{thread}-{number}" for process in "abc" for thread in range(THREADS) for number in range(ROUNDS)
    }
    assert set(shared.tags) == names
    assert set(shared.metadata) == names

    aliases = registry.collection("model", "churn").aliases
    for alias in ("latest", "production"):
        assert aliases[alias] == hand_to_hand(all_events(database, kind="alias-added", subject="model/churn"), alias)
    created = all_events(database, kind="collection-created")
    assert len(created) == 1 + PROCESSES * THREADS


def hand_to_hand(events, alias):
    """Follow the alias from its first holder to its last, each time to a version that never had it, later in time."""
    moves = {
        move.data["previous"] and move.data["previous"]["name"]: move for move in events if move.data["alias"] == alias
    }
    assert len(moves) == len([move for move in events if move.data["alias"] == alias])
    holder, path = None, []
    while holder in moves:
        path.append(moves.pop(holder))
        holder = path[-1].data["version"]["name"]
    assert moves == {}, "every move begins where another one ended"
    assert [move.time for move in path] == sorted({move.time for move in path})
    return holder


def test_a_collection_is_made_by_one_of_many(database, registry):
    """The others are told that it exists."""
    made = at_once(lambda _: registry.create_collection("new", "churn", "model", actor=ANN))
    assert sorted(type(one).__name__ for one in made) == ["AlreadyExists"] * 7 + ["Change"]
    assert any(isinstance(one, AlreadyExists) for one in made)
    assert len(all_events(database, kind="collection-created")) == 1


def test_linking_one_thing_from_many_sides_links_it_once(database, registry):
    """One makes the version, the others find it."""
    linked = at_once(lambda _: registry.link("new", "churn", "shared/net:v0", aliases=["a"], actor=ANN))
    assert [change.value.name for change in linked] == ["v0"] * 8
    assert [change.created for change in linked].count(True) == 1
    assert len(all_events(database, kind="version-linked")) == 1


def test_equal_content_logged_from_many_sides_is_one_version(database, registry):
    """And different content makes contiguous versions."""
    at_once(lambda _: registry.log_artifact("p", "same", "model", digest="d", actor=ANN))
    others = at_once(lambda number: registry.log_artifact("p", "other", "model", digest=f"d{number}", actor=ANN))
    assert [one.number for one in registry.artifact_versions("p", "same", cursor=None, limit=9).items] == [0]
    assert sorted(change.value.number for change in others) == list(range(8))


def test_protection_is_not_lost_to_a_registry_that_is_being_made(registry):
    """Whoever makes the registry first."""
    for attempt in range(10):
        name = f"registry-{attempt}"

        def work(number, name=name):
            if number == 0:
                return registry.protect_aliases(name, ["prod"], actor=BOSS)
            return registry.create_collection(name, f"c{number}", "model", actor=ANN)

        done = at_once(work, count=4)
        assert not [one for one in done if isinstance(one, Exception)]
        assert next(one for one in registry.registries() if one.name == name).protected_aliases == ("prod",)


def test_deleting_what_is_being_linked_ends_one_way_or_the_other(registry):
    """Either the link comes first and is unlinked, or the artifact version is not found; nothing dangles."""
    registry.create_collection("model", "c0", "model", actor=ANN)
    for attempt in range(6):
        logged = registry.log_artifact("p", "net", "model", digest=f"d{attempt}", actor=ANN).value.reference

        def work(number, attempt=attempt, logged=logged):
            if number == attempt:  # sometimes first, sometimes last
                return registry.delete_artifact_version(logged, actor=ANN)
            return registry.link("model", f"c{number % 3}", logged, aliases=[f"a{number}"], actor=ANN)

        done = at_once(work, count=6)
        assert not [one for one in done if isinstance(one, Exception) and not isinstance(one, NotFound)]
        assert not isinstance(done[attempt], Exception)
        with pytest.raises(NotFound):
            registry.artifact_version(logged)
    for collection in registry.collections("model", cursor=None, limit=10).items:
        assert registry.versions("model", collection.name, cursor=None, limit=100).items == ()
        assert dict(collection.aliases) == {}


def test_a_reader_sees_one_state(database, registry):
    """However many questions it asks while others write."""
    registry.link("model", "churn", "shared/net:v0", actor=ANN)
    store = SqlRegistry(database)

    def work(view):
        before = view.collection("model", "churn")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(registry.unlink, "model", "churn", "v0", actor=ANN).result()
        return before, view.collection("model", "churn"), view.versions(before, [0])

    before, after, versions = store.read(work)
    assert before == after
    assert versions[0].aliases == ("latest",)
    assert dict(registry.collection("model", "churn").aliases) == {}
