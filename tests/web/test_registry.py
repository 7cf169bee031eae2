"""Registry, collections, versions and artifacts over HTTP."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest

from tests.web.conftest import API, CHURN, COLLECTIONS, Stores, made, problem


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    """All of this on a real database."""
    return sqlite_stores


def log(web: httpx.Client, digest: str, name: str = "churn", **more: object) -> dict[str, object]:
    body = {"name": name, "type": "model", "digest": digest, **more}
    form: dict[str, object] = made(web.post(f"{API}/projects/demo/artifacts", json=body))
    return form


def test_a_logged_artifact_says_its_reference_version_and_digest(web):
    """Logging answers 201 with reference, version and digest, and where the version is to be found."""
    response = web.post(
        f"{API}/projects/demo/artifacts",
        json={
            "name": "churn",
            "type": "model",
            "digest": "sha256:1",
            "metadata": {"accuracy": 0.9},
            "aliases": ["best"],
        },
    )

    form = made(response)
    assert response.status_code == 201
    assert (form["reference"], form["version"], form["digest"]) == ("demo/churn:v0", "v0", "sha256:1")
    assert form["aliases"] == ["best", "latest"]
    shown = made(web.get(response.headers["location"]))
    assert shown["metadata"] == {"accuracy": 0.9}
    assert len(form["events"]) == 3  # the artifact, and two aliases


def test_logging_the_same_content_again_makes_nothing(web):
    """The same digest as `latest` answers 200 with the version that is there, and no event."""
    log(web, "sha256:1")

    again = web.post(f"{API}/projects/demo/artifacts", json={"name": "churn", "type": "model", "digest": "sha256:1"})

    assert again.status_code == 200
    assert (made(again)["version"], made(again)["events"], made(again)["mutation_id"]) == ("v0", [], None)


def test_an_artifact_version_can_be_found_by_alias_and_deleted(web):
    """An alias in the project means the version; deleted, it is gone."""
    log(web, "sha256:1", aliases=["best"])
    log(web, "sha256:2")
    versions = f"{API}/projects/demo/artifacts/churn/versions"

    assert made(web.get(f"{versions}/best"))["version"] == "v0"
    assert [item["version"] for item in made(web.get(versions))["items"]] == ["v1", "v0"]
    made(web.delete(f"{versions}/best"))
    problem(web.get(f"{versions}/v0"), 404, "not-found")


def test_aliases_and_tags_of_an_artifact_are_given_and_taken_in_its_project(web):
    """PUT gives them, whoever held the alias; DELETE takes them away."""
    log(web, "sha256:1", aliases=["best"])
    log(web, "sha256:2")
    artifact = f"{API}/projects/demo/artifacts/churn"

    moved = made(web.put(f"{artifact}/aliases/best", json={"version": "v1"}))
    tagged = made(web.put(f"{artifact}/versions/best/tags/checked"))

    assert (moved["version"], moved["aliases"], len(moved["events"])) == ("v1", ["best", "latest"], 2)
    assert (tagged["version"], tagged["tags"], len(tagged["events"])) == ("v1", ["checked"], 1)
    assert made(web.put(f"{artifact}/aliases/best", json={"version": "v1"}))["events"] == []

    assert made(web.delete(f"{artifact}/versions/v1/tags/checked"))["tags"] == []
    assert len(made(web.delete(f"{artifact}/aliases/best"))["events"]) == 1
    assert made(web.get(f"{artifact}/versions/v1"))["aliases"] == ["latest"]
    problem(web.delete(f"{artifact}/aliases/best"), 404, "not-found")
    problem(web.put(f"{artifact}/aliases/v7", json={"version": "v1"}), 422, "invalid-input")


def test_metadata_of_an_artifact_version_is_patched_in_its_project(churn):
    """What is left out stays as it is, null removes a key; the link shows it too."""
    version = f"{API}/projects/demo/artifacts/churn/versions/v0"
    made(churn.patch(version, json={"metadata": {"a": 1, "b": 2}, "description": "First."}))

    changed = made(churn.patch(version, json={"metadata": {"b": None}}))

    assert (changed["metadata"], changed["description"], len(changed["events"])) == ({"a": 1}, "First.", 1)
    assert made(churn.get(f"{CHURN}/versions/v0"))["metadata"] == {"a": 1}
    assert made(churn.patch(version, json={}))["events"] == []


def test_the_artifacts_of_a_project_are_listed(web):
    """By name, with type and aliases; a project that is not there is not found."""
    log(web, "sha256:1", name="b")
    log(web, "sha256:2", name="a")

    listed = made(web.get(f"{API}/projects/demo/artifacts"))["items"]

    assert [item["reference"] for item in listed] == ["demo/a", "demo/b"]
    assert listed[0]["aliases"] == {"latest": "v0"}
    assert "'demo'" in problem(web.get(f"{API}/projects/dem/artifacts"), 404, "not-found")["detail"]


def test_a_collection_is_made_shown_changed_and_deleted(web):
    """The life of a collection, with the events that each mutation made."""
    response = web.post(COLLECTIONS, json={"name": "churn", "artifact_type": "model", "description": "card"})
    assert response.status_code == 201
    assert response.headers["location"] == CHURN
    assert made(web.get(CHURN))["description"] == "card"

    changed = made(web.patch(CHURN, json={"description": "new card"}))
    assert changed["description"] == "new card"
    (event,) = changed["events"]
    assert made(web.get(f"{API}/events/{event}"))["kind"] == "collection-updated"

    assert len(made(web.delete(CHURN))["events"]) == 1
    problem(web.get(CHURN), 404, "not-found")


def test_a_collection_that_exists_cannot_be_made_again(churn):
    """The second POST of a name is 409."""
    form = problem(churn.post(COLLECTIONS, json={"name": "churn", "artifact_type": "model"}), 409, "already-exists")

    assert "model/churn" in form["detail"]


def test_linking_answers_the_version_and_makes_the_collection(web):
    """Linking answers 201 with the version; the collection is there, and holds the aliases."""
    log(web, "sha256:1")

    response = web.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0", "aliases": ["production"]})

    assert response.status_code == 201
    assert made(response)["version"] == "v0"
    assert response.headers["location"] == f"{CHURN}/versions/v0"
    assert made(web.get(CHURN))["aliases"] == {"latest": "v0", "production": "v0"}


def test_linking_again_answers_the_version_that_is_there(churn):
    """The same artifact version again is 200, the same number, and no event."""
    again = churn.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0"})

    assert again.status_code == 200
    assert (made(again)["version"], made(again)["events"]) == ("v0", [])


def test_linking_another_type_is_a_conflict(churn):
    """A collection takes one artifact type."""
    churn.post(f"{API}/projects/demo/artifacts", json={"name": "rows", "type": "dataset", "digest": "sha256:9"})

    problem(churn.post(f"{CHURN}/versions", json={"artifact": "demo/rows:v0"}), 409, "conflict")


def test_an_alias_moves_by_put_and_goes_by_delete(churn):
    """PUT gives the alias to a version whoever held it; DELETE takes it away."""
    log(churn, "sha256:2")
    made(churn.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v1"}))

    moved = made(churn.put(f"{CHURN}/aliases/candidate", json={"version": "v1"}))
    assert moved["version"] == "v1"
    assert len(moved["events"]) == 2  # removed from one, added to the other
    assert made(churn.get(f"{CHURN}/versions/candidate"))["version"] == "v1"

    made(churn.delete(f"{CHURN}/aliases/candidate"))
    problem(churn.get(f"{CHURN}/versions/candidate"), 404, "not-found")


def test_an_alias_that_is_not_there_is_not_found(churn):
    """The message says which alias was probably meant."""
    form = problem(churn.delete(f"{CHURN}/aliases/candidat"), 404, "not-found")

    assert "'candidate'" in form["detail"]


def test_a_merge_patch_changes_metadata(churn):
    """Keys are set, null removes a key, what is left out stays."""
    one = f"{CHURN}/versions/v0"
    made(churn.patch(one, json={"metadata": {"a": 1, "b": {"c": 2}}}))

    patched = made(churn.patch(one, json={"metadata": {"a": None, "b": {"d": 3}}, "description": "good"}))

    assert patched["metadata"] == {"b": {"c": 2, "d": 3}}
    assert patched["description"] == "good"
    assert made(churn.patch(one, json={"description": "better"}))["metadata"] == {"b": {"c": 2, "d": 3}}


@pytest.mark.parametrize("thing", [CHURN, f"{CHURN}/versions/v0"], ids=["collection", "version"])
def test_tags_come_and_go(churn, thing):
    """PUT tags, the second time without an event; DELETE takes the tag away."""
    assert made(churn.put(f"{thing}/tags/reviewed"))["tags"] == ["reviewed"]
    assert made(churn.put(f"{thing}/tags/reviewed"))["events"] == []
    assert made(churn.delete(f"{thing}/tags/reviewed"))["tags"] == []


def test_unlinking_removes_the_version_and_its_aliases(churn):
    """An unlinked version is gone; its artifact stays."""
    made(churn.delete(f"{CHURN}/versions/v0"))

    problem(churn.get(f"{CHURN}/versions/v0"), 404, "not-found")
    assert made(churn.get(CHURN))["aliases"] == {}
    assert made(churn.get(f"{API}/projects/demo/artifacts/churn/versions/v0"))["version"] == "v0"


def test_protected_aliases_are_set_and_shown(churn):
    """PUT replaces the patterns of a registry."""
    made(churn.put(f"{API}/registries/model/protected-aliases", json={"patterns": ["prod*"]}))

    assert made(churn.get(f"{API}/registries/model")) == {"name": "model", "protected_aliases": ["prod*"]}
    assert made(churn.get(f"{API}/registries"))["items"] == [{"name": "model", "protected_aliases": ["prod*"]}]


def test_a_registry_that_is_not_there_is_not_found(churn):
    """The message says which one was probably meant."""
    assert "'model'" in problem(churn.get(f"{API}/registries/modle"), 404, "not-found")["detail"]


def test_history_tells_who_did_what(churn):
    """Every mutation is in the history of its collection, its registry and the whole, with its actor."""
    made(churn.put(f"{CHURN}/aliases/production", json={"version": "v0"}, headers={"X-Upshot-Actor": "ada"}))

    for place in (f"{CHURN}/history", f"{API}/registries/model/history", f"{API}/history"):
        newest = made(churn.get(place))["items"][0]
        assert (newest["actor"], newest["subject"]) == ("ada", "model/churn:v0")
        assert newest["after"]


def test_the_actor_is_admin_unless_the_request_says_who(churn):
    """`X-Upshot-Actor` names who did it, in UTF-8; without it, admin did."""
    logged = log(churn, "sha256:7")
    headers = {"X-Upshot-Actor": "Zoë".encode()}
    tagged = made(churn.put(f"{CHURN}/tags/x", headers=headers))

    assert logged["created_by"] == "admin"
    assert made(churn.get(f"{API}/events/{tagged['events'][0]}"))["actor"] == {"name": "Zoë", "kind": "user"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("with space", id="space"),
        pytest.param("naïve-модель-模型", id="unicode"),
        pytest.param("v1.2+cu12", id="dots and plus"),
        pytest.param("a&b=c;d,e@f", id="reserved"),
        pytest.param('it\'s "quoted" {{ x }}', id="quotes and braces"),
        pytest.param("x" * 128, id="longest"),
        pytest.param("…", id="three dots"),
    ],
)
def test_any_name_can_be_said_in_a_path(web, name):
    """Names are URL-encoded in paths, whatever they hold."""
    log(web, "sha256:1", name=name)
    collection = f"{COLLECTIONS}/{quote(name, safe='')}"

    made(web.post(f"{collection}/versions", json={"artifact": f"demo/{name}:v0"}))
    made(web.put(f"{collection}/aliases/{quote(name, safe='')}", json={"version": "v0"}))
    made(web.put(f"{collection}/versions/{quote(name, safe='')}/tags/{quote(name, safe='')}"))

    shown = made(web.get(f"{collection}/versions/{quote(name, safe='')}"))
    assert (shown["collection"], shown["tags"]) == (name, [name])
    assert name in shown["aliases"]
    assert made(web.get(f"{collection}/history"))["items"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param("churn%2Fversions", "%2F", id="encoded slash"),
        pytest.param("churn%2fversions%2fv0", "%2F", id="encoded slashes in lower case"),
        pytest.param("churn%00", "%00", id="NUL"),
        pytest.param("churn%FF", "UTF-8", id="not UTF-8"),
        pytest.param("churn%ED%A0%80", "UTF-8", id="surrogate"),
        pytest.param("churn%0A", "not allowed", id="line break"),
        pytest.param("churn%5C", "not allowed", id="backslash"),
        pytest.param("churn%3Av0", "not allowed", id="colon"),
        pytest.param("%20churn", "space", id="padded"),
        pytest.param("x" * 129, "128", id="too long"),
    ],
)
def test_a_path_that_cannot_be_a_name_is_refused(churn, path, says):
    """What no name has is 422 and says why; it never reaches another route."""
    assert says in problem(churn.get(f"{COLLECTIONS}/{path}"), 422, "invalid-input")["detail"]
