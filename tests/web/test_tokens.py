"""Named tokens: made, used, expired, revoked; and addresses that send wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from tests.web.access_api import SERVER_TOKEN, TOKENS, bearer, make_token, with_token
from tests.web.conftest import API, CHURN, Serve, UnavailableStore, ok_json, problem
from upshot.adapters.memory.access import MemoryTokens
from upshot.clock import FrozenClock, format_time
from upshot.domain.access import AccessToken, digest_of, new_token
from upshot.domain.event import Role
from upshot.errors import Unavailable
from upshot.web.client_address import client_address
from upshot.web.failed_attempts import MAX_ADDRESSES, MAX_FAILURES, FailedAttempts
from upshot.web.known_tokens import MAX_AGE_SECONDS, KnownTokens

CALLER = f"{API}/caller"
EVENTS = f"{API}/events"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture
def admin(serve: Serve) -> Iterator[httpx.Client]:
    """Return a client with the server's token."""
    with serve(token=SERVER_TOKEN) as client:
        client.headers.update(bearer(SERVER_TOKEN))
        yield client


# --- made and used --------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_stored_as_a_hash(admin, stores):
    """The text is in the first response only."""
    text = make_token(admin, "ci", "member")

    assert text not in admin.get(TOKENS).text
    (stored,) = stores.tokens.usable()
    assert stored == digest_of(text)


def test_the_actor_of_a_change_is_the_name_of_the_token(admin):
    """Events and the history name it."""
    with with_token(admin, make_token(admin, "ann", "member")) as ann:
        ok_json(ann.post(f"{API}/registries/model/collections", json={"name": "churn", "artifact_type": "model"}))
        assert ok_json(ann.get(CALLER)) == {"name": "ann", "kind": "user", "role": "member", "registry": None}

    assert ok_json(admin.get(f"{CHURN}/history"))["items"][0]["actor"] == "ann"
    assert ok_json(admin.get(EVENTS))["items"][0]["actor"] == {"name": "ann", "kind": "user"}


@pytest.mark.parametrize("role", Role)
def test_only_an_admin_may_name_another_actor(admin, role):
    """Everybody else gets 403, on reading too. A token for one registry acts as itself."""
    headers = {"X-Upshot-Actor": "boss"}
    with with_token(admin, make_token(admin, "somebody", role)) as client:
        response = client.get(CALLER, headers=headers)
        if role is Role.ADMIN:
            ok_json(client.post(EVENTS, json={"name": "n"}, headers=headers))
            assert ok_json(admin.get(EVENTS))["items"][0]["actor"]["name"] == "boss"
        else:
            assert "only an admin" in problem(response, 403, "forbidden")["detail"]
    with with_token(admin, make_token(admin, "of-model", role, registry="model")) as client:
        problem(client.get(CALLER, headers=headers), 403, "forbidden")


def test_tokens_are_listed_by_name(admin):
    """Revoked ones only if they are asked for."""
    make_token(admin, "bob", "viewer", registry="model")
    make_token(admin, "ann", "admin")
    make_token(admin, "old", "member")
    ok_json(admin.delete(f"{TOKENS}/old"))

    listed = ok_json(admin.get(TOKENS))["items"]
    assert [(item["name"], item["role"], item["registry"], item["state"]) for item in listed] == [
        ("ann", "admin", None, "active"),
        ("bob", "viewer", "model", "active"),
    ]
    assert [item["name"] for item in ok_json(admin.get(TOKENS, params={"revoked": True}))["items"]] == [
        "ann",
        "bob",
        "old",
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"name": "admin", "role": "admin"}, "is the name of an actor"),
        ({"name": "a/b", "role": "member"}, "token"),
        ({"name": "", "role": "member"}, "token"),
        ({"name": "x", "role": "owner"}, "role"),
        ({"name": "x", "role": "member", "registry": "a:b"}, "registry"),
        ({"name": "x", "role": "member", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "role": "member", "expires_at": "2099-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "role": "member", "expires_at": "2026-05-01T00:00:00"}, "expires_at"),
        ({"name": "x"}, "role"),
    ],
)
def test_an_invalid_token_is_not_made(admin, body, reason):
    """The problem names the field."""
    assert reason in problem(admin.post(TOKENS, json=body), 422, "invalid-input")["detail"]
    assert ok_json(admin.get(TOKENS))["items"] == []


def test_a_name_can_be_used_once(admin):
    """The second token of a name is 409, until the first one is revoked."""
    make_token(admin, "ci", "member")
    problem(admin.post(TOKENS, json={"name": "ci", "role": "viewer"}), 409, "already-exists")
    ok_json(admin.delete(f"{TOKENS}/ci"))
    make_token(admin, "ci", "viewer")


