"""The OpenAPI document, the page that shows it, and responses that must match it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.web.conftest import API, CHURN, COLLECTIONS, ok_json
from tests.web.jobs_api import WORKER_ID, JobsApiHarness
from upshot.domain.execution import AttemptState, ExecutionState, Receipt
from upshot.domain.job import ImagePullCredentials, JobRetryPolicy, JobSpec, JobState, MemoryGrowth, Mount
from upshot.ids import DeliveryId, derive_destination_id
from upshot.ports.destinations import DestinationReport
from upshot.ports.executions import ExecutionUpdate
from upshot.web.app import create_app

ARTIFACTS = f"{API}/projects/demo/artifacts"
VERSION = f"{ARTIFACTS}/churn/versions/v0"
#: Objects whose keys are the user's own.
FREE_FORM = {
    "values",
    "last",
    "metadata",
    "data",
    "outputs",
    "source",
    "kubernetes",
    "request",
    "response",
    "before",
    "after",
    "config",
    "summary",
    "info",
}


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture
def document(deps) -> dict[str, Any]:
    document: dict[str, Any] = create_app(deps).openapi()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from references(item)


def successes(operation: dict[str, Any]) -> dict[str, Any]:
    return {status: response for status, response in operation["responses"].items() if status.startswith("2")}


# --- the document ---------------------------------------------------------------------------------


def test_every_operation_has_a_description_and_problems(document):
    """Every error response is a problem."""
    for method, path, operation in operations(document):
        assert operation["description"], (method, path)
        responses = operation["responses"]
        problems = {status: responses[status] for status in responses if not status.startswith("2")}
        assert {"403", "422", "503"} <= set(problems), (method, path)
        for response in problems.values():
            assert response["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
            }


def test_every_operation_has_typed_bodies(document):
    """A generated client has a class for every request body and for every JSON response."""
    for method, path, operation in operations(document):
        for response in successes(operation).values():
            ((media_type, content),) = response["content"].items()
            if media_type in {"text/plain", "application/octet-stream"}:
                continue
            schemas = content["schema"].get("anyOf", [content["schema"]])
            assert media_type == "application/json", (method, path)
            assert all("$ref" in schema for schema in schemas), (method, path)
        ((media_type, content),) = operation.get("requestBody", {"content": {"": {}}})["content"].items()
        if media_type == "application/json":
            assert "$ref" in content["schema"], (method, path)
        else:
            assert media_type in {"", "application/octet-stream"}, (method, path)


def test_every_schema_has_a_title_of_its_own(document):
    """A generated client names its classes after the titles."""
    schemas = document["components"]["schemas"]

    for name, schema in schemas.items():
        assert schema["title"] == name
        assert re.fullmatch(r"[A-Z][A-Za-z]+", name)
        assert not name.endswith("Json")
    assert {"Collection", "CollectionPage", "Version", "VersionPage", "EventPage", "JobDetail"} <= set(schemas)


def test_every_property_is_typed(document):
    """Only objects whose keys are the user's own have values of any type."""
    for name, schema in document["components"]["schemas"].items():
        for field, field_schema in schema.get("properties", {}).items():
            for alternative in field_schema.get("anyOf", [field_schema]):
                item = alternative.get("items", alternative)
                assert field in FREE_FORM or item.keys() & {"$ref", "type", "const"}, (name, field)
                if item.get("type") == "object":
                    assert field in FREE_FORM or item["additionalProperties"] not in (True, {}), (name, field)


def test_operation_ids_are_unique_and_short(document):
    """A generated client names its functions after them."""
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)


def test_the_document_includes_what_middleware_adds(document):
    """The API has a token and 401, mutations have the idempotency key and 409, and bodies have 400, 413 and 415."""
    for method, path, operation in operations(document):
        statuses = set(operation["responses"])
        keys = [given for given in operation.get("parameters", ()) if "idempotency-key" in given.get("$ref", "")]
        assert (path.startswith(API)) == ("401" in statuses) == ("security" in operation), path
        assert bool(keys) == (method != "get"), path
        assert method == "get" or "409" in statuses, path
        assert ("requestBody" in operation) == ({"400", "413", "415"} <= statuses), path


def test_every_reference_has_a_target(document):
    """Every parameter of a path is described, too."""
    for reference in references(document):
        node: Any = document
        for key in reference.removeprefix("#/").split("/"):
            node = node[key]
    for _, path, operation in operations(document):
        described = {given["name"] for given in operation.get("parameters", ()) if given.get("in") == "path"}
        assert described == set(re.findall(r"{(\w+)}", path))


