"""The contract of `RegistryStore`, in memory, on SQLite and on PostgreSQL."""

import re
from dataclasses import dataclass, replace
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
from upshot.domain.event import Actor, Origin, Role
from upshot.domain.manifest import ManifestEntry, ManifestSummary
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, HistoryEntry, RegistrySettings, Version
from upshot.domain.run import Direction, Edge, EdgeKind, LinkSummary, Run, RunState, RunSummary, VersionSummary
from upshot.domain.stage import Stage
from upshot.errors import InvalidInput, NotFound, RegistryError
from upshot.ports.events import EventQuery, EventStore
from upshot.ports.registry import RegistryFilter, RegistryStore
from upshot.registry.service import Registry
from upshot.resources.event import event_json

MEMBER = Origin(Actor("ann"))
ADMIN = Origin(Actor("boss", role=Role.ADMIN))
NOW = FrozenClock().now()


@dataclass
class RegistryFixture:
    store: RegistryStore
    events: EventStore

    def __post_init__(self):
        self.registry = Registry(self.store, MemoryStream(), FrozenClock())

    def transact(self, work):
        return self.store.transact(work, locks=["collection model/churn"])

    def read(self, work):
        return self.store.read(work)


@pytest.fixture(params=["memory", *KINDS])
def fixture(request) -> RegistryFixture:
    if request.param == "memory":
        events = MemoryEvents()
        return RegistryFixture(MemoryRegistry(events), events)
    database = open_database(request.param, request)
    return RegistryFixture(SqlRegistry(database), SqlEvents(database))


CHURN = Collection(
    id="col_churn",
    registry="model",
    name="churn",
    artifact_type="model",
    description="# Chürn\n",
    metadata={"a": {"b": 1}},
    tags=("a", "ü"),
    aliases={},
    created_at=NOW,
    created_by="ann",
)
MANIFEST = ManifestSummary("man_1", 1, None, is_stored=False)
NET = Artifact("art_net", "fraud", "net", "model", {})


def artifact_version(number: int, **fields: Any) -> ArtifactVersion:
    return ArtifactVersion(
        id=f"ver_{number}",
        artifact_id="art_net",
        project="fraud",
        artifact_name="net",
        artifact_type="model",
        number=number,
        digest=f"sha256:{number}",
        metadata=fields.get("metadata", {}),
        description=fields.get("description", ""),
        manifest=fields.get("manifest"),
        aliases=(),
        tags=fields.get("tags", ()),
        created_at=NOW,
        created_by="ann",
    )


def version(number: int, linked: ArtifactVersion) -> Version:
    return Version(
        f"lnk_{number}", CHURN.id, "model", "churn", number, linked, (), Stage.NONE, linked_at=NOW, linked_by="ann"
    )


def seed(tx):
    """Add `model/churn` with v0, a link to fraud/net:v0, and v1, a link to fraud/net:v1."""
    tx.save_registry(RegistrySettings("model"))
    tx.save_collection(CHURN)
    tx.add_project("prj_fraud", "fraud")
    tx.save_artifact(NET)
    for number in range(2):
        assert tx.next_number(NET) == number
        assert tx.next_number(CHURN) == number
        if number:
            tx.add_manifest(MANIFEST)
            tx.add_files(MANIFEST.id, [ManifestEntry("a", "b", None)])
        tx.add_artifact_version(artifact_version(number, manifest=MANIFEST if number else None))
        tx.add_version(version(number, artifact_version(number)))


def test_written_records_are_read_unchanged(fixture):
    """Every field is stored, and each version has its aliases in the collection and in the project."""
    full = artifact_version(0, metadata={"a": [1, 1.5, None, "ü\x00", {"b": {}}]}, description="ü\n", tags=("x", "y"))

    def work(tx):
        tx.save_registry(RegistrySettings("model", ("prod*",)))
        tx.save_collection(CHURN)
        tx.add_project("prj_fraud", "fraud")
        tx.save_artifact(NET)
        tx.add_artifact_version(full)
        tx.add_version(version(0, full))
        tx.move_aliases(CHURN, {"z": 0, "a": 0})
        tx.move_aliases(NET, {"best": 0})

    fixture.transact(work)

    def check(view):
        assert view.registry("model") == RegistrySettings("model", ("prod*",))
        collection = view.collection("model", "churn")
        assert collection.description == CHURN.description
        assert collection.tags == CHURN.tags
        assert collection.aliases == {"a": "v0", "z": "v0"}
        assert collection.created_at == NOW
        artifact = view.artifact("fraud", "net")
        assert artifact.aliases == {"best": "v0"}
        found = view.versions(collection, [0, 7])[0]
        assert found.aliases == ("a", "z")
        assert found.artifact_version == view.artifact_versions(artifact, [0])[0]
        assert found.artifact_version.aliases == ("best",)
        assert found.artifact_version.metadata == full.metadata
        assert found.artifact_version.tags == ("x", "y")
        assert (found.linked_at, found.linked_by) == (NOW, "ann")

    fixture.read(check)


