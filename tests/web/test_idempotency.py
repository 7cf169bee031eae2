"""`Idempotency-Key`: a mutation that is sent again is answered again, not done again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.web.conftest import API, CHURN, COLLECTIONS, Stores, made, problem
from upshot.errors import Unavailable
from upshot.web.dependencies import WebDependencies

KEY = {"Idempotency-Key": "5b0e6a3c"}
EVENTS = f"{API}/events"
BODY = {"name": "churn", "artifact_type": "model"}


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


class Registry:
    """The house's registry, one verb of it replaced."""

    def __init__(self, registry: Any, **verbs: Callable[..., Any]) -> None:
        self._registry = registry
        vars(self).update(verbs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)


def with_verb(house: WebDependencies, **verbs: Callable[..., Any]) -> Any:
    return Registry(house.registry, **verbs)


def test_the_same_request_gets_the_same_answer_and_is_done_once(web):
    """Status, body and Location are those of the first time, and a header says so."""
    first = web.post(COLLECTIONS, json=BODY, headers=KEY)
    again = web.post(COLLECTIONS, json=BODY, headers=KEY)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == "application/json"
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers


def test_events_are_accepted_once_for_a_key(web):
    """Two calls, the same ids, one event."""
    ids = [made(web.post(EVENTS, json=[{"name": "a"}, {"name": "b"}], headers=KEY))["ids"] for _ in range(2)]

    assert ids[0] == ids[1]
    assert len(made(web.get(EVENTS))["items"]) == 2


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"json": {"name": "other"}}, id="another body"),
        pytest.param({"json": {"name": "drift"}, "headers": {"X-Upshot-Actor": "ada"}}, id="another actor"),
        pytest.param({"json": {"name": "drift"}, "url": f"{EVENTS}?x=1"}, id="another address"),
    ],
)
def test_a_key_is_for_one_request(web, other):
    """The same key with another request is 422, and nothing is done."""
    made(web.post(EVENTS, json={"name": "drift"}, headers=KEY))
    request = {"url": EVENTS, "headers": {}, **other}
    request["headers"] = {**request["headers"], **KEY}

    problem(web.post(**request), 422, "idempotency-key-reused")
    assert len(made(web.get(EVENTS))["items"]) == 1


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_every_kind_of_mutation_takes_a_key(churn, method):
    """PUT, PATCH and DELETE too."""
    calls: dict[str, dict[str, Any]] = {
        "put": {"url": f"{CHURN}/aliases/x", "json": {"version": "v0"}},
        "patch": {"url": CHURN, "json": {"description": "new"}},
        "delete": {"url": f"{CHURN}/aliases/candidate"},
    }
    first, again = (churn.request(method.upper(), headers=KEY, **calls[method]) for _ in range(2))

    assert made(again) == made(first)
    assert len(made(first)["events"]) == 1
    assert again.headers["idempotent-replayed"] == "true"


def test_a_refused_request_leaves_the_key_free(churn):
    """What changed nothing may be put right and sent under the same key."""
    problem(churn.put(f"{CHURN}/aliases/x", json={"version": "v9"}, headers=KEY), 404, "not-found")
    problem(churn.put(f"{CHURN}/aliases/x", json={"versio": "v0"}, headers=KEY), 422, "invalid-input")

    assert made(churn.put(f"{CHURN}/aliases/x", json={"version": "v0"}, headers=KEY))["version"] == "v0"


def test_a_request_without_a_key_asks_the_keys_nothing(house, serve):
    """Not even when the keys cannot be read."""
    with serve(idempotency=None) as client:
        assert client.post(EVENTS, json={"name": "drift"}).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "naïve".encode()], ids=["empty", "long", "tab", "not ASCII"])
def test_a_key_is_short_and_plain(web, key):
    """1 to 200 visible characters."""
    problem(web.post(EVENTS, json={"name": "x"}, headers={"Idempotency-Key": key}), 422, "invalid-input")


def test_while_the_first_is_at_work_the_second_is_told_to_wait(house, serve):
    """409 with Retry-After; once the first is done, its answer."""
    entered, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, **named: Any) -> Any:
        entered.set()
        assert go_on.wait(10)
        return house.registry.emit(*args, **named)

    with serve(registry=with_verb(house, emit=slow)) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, EVENTS, json={"name": "drift"}, headers=KEY)
        assert entered.wait(10)
        second = client.post(EVENTS, json={"name": "drift"}, headers=KEY)
        go_on.set()
        ids = made(first.result())["ids"]

        problem(second, 409, "in-progress")
        assert second.headers["retry-after"] == "1"
        assert made(client.post(EVENTS, json={"name": "drift"}, headers=KEY))["ids"] == ids


def test_many_calls_with_one_key_do_it_once(web):
    """Twenty at a time: each is answered alike or told to wait, and there is one event."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: web.post(EVENTS, json={"name": "n"}, headers=KEY), range(20)))

    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.text for answer in answers if answer.status_code == 201}) == 1
    assert len(made(web.get(EVENTS))["items"]) == 1


def test_after_a_crash_the_request_can_be_repeated_and_is_not_doubled(house, clock, serve):
    """A process died after the events were accepted and before the answer was kept: the repetition has the same ids."""

    def accept_and_die(*args: Any, **named: Any) -> Any:
        house.registry.emit(*args, **named)
        raise Unavailable("the connection broke while it committed")

    class Deaf:
        """Keys that a dead process no longer gives back."""

        def __getattr__(self, name: str) -> Any:
            return (lambda *_: None) if name == "give_back" else getattr(house.idempotency, name)

    with serve(registry=with_verb(house, emit=accept_and_die), idempotency=Deaf()) as client:
        problem(client.post(EVENTS, json=[{"name": "a"}, {"name": "b"}], headers=KEY), 503, "unavailable")
    with serve() as client:
        problem(client.post(EVENTS, json=[{"name": "a"}, {"name": "b"}], headers=KEY), 409, "in-progress")
        clock.advance(61)
        ids = made(client.post(EVENTS, json=[{"name": "a"}, {"name": "b"}], headers=KEY))["ids"]

        assert sorted(item["id"] for item in made(client.get(EVENTS))["items"]) == sorted(ids)


def test_when_the_database_went_away_the_request_can_be_repeated_at_once(house, serve):
    """How far it came is not known, so only the same request may follow; it does not double."""

    def accept_and_fail(*args: Any, **named: Any) -> Any:
        house.registry.emit(*args, **named)
        raise Unavailable("the connection broke while it committed")

    with serve(registry=with_verb(house, emit=accept_and_fail)) as client:
        broken = client.post(EVENTS, json={"name": "a"}, headers=KEY)
        problem(broken, 503, "unavailable")
        assert broken.headers["retry-after"] == "1"
    with serve() as client:
        problem(client.post(EVENTS, json={"name": "b"}, headers=KEY), 422, "idempotency-key-reused")
        answer = made(client.post(EVENTS, json={"name": "a"}, headers=KEY))
        assert [item["id"] for item in made(client.get(EVENTS))["items"]] == answer["ids"] == [answer["id"]]
        assert answer["name"] == "a"


def test_an_answer_that_cannot_be_kept_is_still_given(house, serve):
    """What is done is said, though a repetition could not be answered from memory."""

    class Forgetful:
        def __getattr__(self, name: str) -> Any:
            return self._fail if name == "answer" else getattr(house.idempotency, name)

        def _fail(self, *_: object) -> None:
            raise Unavailable("away")

    with serve(idempotency=Forgetful()) as client:
        assert client.post(EVENTS, json={"name": "a"}, headers=KEY).status_code == 201
