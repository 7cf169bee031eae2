"""The demo scenario: one alias leads to evaluation, promotion, dispatch and quantization, in real containers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from tests.docker_engines import HOW_TO, find_engine
from tests.project.repository import ROOT
from tests.waiting import until
from upshot.demo.image import build_image
from upshot.embedded.docker_bridge import bridge_address
from upshot.receivers import GITHUB_TOKEN, SIGNING_SECRET

FRAUD = "/registries/model/collections/fraud"
FEATURES = {
    "first": "log_amount,abroad,attempts",
    "simpler": "log_amount,attempts",
    "better": "log_amount,night,abroad,attempts,account_age",
}
ACCURACY = {"first": 0.8533, "simpler": 0.8067, "better": 0.9467}


@pytest.fixture
def engine():
    """Yield the engine of this machine."""
    found = find_engine()
    if found is None:
        pytest.skip(f"no Docker engine answers; {HOW_TO}, and run again")
    yield found
    found.close()


@pytest.fixture
def gateway(engine):
    """Build the image of the samples, and return the address of this machine that containers reach."""
    build_image(print)
    return bridge_address()


@pytest.fixture
def scenario(make_system, receivers, database_url, gateway):
    """Start a system that runs the unchanged samples, and their jobs in containers."""
    system = make_system(
        database_url=database_url,
        automations={path.name: path.read_text() for path in (ROOT / "automations").glob("*.yaml")},
        host=gateway,
        settings={
            "UPSHOT_GITHUB_API_URL": receivers.github_api_url,
            "UPSHOT_SECRET_GITHUB_TOKEN": GITHUB_TOKEN,
            "UPSHOT_SECRET_SLACK_WEBHOOK": receivers.slack_webhook_url,
            "UPSHOT_SECRET_HOOK_URL": f"{receivers.url}/hooks/models",
            "UPSHOT_SECRET_HOOK_SECRET": SIGNING_SECRET,
        },
    )
    system.start_web()
    system.start_worker()
    return ScenarioDriver(system, receivers)


class ScenarioDriver:
    """What a user does, and what a user can see."""

    def __init__(self, system, receivers) -> None:
        self.system = system
        self.api = system.api
        self.executions = system.executions
        self.receivers = receivers

    def become_candidate(self, model):
        """Train a model, whose best checkpoint gets the alias `candidate`. Wait until the system is idle."""
        script = ROOT / "examples" / "train" / "train.py"
        done = subprocess.run(
            [sys.executable, script, "--features", FEATURES[model]],
            env={**self.system.environment, "UPSHOT_URL": self.system.url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        until(self.is_idle, f"the system is idle after {done.stdout}")
        return self.aliases["candidate"]

    def is_idle(self):
        """Return whether all events, and everything that they led to, are handled."""
        unmatched = any(event["matched_at"] is None for event in self.events())
        unfinished = {"waiting", "running"} & {execution["state"] for execution in self.executions()}
        return not unmatched and not unfinished

    def events(self, **query):
        return self.get("/events", limit=200, **query)["items"]

    def jobs(self):
        return self.get("/jobs", limit=200)["items"]

    def get(self, path, **query):
        response = self.api.get(path, params=query)
        assert response.is_success, response.text
        return response.json()

    @property
    def aliases(self):
        return {alias: version for alias, version in self.get(FRAUD)["aliases"].items() if alias != "latest"}

    def metadata(self, version):
        return self.get(f"{FRAUD}/versions/{version}")["metadata"]

    def sources(self, version):
        """Return the versions of the registry that a version was made from."""
        found = self.get("/lineage", reference=f"model/fraud:{version}", direction="up")
        return {link["reference"] for node in found["nodes"] for link in node["links"]}

    def execution(self, automation, version):
        """Return the execution of an automation that is about a version, with its steps."""
        (found,) = [
            execution
            for execution in self.executions(automation=automation)
            if self.get(f"/events/{execution['event_id']}")["subject"] == f"model/fraud:{version}"
        ]
        return self.get(f"/executions/{found['id']}")

    def dispatched_payloads(self):
        """Return the payloads that GitHub received."""
        requests = [request for request in self.receivers.requests if request.path.startswith("/github/")]
        return [request.json["client_payload"] for request in requests]

    def slack_messages(self):
        """Return the texts that Slack received."""
        return [request.json["text"] for request in self.receivers.requests if request.path.startswith("/slack/")]


@pytest.mark.timeout(300)
def test_candidates_are_evaluated_and_the_better_ones_are_promoted(scenario, engine):
    """A candidate is evaluated in a container and compared with production. If it is better, it is promoted."""
    first = scenario.become_candidate("first")

    assert scenario.aliases == {"candidate": "v0", "production": "v0", "quantized": "v1"}
    assert scenario.metadata(first)["evaluate"]["accuracy"] == ACCURACY["first"]
    assert "model/fraud:v0" in scenario.sources("v1")

    simpler = scenario.become_candidate("simpler")

    assert scenario.aliases == {"candidate": simpler, "production": "v0", "quantized": "v1"}
    refused = scenario.execution("evaluate-candidate", simpler)
    assert refused["state"] == "failed"
    assert "accuracy of 0.8067, below 0.8533" in refused["reason"]
    assert scenario.metadata(simpler)["evaluate"]["accuracy"] == ACCURACY["simpler"]
    assert any(simpler in text and "stays a candidate" in text for text in scenario.slack_messages())

    better = scenario.become_candidate("better")

    assert scenario.aliases == {"candidate": better, "production": better, "quantized": "v4"}
    payloads = scenario.dispatched_payloads()
    assert [(payload["version"], payload["replaces"], payload["accuracy"]) for payload in payloads] == [
        (first, None, ACCURACY["first"]),
        (better, first, ACCURACY["better"]),
    ]
    assert any(better in text and "is in production" in text for text in scenario.slack_messages())
    _check_authors(scenario)
    _check_jobs(scenario)
    _check_deliveries(scenario)
    job_ids = [job["id"] for job in scenario.jobs()]
    until(
        lambda: not any(engine.containers(f"upshot.job={job_id}") for job_id in job_ids), "the containers are removed"
    )


def _check_authors(scenario):
    """Check that the history names the automation that promoted, and the job that linked its result."""
    history = scenario.get(f"{FRAUD}/history", limit=200)["items"]
    links = Counter(entry["actor"] for entry in history if entry["action"] == "link")
    assert links["quantize-production/quantize"] == 2
    promoted = [event for event in scenario.events(kind="alias-added") if event["data"]["alias"] == "production"]
    assert [event["actor"] for event in promoted] == [{"name": "evaluate-candidate", "kind": "automation"}] * 2
    (linked,) = scenario.events(kind="version-linked", subject="model/fraud:v4")
    assert linked["actor"] == {"name": "quantize-production/quantize", "kind": "job"}
    assert [cause["automation"] for cause in linked["chain"]] == ["evaluate-candidate", "quantize-production"]


def _check_jobs(scenario):
    """Check that all jobs succeeded, with the image that ran, a log and outputs."""
    jobs = [scenario.get(f"/jobs/{job['id']}") for job in scenario.jobs()]
    assert Counter(job["name"] for job in jobs) == {"evaluate": 3, "quantize": 2}
    for job in jobs:
        assert (job["state"], job["exit_code"]) == ("succeeded", 0)
        assert job["image_digest"].startswith("sha256:")
        assert job["outputs"]
    (first,) = [job for job in jobs if (job["name"], job["version"]) == ("evaluate", "model/fraud:v0")]
    chunks = scenario.get(f"/jobs/{first['id']}/log")["items"]
    assert "evaluating /upshot/input/model.json" in "".join(chunk["text"] for chunk in chunks)
    kinds = Counter(event["kind"] for event in scenario.events())
    assert (kinds["job-started"], kinds["job-succeeded"], kinds["job-failed"]) == (5, 5, 0)


def _check_deliveries(scenario):
    """Check that each delivery arrived once and was valid."""
    requests = scenario.receivers.requests
    assert [request.reason for request in requests if not request.verified] == []
    assert Counter(request.headers.get("webhook-id") for request in requests).most_common(1)[0][1] == 1
