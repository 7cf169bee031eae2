"""The contract suites of `TokenStore` and `SessionStore`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from tests.contract.databases import open_database
from upshot.adapters.memory.access import MemorySessions, MemoryTokens
from upshot.adapters.sql.access import SqlSessions, SqlTokens
from upshot.clock import FrozenClock
from upshot.domain.access import AccessToken, Session, digest_of, new_token
from upshot.domain.event import Role
from upshot.errors import AlreadyExists
from upshot.ports.access import SessionStore, TokenStore

NOW = FrozenClock().now()
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Stores:
    """The two stores, on the same tokens."""

    tokens: TokenStore
    sessions: SessionStore


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    if request.param == "memory":
        tokens = MemoryTokens()
        yield Stores(tokens, MemorySessions(tokens))
        return
    database = open_database(request.param, request)
    yield Stores(SqlTokens(database), SqlSessions(database))


def token(name: str = "ci", *, number: int = 1, expires_at: datetime | None = None) -> AccessToken:
    return AccessToken(f"tok_{number}", name, Role.MEMBER, "model", NOW, "ann", expires_at)


def test_a_token_is_found_by_its_digest(stores):
    """It comes back as it was added, and only under its own digest."""
    digest = digest_of(new_token())
    added = token(expires_at=NOW + HOUR)
    stores.tokens.add(added, digest)

    assert stores.tokens.find(digest) == added
    assert stores.tokens.usable() == {digest: added}
    assert stores.tokens.list() == (added,)
    assert stores.tokens.find(digest_of("other")) is None


def test_a_name_belongs_to_one_token_that_is_not_revoked(stores):
    """After the first one is revoked, another token can have its name."""
    stores.tokens.add(token(), "a")
    with pytest.raises(AlreadyExists, match="'ci'"):
        stores.tokens.add(token(number=2), "b")

    stores.tokens.revoke("tok_1", "ann", NOW)
    stores.tokens.add(token(number=2), "b")

    assert [found.id for found in stores.tokens.list()] == ["tok_2", "tok_1"]
    assert list(stores.tokens.usable()) == ["b"]


def test_one_of_many_concurrent_tokens_gets_the_name(stores):
    """Eight threads add a token of the same name, and for the other seven it exists."""
    results: list[str] = []
    barrier = threading.Barrier(8)

    def add(number: int) -> None:
        barrier.wait()
        try:
            stores.tokens.add(token(number=number), str(number))
            results.append("added")
        except AlreadyExists:
            results.append("exists")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == ["added", *["exists"] * 7]


def test_a_revoked_token_says_who_revoked_it(stores):
    """The first revocation counts, and the token can still be found, so that its user learns the reason."""
    stores.tokens.add(token(), "a")
    stores.tokens.revoke("tok_1", "ann", NOW)
    stores.tokens.revoke("tok_1", "bob", NOW + HOUR)

    assert stores.tokens.find("a") == replace(token(), revoked_at=NOW, revoked_by="ann")


def test_the_last_use_never_goes_back(stores):
    """Web processes report the uses that they have seen in any order."""
    stores.tokens.add(token(), "a")
    stores.tokens.record_uses({})
    for used_at in (NOW, NOW + HOUR, NOW):
        stores.tokens.record_uses({"tok_1": used_at, "tok_9": NOW})

    assert stores.tokens.find("a").last_used_at == NOW + HOUR


def test_old_tokens_are_removed_with_their_sessions(stores):
    """Tokens that were revoked or expired before the time go; the others stay."""
    for number, expires_at in ((1, None), (2, NOW), (3, NOW + 3 * HOUR), (4, None)):
        stores.tokens.add(token(f"t{number}", number=number, expires_at=expires_at), str(number))
        stores.sessions.add(f"s{number}", Session(f"tok_{number}", "mark", NOW + HOUR))
    stores.tokens.revoke("tok_1", "ann", NOW)

    assert stores.tokens.prune(NOW + HOUR) == 2
    assert [found.id for found in stores.tokens.list()] == ["tok_3", "tok_4"]
    assert stores.sessions.find("s1", NOW) is None
    assert stores.sessions.find("s4", NOW) is not None


def test_a_session_is_found_with_its_token(stores):
    """A session of the token in the settings has none."""
    stores.tokens.add(token(), "a")
    of_token = Session("tok_1", "mark", NOW + HOUR)
    of_server = Session(None, "mark", NOW + HOUR)
    stores.sessions.add("x", of_token)
    stores.sessions.add("y", of_server)

    assert stores.sessions.find("x", NOW) == (of_token, token())
    assert stores.sessions.find("y", NOW) == (of_server, None)
    assert stores.sessions.find("z", NOW) is None


def test_a_session_ends(stores):
    """At its time, when it is removed, and when its token is revoked or expires."""
    stores.tokens.add(token(), "a")
    stores.tokens.add(token("bob", number=2, expires_at=NOW + HOUR), "b")
    for digest, token_id in (("late", "tok_1"), ("left", "tok_1"), ("revoked", "tok_1"), ("expired", "tok_2")):
        stores.sessions.add(digest, Session(token_id, "mark", NOW + 2 * HOUR))

    stores.sessions.remove("left")
    assert stores.sessions.find("left", NOW) is None
    assert stores.sessions.find("late", NOW + 2 * HOUR) is None
    assert stores.sessions.find("expired", NOW + HOUR) is None
    assert stores.sessions.find("revoked", NOW) is not None
    stores.tokens.revoke("tok_1", "ann", NOW)
    assert stores.sessions.find("revoked", NOW) is None


def test_a_code_works_once_and_in_time(stores):
    """A second use and a late use get nothing."""
    session = Session(None, "mark", NOW + HOUR)
    for digest in ("once", "late"):
        stores.sessions.add_code(digest, session)

    assert stores.sessions.use_code("once", NOW) == session
    assert stores.sessions.use_code("once", NOW) is None
    assert stores.sessions.use_code("late", NOW + HOUR) is None
    assert stores.sessions.use_code("unknown", NOW) is None


def test_one_of_many_concurrent_uses_of_a_code_counts(stores):
    """Eight threads use one code, and one gets the session."""
    stores.sessions.add_code("c", Session(None, "mark", NOW + HOUR))
    results: list[Session | None] = []
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait()
        results.append(stores.sessions.use_code("c", NOW))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len([session for session in results if session]) == 1


def test_what_has_expired_is_removed(stores):
    """Sessions and codes that have expired go; the others stay."""
    for number in range(3):
        stores.sessions.add(f"s{number}", Session(None, "mark", NOW + number * HOUR))
        stores.sessions.add_code(f"c{number}", Session(None, "mark", NOW + number * HOUR))

    assert stores.sessions.prune(NOW + HOUR) == 4
    assert stores.sessions.find("s2", NOW) is not None
    assert stores.sessions.use_code("c2", NOW) is not None