def test_missing_records_are_none_or_left_out(fixture):
    """The store raises no error for a record that does not exist."""
    fixture.transact(seed)

    def check(view):
        assert view.registry("x") is None
        assert view.collection("x", "churn") is None
        assert view.collection("model", "x") is None
        assert view.artifact("fraud", "x") is None
        assert view.versions(CHURN, [5]) == {}
        assert view.versions(CHURN, []) == {}
        assert view.artifact_versions(NET, [5]) == {}
        assert view.linked_number(CHURN, artifact_version(5)) is None
        assert view.links_to(artifact_version(5)) == ()
        found = view.artifact_versions(NET, [0, 1])
        assert (found[0].manifest, found[1].manifest) == (None, MANIFEST)
        assert view.page_files(MANIFEST.id, cursor=None, limit=5).items == (ManifestEntry("a", "b", None),)

    fixture.read(check)


def test_a_failed_transaction_writes_nothing(fixture):
    """It changes no state, number, event or history entry, and its error is raised unchanged."""
    fixture.transact(seed)

    class UnrelatedError(Exception):
        pass

    def work(tx):
        tx.save_registry(RegistrySettings("model", ("x",)))
        tx.save_registry(RegistrySettings("other"))
        tx.next_number(CHURN)
        tx.move_aliases(CHURN, {"a": 0})
        tx.move_aliases(CHURN, {"a": 1})
        tx.update_artifact_version(artifact_version(0, tags=("t",)))
        tx.remove_version(version(1, artifact_version(1)))
        tx.add_history([HistoryEntry("his_1", NOW, "ann", "x", "y", "mut_1")])
        raise UnrelatedError

    with pytest.raises(UnrelatedError):
        fixture.transact(work)

    def check(view):
        assert view.registries() == (RegistrySettings("model"),)
        assert dict(view.collection("model", "churn").aliases) == {}
        found = view.versions(CHURN, [0, 1])
        assert sorted(found) == [0, 1]
        assert found[0].artifact_version.tags == ()
        assert view.page_history(None, None, cursor=None, limit=1).items == ()

    fixture.read(check)
    assert fixture.transact(lambda tx: tx.next_number(CHURN)) == 2


def test_an_alias_has_one_holder(fixture):
    """Several aliases move in one call, and removing an alias leaves the others."""
    fixture.transact(seed)
    fixture.transact(lambda tx: tx.move_aliases(CHURN, {"a": 0, "b": 0}))
    fixture.transact(lambda tx: tx.move_aliases(CHURN, {"a": 1, "c": 1}))
    assert fixture.read(lambda view: view.collection("model", "churn").aliases) == {"a": "v1", "b": "v0", "c": "v1"}
    fixture.transact(lambda tx: tx.remove_alias(CHURN, "a"))
    assert fixture.read(lambda view: view.collection("model", "churn").aliases) == {"b": "v0", "c": "v1"}


def test_unlinking_removes_the_aliases(fixture):
    """The number of the version is not used again."""
    fixture.transact(seed)
    fixture.transact(lambda tx: tx.move_aliases(CHURN, {"a": 0, "b": 1}))
    fixture.transact(lambda tx: tx.remove_version(version(0, artifact_version(0))))
    assert fixture.read(lambda view: view.collection("model", "churn").aliases) == {"b": "v1"}
    assert fixture.read(lambda view: view.links_to(artifact_version(0))) == ()
    assert fixture.transact(lambda tx: tx.next_number(CHURN)) == 2