def test_the_text_of_a_token_is_in_no_stored_response(admin, stores, monkeypatch):
    """An idempotency key does not store it, so a repetition is refused instead."""
    monkeypatch.setattr(stores.idempotency, "reserve", None)
    headers = {"Idempotency-Key": "k"}
    ok_json(admin.post(TOKENS, json={"name": "ci", "role": "member"}, headers=headers))
    problem(admin.post(TOKENS, json={"name": "ci", "role": "member"}, headers=headers), 409, "already-exists")


def test_idempotency_keys_of_tokens_are_separate(admin):
    """The same key of two tokens names two requests: nobody gets the response of somebody else."""
    ids = []
    for name in ("ann", "bob"):
        with with_token(admin, make_token(admin, name, "member")) as client:
            first, again = [
                ok_json(client.post(EVENTS, json={"name": "n"}, headers={"Idempotency-Key": "k"})) for _ in range(2)
            ]
            assert first["id"] == again["id"]
            ids.append(first["id"])
    assert len(set(ids)) == 2


def test_the_history_has_who_made_and_revoked_a_token(admin):
    """With its role, and never its text."""
    text = make_token(admin, "ci", "member")
    ok_json(admin.delete(f"{TOKENS}/ci", headers={"X-Upshot-Actor": "boss"}))

    response = admin.get(f"{API}/history")
    entries = [(entry["actor"], entry["action"], entry["subject"]) for entry in response.json()["items"]]
    assert entries == [("boss", "revoke-token", "ci"), ("admin", "create-token", "ci")]
    assert text not in response.text
    assert digest_of(text) not in response.text


def test_the_last_use_is_stored_later(serve, deps, stores, clock):
    """A request writes nothing. The time is stored with the next flush."""
    with serve(token=SERVER_TOKEN) as client:
        client.headers.update(bearer(SERVER_TOKEN))
        text = make_token(client, "ci", "member")
        known = KnownTokens(stores.tokens, clock)
        known.refresh()
        known.record_use(known.find(text).id)
        assert ok_json(client.get(TOKENS))["items"][0]["last_used_at"] is None
        known.flush_uses()
        assert ok_json(client.get(TOKENS))["items"][0]["last_used_at"] == format_time(clock.now())


# --- ended ----------------------------------------------------------------------------------------


def test_a_revoked_token_is_refused_with_the_reason(admin):
    """It says who revoked it. The other tokens still work."""
    text = make_token(admin, "ci", "member")
    with with_token(admin, text) as client:
        ok_json(client.get(EVENTS))
        ok_json(admin.delete(f"{TOKENS}/ci"))
        response = client.get(EVENTS)
    data = problem(response, 401, "unauthorized")
    assert "'ci' was revoked by admin at 2026-01-01T12:00:00" in data["detail"]
    assert "invalid_token" in response.headers["www-authenticate"]
    problem(admin.delete(f"{TOKENS}/nobody"), 404, "not-found")


def test_an_expired_token_is_refused_with_the_reason(admin, clock):
    """At its time, without anybody's doing."""
    text = make_token(admin, "ci", "member", expires_at=format_time(clock.now() + timedelta(days=90)))
    with with_token(admin, text) as client:
        ok_json(client.get(EVENTS))
        clock.advance(90 * 86_400)
        assert "'ci' expired at 2026-04-01T12:00:00" in problem(client.get(EVENTS), 401, "unauthorized")["detail"]
    assert ok_json(admin.get(TOKENS))["items"][0]["state"] == "expired"


@pytest.mark.parametrize("text", ["upt_", "upt_x", f"upt_{'x' * 43}", "upt_é".encode()])
def test_an_unknown_token_is_refused(admin, text):
    """The problem says how long a token is, because most wrong ones were cut."""
    text = text if isinstance(text, bytes) else text.encode()
    response = admin.get(EVENTS, headers={"Authorization": b"Bearer " + text})
    assert "has 47 characters" in problem(response, 401, "unauthorized")["detail"]


# --- several web processes ------------------------------------------------------------------------


def test_another_process_knows_of_a_change_within_seconds():
    """A new token works at once. A revoked one is refused when what is known is three seconds old."""
    seconds = [0.0]
    store = MemoryTokens()
    clock = FrozenClock()
    here, there = (KnownTokens(store, clock, lambda: seconds[0]) for _ in range(2))
    for known in (here, there):
        known.refresh()
    text = new_token()
    store.add(AccessToken("tok_1", "ci", Role.MEMBER, None, clock.now(), "ann", None), digest_of(text))

    assert there.find(text) is None
    assert there.look_up(text).name == "ci"
    assert there.find(text).name == "ci"
    store.revoke("tok_1", "ann", clock.now())
    here.refresh()
    assert here.find(text) is None
    seconds[0] += MAX_AGE_SECONDS
    assert not there.is_fresh
    there.refresh()
    assert there.find(text) is None
    assert there.look_up(text).revoked_by == "ann"


