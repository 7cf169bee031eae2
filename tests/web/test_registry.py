"""Registry, collections, versions and artifacts over HTTP."""

from __future__ import annotations

import csv
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.web.conftest import API, BASE_URL, CHURN, COLLECTIONS, Stores, ok_json, problem

ARTIFACTS = f"{API}/projects/demo/artifacts"


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


def log(web: httpx.Client, digest: str, name: str = "churn", **more: object) -> dict[str, Any]:
    body = {"name": name, "artifact_type": "model", "digest": digest, **more}
    version: dict[str, Any] = ok_json(web.post(ARTIFACTS, json=body))
    return version


def test_logging_an_artifact_returns_its_version(web):
    """The response is 201 with reference, name and digest, and `Location` is the version's path."""
    body = {
        "name": "churn",
        "artifact_type": "model",
        "digest": "sha256:1",
        "metadata": {"accuracy": 0.9},
        "aliases": ["best"],
    }

    response = web.post(ARTIFACTS, json=body)

    logged = ok_json(response)
    assert response.status_code == 201
    assert (logged["reference"], logged["name"], logged["digest"]) == ("demo/churn:v0", "v0", "sha256:1")
    assert logged["aliases"] == ["best", "latest"]
    assert len(logged["event_ids"]) == 3  # the artifact, and two aliases
    shown = ok_json(web.get(response.headers["location"]))
    assert shown["metadata"] == {"accuracy": 0.9}
    assert shown["url"] == BASE_URL + response.headers["location"]


def test_an_artifact_type_may_have_the_name_that_wandb_uses(web):
    """`type` works in place of `artifact_type`, and both together are refused."""
    body = {"name": "churn", "type": "model", "digest": "sha256:1"}

    assert ok_json(web.post(ARTIFACTS, json=body))["artifact_type"] == "model"

    refused = problem(web.post(ARTIFACTS, json={**body, "artifact_type": "model"}), 422, "invalid-input")
    assert "give one of them" in refused["detail"]
    missing = problem(web.post(ARTIFACTS, json={"name": "churn"}), 422, "invalid-input")
    assert missing["detail"] == "body.artifact_type: this field is required"
    wrong = problem(web.post(ARTIFACTS, json={**body, "typ": "model"}), 422, "invalid-input")
    assert "unknown key 'typ'" in wrong["detail"]


def test_logging_the_same_content_again_creates_nothing(web):
    """A digest equal to that of `latest` returns 200 with the existing version, and no event."""
    log(web, "sha256:1")

    again = web.post(ARTIFACTS, json={"name": "churn", "artifact_type": "model", "digest": "sha256:1"})

    assert again.status_code == 200
    data = ok_json(again)
    assert (data["name"], data["event_ids"], data["mutation_id"]) == ("v0", [], None)


def test_an_artifact_version_is_found_by_alias_and_deleted(web):
    """An alias in the project names the version; a deleted version is not found."""
    log(web, "sha256:1", aliases=["best"])
    log(web, "sha256:2")
    versions = f"{ARTIFACTS}/churn/versions"

    assert ok_json(web.get(f"{versions}/best"))["name"] == "v0"
    assert [version["name"] for version in ok_json(web.get(versions))["items"]] == ["v1", "v0"]
    ok_json(web.delete(f"{versions}/best"))
    problem(web.get(f"{versions}/v0"), 404, "not-found")


def test_the_files_of_a_version_are_a_list_of_their_own(web):
    """A version says how many files it has, and whether they are stored here."""
    manifest = {"model.bin": "sha256:" + "0" * 64}
    logged = ok_json(web.post(ARTIFACTS, json={"name": "churn", "artifact_type": "model", "manifest": manifest}))

    assert (logged["file_count"], logged["size"], logged["is_stored"]) == (1, None, False)
    files = ok_json(web.get(f"{ARTIFACTS}/churn/versions/v0/files"))["items"]
    assert files == [{"path": "model.bin", "digest": manifest["model.bin"], "size": None, "ref": None}]
    (listed,) = ok_json(web.get(f"{ARTIFACTS}/churn/versions"))["items"]
    assert listed["file_count"] == 1