def test_a_removed_collection_keeps_its_counter(fixture):
    """No read returns it. A new collection with its name is empty and continues its numbers."""
    fixture.transact(seed)
    fixture.transact(lambda tx: tx.move_aliases(CHURN, {"a": 0}))
    fixture.transact(lambda tx: tx.remove_collection(CHURN))

    def assert_removed(view):
        assert view.collection("model", "churn") is None
        assert view.names("collection", "model") == ()
        assert view.page_collections("model", cursor=None, limit=5).items == ()
        assert view.links_to(artifact_version(0)) == ()

    fixture.read(assert_removed)
    again = replace(CHURN, id="col_again")
    fixture.transact(lambda tx: tx.save_collection(again))
    assert dict(fixture.read(lambda view: view.collection("model", "churn").aliases)) == {}
    assert fixture.read(lambda view: view.versions(again, [0, 1])) == {}
    assert fixture.transact(lambda tx: tx.next_number(again)) == 0


def test_changing_a_collection_keeps_its_counter_and_aliases(fixture):
    """The counter and the aliases have methods of their own."""
    fixture.transact(seed)
    fixture.transact(lambda tx: tx.move_aliases(CHURN, {"a": 0}))
    fixture.transact(lambda tx: tx.save_collection(replace(CHURN, description="new")))
    found = fixture.read(lambda view: view.collection("model", "churn"))
    assert (found.description, found.tags, dict(found.aliases)) == ("new", CHURN.tags, {"a": "v0"})
    assert fixture.transact(lambda tx: tx.next_number(CHURN)) == 2


def test_removing_an_artifact_version_removes_its_aliases_and_manifest(fixture):
    """Other versions keep their aliases."""
    fixture.transact(seed)

    def work(tx):
        tx.remove_version(version(1, artifact_version(1)))
        tx.move_aliases(NET, {"old": 0, "latest": 1})
        tx.remove_artifact_version(artifact_version(1))

    fixture.transact(work)
    assert fixture.read(lambda view: view.artifact("fraud", "net").aliases) == {"old": "v0"}
    assert sorted(fixture.read(lambda view: view.artifact_versions(NET, [0, 1]))) == [0]
    assert fixture.transact(lambda tx: tx.next_number(NET)) == 2


def test_names_are_sorted_by_code_point(fixture):
    """Names of collections and artifacts are listed for one registry or project."""
    for name in ("b", "B", "ä", "a b"):
        fixture.registry.create_collection("model", name, "model", origin=MEMBER)
        fixture.registry.log_artifact(f"p-{name}", name, "model", origin=MEMBER)
    fixture.registry.create_collection("Other", "c", "model", origin=MEMBER)

    def check(view):
        assert view.names("registry") == ("Other", "model")
        assert view.names("collection", "model") == ("B", "a b", "b", "ä")
        assert view.names("project") == ("p-B", "p-a b", "p-b", "p-ä")
        assert view.names("artifact", "p-ä") == ("ä",)
        page = view.page_collections("model", cursor=None, limit=3)
        assert [collection.name for collection in page.items] == ["B", "a b", "b"]
        assert [collection.name for collection in view.page_collections("model", cursor=page.next, limit=3).items] == [
            "ä"
        ]
        artifacts = view.page_artifacts("p-ä", cursor=None, limit=1)
        assert ([artifact.reference for artifact in artifacts.items], artifacts.next) == (["p-ä/ä"], None)

    fixture.read(check)


def test_pages_of_versions_begin_with_the_highest_number(fixture):
    """Versions are sorted by number and not as text, so v10 comes before v9."""
    for number in range(12):
        fixture.registry.log_artifact("fraud", "net", "model", digest=str(number), origin=MEMBER)
        fixture.registry.link("model", "churn", f"fraud/net:v{number}", origin=MEMBER)
    for pages in (
        lambda cursor: fixture.registry.versions("model", "churn", cursor=cursor, limit=5),
        lambda cursor: fixture.registry.artifact_versions("fraud", "net", cursor=cursor, limit=5),
    ):
        seen, cursor = [], None
        while True:
            page = pages(cursor)
            seen += [version.number for version in page.items]
            cursor = page.next
            if cursor is None:
                break
        assert seen == list(range(11, -1, -1))
        with pytest.raises(InvalidInput):
            pages("!!")
    assert fixture.registry.versions("model", "churn", cursor=None, limit=1).items[0].aliases == ("latest",)


METADATA = {"format": "onnx", "score": 0.9, "epochs": 3, "ok": True, "gone": None, "nested": {"a b": {"c": "x"}}}