def test_a_server_that_cannot_read_its_tokens_says_so(serve):
    """Nobody gets in with a token that may be revoked: 503, and the server's own token still works."""
    with serve(token=SERVER_TOKEN, tokens=UnavailableStore()) as client:
        problem(client.get(EVENTS, headers=bearer(new_token())), 503, "unavailable")
        ok_json(client.get(EVENTS, headers=bearer(SERVER_TOKEN)))


def test_uses_are_kept_while_the_database_does_not_answer():
    """They are stored with the next flush."""
    store, clock = MemoryTokens(), FrozenClock()
    known = KnownTokens(UnavailableStore(), clock)
    known.record_use("tok_1")
    with pytest.raises(Unavailable):
        known.flush_uses()
    store.add(AccessToken("tok_1", "ci", Role.MEMBER, None, clock.now(), "ann", None), "a")
    known._store = store
    known.flush_uses()
    assert store.find("a").last_used_at == clock.now()


# --- a server without a token in its settings -----------------------------------------------------


def test_a_server_without_any_token_stays_open_on_loopback(web):
    """Nothing changes until somebody makes a token. The first one is an admin's, so that nobody is locked out."""
    assert ok_json(web.get(CALLER))["role"] == "admin"
    detail = problem(web.post(TOKENS, json={"name": "bob", "role": "viewer"}), 409, "conflict")["detail"]
    assert "--role admin" in detail
    problem(web.post(TOKENS, json={"name": "ann", "role": "admin", "registry": "model"}), 409, "conflict")

    text = make_token(web, "ann", "admin")

    problem(web.get(CALLER), 401, "unauthorized")
    with with_token(web, text) as ann:
        make_token(ann, "bob", "viewer")
        assert "last admin" in problem(ann.delete(f"{TOKENS}/ann"), 409, "conflict")["detail"]
        ok_json(ann.delete(f"{TOKENS}/bob"))
        ok_json(ann.delete(f"{TOKENS}/ann"))
    assert ok_json(web.get(CALLER))["role"] == "admin"


# --- wrong tokens ---------------------------------------------------------------------------------


def test_an_address_with_ten_wrong_tokens_waits(admin):
    """It gets 429 with the time to wait. The right tokens still work, because others may share the address."""
    text = make_token(admin, "ci", "member")
    with with_token(admin, new_token()) as client:
        for _ in range(MAX_FAILURES):
            problem(client.get(EVENTS), 401, "unauthorized")
        for headers in ({}, bearer("wrong"), bearer("upj_wrong")):
            response = client.get(EVENTS, headers=headers)
            problem(response, 429, "too-many-failures")
            assert 0 < int(response.headers["retry-after"]) <= 60
    with with_token(admin, text) as client:
        ok_json(client.get(EVENTS))
    ok_json(admin.get(EVENTS))
    del admin.headers["Authorization"]
    problem(admin.get(EVENTS), 401, "unauthorized")


def test_a_short_token_of_the_settings_cannot_be_guessed(serve):
    """While its address waits, even the right one is refused, so a guess learns nothing."""
    with serve(token="only-20-characters-x") as client:
        for _ in range(MAX_FAILURES):
            problem(client.get(EVENTS, headers=bearer("wrong")), 401, "unauthorized")
        problem(client.get(EVENTS, headers=bearer("only-20-characters-x")), 429, "too-many-failures")


def test_failures_are_counted_for_a_minute_and_for_few_addresses():
    """Memory is bounded, and one network of IPv6 addresses counts as one."""
    seconds = [0.0]
    failures = FailedAttempts(lambda: seconds[0])
    results = [failures.add("192.0.2.1") for _ in range(MAX_FAILURES + 1)]
    assert results == [False] * (MAX_FAILURES - 1) + [True, False]
    assert failures.wait_seconds("192.0.2.1") == 60
    assert failures.wait_seconds("192.0.2.2") == 0
    seconds[0] = 59.5
    assert failures.wait_seconds("192.0.2.1") == 1
    seconds[0] = 60.0
    assert failures.wait_seconds("192.0.2.1") == 0
    for host in range(MAX_FAILURES):
        failures.add(f"2001:db8:1:2::{host:x}")
    assert failures.wait_seconds("2001:db8:1:2:ffff::1") == 60
    assert failures.wait_seconds("2001:db8:1:3::1") == 0
    for number in range(MAX_ADDRESSES + 5):
        failures.add(f"host-{number}")
    assert len(failures._by_address) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("10.0.0.5", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.5", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.5", "198.51.100.1, 10.0.0.9", "198.51.100.1"),
        ("10.0.0.5", "", "10.0.0.5"),
        ("10.0.0.5", "nonsense", "nonsense"),
    ],
)
def test_the_address_behind_a_trusted_proxy_counts(peer, forwarded, found):
    """Only proxies in the settings are believed, and only the hops that they added."""
    from ipaddress import ip_network

    from starlette.datastructures import Headers

    headers = Headers({"x-forwarded-for": forwarded} if forwarded else {})
    assert client_address({"client": (peer, 1)}, headers, [ip_network("10.0.0.0/8")]) == found