def test_one_event_or_a_list_is_documented(document):
    """`POST /events` accepts either."""
    one, many = document["components"]["schemas"]["NewEvents"]["anyOf"]

    assert one == many["items"] == {"$ref": "#/components/schemas/NewEvent"}
    assert (many["minItems"], many["maxItems"]) == (1, 1000)


# --- responses ------------------------------------------------------------------------------------


class Contract:
    """Sends requests, and checks each response against the document."""

    def __init__(self, web, document: dict[str, Any]) -> None:
        self._web = web
        self._document = deepcopy(document)
        for schema in self._document["components"]["schemas"].values():
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)  # a response has no field that is not documented
        self.covered: set[tuple[str, str]] = set()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Send a request, check that its response is documented and valid, and return the response's JSON."""
        route = self._route(method, path)
        operation = self._document["paths"][route][method.lower()]
        response = self._web.request(method, path, **options)
        documented = operation["responses"].get(str(response.status_code))
        assert documented, f"{method} {path}: status {response.status_code} is not documented: {response.text}"
        media_type = response.headers["content-type"].partition(";")[0]
        schema = documented["content"][media_type]["schema"]
        if response.is_success:
            self.covered.add((method.lower(), route))
        if media_type in {"text/plain", "application/octet-stream"}:
            return response.content
        data = response.json()
        errors = list(Draft202012Validator({**schema, "components": self._document["components"]}).iter_errors(data))
        assert not errors, f"{method} {path}: {errors[0].message} at {list(errors[0].absolute_path)}"
        return data

    def _route(self, method: str, path: str) -> str:
        """Return the template of the path; a fixed segment is a better match than a parameter."""
        matching = [
            route
            for route, methods in self._document["paths"].items()
            if method.lower() in methods and re.fullmatch(re.sub(r"{\w+}", "[^/]+", route), path)
        ]
        return str(min(matching, key=lambda route: route.count("{")))


@pytest.fixture
def contract(web, document) -> Contract:
    return Contract(web, document)


def test_every_response_matches_the_document(web, stores, clock, document, contract):
    """Each route returns a documented status, with exactly the documented fields."""
    _change_the_registry(contract)
    _log_files(contract)
    _show_usage(contract)
    _record_runs(contract)
    _read_the_registry(contract)
    _use_jobs_and_executions(contract, JobsApiHarness(web, stores, clock))
    for path in ("automations", "automations/promote", "workers"):
        contract.request("GET", f"{API}/{path}")
    report = DestinationReport("https://hooks.example:443", False, None, 1, 20, None)
    stores.destinations.report("w1", [report], clock.now())
    path = f"{API}/destinations/{derive_destination_id(report.name)}"
    for method, url in (("GET", f"{API}/destinations"), ("GET", path), ("POST", f"{path}/release")):
        contract.request(method, url)
    for path in ("/healthz", "/readyz", "/metrics"):
        contract.request("GET", path)
    _use_tokens(contract)
    _remove_everything(contract)

    assert contract.covered == {(method, path) for method, path, _ in operations(document)}


def _change_the_registry(contract: Contract) -> None:
    contract.request("POST", COLLECTIONS, json={"name": "churn", "artifact_type": "model"})
    contract.request("PATCH", CHURN, json={"description": "A model card."})
    contract.request("PUT", f"{CHURN}/tags/reviewed")
    artifact = {"name": "churn", "artifact_type": "model", "manifest": {"model.bin": "sha256:" + "0" * 64}}
    contract.request("POST", ARTIFACTS, json=artifact)
    contract.request("POST", ARTIFACTS, json=artifact)  # 200
    contract.request("PATCH", VERSION, json={"metadata": {"accuracy": 0.9}})
    contract.request("PUT", f"{VERSION}/tags/checked")
    contract.request("PUT", f"{ARTIFACTS}/churn/aliases/best", json={"version": "v0"})
    contract.request("POST", f"{CHURN}/versions", json={"artifact": "demo/churn:best", "aliases": ["candidate"]})
    contract.request("POST", f"{CHURN}/versions", json={"artifact": "demo/churn:best"})  # 200
    contract.request("PATCH", f"{CHURN}/versions/v0", json={"description": "The first version."})
    contract.request("PUT", f"{CHURN}/versions/v0/tags/seen")
    contract.request("PUT", f"{CHURN}/versions/v0/stage", json={"stage": "production", "archive_existing": True})
    contract.request("PUT", f"{CHURN}/aliases/production", json={"version": "candidate"})
    contract.request("PUT", f"{API}/registries/model/protected-aliases", json={"patterns": ["prod*"]})
    contract.request("POST", f"{API}/events", json={"name": "drift", "data": {"score": 0.5}})
    contract.request("POST", f"{API}/events", json=[{"name": "drift"}, {"name": "drift"}])


