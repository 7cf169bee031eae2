"""Automations over HTTP: what is loaded, and what is broken."""

from __future__ import annotations

from tests.web.conftest import API, made, problem

AUTOMATIONS = f"{API}/automations"


def test_automations_are_listed_by_name_with_what_is_broken(web):
    """Each says what fires it and what it does; each mistake says file and line."""
    listing = made(web.get(AUTOMATIONS))

    assert [item["name"] for item in listing["items"]] == ["promote", "switched-off"]
    promote = listing["items"][0]
    assert promote["on"] == [{"kind": "alias-added", "filters": {"alias": {"any_of": ["production"], "none_of": []}}}]
    assert promote["steps"] == [{"id": "say", "uses": "emit"}]
    assert (promote["path"], promote["line"], promote["enabled"]) == ("promote.yaml", 1, True)
    assert listing["items"][1]["enabled"] is False
    (broken,) = listing["broken"]
    assert broken["path"].endswith("broken.yaml")
    assert broken["line"] == 4
    assert "slack" in broken["reason"]


def test_automations_come_in_pages(web):
    """As every list."""
    first = made(web.get(AUTOMATIONS, params={"limit": 1}))
    second = made(web.get(AUTOMATIONS, params={"limit": 1, "cursor": first["next"]}))

    assert [page["items"][0]["name"] for page in (first, second)] == ["promote", "switched-off"]
    assert second["next"] is None


def test_one_automation_shows_its_document(web):
    """`source` is the document as it was written."""
    one = made(web.get(f"{AUTOMATIONS}/promote"))

    assert one["source"]["steps"][0]["with"] == {"name": "promoted"}
    assert one["description"] == "Says that production moved."


def test_an_automation_that_is_not_there_is_not_found(web):
    """The message says which one was probably meant."""
    assert "'promote'" in problem(web.get(f"{AUTOMATIONS}/promot"), 404, "not-found")["detail"]
