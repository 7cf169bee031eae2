"""Artifact versions with a time to live (ttl) are deleted when it has passed, unless they are in use."""

from functools import partial
from itertools import count

import pytest

from tests.blob_stores import HOUR, MEMBER, FileStore, digest_of, open_file_store
from tests.contract.databases import KINDS
from upshot.domain.event import Actor, EventKind, Origin, Role
from upshot.errors import Forbidden, InvalidInput, NotFound

DAY = 24 * HOUR
_numbers = count()
ADMIN = Origin(Actor("root", role=Role.ADMIN))


@pytest.fixture(params=["memory", *KINDS])
def store(request, tmp_path) -> FileStore:
    return open_file_store(request.param, request, tmp_path / "blobs")


def log(store, name="net", **options):
    """Log a version of an artifact with a content of its own."""
    digest = f"sha256:{next(_numbers):064x}"
    return store.registry.log_artifact("p", name, "model", digest=digest, origin=MEMBER, **options).value


def set_ttl(store, seconds, version="v0"):
    return store.registry.update_artifact_version("p", "net", version, ttl_seconds=seconds, origin=ADMIN)


def names(store, name="net"):
    """Return the names of the versions that exist, after the worker has looked at all of them."""
    after: str | None = ""
    while after is not None:
        _, after = store.registry.delete_expired(after=after, limit=2)
    page = store.registry.artifact_versions("p", name, cursor=None, limit=100)
    return sorted(version.name for version in page.items)


def test_a_version_expires_after_its_own_ttl(store):
    """The time counts from when the version was logged. Versions without a ttl stay."""
    for ttl in (DAY, 3 * DAY, None, DAY):
        log(store, ttl_seconds=ttl)
        store.clock.advance(1)

    store.clock.advance(DAY - 60)
    assert names(store) == ["v0", "v1", "v2", "v3"]
    store.clock.advance(120)
    assert names(store) == ["v1", "v2"]
    store.clock.advance(365 * DAY)
    assert names(store) == ["v2"]


def test_a_ttl_can_be_set_and_taken_back(store):
    """A ttl that is set later counts from the same time. `changes` of the event has it."""
    log(store)
    store.clock.advance(5 * DAY)

    (event,) = set_ttl(store, 6 * DAY).events

    assert event.data["changes"]["ttl_seconds"] == {"before": None, "after": 6 * DAY}
    assert event.data["version"]["ttl_seconds"] == 6 * DAY
    assert set_ttl(store, 6 * DAY).events == ()
    set_ttl(store, None)
    store.clock.advance(2 * DAY)
    assert names(store) == ["v0"]
    set_ttl(store, 6 * DAY)
    assert names(store) == []


def test_versions_inherit_the_ttl_of_their_artifact(store):
    """A ttl of the artifact applies to versions without their own. 0 means never."""
    log(store)
    log(store, ttl_seconds=0)
    log(store, ttl_seconds=9 * DAY)
    store.registry.set_artifact_ttl("p", "net", DAY, origin=ADMIN)
    store.clock.advance(2 * DAY)

    assert names(store) == ["v1", "v2"]
    assert store.registry.artifact("p", "net").ttl_seconds == DAY
    store.registry.set_artifact_ttl("p", "net", None, origin=ADMIN)
    assert store.registry.artifact("p", "net").ttl_seconds is None


def test_a_version_with_an_alias_is_kept(store):
    """An alias in the project protects the version, `latest` does not."""
    log(store, ttl_seconds=DAY, aliases=["best"])
    log(store, ttl_seconds=2 * DAY)
    store.clock.advance(3 * DAY)

    assert names(store) == ["v0"]
    assert store.registry.artifact("p", "net").aliases == {"best": "v0", "latest": "v0"}


def test_a_linked_version_is_kept(store):
    """A link protects the version until it is removed."""
    log(store, ttl_seconds=DAY)
    store.registry.link("model", "churn", "p/net:v0", origin=MEMBER)
    store.clock.advance(3 * DAY)

    assert names(store) == ["v0"]
    store.registry.unlink("model", "churn", "v0", origin=MEMBER)
    assert names(store) == []


def test_links_of_a_collection_with_a_ttl_keep_it_for_that_time(store):
    """A collection with a ttl keeps a version for this time after it was linked, and as long as it has an alias."""
    log(store)
    store.clock.advance(10 * DAY)
    store.registry.link("model", "churn", "p/net:v0", aliases=["staging"], origin=MEMBER)
    (event,) = store.registry.update_collection("model", "churn", ttl_seconds=2 * DAY, origin=ADMIN).events
    assert event.data["changes"] == {"ttl_seconds": {"before": None, "after": 2 * DAY}}

    store.clock.advance(5 * DAY)
    assert names(store) == ["v0"]
    store.registry.remove_alias("model", "churn", "staging", origin=MEMBER)
    store.registry.link("model", "other", "p/net:v0", origin=MEMBER)
    assert names(store) == ["v0"]
    store.registry.update_collection("model", "other", ttl_seconds=DAY, origin=ADMIN)
    assert names(store) == ["v0"]
    store.clock.advance(2 * DAY)
    assert names(store) == []
    with pytest.raises(NotFound):
        store.registry.version("model", "churn", "v0")


