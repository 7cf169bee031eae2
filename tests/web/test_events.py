"""Events over HTTP: accepted, listed, followed, explained."""

from __future__ import annotations

import pytest

from tests.web.conftest import API, CHURN, made, problem
from upshot.domain.execution import Execution, ExecutionState
from upshot.ids import execution_id
from upshot.ports.executions import Admission

EVENTS = f"{API}/events"


def test_one_custom_event_is_accepted(web):
    """One object answers 201 with the event itself, which carries the name and the data, and where it is."""
    response = web.post(EVENTS, json={"name": "drift", "data": {"score": 0.4, "at": [1, None, "x"]}})

    assert response.status_code == 201
    answer = made(response)
    event = made(web.get(response.headers["location"]))
    assert {**answer, "executions": [], "explanation": event["explanation"]} == {**event, "ids": [event["id"]]}
    assert (event["kind"], event["name"], event["subject"]) == ("custom", "drift", "drift")
    assert event["data"] == {"score": 0.4, "at": [1, None, "x"]}
    assert (event["sequence"], event["chain"], event["matched_at"]) == (0, [], None)


def test_a_thousand_events_are_accepted_at_once(web):
    """A list answers with the events and their ids, in its order; all are of one mutation."""
    answer = made(web.post(EVENTS, json=[{"name": "n", "data": {"n": n}} for n in range(1000)]))

    assert len(set(answer["ids"])) == 1000
    assert [item["id"] for item in answer["items"]] == answer["ids"]
    assert [item["data"] for item in answer["items"]] == [{"n": n} for n in range(1000)]
    assert len({item["mutation_id"] for item in answer["items"]}) == 1
    last = made(web.get(f"{EVENTS}/{answer['ids'][-1]}"))
    assert (last["data"], last["sequence"]) == ({"n": 999}, 999)


def test_a_list_of_one_is_answered_as_a_list(web):
    """What is sent decides about the form of the answer, not how many there are."""
    answer = made(web.post(EVENTS, json=[{"name": "n"}]))

    assert sorted(answer) == ["ids", "items"]
    assert [item["id"] for item in answer["items"]] == answer["ids"]


def test_what_is_wrong_with_one_event_is_told_by_its_place_in_the_body(web):
    """Who sent an object is not told of a place in a list."""
    form = problem(web.post(EVENTS, json={"name": 1}), 422, "invalid-input")

    assert form["errors"] == [{"place": "body.name", "detail": "a string is needed"}]


@pytest.mark.parametrize("count", [0, 1001])
def test_a_list_has_one_to_a_thousand_events(web, count):
    """Neither none nor more than a thousand."""
    problem(web.post(EVENTS, json=[{"name": "n"}] * count), 422, "invalid-input")


def test_one_bad_event_refuses_the_whole_list(web):
    """The place of the bad one is told, and nothing is accepted."""
    form = problem(web.post(EVENTS, json=[{"name": "good"}, {"name": "bad", "date": {}}]), 422, "invalid-input")

    assert form["errors"] == [{"place": "body.1", "detail": "unknown key 'date'; did you mean 'data'?"}]
    assert made(web.get(EVENTS))["items"] == []


def test_events_are_listed_newest_first_and_can_be_chosen(churn):
    """By kind, subject (a collection means its versions too), name of a custom event, and mutation."""
    made(churn.post(EVENTS, json={"name": "drift"}))
    linked = made(churn.get(EVENTS, params={"kind": "version-linked"}))["items"]

    def kinds(**query: str) -> list[str]:
        return [item["kind"] for item in made(churn.get(EVENTS, params=query))["items"]]

    assert kinds()[0] == "custom"
    assert [item["subject"] for item in linked] == ["model/churn:v0"]
    assert set(kinds(subject="model/churn")) == {"collection-created", "version-linked", "alias-added"}
    assert kinds(name="drift") == ["custom"]
    assert "version-linked" in kinds(mutation=linked[0]["mutation_id"])
    assert kinds(subject="model/chur") == []


def test_events_after_an_id_come_oldest_first(web):
    """`after` follows along: later events only, oldest first, page by page."""
    ids = [made(web.post(EVENTS, json={"name": f"n{n}"}))["id"] for n in range(5)]

    first = made(web.get(EVENTS, params={"after": ids[0], "limit": 3}))
    rest = made(web.get(EVENTS, params={"after": ids[0], "limit": 3, "cursor": first["next"]}))

    assert [item["id"] for item in first["items"]] == ids[1:4]
    assert [item["id"] for item in rest["items"]] == ids[4:]
    assert rest["next"] is None
    assert made(web.get(EVENTS, params={"after": ids[-1]}))["items"] == []


def test_a_wrong_kind_gets_the_nearest_right_word(web):
    """As in YAML."""
    form = problem(web.get(EVENTS, params={"kind": "alias-aded"}), 422, "invalid-input")

    assert form["errors"] == [
        {"place": "query.kind", "detail": "'alias-aded' is not known; did you mean 'alias-added'?"}
    ]


def test_a_filter_that_is_given_twice_is_refused(web):
    """Rather than taken by halves, which would look like an answer."""
    form = problem(web.get(f"{EVENTS}?kind=alias-added&kind=custom&limit=5"), 422, "invalid-input")

    assert form["errors"] == [{"place": "query.kind", "detail": "is given twice; give it once"}]


def test_an_event_tells_who_answers_it_and_why_the_others_do_not(churn, stores, clock):
    """Each automation is named with its execution or the plain reason."""
    moved = made(churn.put(f"{CHURN}/aliases/production", json={"version": "v0"}))["events"]
    answer = execution_id(moved[-1], "promote")
    gone = execution_id(moved[-1], "gone")
    executions = tuple(
        Execution(one, name, "r1", moved[-1], ExecutionState.RUNNING, clock.now())
        for one, name in ((answer, "promote"), (gone, "gone"))
    )

    before = made(churn.get(f"{EVENTS}/{moved[-1]}"))
    stores.executions.admit([Admission(moved[-1], executions)], clock.now())
    after = made(churn.get(f"{EVENTS}/{moved[-1]}"))

    assert before["executions"] == []
    assert "as soon as a worker" in _by_name(before)["promote"]["reason"]
    assert set(after["executions"]) == {answer, gone}
    assert after["matched_at"]
    assert _by_name(after)["promote"]["execution"] == answer
    assert _by_name(after)["gone"]["execution"] == gone
    assert _by_name(after)["switched-off"]["answered"] is False
    assert "enabled: false" in _by_name(after)["switched-off"]["reason"]


def test_an_event_that_nobody_answers_says_why(churn):
    """The filter that did not fit is named, with what was there and what was wanted."""
    (tagged,) = made(churn.put(f"{CHURN}/tags/x"))["events"]

    reason = _by_name(made(churn.get(f"{EVENTS}/{tagged}")))["promote"]["reason"]

    assert "alias-added" in reason
    assert "tag-added" in reason


def test_an_event_that_is_not_there_is_not_found(web):
    """404 for any id."""
    problem(web.get(f"{EVENTS}/evt_0"), 404, "not-found")


def _by_name(event: dict[str, list[dict[str, object]]]) -> dict[str, dict[str, object]]:
    return {str(answer["automation"]): answer for answer in event["explanation"]}