def _log_files(contract: Contract) -> None:
    contents = {f"{name}.bin": name.encode() for name in "abc"}
    digests = {path: f"sha256:{hashlib.sha256(content).hexdigest()}" for path, content in contents.items()}
    digest = f"sha256:{hashlib.sha256(json.dumps(digests, separators=(',', ':')).encode()).hexdigest()}"
    version_id = "ver_01kdwpvng00000000000000001"
    pending = f"{API}/pending-versions/{version_id}"
    body = {"id": version_id, "name": "files", "artifact_type": "model", "digest": digest, "file_count": 3}
    contract.request("POST", f"{API}/projects/demo/pending-versions", json=body)
    files = [{"path": path, "digest": digests[path], "size": 1} for path in contents]
    assert len(contract.request("POST", f"{pending}/files", json={"files": files})["missing"]) == 3
    contract.request("POST", f"{pending}/commit")  # 409
    contract.request("GET", pending)
    contract.request("PUT", f"{API}/blobs/{digests['a.bin']}", content=b"a")
    contract.request("PUT", f"{API}/blobs/{digests['a.bin']}", content=b"x")  # 422
    contract.request("POST", f"{API}/blobs", content=f"{digests['b.bin']} 1\nb".encode())
    upload = contract.request("POST", f"{API}/blob-uploads", json={"digest": digests["c.bin"], "size": 1})["upload"]
    address = f"{API}/blob-uploads/{upload['id']}"
    contract.request("GET", address)
    contract.request("PUT", f"{address}/parts/1", content=b"c", headers={"Upshot-Checksum": digests["c.bin"]})
    assert contract.request("POST", f"{address}/parts/1/address", json={"digest": digests["c.bin"]}) == {"url": None}
    contract.request("POST", f"{address}/parts/1", json={"digest": digests["a.bin"]})  # 409
    contract.request("POST", f"{address}/parts/1", json={"digest": digests["c.bin"]})
    contract.request("POST", f"{address}/complete")
    assert contract.request("GET", f"{pending}/missing-blobs") == {"missing": []}
    assert contract.request("POST", f"{pending}/commit")["is_stored"]
    assert contract.request("POST", f"{API}/projects/demo/pending-versions", json=body)["version"]["name"] == "v0"
    assert contract.request("GET", f"{API}/blobs/{digests['c.bin']}") == b"c"
    read = contract.request("POST", f"{API}/blobs/read", json={"digests": [digests["a.bin"]]})
    assert read == f"{digests['a.bin']} 1\na".encode()
    contract.request("POST", f"{API}/blobs/missing", json={"digests": [digests["a.bin"]]})
    verified = contract.request("POST", f"{API}/blobs/verify", json={"digests": [digests["a.bin"]]})
    assert verified == {"missing": []}
    listed = f"{ARTIFACTS}/files/versions/v0/files"
    contract.request("GET", listed)
    assert contract.request("GET", f"{listed}/c.bin") == b"c"
    contract.request("GET", f"{listed}/d.bin")  # 404
    contract.request("GET", f"{VERSION}/files/model.bin")  # 409
    assert contract.request("GET", f"{VERSION}/diff", params={"with": "demo/files:v0"})["added_count"] == 3
    other = {**body, "id": "ver_01kdwpvng00000000000000002", "name": "other"}
    contract.request("POST", f"{API}/projects/demo/pending-versions", json=other)
    contract.request("DELETE", f"{API}/pending-versions/{other['id']}")


def _show_usage(contract: Contract) -> None:
    contract.request("GET", f"{VERSION}/usage")  # 409
    contract.request("GET", f"{ARTIFACTS}/files/versions/v0/usage")
    linked = f"{API}/registries/model/collections/files/versions"
    contract.request("POST", linked, json={"artifact": "demo/files:v0"})
    for path in ("usage", "files", "files/c.bin"):
        contract.request("GET", f"{linked}/v0/{path}")


