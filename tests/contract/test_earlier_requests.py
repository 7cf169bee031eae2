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
from upshot.domain.pending_version import EarlierRequest
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

    def link(self, artifact, *aliases, at=None, known=None):
        earlier = None if at is None else EarlierRequest(at, known or {})
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


def test_a_move_of_the_program_itself_does_not_count(system):
    """It brings in several changes of one alias, one after the other."""
    first, second = system.log("first"), system.log("second")
    happened_at = system.clock.now()
    system.clock.advance(60)
    moved = system.link(first, "staging", at=happened_at)
    assert system.link(second, "staging", at=happened_at).kept_aliases == ("staging",)

    change = system.link(second, "staging", at=happened_at, known={"staging": moved.events[0].time})

    assert change.kept_aliases == ()
    assert system.holder("staging") == "second"


def test_a_time_in_the_future_is_now(system):
    """The clock of a laptop may be wrong."""
    later = system.clock.now() + timedelta(days=1)

    assert system.link(system.log("net"), at=later).value.linked_at == system.clock.now()
