"""Comments on versions and runs, in memory, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.databases import KINDS, open_database
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import FrozenClock
from upshot.domain.comment import mentions_in
from upshot.domain.event import Actor, ActorKind, EventKind, Origin, Role
from upshot.errors import Forbidden, InvalidInput, NotFound
from upshot.registry.comments import MAX_COMMENTS, MAX_MENTIONS, CommentSubject
from upshot.registry.inputs import MAX_COMMENT_CHARS
from upshot.registry.runs import RunChange
from upshot.registry.service import Registry

ANN = Origin(Actor("ann"))
BOB = Origin(Actor("bob"))
VIEWER = Origin(Actor("eve", role=Role.VIEWER))
ADMIN = Origin(Actor("boss", role=Role.ADMIN))
LINK = CommentSubject(version="model/churn:production")
LOGGED = CommentSubject(version="demo/net:v0")
RUN = CommentSubject(run="demo/train001")


@pytest.fixture(params=["memory", *KINDS])
def registry(request) -> Registry:
    """Return a registry with a version, a link to it, and a run."""
    events = MemoryEvents()
    store = MemoryRegistry(events) if request.param == "memory" else SqlRegistry(open_database(request.param, request))
    registry = Registry(store, MemoryStream(), FrozenClock())
    registry.save_run("demo", "train001", RunChange(name="swift-fox"), origin=ANN)
    registry.log_artifact("demo", "net", "model", digest="sha256:01", run_id="train001", origin=ANN)
    registry.link("model", "churn", "demo/net:v0", aliases=["production"], origin=ANN)
    return registry


def texts(registry, subject):
    return [comment.text for comment in registry.comments(subject, cursor=None, limit=50).items]


def test_a_comment_on_a_version_belongs_to_the_artifact_version(registry):
    """The link and the artifact version show the same comments. The event has the version, and who is mentioned."""
    change = registry.add_comment(LINK, "@bob: please check, @Zoë.", origin=ANN)
    registry.add_comment(LOGGED, "done", origin=BOB)

    assert texts(registry, LINK) == texts(registry, LOGGED) == ["@bob: please check, @Zoë.", "done"]
    comment = registry.comment(change.value.id)
    assert comment == change.value
    assert (comment.subject, comment.on, comment.author) == ("demo/net:v0", "version", "ann")
    (event,) = change.events
    assert (event.kind, event.subject) == (EventKind.COMMENT_ADDED, "model/churn:v0")
    assert event.data["mentions"] == event.data["comment"]["mentions"] == ["bob", "Zoë"]
    assert event.data["collection"]["name"] == "churn"
    assert event.data["version"]["reference"] == "model/churn:v0"
    history = registry.history("model", "churn", cursor=None, limit=1).items[0]
    assert (history.action, history.actor, history.after["mentions"]) == ("add-comment", "ann", ["bob", "Zoë"])


def test_a_comment_on_a_run(registry):
    """Its event has the run and its project, and no version."""
    change = registry.add_comment(RUN, "loss explodes at step 900", origin=ANN)

    assert texts(registry, RUN) == ["loss explodes at step 900"]
    assert texts(registry, LINK) == []
    (event,) = change.events
    assert (event.subject, event.data["on"], event.data["mentions"]) == ("demo/train001", "run", [])
    assert (event.data["run"]["id"], event.data["project"]["name"]) == ("train001", "demo")
    assert "version" not in event.data


def test_the_author_and_admins_edit_and_delete(registry):
    """An edit changes text and mentions, and says when. Neither makes an event. The history keeps no text."""
    comment = registry.add_comment(LINK, "@bob look", origin=ANN).value
    for action in (
        lambda: registry.edit_comment(comment.id, "x", origin=BOB),
        lambda: registry.delete_comment(comment.id, origin=BOB),
        lambda: registry.edit_comment(comment.id, "x", origin=Origin(Actor("ann", ActorKind.AUTOMATION))),
    ):
        with pytest.raises(Forbidden, match="ann wrote comment"):
            action()

    edited = registry.edit_comment(comment.id, "@carol look", origin=ANN)
    assert (edited.value.text, edited.value.mentions, edited.events) == ("@carol look", ("carol",), ())
    assert edited.value.edited_at is not None
    assert registry.edit_comment(comment.id, "@carol look", origin=ANN).value == edited.value
    assert registry.comment(comment.id) == edited.value
    assert registry.delete_comment(comment.id, origin=ADMIN).events == ()
    with pytest.raises(NotFound, match="may have been deleted"):
        registry.comment(comment.id)
    entries = registry.history(None, None, cursor=None, limit=3).items
    assert [entry.action for entry in entries] == ["delete-comment", "edit-comment", "add-comment"]
    assert "look" not in str(entries)


def test_comments_follow_their_subject(registry):
    """A renamed project has them. A deleted artifact version or run takes its own with it."""
    comment = registry.add_comment(LOGGED, "hello", origin=ANN).value
    on_run = registry.add_comment(RUN, "hello", origin=ANN).value
    registry.rename_project("demo", "prod", origin=ADMIN)
    assert registry.comment(comment.id).subject == "prod/net:v0"
    assert registry.comment(on_run.id).subject == "prod/train001"

    registry.unlink("model", "churn", "v0", origin=ADMIN)
    registry.delete_artifact_version("prod/net:v0", origin=ADMIN)
    with pytest.raises(NotFound):
        registry.comment(comment.id)
    assert texts(registry, CommentSubject(run="prod/train001")) == ["hello"]
    registry.delete_run("prod", "train001", origin=ADMIN)
    with pytest.raises(NotFound):
        registry.comment(on_run.id)


def test_pages_have_the_oldest_first(registry):
    """Every comment is on one page."""
    for number in range(5):
        registry.add_comment(RUN, f"n{number}", origin=ANN)
    found, cursor = [], None
    while True:
        page = registry.comments(RUN, cursor=cursor, limit=2)
        found += [comment.text for comment in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert found == ["n0", "n1", "n2", "n3", "n4"]


@pytest.mark.parametrize(
    ("subject", "text", "error", "message"),
    [
        (LINK, " \n\t", InvalidInput, "the text is empty"),
        (LINK, "x" * (MAX_COMMENT_CHARS + 1), InvalidInput, "at most 10,000"),
        (LINK, "a\x00b", InvalidInput, "cannot be stored"),
        (LINK, " ".join(f"@n{number}" for number in range(MAX_MENTIONS + 1)), InvalidInput, "at most 50"),
        (CommentSubject(version="model/churn:v9"), "x", NotFound, "v9"),
        (CommentSubject(run="demo/nope"), "x", NotFound, "nope"),
        (CommentSubject(run="demo"), "x", InvalidInput, "write PROJECT/RUN"),
    ],
)
def test_what_cannot_be_a_comment_is_refused(registry, subject, text, error, message):
    """The error names what is wrong, and nothing is stored."""
    with pytest.raises(error, match=message):
        registry.add_comment(subject, text, origin=ANN)
    assert texts(registry, LINK) == []


def test_viewers_cannot_comment_and_the_number_is_limited(registry, monkeypatch):
    """Up to a limit, after which some must be deleted."""
    with pytest.raises(Forbidden):
        registry.add_comment(LINK, "x", origin=VIEWER)
    assert MAX_COMMENTS == 1_000
    monkeypatch.setattr("upshot.registry.comments.MAX_COMMENTS", 1)
    registry.add_comment(LINK, "first 🎉 é", origin=ANN)
    with pytest.raises(InvalidInput, match="delete some first"):
        registry.add_comment(LINK, "second", origin=ANN)
    assert texts(registry, LINK) == ["first 🎉 é"]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("@ada, @bob-2 and (@c.d)!", ("ada", "bob-2", "c.d")),
        ("@ada. @ada's @ada", ("ada",)),
        ("mail ada@example.com or see https://x/@y and a/@b", ()),
        ("`@code` and ```\n@block\n``` but @real", ("real",)),
        ("@Zoe\u0308 @名前 @müller", ("Zoë", "名前", "müller")),
        ("@ @@x @- @_a\n@b", ("b",)),
        ("@" + "x" * 200, ()),
    ],
)
def test_mentions(text, mentions):
    """A mention is `@` and a name. Addresses and code are no mentions, and both Unicode forms are one name."""
    assert mentions_in(text) == mentions


@given(st.text(st.sampled_from("@ab.`-_\n é😀"), max_size=80))
def test_any_text_has_mentions_that_are_in_it(text):
    """Whatever the text is, mentions are unique and come from it."""
    found = mentions_in(text)
    assert len(set(found)) == len(found)
    assert all(f"@{name}" in text for name in found)
