"""`Idempotency-Key`: a mutation that is sent again gets the first response again and is not repeated."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.web.conftest import API, CHURN, COLLECTIONS, Stores, ok_json, problem
from upshot.errors import Unavailable

KEY = {"Idempotency-Key": "5b0e6a3c"}
EVENTS = f"{API}/events"
BODY = {"name": "churn", "artifact_type": "model"}


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


class Overriding:
    """An object with some methods replaced."""

    def __init__(self, wrapped: Any, **methods: Callable[..., Any]) -> None:
        self._wrapped = wrapped
        vars(self).update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def test_the_same_request_gets_the_same_response_and_is_made_once(web):
    """Status, body and Location are the same, and a header says that the response is a repetition."""
    first = web.post(COLLECTIONS, json=BODY, headers=KEY)
    again = web.post(COLLECTIONS, json=BODY, headers=KEY)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == "application/json"
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers


def test_events_are_accepted_once_for_a_key(web):
    """Two requests return the same ids, and every event is accepted once."""
    event_ids = [
        ok_json(web.post(EVENTS, json=[{"name": "a"}, {"name": "b"}], headers=KEY))["event_ids"] for _ in range(2)
    ]

    assert event_ids[0] == event_ids[1]
    assert len(ok_json(web.get(EVENTS))["items"]) == 2


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"json": {"name": "other"}}, id="another body"),
        pytest.param({"json": {"name": "drift"}, "headers": {"X-Upshot-Actor": "ada"}}, id="another actor"),
        pytest.param({"json": {"name": "drift"}, "url": f"{EVENTS}?x=1"}, id="another query"),
    ],
)
def test_a_key_is_for_one_request(web, other):
    """Another request with the same key is 422 and changes nothing."""
    ok_json(web.post(EVENTS, json={"name": "drift"}, headers=KEY))
    request = {"url": EVENTS, "headers": {}, **other}
    request["headers"] = {**request["headers"], **KEY}

    problem(web.post(**request), 422, "idempotency-key-reused")
    assert len(ok_json(web.get(EVENTS))["items"]) == 1


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_every_kind_of_mutation_accepts_a_key(churn, method):
    """PUT, PATCH and DELETE accept one as POST does."""
    requests: dict[str, dict[str, Any]] = {
        "put": {"url": f"{CHURN}/aliases/x", "json": {"version": "v0"}},
        "patch": {"url": CHURN, "json": {"description": "new"}},
        "delete": {"url": f"{CHURN}/aliases/candidate"},
    }
    first, again = (churn.request(method.upper(), headers=KEY, **requests[method]) for _ in range(2))

    assert ok_json(again) == ok_json(first)
    assert len(ok_json(first)["event_ids"]) == 1
    assert again.headers["idempotent-replayed"] == "true"


def test_a_refused_request_leaves_the_key_free(churn):
    """The request changed nothing, so a corrected request may use the same key."""
    problem(churn.put(f"{CHURN}/aliases/x", json={"version": "v9"}, headers=KEY), 404, "not-found")
    problem(churn.put(f"{CHURN}/aliases/x", json={"versio": "v0"}, headers=KEY), 422, "invalid-input")

    assert ok_json(churn.put(f"{CHURN}/aliases/x", json={"version": "v0"}, headers=KEY))["name"] == "v0"


def test_a_request_without_a_key_does_not_use_the_store_of_keys(serve):
    """Such a request costs no query."""
    with serve(idempotency=None) as client:
        assert client.post(EVENTS, json={"name": "drift"}).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "naïve".encode()], ids=["empty", "long", "tab", "not ASCII"])
def test_a_key_has_1_to_200_visible_ascii_characters(web, key):
    """Any other key is 422."""
    problem(web.post(EVENTS, json={"name": "x"}, headers={"Idempotency-Key": key}), 422, "invalid-input")


def test_a_repetition_waits_while_the_first_request_is_in_progress(deps, serve):
    """It gets 409 with Retry-After, and the response of the first request once that has finished."""
    entered, release = threading.Event(), threading.Event()

    def slow_emit(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        assert release.wait(10)
        return deps.registry.emit(*args, **kwargs)

    with serve(registry=Overriding(deps.registry, emit=slow_emit)) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, EVENTS, json={"name": "drift"}, headers=KEY)
        assert entered.wait(10)
        second = client.post(EVENTS, json={"name": "drift"}, headers=KEY)
        release.set()
        event_ids = ok_json(first.result())["event_ids"]

        problem(second, 409, "in-progress")
        assert second.headers["retry-after"] == "1"
        assert ok_json(client.post(EVENTS, json={"name": "drift"}, headers=KEY))["event_ids"] == event_ids


def test_many_concurrent_requests_with_one_key_make_one_change(web):
    """Each of twenty requests gets the same response or 409, and one event is accepted."""
    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda _: web.post(EVENTS, json={"name": "n"}, headers=KEY), range(20)))

    assert {response.status_code for response in responses} <= {201, 409}
    assert len({response.text for response in responses if response.status_code == 201}) == 1
    assert len(ok_json(web.get(EVENTS))["items"]) == 1


def emit_and_fail(deps: Any) -> Callable[..., Any]:
    """Return an `emit` that accepts the events, and then fails as if the connection broke during the commit."""

    def emit(*args: Any, **kwargs: Any) -> Any:
        deps.registry.emit(*args, **kwargs)
        raise Unavailable("the connection broke during the commit")

    return emit


def test_a_request_can_be_repeated_after_a_crash(deps, clock, serve):
    """A process died after it accepted the events, before it stored the response. The repetition has the same ids."""
    # A dead process does not release its key.
    idempotency = Overriding(deps.idempotency, release=lambda *_: None)

    with serve(registry=Overriding(deps.registry, emit=emit_and_fail(deps)), idempotency=idempotency) as client:
        problem(client.post(EVENTS, json=[{"name": "a"}, {"name": "b"}], headers=KEY), 503, "unavailable")
    with serve() as client:
        problem(client.post(EVENTS, json=[{"name": "a"}, {"name": "b"}], headers=KEY), 409, "in-progress")
        clock.advance(61)
        event_ids = ok_json(client.post(EVENTS, json=[{"name": "a"}, {"name": "b"}], headers=KEY))["event_ids"]

        assert sorted(item["id"] for item in ok_json(client.get(EVENTS))["items"]) == sorted(event_ids)


def test_a_request_can_be_repeated_at_once_after_the_database_failed(deps, serve):
    """The outcome is unknown, so only the same request may use the key, and its events are accepted once."""
    with serve(registry=Overriding(deps.registry, emit=emit_and_fail(deps))) as client:
        broken = client.post(EVENTS, json={"name": "a"}, headers=KEY)
        problem(broken, 503, "unavailable")
        assert broken.headers["retry-after"] == "1"
    with serve() as client:
        problem(client.post(EVENTS, json={"name": "b"}, headers=KEY), 422, "idempotency-key-reused")
        accepted = ok_json(client.post(EVENTS, json={"name": "a"}, headers=KEY))
        assert (
            [item["id"] for item in ok_json(client.get(EVENTS))["items"]] == accepted["event_ids"] == [accepted["id"]]
        )
        assert accepted["name"] == "a"


def test_a_response_that_cannot_be_stored_is_still_sent(deps, serve):
    """The change is made, so the client gets the response, although a repetition could not get it again."""

    def store_response(*_: object) -> None:
        raise Unavailable("the database does not answer")

    with serve(idempotency=Overriding(deps.idempotency, store_response=store_response)) as client:
        assert client.post(EVENTS, json={"name": "a"}, headers=KEY).status_code == 201