@pytest.mark.parametrize(
    ("where", "is_found"),
    [
        pytest.param(RegistryFilter(tag='say "a"'), True, id="tag"),
        pytest.param(RegistryFilter(tag="a"), False, id="part of a tag"),
        pytest.param(RegistryFilter(alias="best"), True, id="alias"),
        pytest.param(RegistryFilter(alias="bes"), False, id="part of an alias"),
        pytest.param(RegistryFilter(metadata=((("format",), ("onnx",)),)), True, id="text"),
        pytest.param(RegistryFilter(metadata=((("score",), ("0.9", 0.9)),)), True, id="number"),
        pytest.param(RegistryFilter(metadata=((("score",), ("0.9",)),)), False, id="text that looks like the number"),
        pytest.param(RegistryFilter(metadata=((("epochs",), (3.0,)),)), True, id="equal number"),
        pytest.param(RegistryFilter(metadata=((("ok",), (True,)),)), True, id="true"),
        pytest.param(RegistryFilter(metadata=((("ok",), (1,)),)), False, id="1 for true"),
        pytest.param(RegistryFilter(metadata=((("epochs",), (True,)),)), False, id="true for a number"),
        pytest.param(RegistryFilter(metadata=((("gone",), (None,)),)), True, id="null"),
        pytest.param(RegistryFilter(metadata=((("missing",), (None,)),)), False, id="null for a missing key"),
        pytest.param(RegistryFilter(metadata=((("nested", "a b", "c"), ("x",)),)), True, id="nested key"),
        pytest.param(RegistryFilter(metadata=((("format", "x"), ("onnx",)),)), False, id="key below a text"),
    ],
)
def test_lists_can_be_filtered(fixture, where, is_found):
    """A filter compares JSON values exactly, on versions, artifact versions and collections alike."""
    registry = fixture.registry
    registry.log_artifact("fraud", "net", "model", digest="1", metadata=METADATA, aliases=["best"], origin=MEMBER)
    registry.add_artifact_tag("fraud", "net", 'say "a"', "v0", origin=MEMBER)
    registry.create_collection("model", "churn", "model", metadata=METADATA, origin=MEMBER)
    registry.add_tag("model", "churn", 'say "a"', origin=MEMBER)
    registry.link("model", "churn", "fraud/net:v0", aliases=["best"], origin=MEMBER)

    found = (
        registry.versions("model", "churn", where, cursor=None, limit=5),
        registry.artifact_versions("fraud", "net", where, cursor=None, limit=5),
        registry.collections("model", where, cursor=None, limit=5),
    )
    assert [len(page.items) for page in found] == [int(is_found)] * 3


def test_versions_are_filtered_by_stage_and_artifacts_by_type(fixture):
    """Pages of a filtered list are full, and lead to the rest."""
    registry = fixture.registry
    for number in range(6):
        registry.log_artifact("fraud", "net", "model", digest=str(number), origin=MEMBER)
        registry.link("model", "churn", "fraud/net:latest", origin=MEMBER)
        if number % 2:
            registry.set_stage("model", "churn", f"v{number}", Stage.STAGING, origin=MEMBER)
    where = RegistryFilter(stage=Stage.STAGING)
    page = registry.versions("model", "churn", where, cursor=None, limit=2)
    rest = registry.versions("model", "churn", where, cursor=page.next, limit=2)
    assert [[version.name for version in versions.items] for versions in (page, rest)] == [["v5", "v3"], ["v1"]]
    assert rest.next is None
    for artifact_type, count in (("model", 1), ("dataset", 0)):
        found = registry.artifacts("fraud", RegistryFilter(artifact_type=artifact_type), cursor=None, limit=5)
        assert len(found.items) == count