def test_aliases_and_tags_of_an_artifact_are_added_and_removed_in_its_project(web):
    """PUT moves an alias or adds a tag, and DELETE removes it."""
    log(web, "sha256:1", aliases=["best"])
    log(web, "sha256:2")
    artifact = f"{ARTIFACTS}/churn"

    moved = ok_json(web.put(f"{artifact}/aliases/best", json={"version": "v1"}))
    tagged = ok_json(web.put(f"{artifact}/versions/best/tags/checked"))

    assert (moved["name"], moved["aliases"], len(moved["event_ids"])) == ("v1", ["best", "latest"], 2)
    assert (tagged["name"], tagged["tags"], len(tagged["event_ids"])) == ("v1", ["checked"], 1)
    assert ok_json(web.put(f"{artifact}/aliases/best", json={"version": "v1"}))["event_ids"] == []

    assert ok_json(web.delete(f"{artifact}/versions/v1/tags/checked"))["tags"] == []
    assert len(ok_json(web.delete(f"{artifact}/aliases/best"))["event_ids"]) == 1
    assert ok_json(web.get(f"{artifact}/versions/v1"))["aliases"] == ["latest"]
    problem(web.delete(f"{artifact}/aliases/best"), 404, "not-found")
    problem(web.put(f"{artifact}/aliases/v7", json={"version": "v1"}), 422, "invalid-input")


def test_metadata_of_an_artifact_version_is_patched_in_its_project(churn):
    """A field that is left out stays, null removes a key, and the link shows the change."""
    version = f"{ARTIFACTS}/churn/versions/v0"
    ok_json(churn.patch(version, json={"metadata": {"a": 1, "b": 2}, "description": "First."}))

    changed = ok_json(churn.patch(version, json={"metadata": {"b": None}}))

    assert (changed["metadata"], changed["description"], len(changed["event_ids"])) == ({"a": 1}, "First.", 1)
    assert ok_json(churn.get(f"{CHURN}/versions/v0"))["metadata"] == {"a": 1}
    assert ok_json(churn.patch(version, json={}))["event_ids"] == []


def test_the_artifacts_of_a_project_are_listed(web):
    """The list is sorted by name and has types and aliases; a project that does not exist is not found."""
    log(web, "sha256:1", name="b")
    log(web, "sha256:2", name="a")

    listed = ok_json(web.get(ARTIFACTS))["items"]

    assert [artifact["reference"] for artifact in listed] == ["demo/a", "demo/b"]
    assert (listed[0]["artifact_type"], listed[0]["aliases"]) == ("model", {"latest": "v0"})
    assert "'demo'" in problem(web.get(f"{API}/projects/dem/artifacts"), 404, "not-found")["detail"]


def test_a_collection_is_created_shown_changed_and_deleted(web):
    """Each mutation returns the ids of its events."""
    response = web.post(COLLECTIONS, json={"name": "churn", "artifact_type": "model", "description": "card"})
    assert response.status_code == 201
    assert response.headers["location"] == CHURN
    shown = ok_json(web.get(CHURN))
    assert (shown["description"], shown["url"]) == ("card", BASE_URL + CHURN)

    changed = ok_json(web.patch(CHURN, json={"description": "new card"}))
    assert changed["description"] == "new card"
    (event_id,) = changed["event_ids"]
    assert ok_json(web.get(f"{API}/events/{event_id}"))["kind"] == "collection-updated"

    assert len(ok_json(web.delete(CHURN))["event_ids"]) == 1
    problem(web.get(CHURN), 404, "not-found")


def test_a_collection_cannot_be_created_twice(churn):
    """The second POST with the same name is 409."""
    data = problem(churn.post(COLLECTIONS, json={"name": "churn", "artifact_type": "model"}), 409, "already-exists")

    assert "model/churn" in data["detail"]