def test_a_protected_latest_keeps_its_version(store):
    """Where a registry protects `latest`, its holder does not expire, and others do."""
    log(store)
    log(store, name="other", ttl_seconds=DAY)
    store.registry.link("model", "churn", "p/net:v0", origin=MEMBER)
    store.registry.update_collection("model", "churn", ttl_seconds=DAY, origin=ADMIN)
    store.registry.protect_aliases("model", ["latest"], origin=ADMIN)
    store.clock.advance(3 * DAY)

    assert names(store) == ["v0"]
    assert names(store, "other") == []


async def test_the_events_of_an_expiry(store):
    """Links are removed, aliases move on, and `artifact-deleted` says why. A deletion by hand has another reason."""
    log(store)
    log(store, ttl_seconds=DAY)
    store.registry.link("model", "churn", "p/net:v1", origin=MEMBER)
    store.registry.update_collection("model", "churn", ttl_seconds=DAY, origin=ADMIN)
    store.clock.advance(3 * DAY)
    store.stream.flush()

    deleted, after = store.registry.delete_expired(after="", limit=10)

    assert (deleted, after) == (1, None)
    published = [entry.event for entry in await store.stream.read(limit=100, wait_seconds=0)]
    assert [event.kind.value for event in published] == [
        "alias-removed",
        "version-unlinked",
        "alias-removed",
        "artifact-deleted",
        "alias-added",
    ]
    event = published[3]
    assert (event.subject, event.data["reason"], event.actor.name) == ("p/net:v1", "ttl", "ttl")
    entry = store.registry.history("model", "churn", cursor=None, limit=1).items[0]
    assert (entry.actor, entry.action) == ("ttl", "unlink")
    (event,) = [
        event
        for event in store.registry.delete_artifact_version("p/net:v0", origin=MEMBER).events
        if event.kind is EventKind.ARTIFACT_DELETED
    ]
    assert event.data["reason"] == "request"


def test_the_files_of_an_expired_version_are_removed(store):
    """After the expiry, the collection of garbage frees the bytes that only this version needed."""
    store.log({"a": b"shared", "b": b"old"})
    store.log({"a": b"shared"})
    store.registry.update_artifact_version("fraud", "net", "v0", ttl_seconds=DAY, origin=ADMIN)
    store.clock.advance(2 * DAY)

    assert store.registry.delete_expired(after="", limit=10) == (1, None)
    store.clock.advance(25 * HOUR)
    store.remove_garbage()

    assert store.read(b"shared") == b"shared"
    assert store.blobs.missing([digest_of(b"old")]) == [digest_of(b"old")]


@pytest.mark.parametrize("seconds", [-1, 10**12])
def test_an_invalid_ttl_is_refused(store, seconds):
    """The message has the limits."""
    log(store)
    with pytest.raises(InvalidInput, match="must be from 1 to"):
        set_ttl(store, seconds)
    with pytest.raises(InvalidInput, match="must be from 1 to"):
        store.registry.set_artifact_ttl("p", "net", seconds, origin=ADMIN)
    with pytest.raises(InvalidInput, match="null means without limit"):
        store.registry.set_artifact_ttl("p", "net", 0, origin=ADMIN)


def test_a_member_cannot_delete_with_a_ttl(store):
    """A member logs versions with a ttl, and sets a longer one. Only an admin sets one that deletes earlier."""
    log(store, ttl_seconds=DAY)
    update = partial(store.registry.update_artifact_version, "p", "net", "v0", origin=MEMBER)

    assert update(ttl_seconds=2 * DAY).value.ttl_seconds == 2 * DAY
    with pytest.raises(Forbidden, match="only an admin may set a ttl that can delete versions earlier"):
        update(ttl_seconds=DAY)
    assert update(ttl_seconds=0).value.ttl_seconds == 0
    for seconds in (None, 9 * DAY):
        with pytest.raises(Forbidden, match="only an admin"):
            update(ttl_seconds=seconds)
    store.registry.link("model", "churn", "p/net:v0", origin=MEMBER)
    with pytest.raises(Forbidden, match="only an admin"):
        store.registry.update_collection("model", "churn", ttl_seconds=DAY, origin=MEMBER)
    with pytest.raises(Forbidden, match="only an admin"):
        store.registry.set_artifact_ttl("p", "net", DAY, origin=MEMBER)
    store.registry.set_artifact_ttl("p", "net", DAY, origin=ADMIN)
    assert store.registry.set_artifact_ttl("p", "net", None, origin=MEMBER).value.ttl_seconds is None