def _record_runs(contract: Contract) -> None:
    runs = f"{API}/projects/demo/runs"
    run = f"{runs}/ab12cd34"
    for _ in range(2):  # 201, 200
        contract.request("PUT", run, json={"name": "swift-fox", "config": {"lr": 0.1}, "tags": ["t"]})
    artifact = {"name": "net", "artifact_type": "model", "digest": "sha256:n", "run_id": "ab12cd34"}
    contract.request("POST", ARTIFACTS, json=artifact)
    contract.request("POST", f"{run}/inputs", json={"artifact": "demo/churn:v0"})
    contract.request("POST", f"{run}/inputs", json={"artifact": "churn", "artifact_type": "dataset"})  # 409
    contract.request("POST", f"{run}/heartbeat")
    _log_metrics(contract, run)
    contract.request("POST", f"{run}/finish", json={"exit_code": 0})
    for path in (runs, run, f"{run}/inputs", f"{run}/outputs", f"{VERSION}/runs", f"{ARTIFACTS}/net/versions/v0/runs"):
        contract.request("GET", path)
    assert contract.request("GET", f"{API}/lineage", params={"reference": "demo/net"})["edges"]
    _comment(contract)


def _comment(contract: Contract) -> None:
    comment = contract.request("POST", f"{API}/comments", json={"run": "demo/ab12cd34", "text": "@ada look"})
    contract.request("POST", f"{API}/comments", json={"run": "demo/nope", "text": "x"})  # 404
    contract.request("GET", f"{API}/comments", params={"run": "demo/ab12cd34"})
    contract.request("GET", f"{API}/comments/{comment['id']}")
    contract.request("PATCH", f"{API}/comments/{comment['id']}", json={"text": "done"})
    contract.request("DELETE", f"{API}/comments/{comment['id']}")


def _log_metrics(contract: Contract, run: str) -> None:
    contract.request("PUT", run, json={"session": "s"})  # 409
    contract.request("PUT", run, json={"session": "s", "resume": "allow"})
    row = {"step": 0, "time": 1.5, "values": {"loss": 0.5, "note": "x"}}
    contract.request("POST", f"{run}/log", json={"session": "s", "sequence": 0, "rows": [row]})
    contract.request("POST", f"{run}/log", json={"session": "s", "sequence": 5})  # 409
    contract.request("POST", f"{run}/stop")
    content = b"code"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    contract.request("POST", f"{run}/files", json={"files": [{"path": "a.py", "digest": digest, "size": 4}]})
    contract.request("PUT", f"{API}/blobs/{digest}", content=content)
    contract.request("PUT", f"{run}/tags/best")
    contract.request("DELETE", f"{run}/tags/best")
    for path in ("metrics", "history", "files"):
        contract.request("GET", f"{run}/{path}")
    contract.request("GET", f"{run}/history", params={"samples": 5})
    for points in ({}, {"points": 10}):
        contract.request("GET", f"{run}/series", params={"key": "loss", **points})
    assert contract.request("GET", f"{run}/files/a.py") == content


def _read_the_registry(contract: Contract) -> None:
    for path in (
        f"{API}/registries",
        f"{API}/registries/model",
        f"{API}/registries/model/history",
        f"{API}/history",
        f"{API}/history/export",
        f"{CHURN}/card-revisions",
        COLLECTIONS,
        CHURN,
        f"{CHURN}/history",
        f"{CHURN}/versions",
        f"{CHURN}/versions/v0",
        ARTIFACTS,
        f"{ARTIFACTS}/churn",
        f"{ARTIFACTS}/churn/versions",
        f"{VERSION}/links",
        f"{API}/projects",
        VERSION,
    ):
        contract.request("GET", path)
    for event in contract.request("GET", f"{API}/events")["items"]:
        contract.request("GET", f"{API}/events/{event['id']}")
        contract.request("POST", f"{API}/replays", json={"event_ids": [event["id"]]})
    contract.request("POST", f"{API}/replays", json={"event_ids": ["evt_0"], "dry_run": True})  # 404
    contract.request("POST", f"{API}/replays", json={"event_ids": []})  # 422
    contract.request("GET", f"{API}/events", params={"kind": "alias-aded"})  # 422
    contract.request("GET", f"{API}/events/evt_0")  # 404


