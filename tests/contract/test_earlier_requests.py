"""What was done without a connection and is brought in later, in memory, on SQLite and on PostgreSQL."""

from datetime import timedelta

import pytest

from tests.contract.databases import KINDS, open_database
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, Origin
from upshot.domain.manifest import manifest_digest
from upshot.domain.pending_version import EarlierRequest, VersionRequest
from upshot.ids import new_id
from upshot.registry.service import Registry

ANN = Origin(Actor("ann"))


class System:
    def __init__(self, kind, request):
        self.clock = FrozenClock()
        store = MemoryRegistry(MemoryEvents()) if kind == "memory" else SqlRegistry(open_database(kind, request))
        self.registry = Registry(store, MemoryStream(), self.clock)

    def log(self, name):
        digest = f"sha256:{name}"
        return self.registry.log_artifact("p", name, "model", digest=digest, origin=ANN).value.reference

    def link(self, artifact, *aliases, at=None):
        earlier = None if at is None else EarlierRequest(at)
        return self.registry.link("model", "net", artifact, aliases=aliases, earlier=earlier, origin=ANN)

    def holder(self, alias):
        return self.registry.version("model", "net", alias).artifact_version.artifact_name


@pytest.fixture(params=["memory", *KINDS])
def system(request):
    return System(request.param, request)


def test_an_alias_that_moved_later_stays(system):
    """The other aliases move, and the link has the time of then."""
    old, new = system.log("old"), system.log("new")
    happened_at = system.clock.now()
    system.clock.advance(60)
    system.link(old, "staging")
    system.clock.advance(60)

    change = system.link(new, "staging", "best", at=happened_at)

    assert change.kept_aliases == ("staging",)
    assert (system.holder("staging"), system.holder("best"), system.holder("latest")) == ("old", "new", "new")
    assert change.value.linked_at == happened_at


def test_an_alias_that_was_removed_later_stays_away(system):
    """Removing it was a decision, too."""
    old, new = system.log("old"), system.log("new")
    system.link(old, "staging")
    happened_at = system.clock.now()
    system.clock.advance(60)
    system.registry.remove_alias("model", "net", "staging", origin=ANN)

    assert system.link(new, "staging", at=happened_at).kept_aliases == ("staging",)


def test_an_alias_that_moved_before_moves(system):
    """What the program could know does not count."""
    old, new = system.log("old"), system.log("new")
    system.link(old, "staging")
    system.clock.advance(60)

    change = system.link(new, "staging", at=system.clock.now() - timedelta(seconds=1))

    assert change.kept_aliases == ()
    assert system.holder("staging") == "new"


def test_an_alias_has_who_was_asked_for_last(system):
    """A move that was brought in counts as of the time when it was asked for, and so do two of one program."""
    first, second, third = system.log("first"), system.log("second"), system.log("third")
    asked_first = system.clock.now()
    system.clock.advance(10)
    asked_second = system.clock.now()
    system.clock.advance(60)

    assert system.link(first, "staging", at=asked_first).kept_aliases == ()
    assert system.link(second, "staging", at=asked_second).kept_aliases == ()
    assert system.link(third, "staging", at=asked_first).kept_aliases == ("staging",)
    assert system.holder("staging") == "second"


def test_content_that_is_logged_again_is_the_same_version(system):
    """An offline program sends it with the same id, and its aliases are added."""
    at = system.clock.now()
    system.clock.advance(60)
    version_id = new_id("ver", at)

    def begin(*aliases, happened_at=at):
        request = VersionRequest(
            "p", "net", "model", manifest_digest([]), 0, {}, "", aliases, (), earlier=EarlierRequest(happened_at)
        )
        return system.registry.begin_version(version_id, request, origin=ANN)

    assert begin("best").pending
    system.registry.commit_version(version_id, origin=ANN)
    system.registry.log_artifact("p", "net", "model", digest="sha256:newer", origin=ANN)

    again = begin("best", "final", happened_at=at + timedelta(seconds=1)).logged

    assert (again.value.name, again.value.aliases) == ("v0", ("best", "final"))


def test_a_time_in_the_future_is_now(system):
    """The clock of a laptop may be wrong."""
    later = system.clock.now() + timedelta(days=1)

    assert system.link(system.log("net"), at=later).value.linked_at == system.clock.now()
