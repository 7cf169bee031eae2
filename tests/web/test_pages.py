"""Lists are pages, which a client walks by cursor."""

from __future__ import annotations

import pytest

from tests.web.conftest import API, CHURN, COLLECTIONS, Stores, ok_json, problem

LISTS = {
    "registries": f"{API}/registries",
    "collections": COLLECTIONS,
    "versions": f"{CHURN}/versions",
    "artifacts": f"{API}/projects/demo/artifacts",
    "artifact versions": f"{API}/projects/demo/artifacts/churn/versions",
    "events": f"{API}/events",
    "executions": f"{API}/executions",
    "jobs": f"{API}/jobs",
    "automations": f"{API}/automations",
    "history": f"{API}/history",
    "history of a collection": f"{CHURN}/history",
    "workers": f"{API}/workers",
}
PAGED = {name: path for name, path in LISTS.items() if name not in {"registries", "workers"}}


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


@pytest.mark.parametrize("path", LISTS.values(), ids=LISTS)
def test_every_list_is_a_page(churn, path):
    """A page has `items` and `next`."""
    page = ok_json(churn.get(path))

    assert isinstance(page["items"], list)
    assert page["next"] is None


def test_a_walk_by_cursor_returns_every_item_once(churn):
    """Seven collections come by name, in pages of three."""
    for number in range(6):
        ok_json(churn.post(COLLECTIONS, json={"name": f"c{number}", "artifact_type": "model"}))

    names: list[str] = []
    sizes: list[int] = []
    query = {"limit": 3}
    while True:
        page = ok_json(churn.get(COLLECTIONS, params=query))
        names += [collection["name"] for collection in page["items"]]
        sizes.append(len(page["items"]))
        if page["next"] is None:
            break
        query["cursor"] = page["next"]

    assert names == ["c0", "c1", "c2", "c3", "c4", "c5", "churn"]
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("path", PAGED.values(), ids=PAGED)
@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "1.5", "", "9" * 5000, "%00", "1_0", "10.0", "%D9%A1"])
def test_a_limit_is_a_number_from_1_to_200(churn, path, limit):
    """Any other value is 422."""
    problem(churn.get(f"{path}?limit={limit}"), 422, "invalid-input")


@pytest.mark.parametrize("path", PAGED.values(), ids=PAGED)
def test_an_unknown_query_parameter_gets_a_suggestion(churn, path):
    """A misspelt filter is an error, because ignoring it would return a wrong list."""
    data = problem(churn.get(f"{path}?limt=3"), 422, "invalid-input")

    assert "did you mean 'limit'?" in data["detail"]
