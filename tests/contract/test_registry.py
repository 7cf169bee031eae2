"""What the registry's store promises, in memory, on SQLite and on PostgreSQL."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.contract.databases import KINDS, open_database
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import SqlEvents
from upshot.adapters.sql.migrate import migrate
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, Role
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, HistoryEntry, RegistrySettings, Version
from upshot.errors import InvalidInput, NotFound, RegistryError
from upshot.ports.events import EventQuery, EventStore
from upshot.ports.registry import RegistryStore
from upshot.registry.service import Registry

ANN = Actor("ann")
BOSS = Actor("boss", role=Role.ADMIN)
NOW = FrozenClock().now()


@dataclass
class Home:
    store: RegistryStore
    events: EventStore
    registry: Registry


@pytest.fixture(params=["memory", *KINDS])
def home(request) -> Home:
    if request.param == "memory":
        kept = MemoryEvents()
        return with_registry(MemoryRegistry(kept), kept)
    database = open_database(request.param, request)
    return with_registry(SqlRegistry(database), SqlEvents(database))


def with_registry(store, events) -> Home:
    return Home(store, events, Registry(store, MemoryStream(), FrozenClock()))


def change(home, work, locks=("collection model/churn",)):
    return home.store.transact(work, locks=locks)


def look(home, work):
    return home.store.read(work)


CHURN = Collection(
    registry="model",
    name="churn",
    artifact_type="model",
    description="# Chürn\n",
    tags=("a", "ü"),
    aliases={},
    created_at=NOW,
    created_by="ann",
)
NET = Artifact("fraud", "net", "model", {})


def logged(number: int, **given: Any) -> ArtifactVersion:
    return ArtifactVersion(
        project="fraud",
        name="net",
        type="model",
        number=number,
        digest=f"sha256:{number}",
        metadata=given.get("metadata", {}),
        description=given.get("description", ""),
        manifest=given.get("manifest"),
        aliases=(),
        tags=given.get("tags", ()),
        created_at=NOW,
        created_by="ann",
    )


def linked(number: int, source: ArtifactVersion) -> Version:
    return Version("model", "churn", number, source, (), NOW, "ann")


def furnish(tx):
    """`model/churn` with v0 → fraud/net:v0 and v1 → fraud/net:v1."""
    tx.save_registry(RegistrySettings("model"))
    tx.save_collection(CHURN)
    tx.save_artifact(NET)
    for number in range(2):
        assert tx.next_number(NET) == number
        assert tx.next_number(CHURN) == number
        tx.add_artifact_version(logged(number, manifest={"a": "b"} if number else None))
        tx.add_version(linked(number, logged(number)))


def test_what_is_written_comes_back(home):
    """Every field, with aliases where they belong."""
    full = logged(0, metadata={"a": [1, 1.5, None, "ü\x00", {"b": {}}]}, description="ü\n", tags=("x", "y"))

    def work(tx):
        tx.save_registry(RegistrySettings("model", ("prod*",)))
        tx.save_collection(CHURN)
        tx.save_artifact(NET)
        tx.add_artifact_version(full)
        tx.add_version(linked(0, full))
        tx.move_aliases(CHURN, {"z": 0, "a": 0})
        tx.move_aliases(NET, {"best": 0})

    change(home, work)

    def check(view):
        assert view.registry("model") == RegistrySettings("model", ("prod*",))
        collection = view.collection("model", "churn")
        assert collection.description == CHURN.description
        assert collection.tags == CHURN.tags
        assert collection.aliases == {"a": "v0", "z": "v0"}
        assert collection.created_at == NOW
        artifact = view.artifact("fraud", "net")
        assert artifact.aliases == {"best": "v0"}
        version = view.versions(collection, [0, 7])[0]
        assert version.aliases == ("a", "z")
        assert version.artifact == view.artifact_versions(artifact, [0])[0]
        assert version.artifact.aliases == ("best",)
        assert version.artifact.metadata == full.metadata
        assert version.artifact.tags == ("x", "y")
        assert (version.linked_at, version.linked_by) == (NOW, "ann")

    look(home, check)


def test_what_does_not_exist_is_none_or_left_out(home):
    """Nothing is raised by the store."""
    change(home, furnish)

    def check(view):
        assert view.registry("x") is None
        assert view.collection("x", "churn") is None
        assert view.collection("model", "x") is None
        assert view.artifact("fraud", "x") is None
        assert view.versions(CHURN, [5]) == {}
        assert view.versions(CHURN, []) == {}
        assert view.artifact_versions(NET, [5]) == {}
        assert view.number_of(CHURN, logged(5)) is None
        assert view.links_to(logged(5)) == ()
        assert view.manifest(logged(0)) is None
        assert view.manifest(logged(1)) == {"a": "b"}

    look(home, check)


def test_a_failed_transaction_leaves_nothing(home):
    """Neither state, nor numbers, nor events, nor history; the error comes through as it is."""
    change(home, furnish)

    class OddError(Exception):
        pass

    def work(tx):
        tx.save_registry(RegistrySettings("model", ("x",)))
        tx.save_registry(RegistrySettings("other"))
        tx.next_number(CHURN)
        tx.move_aliases(CHURN, {"a": 0})
        tx.move_aliases(CHURN, {"a": 1})
        tx.change_artifact_version(logged(0, tags=("t",)))
        tx.remove_version(linked(1, logged(1)))
        tx.add_history([HistoryEntry("his_1", NOW, "ann", "x", "y", "mut_1")])
        raise OddError

    with pytest.raises(OddError):
        change(home, work)

    def check(view):
        assert view.registries() == (RegistrySettings("model"),)
        assert dict(view.collection("model", "churn").aliases) == {}
        found = view.versions(CHURN, [0, 1])
        assert sorted(found) == [0, 1]
        assert found[0].artifact.tags == ()
        assert view.page_history(None, None, cursor=None, limit=1).items == ()

    look(home, check)
    assert change(home, lambda tx: tx.next_number(CHURN)) == 2


def test_an_alias_has_one_holder(home):
    """Several move at once; removing one leaves the others."""
    change(home, furnish)
    change(home, lambda tx: tx.move_aliases(CHURN, {"a": 0, "b": 0}))
    change(home, lambda tx: tx.move_aliases(CHURN, {"a": 1, "c": 1}))
    assert look(home, lambda view: view.collection("model", "churn").aliases) == {"a": "v1", "b": "v0", "c": "v1"}
    change(home, lambda tx: tx.remove_alias(CHURN, "a"))
    assert look(home, lambda view: view.collection("model", "churn").aliases) == {"b": "v0", "c": "v1"}


def test_unlinking_takes_the_aliases_along(home):
    """And the number stays taken."""
    change(home, furnish)
    change(home, lambda tx: tx.move_aliases(CHURN, {"a": 0, "b": 1}))
    change(home, lambda tx: tx.remove_version(linked(0, logged(0))))
    assert look(home, lambda view: view.collection("model", "churn").aliases) == {"b": "v1"}
    assert look(home, lambda view: view.links_to(logged(0))) == ()
    assert change(home, lambda tx: tx.next_number(CHURN)) == 2


def test_a_removed_collection_leaves_its_counter(home):
    """It is gone for every question; made anew, it is empty and counts on."""
    change(home, furnish)
    change(home, lambda tx: tx.move_aliases(CHURN, {"a": 0}))
    change(home, lambda tx: tx.remove_collection(CHURN))

    def gone(view):
        assert view.collection("model", "churn") is None
        assert view.names("collection", "model") == ()
        assert view.page_collections("model", cursor=None, limit=5).items == ()
        assert view.links_to(logged(0)) == ()

    look(home, gone)
    change(home, lambda tx: tx.save_collection(CHURN))
    assert dict(look(home, lambda view: view.collection("model", "churn").aliases)) == {}
    assert look(home, lambda view: view.versions(CHURN, [0, 1])) == {}
    assert change(home, lambda tx: tx.next_number(CHURN)) == 2


def test_changing_a_collection_keeps_its_counter_and_aliases(home):
    """Only description and tags are written."""
    change(home, furnish)
    change(home, lambda tx: tx.move_aliases(CHURN, {"a": 0}))
    change(home, lambda tx: tx.save_collection(Collection("model", "churn", "model", "new", (), {}, NOW, "ann")))
    found = look(home, lambda view: view.collection("model", "churn"))
    assert (found.description, found.tags, dict(found.aliases)) == ("new", (), {"a": "v0"})
    assert change(home, lambda tx: tx.next_number(CHURN)) == 2


def test_removing_an_artifact_version_removes_its_aliases_and_manifest(home):
    """The others stay."""
    change(home, furnish)

    def work(tx):
        tx.remove_version(linked(1, logged(1)))
        tx.move_aliases(NET, {"old": 0, "latest": 1})
        tx.remove_artifact_version(logged(1))

    change(home, work)
    assert look(home, lambda view: view.artifact("fraud", "net").aliases) == {"old": "v0"}
    assert sorted(look(home, lambda view: view.artifact_versions(NET, [0, 1]))) == [0]
    assert change(home, lambda tx: tx.next_number(NET)) == 2


def test_names_are_sorted_and_kept_apart(home):
    """By code point, each kind within its own."""
    for name in ("b", "B", "ä", "a b"):
        home.registry.create_collection("model", name, "model", actor=ANN)
        home.registry.log_artifact(f"p-{name}", name, "model", actor=ANN)
    home.registry.create_collection("Other", "c", "model", actor=ANN)

    def check(view):
        assert view.names("registry") == ("Other", "model")
        assert view.names("collection", "model") == ("B", "a b", "b", "ä")
        assert view.names("project") == ("p-B", "p-a b", "p-b", "p-ä")
        assert view.names("artifact", "p-ä") == ("ä",)
        page = view.page_collections("model", cursor=None, limit=3)
        assert [one.name for one in page.items] == ["B", "a b", "b"]
        assert [one.name for one in view.page_collections("model", cursor=page.next, limit=3).items] == ["ä"]
        logged = view.page_artifacts("p-ä", cursor=None, limit=1)
        assert ([one.reference for one in logged.items], logged.next) == (["p-ä/ä"], None)

    look(home, check)


def test_versions_come_in_pages_the_highest_first(home):
    """By number, not by text: v10 is above v9."""
    for number in range(12):
        home.registry.log_artifact("fraud", "net", "model", digest=str(number), actor=ANN)
        home.registry.link("model", "churn", f"fraud/net:v{number}", actor=ANN)
    for pages in (
        lambda cursor: home.registry.versions("model", "churn", cursor=cursor, limit=5),
        lambda cursor: home.registry.artifact_versions("fraud", "net", cursor=cursor, limit=5),
    ):
        seen, cursor = [], None
        while True:
            page = pages(cursor)
            seen += [one.number for one in page.items]
            cursor = page.next
            if cursor is None:
                break
        assert seen == list(range(11, -1, -1))
        with pytest.raises(InvalidInput):
            pages("!!")
    assert home.registry.versions("model", "churn", cursor=None, limit=1).items[0].aliases == ("latest",)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda r, text: r.collection("model", text), id="collection"),
        pytest.param(lambda r, text: r.version("model", "churn", text), id="version"),
        pytest.param(lambda r, text: r.artifact_version(f"fraud/{text}:v0"), id="reference"),
        pytest.param(lambda r, text: r.history(text, None, cursor=None, limit=1), id="history"),
        pytest.param(lambda r, text: r.collections("model", cursor=text, limit=1), id="cursor"),
        pytest.param(lambda r, _: r.history(None, None, cursor="YQBi", limit=1), id="NUL in a cursor"),
    ],
)
@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
def test_no_error_of_the_database_reaches_anyone(home, ask, text):
    """Characters that a database cannot hold are bad input, or simply not there."""
    home.registry.create_collection("model", "churn", "model", actor=ANN)
    try:
        found = ask(home.registry, text)
    except (InvalidInput, NotFound):
        return
    assert found.items == ()


# --- the same story in memory and in SQL

NAMES = st.sampled_from(["a", "b"])
ALIASES = st.sampled_from(["x", "y", "latest", "prod"])
WORDS = st.sampled_from(["v0", "v1", "v2", "v3", "x", "y", "latest", "prod", "nobody"])
ACTORS = st.sampled_from([ANN, BOSS])


class SameStory(RuleBasedStateMachine):
    """Whatever is done in whatever order: memory and SQL answer alike, and the invariants hold."""

    @initialize()
    def begin(self):
        self.database = Database("sqlite://")
        migrate(self.database)
        kept = MemoryEvents()
        self.homes = (
            with_registry(MemoryRegistry(kept), kept),
            with_registry(SqlRegistry(self.database), SqlEvents(self.database)),
        )
        self.numbers: dict[str, int] = {}
        for home in self.homes:
            home.registry.protect_aliases("model", ["prod"], actor=BOSS)

    def teardown(self):
        self.database.close()

    def both(self, act):
        answers: list[tuple[Any, ...]] = []
        for home in self.homes:
            try:
                answer = act(home.registry)
                answers.append((answer.value, answer.created, [without_ids(event) for event in answer.events]))
            except RegistryError as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1]
        return answers[0]

    @rule(name=NAMES, digest=st.sampled_from("123"), aliases=st.lists(ALIASES, max_size=2), actor=ACTORS)
    def log(self, name, digest, aliases, actor):
        self.both(lambda r: r.log_artifact("p", name, "model", digest=digest, aliases=aliases, actor=actor))

    @rule(source=NAMES, word=WORDS, to=NAMES, aliases=st.lists(ALIASES, max_size=2), actor=ACTORS)
    def link(self, source, word, to, aliases, actor):
        answer = self.both(lambda r: r.link("model", to, f"p/{source}:{word}", aliases=aliases, actor=actor))
        if len(answer) == 3 and answer[1]:
            version = answer[0]
            assert version.number == self.numbers.get(to, 0), "numbers are contiguous in link order"
            self.numbers[to] = version.number + 1

    @rule(source=NAMES, word=WORDS, to=NAMES, actor=ACTORS)
    def link_a_link(self, source, word, to, actor):
        answer = self.both(lambda r: r.link("model", to, f"model/{source}:{word}", actor=actor))
        if len(answer) == 3 and answer[1]:
            self.numbers[to] = answer[0].number + 1

    @rule(to=NAMES, word=WORDS, actor=ACTORS)
    def unlink(self, to, word, actor):
        self.both(lambda r: r.unlink("model", to, word, actor=actor))

    @rule(to=NAMES, alias=ALIASES, word=WORDS, actor=ACTORS)
    def add_alias(self, to, alias, word, actor):
        self.both(lambda r: r.add_alias("model", to, alias, word, actor=actor))

    @rule(to=NAMES, alias=ALIASES, actor=ACTORS)
    def remove_alias(self, to, alias, actor):
        self.both(lambda r: r.remove_alias("model", to, alias, actor=actor))

    @rule(to=NAMES, word=st.none() | WORDS, tag=st.sampled_from("st"), add=st.booleans())
    def tag(self, to, word, tag, add):
        self.both(lambda r: (r.add_tag if add else r.remove_tag)("model", to, tag, word, actor=ANN))

    @rule(to=NAMES, word=WORDS, value=st.sampled_from([None, 1, True, {"n": 1}, {"n": None}]))
    def describe(self, to, word, value):
        self.both(lambda r: r.update_version("model", to, word, metadata={"k": value}, actor=ANN))

    @rule(name=NAMES, word=WORDS)
    def delete_artifact_version(self, name, word):
        self.both(lambda r: r.delete_artifact_version(f"p/{name}:{word}", actor=ANN))

    @rule(to=NAMES, actor=ACTORS)
    def delete_collection(self, to, actor):
        self.both(lambda r: r.delete_collection("model", to, actor=actor))

    @invariant()
    def the_same_is_there(self):
        seen = []
        for home in self.homes:
            collections = home.registry.collections("model", cursor=None, limit=10).items
            versions = [
                version
                for one in collections
                for version in home.registry.versions("model", one.name, cursor=None, limit=100).items
            ]
            events = [without_ids(one.event) for one in home.events.page(EventQuery(), cursor=None, limit=500).items]
            history = home.registry.history(None, None, cursor=None, limit=500).items
            seen.append((collections, versions, events, [(one.action, one.before, one.after) for one in history]))
            for one in collections:
                held = {
                    alias: version.name
                    for version in versions
                    for alias in version.aliases
                    if version.collection == one.name
                }
                assert held == one.aliases, "every alias has one holder that exists"
        assert seen[0] == seen[1]


def without_ids(event):
    form = event.as_dict()
    del form["id"], form["mutation_id"]
    return form


def test_memory_and_sql_tell_the_same_story():
    """Any sequence of mutations gives the same answers, errors, events, history and state in both."""
    run_state_machine_as_test(
        SameStory,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
