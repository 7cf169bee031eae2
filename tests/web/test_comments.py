"""Comments over REST and with `upshot comments`."""

import pytest

from tests.web.conftest import API, ok_json, problem


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture
def version(web):
    """Make demo/net:v0, its link model/churn:v0, and the run demo/train001."""
    ok_json(web.put(f"{API}/projects/demo/runs/train001", json={}))
    body = {"name": "net", "artifact_type": "model", "digest": "sha256:n"}
    ok_json(web.post(f"{API}/projects/demo/artifacts", json=body))
    ok_json(web.post(f"{API}/registries/model/collections/churn/versions", json={"artifact": "demo/net:v0"}))
    return "model/churn:v0"


def test_a_comment_is_added_listed_edited_and_deleted(web, version):
    """The response to each change has the comment and its events."""
    added = web.post(f"{API}/comments", json={"version": version, "text": "@ada please"})
    comment = ok_json(added)
    assert added.status_code == 201
    assert added.headers["location"] == f"{API}/comments/{comment['id']}"
    assert (comment["mentions"], comment["subject"], len(comment["event_ids"])) == (["ada"], "demo/net:v0", 1)
    event = ok_json(web.get(f"{API}/events/{comment['event_ids'][0]}"))
    assert (event["kind"], event["data"]["mentions"]) == ("comment-added", ["ada"])

    edited = ok_json(web.patch(f"{API}/comments/{comment['id']}", json={"text": "thanks"}))
    assert (edited["text"], edited["mentions"], edited["event_ids"]) == ("thanks", [], [])
    listed = ok_json(web.get(f"{API}/comments", params={"version": "demo/net:v0"}))["items"]
    assert [item["text"] for item in listed] == ["thanks"]
    assert ok_json(web.get(f"{API}/comments/{comment['id']}")) == listed[0]

    ok_json(web.delete(f"{API}/comments/{comment['id']}"))
    problem(web.get(f"{API}/comments/{comment['id']}"), 404, "not-found")


def test_only_the_author_and_admins_change_a_comment_on_a_run(web, version):
    """Every user of the server's token is an admin."""
    comment = ok_json(web.post(f"{API}/comments", json={"run": "demo/train001", "text": "ok"}))
    assert (comment["on"], comment["author"]) == ("run", "admin")
    assert ok_json(web.get(f"{API}/comments", params={"run": "demo/train001"}))["items"][0]["id"] == comment["id"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": "x"}, "either `version` or `run`"),
        ({"text": "x", "version": "model/churn:v0", "run": "demo/train001"}, "either `version` or `run`"),
        ({"version": "model/churn:v0"}, "text"),
        ({"version": "model/churn:v0", "text": "  "}, "empty"),
        ({"version": "model/churn:v0", "text": "x", "texts": 1}, "unknown key 'texts'"),
    ],
)
def test_an_invalid_comment_is_refused(web, version, body, message):
    """The problem names what is wrong."""
    assert message in str(problem(web.post(f"{API}/comments", json=body), 422, "invalid-input"))
