"""Automations over HTTP: what is loaded, and what is broken."""

from __future__ import annotations

from tests.web.conftest import API, ok_json, problem

AUTOMATIONS = f"{API}/automations"


def test_automations_are_listed_by_name_with_every_mistake(web):
    """Each automation has its triggers and steps, and each mistake has file and line."""
    listing = ok_json(web.get(AUTOMATIONS))

    assert [automation["name"] for automation in listing["items"]] == ["promote", "switched-off"]
    promote, switched_off = listing["items"]
    assert promote["on"] == [{"kind": "alias-added", "filters": {"alias": {"any_of": ["production"], "none_of": []}}}]
    assert promote["steps"] == [{"id": "say", "name": "Say so", "uses": "emit"}]
    assert (promote["path"], promote["line"], promote["enabled"]) == ("promote.yaml", 1, True)
    assert switched_off["enabled"] is False
    (broken,) = listing["broken"]
    assert broken["path"].endswith("broken.yaml")
    assert broken["line"] == 4
    assert "slack" in broken["reason"]


def test_automations_are_listed_in_pages(web):
    """The cursor of the first page leads to the second."""
    first = ok_json(web.get(AUTOMATIONS, params={"limit": 1}))
    second = ok_json(web.get(AUTOMATIONS, params={"limit": 1, "cursor": first["next"]}))

    assert [page["items"][0]["name"] for page in (first, second)] == ["promote", "switched-off"]
    assert second["next"] is None


def test_one_automation_shows_its_document(web):
    """`source` is the document as it was written."""
    shown = ok_json(web.get(f"{AUTOMATIONS}/promote"))

    assert shown["source"]["steps"][0]["with"] == {"name": "promoted"}
    assert shown["description"] == "Says that production moved."


def test_an_unknown_automation_is_not_found(web):
    """The message suggests the automation that was probably meant."""
    assert "'promote'" in problem(web.get(f"{AUTOMATIONS}/promot"), 404, "not-found")["detail"]


def test_a_broken_automation_is_listed_as_kept(web, automations, tmp_path):
    """Its last sound revision is in force, and the mistake names it."""
    path = tmp_path / "automations" / "promote.yaml"
    path.write_text(path.read_text() + "foo: 1\n")
    automations.refresh()

    listing = ok_json(web.get(AUTOMATIONS))
    assert [(item["name"], item["kept"]) for item in listing["items"]] == [("promote", True), ("switched-off", False)]
    assert [mistake["kept"] for mistake in listing["broken"]] == [[], ["promote"]]
    assert ok_json(web.get(f"{AUTOMATIONS}/promote"))["kept"] is True