@pytest.mark.parametrize(
    "read",
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
def test_errors_of_the_database_never_reach_the_caller(fixture, read, text):
    """A name with characters that a database cannot store is invalid input, or is not found."""
    fixture.registry.create_collection("model", "churn", "model", origin=MEMBER)
    try:
        found = read(fixture.registry, text)
    except (InvalidInput, NotFound):
        return
    assert found.items == ()


# --- the same mutations in memory and in SQL

NAMES = st.sampled_from(["a", "b"])
ALIASES = st.sampled_from(["x", "y", "latest", "prod"])
VERSIONS = st.sampled_from(["v0", "v1", "v2", "v3", "x", "y", "latest", "prod", "missing"])
ORIGINS = st.sampled_from([MEMBER, ADMIN])
METADATA_VALUES = st.sampled_from([None, 1, True, {"n": 1}, {"n": None}])


class MemoryMatchesSql(RuleBasedStateMachine):
    """Memory and SQL give the same results for any sequence of mutations, and the invariants hold."""

    @initialize()
    def start(self):
        self.database = Database("sqlite://")
        migrate(self.database)
        events = MemoryEvents()
        self.fixtures = (
            RegistryFixture(MemoryRegistry(events), events),
            RegistryFixture(SqlRegistry(self.database), SqlEvents(self.database)),
        )
        self.next_numbers: dict[str, int] = {}
        for fixture in self.fixtures:
            fixture.registry.protect_aliases("model", ["prod"], origin=ADMIN)

    def teardown(self):
        self.database.close()

    def both(self, mutate):
        results: list[tuple[Any, ...]] = []
        values = []
        for fixture in self.fixtures:
            try:
                change = mutate(fixture.registry)
                events = [event_json(event) for event in change.events]
                results.append((without_ids(change.value), change.created, without_ids(events)))
                values.append(change.value)
            except RegistryError as error:
                results.append((type(error), str(error)))
        assert results[0] == results[1]
        return (values[0], *results[0][1:]) if values else results[0]

    @rule(name=NAMES, digest=st.sampled_from("123"), aliases=st.lists(ALIASES, max_size=2), origin=ORIGINS)
    def log(self, name, digest, aliases, origin):
        self.both(lambda r: r.log_artifact("p", name, "model", digest=digest, aliases=aliases, origin=origin))

    @rule(artifact=NAMES, version=VERSIONS, collection=NAMES, aliases=st.lists(ALIASES, max_size=2), origin=ORIGINS)
    def link(self, artifact, version, collection, aliases, origin):
        reference = f"p/{artifact}:{version}"
        result = self.both(lambda r: r.link("model", collection, reference, aliases=aliases, origin=origin))
        if len(result) == 3 and result[1]:
            number = result[0].number
            assert number == self.next_numbers.get(collection, 0), "numbers are contiguous in the order of links"
            self.next_numbers[collection] = number + 1

    @rule(source=NAMES, version=VERSIONS, collection=NAMES, origin=ORIGINS)
    def link_a_link(self, source, version, collection, origin):
        result = self.both(lambda r: r.link("model", collection, f"model/{source}:{version}", origin=origin))
        if len(result) == 3 and result[1]:
            self.next_numbers[collection] = result[0].number + 1

    @rule(collection=NAMES, version=VERSIONS, origin=ORIGINS)
    def unlink(self, collection, version, origin):
        self.both(lambda r: r.unlink("model", collection, version, origin=origin))

    @rule(name=NAMES, alias=ALIASES, version=VERSIONS, in_project=st.booleans(), origin=ORIGINS)
    def add_alias(self, name, alias, version, in_project, origin):
        if in_project:
            self.both(lambda r: r.add_artifact_alias("p", name, alias, version, origin=origin))
        else:
            self.both(lambda r: r.add_alias("model", name, alias, version, origin=origin))

    @rule(name=NAMES, alias=ALIASES, in_project=st.booleans(), origin=ORIGINS)
    def remove_alias(self, name, alias, in_project, origin):
        if in_project:
            self.both(lambda r: r.remove_artifact_alias("p", name, alias, origin=origin))
        else:
            self.both(lambda r: r.remove_alias("model", name, alias, origin=origin))

    @rule(collection=NAMES, version=st.none() | VERSIONS, tag=st.sampled_from("st"), add=st.booleans())
    def tag(self, collection, version, tag, add):
        self.both(lambda r: (r.add_tag if add else r.remove_tag)("model", collection, tag, version, origin=MEMBER))

    @rule(artifact=NAMES, version=VERSIONS, tag=st.sampled_from("st"), add=st.booleans())
    def tag_artifact(self, artifact, version, tag, add):
        self.both(
            lambda r: (r.add_artifact_tag if add else r.remove_artifact_tag)("p", artifact, tag, version, origin=MEMBER)
        )

    @rule(name=NAMES, version=VERSIONS, value=METADATA_VALUES, in_project=st.booleans())
    def update(self, name, version, value, in_project):
        if in_project:
            self.both(lambda r: r.update_artifact_version("p", name, version, metadata={"k": value}, origin=MEMBER))
        else:
            self.both(lambda r: r.update_version("model", name, version, metadata={"k": value}, origin=MEMBER))

    @rule(name=NAMES, version=VERSIONS)
    def delete_artifact_version(self, name, version):
        self.both(lambda r: r.delete_artifact_version(f"p/{name}:{version}", origin=MEMBER))

    @rule(collection=NAMES, origin=ORIGINS)
    def delete_collection(self, collection, origin):
        if len(self.both(lambda r: r.delete_collection("model", collection, origin=origin))) == 3:
            self.next_numbers[collection] = 0

    @rule(collection=NAMES, version=VERSIONS, stage=st.sampled_from(list(Stage)), archive_existing=st.booleans())
    def set_stage(self, collection, version, stage, archive_existing):
        self.both(
            lambda r: r.set_stage("model", collection, version, stage, archive_existing=archive_existing, origin=MEMBER)
        )

    @rule(collection=NAMES, new_name=NAMES, origin=ORIGINS)
    def rename_collection(self, collection, new_name, origin):
        result = self.both(lambda r: r.update_collection("model", collection, new_name=new_name, origin=origin))
        if len(result) == 3 and collection != new_name:
            self.next_numbers[new_name] = self.next_numbers.pop(collection, 0)

    @rule(name=NAMES, new_name=NAMES)
    def rename_artifact(self, name, new_name):
        self.both(lambda r: r.rename_artifact("p", name, new_name, origin=ADMIN))

    @rule(new_name=st.sampled_from(["p", "q", "model"]))
    def rename_project(self, new_name):
        self.both(lambda r: r.rename_project("q" if new_name == "p" else "p", new_name, origin=ADMIN))

    @invariant()
    def both_have_the_same_state(self):
        states = []
        for fixture in self.fixtures:
            registry = fixture.registry
            collections = registry.collections("model", cursor=None, limit=10).items
            versions = [
                version
                for collection in collections
                for version in registry.versions("model", collection.name, cursor=None, limit=100).items
            ]
            events = fixture.events.page(EventQuery(), cursor=None, limit=500).items
            history = registry.history(None, None, cursor=None, limit=500).items
            states.append(
                [
                    without_ids(collections),
                    without_ids(versions),
                    without_ids([event_json(stored.event) for stored in events]),
                    without_ids([(entry.action, entry.before, entry.after) for entry in history]),
                ]
            )
            filtered: list[str] = []
            filters = [
                RegistryFilter(alias="x"),
                RegistryFilter(tag="s"),
                RegistryFilter(stage=Stage.STAGING),
                RegistryFilter(artifact_type="model"),
                RegistryFilter(metadata=((("k", "n"), (1, "1")),)),
                RegistryFilter(metadata=((("k",), (True,)),)),
            ]
            for where in filters:
                found = [
                    registry.versions("model", collection.name, where, cursor=None, limit=3)
                    for collection in collections
                ]
                filtered.append(without_ids((registry.collections("model", where, cursor=None, limit=1), found)))
            for collection in collections:
                holders = {
                    alias: version.name
                    for version in versions
                    for alias in version.aliases
                    if version.collection == collection.name
                }
                assert holders == collection.aliases, "every alias has one holder that exists"
            states[-1].extend(filtered)
        assert states[0] == states[1]


def without_ids(records):
    """Return the text of records without the random part of their ids."""
    return re.sub(r"\b(art|col|evt|lnk|man|mut|prj|ver)_[0-9a-z]{26}\b", r"\1", repr(records))


def test_memory_matches_sql():
    """Any sequence of mutations gives the same results, errors, events, history and state in memory and in SQL."""
    run_state_machine_as_test(
        MemoryMatchesSql,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# --- runs and lineage -----------------------------------------------------------------------------------------------


def make_run(number: int, **fields: Any) -> Run:
    summary = RunSummary(f"run_{number}", "fraud", f"r{number}", "swift", "training", RunState.RUNNING, NOW, NOW)
    return Run(summary, created_by="ann", **fields)


def test_runs_are_read_as_they_were_written(fixture):
    """Every field is stored, a second write changes the run, and pages are newest first."""
    full = make_run(
        1,
        config={"lr": 0.1, "ü": [None]},
        results={"loss": 1e-300},
        tags=("a", "b"),
        notes="ü\n",
        group="g",
        entity="acme",
        info={"host": "h"},
        finished_at=NOW,
    )

    def work(tx):
        seed(tx)
        tx.save_run(make_run(1))
        tx.save_run(full)
        for number in (2, 3):
            tx.save_run(make_run(number))

    fixture.transact(work)

    def check(view):
        assert view.run("fraud", "r1") == full
        assert view.run("fraud", "run_1") is None
        assert view.run("other", "r1") is None
        assert view.runs(["run_1", "run_9"]) == {"run_1": full}
        assert view.run_summaries(["run_1", "run_9"]) == {"run_1": full.summary}
        page = view.page_runs("fraud", cursor=None, limit=2)
        assert [run.summary.run_id for run in page.items] == ["r3", "r2"]
        last = view.page_runs("fraud", cursor=page.next, limit=2)
        assert ([run.summary.run_id for run in last.items], last.next) == (["r1"], None)

    fixture.read(check)


def test_edges_are_found_from_both_ends(fixture):
    """An edge is stored once, and it goes with its version."""
    used, logged = Edge(EdgeKind.USED, "run_1", "ver_0"), Edge(EdgeKind.LOGGED, "run_1", "ver_2")

    def work(tx):
        seed(tx)
        tx.save_run(make_run(1))
        tx.add_artifact_version(replace(artifact_version(2), run=make_run(1).summary))
        for edge in (used, used, logged):
            tx.add_edge(edge)

    fixture.transact(work)

    def check(view):
        assert view.edges(EdgeKind.USED, run_ids=["run_1"], limit=10) == (used,)
        assert view.edges(EdgeKind.USED, version_ids=["ver_0", "ver_2"], limit=10) == (used,)
        assert view.edges(EdgeKind.LOGGED, version_ids=["ver_0", "ver_2"], limit=10) == (logged,)
        assert view.edges(EdgeKind.LOGGED, version_ids=["ver_2"], limit=0) == ()
        found = view.artifact_versions_by_id(["ver_0", "ver_2", "ver_9"])
        assert {id_: version.run for id_, version in found.items()} == {"ver_0": None, "ver_2": make_run(1).summary}
        assert found["ver_2"] == view.artifact_version_by_id("ver_2")

    fixture.read(check)
    fixture.transact(lambda tx: tx.remove_artifact_version(tx.artifact_version_by_id("ver_2")))
    assert fixture.read(lambda view: view.edges(EdgeKind.LOGGED, run_ids=["run_1"], limit=10)) == ()


def test_version_summaries_have_the_aliases_of_all_scopes(fixture):
    """Each link has the aliases that the version has in that collection."""

    def work(tx):
        seed(tx)
        tx.move_aliases(NET, {"best": 1, "a": 1})
        tx.move_aliases(CHURN, {"z": 1, "b": 1})

    fixture.transact(work)
    links = (LinkSummary("model", "churn", 1, ("b", "z")),)
    assert fixture.read(lambda view: view.version_summaries(["ver_1", "ver_9"])) == {
        "ver_1": VersionSummary("ver_1", "fraud", "net", "model", 1, ("a", "best"), links, NOW)
    }
    links = (LinkSummary("model", "churn", 0, ()),)
    assert fixture.read(lambda view: view.version_summaries(["ver_0"]))["ver_0"].links == links


def test_the_lineage_ends_at_its_limits(fixture):
    """A circle ends, and the depth counts edges."""

    def work(tx):
        seed(tx)
        for number in (1, 2):
            tx.save_run(make_run(number))
        tx.add_edge(Edge(EdgeKind.USED, "run_1", "ver_0"))
        tx.add_edge(Edge(EdgeKind.LOGGED, "run_1", "ver_1"))
        tx.add_edge(Edge(EdgeKind.USED, "run_2", "ver_1"))
        tx.add_edge(Edge(EdgeKind.LOGGED, "run_2", "ver_0"))

    fixture.transact(work)
    for depth, count in ((1, 1), (2, 2), (3, 3), (50, 4)):
        lineage = fixture.registry.lineage("fraud/net:v0", Direction.DOWN, depth=depth)
        assert len(lineage.edges) == count
        assert not lineage.is_truncated
    assert lineage.depths == {"ver_0": 0, "run_1": 1, "ver_1": 2, "run_2": 3}