def test_linking_returns_the_version_and_creates_the_collection(web):
    """The response is 201, and the new collection has the aliases."""
    log(web, "sha256:1")

    response = web.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0", "aliases": ["production"]})

    assert response.status_code == 201
    assert ok_json(response)["name"] == "v0"
    assert response.headers["location"] == f"{CHURN}/versions/v0"
    assert ok_json(web.get(CHURN))["aliases"] == {"latest": "v0", "production": "v0"}


def test_an_event_and_the_api_show_the_same_version(churn):
    """Collection, version and artifact have the same JSON in the data of an event and in responses."""
    (linked,) = ok_json(churn.get(f"{API}/events", params={"kind": "version-linked"}))["items"]
    data = linked["data"]

    assert data["collection"] == ok_json(churn.get(CHURN))
    assert data["version"] == ok_json(churn.get(f"{CHURN}/versions/v0"))
    (artifact,) = ok_json(churn.get(ARTIFACTS))["items"]
    del artifact["aliases"], artifact["ttl_seconds"]  # an event has those of its version
    assert data["artifact"] == artifact

    (logged,) = ok_json(churn.get(f"{API}/events", params={"kind": "artifact-created"}))["items"]
    assert logged["data"]["version"] == ok_json(churn.get(f"{ARTIFACTS}/churn/versions"))["items"][0]


def test_linking_again_returns_the_existing_version(churn):
    """Linking the same artifact version again is 200, with the same number and no event."""
    again = churn.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0"})

    assert again.status_code == 200
    assert (ok_json(again)["name"], ok_json(again)["event_ids"]) == ("v0", [])


def test_linking_another_type_is_a_conflict(churn):
    """A collection accepts one artifact type."""
    churn.post(ARTIFACTS, json={"name": "rows", "artifact_type": "dataset", "digest": "sha256:9"})

    problem(churn.post(f"{CHURN}/versions", json={"artifact": "demo/rows:v0"}), 409, "conflict")