def _use_jobs_and_executions(contract: Contract, jobs: JobsApiHarness) -> None:
    jobs.add_worker()
    job = jobs.running(
        spec=JobSpec(
            image="x",
            command=("sh",),
            mounts=(Mount("/data", "/data"),),
            registry_auth=ImagePullCredentials("robot", "typed-in"),
        ),
        retry=JobRetryPolicy(memory_growth=MemoryGrowth()),
    )
    jobs.append_log(job, "hello\n")
    queued = jobs.queued(automation="other")
    for job_id in (job.id, queued.id):
        contract.request("GET", f"{API}/jobs/{job_id}")
        contract.request("GET", f"{API}/jobs/{job_id}/log")
        contract.request("GET", f"{API}/jobs/{job_id}/log.txt")
    contract.request("GET", f"{API}/jobs")
    contract.request("POST", f"{API}/jobs/{queued.id}/cancel")
    contract.request("POST", f"{API}/jobs/{queued.id}/cancel")  # 409
    jobs.record(job, JobState.SUCCEEDED, exit_code=0, outputs={"accuracy": 1}, finished_at=jobs.clock.now())
    contract.request("GET", f"{API}/jobs/{job.id}")
    _fail_with_a_receipt(jobs, job.execution_id)
    contract.request("GET", f"{API}/executions/{job.execution_id}")
    contract.request("GET", f"{API}/executions")
    contract.request("POST", f"{API}/executions/{job.execution_id}/retry")
    contract.request("POST", f"{API}/executions/{job.execution_id}/cancel")
    contract.request("POST", f"{API}/executions/{job.execution_id}/cancel")  # 409


def _fail_with_a_receipt(jobs: JobsApiHarness, execution_id: Any) -> None:
    now = jobs.clock.now()
    (claim,) = jobs.stores.executions.claim([execution_id], worker_id=WORKER_ID, now=now, until=now)
    execution = claim.execution
    receipt = Receipt(
        execution_id=execution_id,
        step_id="evaluate",
        attempt=1,
        state=AttemptState.REFUSED,
        delivery_id=DeliveryId("dlv_1"),
        started_at=now,
        took_seconds=0.5,
        worker_id=WORKER_ID,
        request={"image": "x"},
        response={"state": "failed"},
        error="exited",
        timings={"render": 0.1},
    )
    failed = replace(
        execution,
        state=ExecutionState.FAILED,
        reason="exited",
        finished_at=now,
        steps=(replace(execution.steps[0], state=ExecutionState.FAILED, outputs={"accuracy": 1}, attempt_count=1),),
    )
    assert not jobs.stores.executions.record([ExecutionUpdate(failed, (receipt,))])


def _use_tokens(contract: Contract) -> None:
    """Make a token. From then on, the server needs one, until it is revoked."""
    contract.request("GET", f"{API}/caller")
    contract.request("POST", f"{API}/sign-in-codes")
    text = contract.request("POST", f"{API}/tokens", json={"name": "ann", "role": "admin"})["token"]
    contract.request("POST", f"{API}/tokens", json={"name": "ann", "role": "admin"})  # 401
    headers = {"Authorization": f"Bearer {text}"}
    contract.request("POST", f"{API}/tokens", json={"name": "ann", "role": "admin"}, headers=headers)  # 409
    contract.request("GET", f"{API}/tokens", headers=headers)
    contract.request("DELETE", f"{API}/tokens/ann", headers=headers)


def _remove_everything(contract: Contract) -> None:
    contract.request("PATCH", f"{ARTIFACTS}/churn", json={"name": "renamed"})
    contract.request("PATCH", f"{ARTIFACTS}/renamed", json={"name": "churn"})
    contract.request("PATCH", f"{API}/projects/demo", json={"name": "renamed"})
    contract.request("PATCH", f"{API}/projects/renamed", json={"name": "demo"})
    for path in (
        f"{API}/projects/demo/runs/ab12cd34",
        f"{CHURN}/tags/reviewed",
        f"{CHURN}/versions/v0/tags/seen",
        f"{VERSION}/tags/checked",
        f"{ARTIFACTS}/churn/aliases/best",
        f"{CHURN}/aliases/production",
        f"{CHURN}/versions/v0",
        VERSION,
        CHURN,
        CHURN,  # 404
    ):
        contract.request("DELETE", path)


# --- the page -------------------------------------------------------------------------------------


def test_the_page_shows_every_route_and_loads_nothing(web, document):
    """The page comes from this server alone, and no script can run in it."""
    response = web.get(f"{API}/docs")

    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script" not in response.text
    assert "//" not in response.text.replace("application/", "")
    for path in document["paths"]:
        assert path in response.text


def test_the_document_is_served(web):
    """It is in OpenAPI 3.1."""
    assert ok_json(web.get(f"{API}/openapi.json"))["openapi"].startswith("3.1")
