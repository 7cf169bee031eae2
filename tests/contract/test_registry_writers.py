"""Concurrent writers on SQLite and PostgreSQL: all succeed, one after the other, and no change is lost."""

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
from upshot.domain.event import Actor, Origin, Role
from upshot.errors import NotFound
from upshot.ports.events import EventQuery
from upshot.registry.service import Registry

PROCESSES = 3
MEMBER = Origin(Actor("ann"))
ADMIN = Origin(Actor("boss", role=Role.ADMIN))


@pytest.fixture(params=KINDS)
def database(request):
    return open_database(request.param, request)


@pytest.fixture
def registry(database):
    """Return a registry with `shared/net:v0`."""
    registry = Registry(SqlRegistry(database), MemoryStream(), SystemClock())
    registry.log_artifact("shared", "net", "model", digest="x", origin=MEMBER)
    return registry


def run_concurrently(work, count=8):
    """Run `work(0)`, `work(1)`, … in one thread each, and return the results; an error is a result."""

    def result_of(number):
        try:
            return work(number)
        except Exception as error:  # noqa: BLE001 - the tests check all errors
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(result_of, range(count)))


def all_events(database, **query):
    return [stored.event for stored in SqlEvents(database).page(EventQuery(**query), cursor=None, limit=10_000).items]


def test_concurrent_processes_and_threads_lose_no_change(database, registry):
    """Numbers are contiguous, every alias moves from holder to holder, and no tag or metadata key is lost."""
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
    assert len({version.artifact_version.reference for version in versions}) == links
    candidates = registry.artifact_versions("shared", "candidates", cursor=None, limit=10_000).items
    assert [version.number for version in candidates] == list(reversed(range(links)))

    shared = registry.artifact_version("shared/net:v0")
    names = {
        f"{process}{thread}-{number}" for process in "abc" for thread in range(THREADS) for number in range(ROUNDS)
    }
    assert set(shared.tags) == names
    assert set(shared.metadata) == names

    aliases = registry.collection("model", "churn").aliases
    for alias in ("latest", "production"):
        assert aliases[alias] == last_holder(all_events(database, kind="alias-added", subject="model/churn"), alias)
    created = all_events(database, kind="collection-created")
    assert len(created) == 1 + PROCESSES * THREADS


def last_holder(events, alias):
    """Follow the alias from its first holder to its last. Every move must be later, and to a new holder."""
    moves = {
        move.data["previous"] and move.data["previous"]["name"]: move for move in events if move.data["alias"] == alias
    }
    assert len(moves) == len([move for move in events if move.data["alias"] == alias])
    holder, path = None, []
    while holder in moves:
        path.append(moves.pop(holder))
        holder = path[-1].data["version"]["name"]
    assert moves == {}, "every move begins at the holder where another move ended"
    assert [move.time for move in path] == sorted({move.time for move in path})
    return holder


def test_one_of_many_callers_creates_a_collection(database, registry):
    """The other callers get the error that the collection exists."""
    results = run_concurrently(lambda _: registry.create_collection("new", "churn", "model", origin=MEMBER))
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExists"] * 7 + ["Change"]
    assert len(all_events(database, kind="collection-created")) == 1


def test_concurrent_links_of_one_artifact_version_make_one_link(database, registry):
    """One caller creates the version, and the others get the same version."""
    changes = run_concurrently(lambda _: registry.link("new", "churn", "shared/net:v0", aliases=["a"], origin=MEMBER))
    assert [change.value.name for change in changes] == ["v0"] * 8
    assert [change.created for change in changes].count(True) == 1
    assert len(all_events(database, kind="version-linked")) == 1


def test_concurrent_logs_of_equal_content_make_one_version(database, registry):
    """Logs of different content make versions with contiguous numbers."""
    run_concurrently(lambda _: registry.log_artifact("p", "same", "model", digest="d", origin=MEMBER))
    changes = run_concurrently(
        lambda number: registry.log_artifact("p", "other", "model", digest=f"d{number}", origin=MEMBER)
    )
    same = registry.artifact_versions("p", "same", cursor=None, limit=9).items
    assert [version.number for version in same] == [0]
    assert sorted(change.value.number for change in changes) == list(range(8))


def test_protection_survives_the_concurrent_creation_of_the_registry(registry):
    """The patterns are set, whichever call creates the registry."""
    for attempt in range(10):
        name = f"registry-{attempt}"

        def work(number, name=name):
            if number == 0:
                return registry.protect_aliases(name, ["prod"], origin=ADMIN)
            return registry.create_collection(name, f"c{number}", "model", origin=MEMBER)

        results = run_concurrently(work, count=4)
        assert not [result for result in results if isinstance(result, Exception)]
        (settings,) = (settings for settings in registry.registries() if settings.name == name)
        assert settings.protected_aliases == ("prod",)


def test_deleting_an_artifact_version_during_links_leaves_no_link(registry):
    """A link comes first and is removed, or the artifact version is not found. No link to a missing version stays."""
    registry.create_collection("model", "c0", "model", origin=MEMBER)
    for attempt in range(6):
        reference = registry.log_artifact("p", "net", "model", digest=f"d{attempt}", origin=MEMBER).value.reference

        def work(number, attempt=attempt, reference=reference):
            if number == attempt:  # the deletion starts at another position in every attempt
                return registry.delete_artifact_version(reference, origin=MEMBER)
            return registry.link("model", f"c{number % 3}", reference, aliases=[f"a{number}"], origin=MEMBER)

        results = run_concurrently(work, count=6)
        assert not [error for error in results if isinstance(error, Exception) and not isinstance(error, NotFound)]
        assert not isinstance(results[attempt], Exception)
        with pytest.raises(NotFound):
            registry.artifact_version(reference)
    for collection in registry.collections("model", cursor=None, limit=10).items:
        assert registry.versions("model", collection.name, cursor=None, limit=100).items == ()
        assert dict(collection.aliases) == {}


def test_a_reader_sees_one_state(database, registry):
    """All reads of one transaction see the same state while others write."""
    registry.link("model", "churn", "shared/net:v0", origin=MEMBER)
    store = SqlRegistry(database)

    def work(view):
        before = view.collection("model", "churn")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(registry.unlink, "model", "churn", "v0", origin=MEMBER).result()
        return before, view.collection("model", "churn"), view.versions(before, [0])

    before, after, versions = store.read(work)
    assert before == after
    assert versions[0].aliases == ("latest",)
    assert dict(registry.collection("model", "churn").aliases) == {}