def test_put_moves_an_alias_and_delete_removes_it(churn):
    """PUT takes the alias from the version that has it."""
    log(churn, "sha256:2")
    ok_json(churn.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v1"}))

    moved = ok_json(churn.put(f"{CHURN}/aliases/candidate", json={"version": "v1"}))
    assert moved["name"] == "v1"
    assert len(moved["event_ids"]) == 2  # removed from one version, and added to the other
    assert ok_json(churn.get(f"{CHURN}/versions/candidate"))["name"] == "v1"

    ok_json(churn.delete(f"{CHURN}/aliases/candidate"))
    problem(churn.get(f"{CHURN}/versions/candidate"), 404, "not-found")


def test_an_unknown_alias_is_not_found(churn):
    """The message suggests the alias that was probably meant."""
    data = problem(churn.delete(f"{CHURN}/aliases/candidat"), 404, "not-found")

    assert "'candidate'" in data["detail"]


def test_a_merge_patch_changes_metadata(churn):
    """A patch sets keys, null removes a key, and other keys stay."""
    version = f"{CHURN}/versions/v0"
    ok_json(churn.patch(version, json={"metadata": {"a": 1, "b": {"c": 2}}}))

    patched = ok_json(churn.patch(version, json={"metadata": {"a": None, "b": {"d": 3}}, "description": "good"}))

    assert patched["metadata"] == {"b": {"c": 2, "d": 3}}
    assert patched["description"] == "good"
    assert ok_json(churn.patch(version, json={"description": "better"}))["metadata"] == {"b": {"c": 2, "d": 3}}


@pytest.mark.parametrize("path", [CHURN, f"{CHURN}/versions/v0"], ids=["collection", "version"])
def test_tags_are_added_and_removed(churn, path):
    """The second PUT of a tag causes no event."""
    assert ok_json(churn.put(f"{path}/tags/reviewed"))["tags"] == ["reviewed"]
    assert ok_json(churn.put(f"{path}/tags/reviewed"))["event_ids"] == []
    assert ok_json(churn.delete(f"{path}/tags/reviewed"))["tags"] == []


def test_unlinking_removes_the_version_and_its_aliases(churn):
    """The artifact version stays in its project."""
    ok_json(churn.delete(f"{CHURN}/versions/v0"))

    problem(churn.get(f"{CHURN}/versions/v0"), 404, "not-found")
    assert ok_json(churn.get(CHURN))["aliases"] == {}
    assert ok_json(churn.get(f"{ARTIFACTS}/churn/versions/v0"))["name"] == "v0"


def test_protected_aliases_are_set_and_shown(churn):
    """PUT replaces the rules of a registry."""
    body = {"patterns": ["prod*"], "automations": ["promote"]}
    ok_json(churn.put(f"{API}/registries/model/protected-aliases", json=body))

    rules = {"name": "model", "protected_aliases": ["prod*"], "allowed_automations": ["promote"]}
    assert ok_json(churn.get(f"{API}/registries/model")) == rules
    assert ok_json(churn.get(f"{API}/registries"))["items"] == [rules]


def test_a_version_moves_between_stages(churn):
    """The stage is shown with the version, filters the list, and takes the words of both worlds."""
    moved = ok_json(churn.put(f"{CHURN}/versions/v0/stage", json={"stage": "production"}))

    assert (moved["stage"], len(moved["event_ids"])) == ("Production", 1)
    assert [item["name"] for item in ok_json(churn.get(f"{CHURN}/versions?stage=PRODUCTION"))["items"]] == ["v0"]
    assert ok_json(churn.get(f"{CHURN}/versions?stage=staging"))["items"] == []
    assert "no stage 'prod'" in problem(churn.get(f"{CHURN}/versions?stage=prod"), 422, "invalid-input")["detail"]


def test_collections_artifacts_and_projects_are_renamed(churn):
    """A link shows the new names, and the old ones are not found."""
    ok_json(churn.patch(CHURN, json={"name": "leaving", "metadata": {"owner": "ml"}}))
    project = ok_json(churn.get(f"{API}/projects"))["items"][0]["name"]
    ok_json(churn.patch(f"{API}/projects/{project}/artifacts/churn", json={"name": "net"}))
    ok_json(churn.patch(f"{API}/projects/{project}", json={"name": "risk"}))

    version = ok_json(churn.get(f"{API}/registries/model/collections/leaving/versions/v0"))
    assert version["artifact"] == "risk/net:v0"
    listed = ok_json(churn.get(f"{API}/registries/model/collections?metadata=owner=ml"))["items"]
    assert [collection["name"] for collection in listed] == ["leaving"]
    assert ok_json(churn.get(f"{API}/projects/risk/artifacts/net/versions/v0/links"))["items"] == [version]
    problem(churn.get(CHURN), 404, "not-found")


def test_a_filter_of_metadata_is_a_pair(churn):
    """The message shows the form."""
    detail = problem(churn.get(f"{CHURN}/versions?metadata=format"), 422, "invalid-input")["detail"]
    assert "write KEY=VALUE" in detail


def test_an_unknown_registry_is_not_found(churn):
    """The message suggests the registry that was probably meant."""
    assert "'model'" in problem(churn.get(f"{API}/registries/modle"), 404, "not-found")["detail"]


def test_history_shows_who_did_what(churn):
    """A mutation is in the history of its collection, of its registry, and of everything, with its actor."""
    ok_json(churn.put(f"{CHURN}/aliases/production", json={"version": "v0"}, headers={"X-Upshot-Actor": "ada"}))

    for path in (f"{CHURN}/history", f"{API}/registries/model/history", f"{API}/history"):
        newest = ok_json(churn.get(path))["items"][0]
        assert (newest["actor"], newest["subject"]) == ("ada", "model/churn:v0")
        assert newest["after"]


def test_the_actor_is_admin_unless_the_request_names_one(churn):
    """`X-Upshot-Actor` names the actor, in UTF-8."""
    logged = log(churn, "sha256:7")
    headers = {"X-Upshot-Actor": "Zoë".encode()}
    tagged = ok_json(churn.put(f"{CHURN}/tags/x", headers=headers))

    assert logged["created_by"] == "admin"
    event = ok_json(churn.get(f"{API}/events/{tagged['event_ids'][0]}"))
    assert event["actor"] == {"name": "Zoë", "kind": "user"}


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
def test_a_path_can_contain_any_name(web, name):
    """Names are URL-encoded in paths, whatever they contain."""
    log(web, "sha256:1", name=name)
    collection = f"{COLLECTIONS}/{quote(name, safe='')}"

    ok_json(web.post(f"{collection}/versions", json={"artifact": f"demo/{name}:v0"}))
    ok_json(web.put(f"{collection}/aliases/{quote(name, safe='')}", json={"version": "v0"}))
    ok_json(web.put(f"{collection}/versions/{quote(name, safe='')}/tags/{quote(name, safe='')}"))

    shown = ok_json(web.get(f"{collection}/versions/{quote(name, safe='')}"))
    assert (shown["collection"], shown["tags"]) == (name, [name])
    assert shown["url"] == f"{BASE_URL}{collection}/versions/v0"
    assert name in shown["aliases"]
    assert ok_json(web.get(f"{collection}/history"))["items"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param("churn%2Fversions", "%2F", id="encoded slash"),
        pytest.param("churn%2fversions%2fv0", "%2F", id="encoded slashes in lower case"),
        pytest.param("churn%00", "%00", id="NUL"),
        pytest.param("churn%FF", "UTF-8", id="not UTF-8"),
        pytest.param("churn%ED%A0%80", "UTF-8", id="surrogate"),
        pytest.param("churn%0A", "not allowed", id="line break"),
        pytest.param("churn%5C", "not allowed", id="backslash"),
        pytest.param("churn%3Av0", "not allowed", id="colon"),
        pytest.param("%20churn", "space", id="leading space"),
        pytest.param("x" * 129, "128", id="too long"),
    ],
)
def test_a_path_with_an_impossible_name_is_refused(churn, path, reason):
    """The response is 422 with the reason, and no other route handles the request."""
    assert reason in problem(churn.get(f"{COLLECTIONS}/{path}"), 422, "invalid-input")["detail"]


