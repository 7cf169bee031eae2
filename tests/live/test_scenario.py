"""Candidate in, evaluated, gated, promoted, dispatched, all from one alias: real processes, real containers."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.docker_engines import HOW_TO, find_engine
from tests.project.repository import ROOT
from tests.waiting import until
from upshot.demo.image import build_image
from upshot.embedded.docker_bridge import bridge_address
from upshot.receivers import GITHUB_TOKEN, SIGNING_SECRET

FRAUD = "/registries/model/collections/fraud"
MEASURED = {"first": 0.87, "simpler": 0.8133, "better": 0.9433}


@pytest.fixture
def engine():
    """The machine's own."""
    found = find_engine()
    if found is None:
        pytest.skip(f"no Docker engine answers; {HOW_TO}, and run again")
    yield found
    found.close()


@pytest.fixture
def gateway(engine):
    """Address of this machine that containers of its Docker reach, and the samples' image made there."""
    build_image(print)
    return bridge_address()


@pytest.fixture
def story(make_system, receivers, database_url, gateway):
    """The samples as they are, answering in a system whose jobs run in containers."""
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
    return Story(system, receivers)


class Story:
    """What a user does, and what a user can see of it."""

    def __init__(self, system, receivers) -> None:
        self.api = system.api
        self.executions = system.executions
        self.receivers = receivers

    def become_candidate(self, model):
        """Log a model of the examples and link it, as a candidate; wait until all that follows has ended."""
        metadata = json.loads((ROOT / "examples" / "evaluate" / "models" / f"{model}.json").read_text())
        logged = self.post("/projects/fraud/artifacts", {"name": "logistic", "type": "model", "metadata": metadata})
        linked = self.post(f"{FRAUD}/versions", {"artifact": logged["reference"], "aliases": ["candidate"]})
        until(lambda: self.rests_after(linked["event_ids"]), f"all that follows from {linked['reference']} has ended")
        return linked["name"]

    def rests_after(self, events):
        """The events are answered, and so is whatever they led to."""
        answered = all(self.get(f"/events/{event}")["matched_at"] for event in events)
        return answered and self.unmatched == 0 and not {"waiting", "running"} & {e["state"] for e in self.executions()}

    @property
    def unmatched(self):
        return sum(event["matched_at"] is None for event in self.events())

    def events(self, **query):
        return self.get("/events", limit=200, **query)["items"]

    def get(self, path, **query):
        answer = self.api.get(path, params=query)
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, path, body):
        answer = self.api.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    @property
    def aliases(self):
        return {name: held for name, held in self.get(FRAUD)["aliases"].items() if name != "latest"}

    def metadata(self, version):
        return self.get(f"{FRAUD}/versions/{version}")["metadata"]

    def execution(self, automation, version):
        """The one of this automation about this version, with its steps."""
        (found,) = [
            one
            for one in self.executions(automation=automation)
            if self.get(f"/events/{one['event_id']}")["subject"] == f"model/fraud:{version}"
        ]
        return self.get(f"/executions/{found['id']}")

    def dispatched(self):
        """Payloads that GitHub got."""
        return [one.json["client_payload"] for one in self.receivers.requests if one.path.startswith("/github/")]

    def told(self):
        """What Slack got."""
        return [one.json["text"] for one in self.receivers.requests if one.path.startswith("/slack/")]


@pytest.mark.timeout(300)
def test_candidates_are_evaluated_and_the_better_ones_promoted(story, engine):
    """From one alias: measured in a container, held against production, promoted, dispatched, quantized; or refused."""
    first = story.become_candidate("first")

    assert story.aliases == {"candidate": "v0", "production": "v0", "quantized": "v1"}
    assert story.metadata(first)["evaluate"]["accuracy"] == MEASURED["first"]
    assert story.metadata("v1")["quantized_from"] == "model/fraud:v0"

    simpler = story.become_candidate("simpler")

    assert story.aliases == {"candidate": simpler, "production": "v0", "quantized": "v1"}
    refused = story.execution("evaluate-candidate", simpler)
    assert refused["state"] == "failed"
    assert "accuracy of 0.8133, below 0.87" in refused["reason"]
    assert story.metadata(simpler)["evaluate"]["accuracy"] == MEASURED["simpler"]
    assert any(simpler in text and "stays a candidate" in text for text in story.told())

    better = story.become_candidate("better")

    assert story.aliases == {"candidate": better, "production": better, "quantized": "v4"}
    assert [(one["version"], one["replaces"], one["accuracy"]) for one in story.dispatched()] == [
        (first, None, MEASURED["first"]),
        (better, first, MEASURED["better"]),
    ]
    assert any(better in text and "is in production" in text for text in story.told())
    _every_change_has_its_author(story)
    _every_job_is_accounted_for(story)
    _nothing_came_twice(story)
    jobs = [job["id"] for job in story.get("/jobs", limit=200)["items"]]
    until(lambda: not any(engine.containers(f"upshot.job={job}") for job in jobs), "their containers are removed")


def _every_change_has_its_author(story):
    """The history names the automation that promoted, and the job that linked what it made."""
    history = story.get(f"{FRAUD}/history", limit=200)["items"]
    assert Counter(one["actor"] for one in history if one["action"] == "link")["quantize-production/quantize"] == 2
    promoted = [event for event in story.events(kind="alias-added") if event["data"]["alias"] == "production"]
    assert [event["actor"] for event in promoted] == [{"name": "evaluate-candidate", "kind": "automation"}] * 2
    linked = story.events(kind="version-linked", subject="model/fraud:v4")
    assert [event["actor"] for event in linked] == [{"name": "quantize-production/quantize", "kind": "job"}]
    assert [cause["automation"] for cause in linked[0]["chain"]] == ["evaluate-candidate", "quantize-production"]


def _every_job_is_accounted_for(story):
    """Three evaluations and two quantizations, with the image that ran, what it said and what it gave."""
    jobs = [story.get(f"/jobs/{one['id']}") for one in story.get("/jobs", limit=200)["items"]]
    assert Counter(job["name"] for job in jobs) == {"evaluate": 3, "quantize": 2}
    for job in jobs:
        assert (job["state"], job["exit_code"]) == ("succeeded", 0)
        assert job["image_digest"].startswith("sha256:")
        assert job["outputs"]
    said = {job["version"]: story.get(f"/jobs/{job['id']}/log")["items"] for job in jobs if job["name"] == "evaluate"}
    assert "evaluating model/fraud:v0" in "".join(piece["text"] for piece in said["model/fraud:v0"])
    kinds = Counter(event["kind"] for event in story.events())
    assert (kinds["job-started"], kinds["job-succeeded"], kinds["job-failed"]) == (5, 5, 0)


def _nothing_came_twice(story):
    """Each delivery arrived once, and was what it claims to be."""
    requests = story.receivers.requests
    assert [one.reason for one in requests if not one.verified] == []
    assert Counter(one.headers.get("webhook-id") for one in requests).most_common(1)[0][1] == 1
