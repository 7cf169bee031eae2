"""Events over HTTP: emitted, listed, followed, explained."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.web.conftest import API, CHURN, ok_json, problem
from upshot.domain.automation import FileFault
from upshot.domain.execution import Execution, ExecutionState
from upshot.ids import RevisionId, derive_execution_id
from upshot.ports.executions import Admission

EVENTS = f"{API}/events"


def test_one_custom_event_is_accepted(web):
    """One object returns 201 with the event, its name and data, and its path in `Location`."""
    response = web.post(EVENTS, json={"name": "drift", "data": {"score": 0.4, "at": [1, None, "x"]}})

    assert response.status_code == 201
    accepted = ok_json(response)
    event = ok_json(web.get(response.headers["location"]))
    assert accepted.pop("event_ids") == [event["id"]]
    only_in_detail = {"warning": None, "execution_ids": [], "explanation": event["explanation"], "broken": []}
    assert {**accepted, **only_in_detail} == event
    assert (event["kind"], event["name"], event["subject"]) == ("custom", "drift", "drift")
    assert event["data"] == {"score": 0.4, "at": [1, None, "x"]}
    assert (event["sequence"], event["chain"], event["matched_at"]) == (0, [], None)


def test_a_thousand_events_are_accepted_at_once(web):
    """A list returns the events and their ids in its order, all with one mutation id."""
    accepted = ok_json(web.post(EVENTS, json=[{"name": "n", "data": {"n": n}} for n in range(1000)]))

    assert len(set(accepted["event_ids"])) == 1000
    assert [event["id"] for event in accepted["items"]] == accepted["event_ids"]
    assert [event["data"] for event in accepted["items"]] == [{"n": n} for n in range(1000)]
    assert len({event["mutation_id"] for event in accepted["items"]}) == 1
    last = ok_json(web.get(f"{EVENTS}/{accepted['event_ids'][-1]}"))
    assert (last["data"], last["sequence"]) == ({"n": 999}, 999)


def test_a_list_of_one_gets_the_response_of_a_list(web):
    """The shape of the response depends on what was sent, not on the number of events."""
    accepted = ok_json(web.post(EVENTS, json=[{"name": "n"}]))

    assert sorted(accepted) == ["event_ids", "items"]
    assert [event["id"] for event in accepted["items"]] == accepted["event_ids"]


def test_an_error_in_one_event_is_located_in_the_body(web):
    """A client that sent an object gets no index of a list."""
    data = problem(web.post(EVENTS, json={"name": 1}), 422, "invalid-input")

    assert data["errors"] == [
        {"location": "body.name", "detail": "must be a string, not the number 1; put it in quotes"}
    ]


@pytest.mark.parametrize("count", [0, 1001])
def test_a_list_has_one_to_a_thousand_events(web, count):
    """An empty list and a longer list are refused."""
    problem(web.post(EVENTS, json=[{"name": "n"}] * count), 422, "invalid-input")


def test_one_invalid_event_refuses_the_whole_list(web):
    """The response says which event is invalid, and none is accepted."""
    data = problem(web.post(EVENTS, json=[{"name": "good"}, {"name": "bad", "date": {}}]), 422, "invalid-input")

    assert data["errors"] == [{"location": "body.1", "detail": "unknown key 'date'; did you mean 'data'?"}]
    assert ok_json(web.get(EVENTS))["items"] == []


def test_events_are_listed_newest_first_and_can_be_filtered(churn):
    """Filters are kind, subject (a collection includes its versions), name of a custom event, and mutation."""
    ok_json(churn.post(EVENTS, json={"name": "drift"}))
    linked = ok_json(churn.get(EVENTS, params={"kind": "version-linked"}))["items"]

    def kinds(**query: str) -> list[str]:
        return [event["kind"] for event in ok_json(churn.get(EVENTS, params=query))["items"]]

    assert kinds()[0] == "custom"
    assert [event["subject"] for event in linked] == ["model/churn:v0"]
    assert set(kinds(subject="model/churn")) == {"collection-created", "version-linked", "alias-added"}
    assert kinds(name="drift") == ["custom"]
    assert "version-linked" in kinds(mutation_id=linked[0]["mutation_id"])
    assert kinds(subject="model/chur") == []


def test_events_after_an_id_are_listed_oldest_first(web):
    """`after` returns only later events, page by page."""
    ids = [ok_json(web.post(EVENTS, json={"name": f"n{n}"}))["id"] for n in range(5)]

    first = ok_json(web.get(EVENTS, params={"after": ids[0], "limit": 3}))
    rest = ok_json(web.get(EVENTS, params={"after": ids[0], "limit": 3, "cursor": first["next"]}))

    assert [event["id"] for event in first["items"]] == ids[1:4]
    assert [event["id"] for event in rest["items"]] == ids[4:]
    assert rest["next"] is None
    assert ok_json(web.get(EVENTS, params={"after": ids[-1]}))["items"] == []


def test_a_wrong_kind_gets_a_suggestion(web):
    """The message suggests the kind that was probably meant."""
    data = problem(web.get(EVENTS, params={"kind": "alias-aded"}), 422, "invalid-input")

    (error,) = data["errors"]
    assert error["location"] == "query.kind"
    assert error["detail"].endswith("not the string 'alias-aded'; did you mean 'alias-added'?")


def test_a_filter_that_is_given_twice_is_refused(web):
    """Only one of two values would count, and the response would look complete."""
    data = problem(web.get(f"{EVENTS}?kind=alias-added&kind=custom&limit=5"), 422, "invalid-input")

    assert data["errors"] == [{"location": "query.kind", "detail": "is given twice; give it once"}]


def test_an_event_shows_who_answers_it_and_why_the_others_do_not(churn, stores, clock):
    """Each automation is listed with its execution or with a reason."""
    event_id = ok_json(churn.put(f"{CHURN}/aliases/production", json={"version": "v0"}))["event_ids"][-1]
    answer = derive_execution_id(event_id, "promote")
    answer_of_removed = derive_execution_id(event_id, "removed")
    executions = tuple(
        Execution(execution_id, name, RevisionId("r1"), event_id, ExecutionState.RUNNING, clock.now())
        for execution_id, name in ((answer, "promote"), (answer_of_removed, "removed"))
    )

    before = ok_json(churn.get(f"{EVENTS}/{event_id}"))
    stores.executions.admit([Admission(event_id, executions)], clock.now())
    after = ok_json(churn.get(f"{EVENTS}/{event_id}"))

    (listed, *_) = ok_json(churn.get(EVENTS, params={"id": event_id}))["items"]
    answered_by = {item["automation"]: item["execution_id"] for item in listed["answered_by"]}
    assert answered_by == {"promote": answer, "removed": answer_of_removed}
    assert listed["automations"] == len(_by_name(after))
    assert (before["answered_by"], before["execution_ids"]) == ([], [])
    assert "when a worker matches the event" in _by_name(before)["promote"]["reason"]
    assert set(after["execution_ids"]) == {answer, answer_of_removed}
    assert after["matched_at"]
    assert _by_name(after)["promote"]["execution_id"] == answer
    assert _by_name(after)["removed"]["execution_id"] == answer_of_removed
    assert _by_name(after)["switched-off"]["answered"] is False
    assert "enabled: false" in _by_name(after)["switched-off"]["reason"]


def test_an_event_without_answers_says_why(churn):
    """The reason names the filter that did not match, the value it wants and the value of the event."""
    (event_id,) = ok_json(churn.put(f"{CHURN}/tags/x"))["event_ids"]

    reason = _by_name(ok_json(churn.get(f"{EVENTS}/{event_id}")))["promote"]["reason"]

    assert "alias-added" in reason
    assert "tag-added" in reason


def test_an_event_shows_which_files_were_broken_when_it_was_matched(churn, deps, stores, clock):
    """A file that was mended since is listed for the events of that time only. An unmatched event has those of now."""
    early, late, waiting = (ok_json(churn.put(f"{CHURN}/tags/{tag}"))["event_ids"][0] for tag in "xyz")
    fault = FileFault("automations/a.yaml", 3, "unknown action 'emti'", 2, ("a",), clock.now())
    deps.revisions.activate([], [fault], clock.now())
    stores.executions.admit([Admission(early, ())], clock.now())
    mended_at = clock.now() + timedelta(minutes=1)
    deps.revisions.activate([], [replace(fault, path="automations/b.yaml")], mended_at)
    stores.executions.admit([Admission(late, ())], mended_at)

    (then,) = ok_json(churn.get(f"{EVENTS}/{early}"))["broken"]
    assert (then["path"], then["line"], then["error_count"], then["kept"]) == ("automations/a.yaml", 3, 2, ["a"])
    assert then["until"] == "2026-01-01T12:01:00.000000Z"
    assert [fault["path"] for fault in ok_json(churn.get(f"{EVENTS}/{late}"))["broken"]] == ["automations/b.yaml"]
    clock.advance(seconds=120)
    assert [fault["path"] for fault in ok_json(churn.get(f"{EVENTS}/{waiting}"))["broken"]] == ["automations/b.yaml"]


def test_an_unknown_event_is_not_found(web):
    """The response is 404."""
    problem(web.get(f"{EVENTS}/evt_0"), 404, "not-found")


def _by_name(event: dict[str, list[dict[str, object]]]) -> dict[str, dict[str, object]]:
    return {str(explanation["automation"]): explanation for explanation in event["explanation"]}