def test_the_descriptions_of_a_collection_are_kept(churn):
    """Every model card stays readable, newest first, also after a rename."""
    for text in ("# One", "# Two"):
        ok_json(churn.patch(CHURN, json={"description": text}))
    ok_json(churn.patch(CHURN, json={"name": "leaving", "metadata": {"a": 1}}))

    revisions = ok_json(churn.get(f"{COLLECTIONS}/leaving/card-revisions"))["items"]

    assert [revision["description"] for revision in revisions] == ["# Two", "# One", ""]


def test_the_history_is_exported(churn):
    """CSV has one row for each change, and no cell that a spreadsheet would run; JSON lines have the same."""
    ok_json(churn.patch(CHURN, json={"description": "=1+1"}, headers={"X-Upshot-Actor": "=cmd"}))
    text = churn.get(f"{API}/history/export?format=csv").text
    rows = list(csv.DictReader(text.splitlines()))
    lines = [json.loads(line) for line in churn.get(f"{API}/history/export").text.splitlines()]

    assert [row["id"] for row in rows] == [entry["id"] for entry in lines]
    assert (rows[0]["actor"], rows[0]["action"]) == ("'=cmd", "update-collection")
    assert json.loads(rows[0]["after"]) == lines[0]["after"] == {"description": "=1+1"}
    only = churn.get(f"{API}/history/export?registry=model&collection=churn").text.splitlines()
    assert 0 < len(only) < len(lines)
    problem(churn.get(f"{API}/history/export?collection=churn"), 422, "invalid-input")
