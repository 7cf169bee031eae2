"""The record of a demo: what happened in each stage, read from the API and the receivers, and what went wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from upshot.client.http import Client, api_path
from upshot.clock import SystemClock, stopwatch
from upshot.domain.execution import ExecutionState
from upshot.ids import new_id
from upshot.receivers import Received, Receivers

_MAX_STAGE_SECONDS = 60.0
_POLL_SECONDS = 0.1
_MAX_EVENTS = 1000  # of one stage
_EVALUATION = "evaluate-candidate"
_QUANTIZED = "quantized"  # the alias of quantized versions
_COLLECTION = ("registries", "model", "collections", "fraud")
_RECEIVERS = {"/github/": "GitHub", "/slack/": "Slack", "/hooks/": "webhook receiver"}

Data = Mapping[str, Any]


@dataclass(slots=True)
class Stage:
    """One version that the training script links, and everything that happens because of it."""

    started_at: datetime
    is_promoted: bool  #: whether the version is expected to be promoted
    command: str = ""  #: the command that trained the model
    printed: list[str] = field(default_factory=list)  #: what it printed
    version: str = ""  #: reference of the version
    events: list[Data] = field(default_factory=list)  #: with their explanations, oldest first
    executions: dict[str, Data] = field(default_factory=dict)  #: with all attempts, by id
    jobs: dict[str, Data] = field(default_factory=dict)  #: by id
    alias_holders: dict[str, Data] = field(default_factory=dict)  #: versions by alias, at the end of the stage
    sources: frozenset[str] = frozenset()  #: versions that the holder of `quantized` was made from

    @property
    def evaluation(self) -> Data | None:
        """The execution that evaluated the candidate."""
        executions = self.executions.values()
        return next((execution for execution in executions if execution["automation"] == _EVALUATION), None)


@dataclass(slots=True)
class Scenario:
    """Everything that happens in one demo."""

    started_at: datetime
    receivers: Receivers
    with_jobs: bool
    stages: list[Stage] = field(default_factory=list)

    @property
    def requests(self) -> list[Received]:
        """The requests that the receivers got, in order."""
        return self.receivers.requests

    def offset(self, time_: datetime) -> str:
        """Format a time as seconds since the start of the demo."""
        return f"{(time_ - self.started_at).total_seconds():+8.3f} s"

    def start_stage(self, *, is_promoted: bool) -> Stage:
        """Start the next stage. Events belong to it from now on."""
        self.stages.append(Stage(SystemClock().now(), is_promoted))
        return self.stages[-1]


def receiver_name(request: Received) -> str:
    """Return the name of the system that a request was sent to."""
    return next((name for prefix, name in _RECEIVERS.items() if request.path.startswith(prefix)), "unknown receiver")


def observe(client: Client, stage: Stage) -> None:
    """Poll until every event is matched and every execution is final, or for a minute. Record what happened."""
    deadline = stopwatch() + _MAX_STAGE_SECONDS
    while not _refresh(client, stage) and stopwatch() < deadline:
        time.sleep(_POLL_SECONDS)
    steps = [step for execution in stage.executions.values() for step in execution["steps"]]
    job_ids = {step["job_id"] for step in steps if step["job_id"]}
    stage.jobs = {job_id: client.get(api_path("jobs", job_id)) for job_id in job_ids}
    collection = client.get(api_path(*_COLLECTION))
    stage.alias_holders = {
        alias: client.get(api_path(*_COLLECTION, "versions", version))
        for alias, version in collection["aliases"].items()
    }
    if quantized := stage.alias_holders.get(_QUANTIZED):
        found = client.get("/lineage", reference=quantized["reference"], direction="up")
        links = [link for node in found["nodes"] if node["id"] != found["root"] for link in node["links"]]
        stage.sources = frozenset(link["reference"] for link in links)


def _refresh(client: Client, stage: Stage) -> bool:
    """Read the events and executions of the stage. Return whether nothing more will happen."""
    event_ids = _event_ids(client, stage.started_at)
    stage.events = [client.get(api_path("events", event_id)) for event_id in event_ids]
    execution_ids = [execution_id for event in stage.events for execution_id in event["execution_ids"]]
    stage.executions = {
        execution_id: client.get(api_path("executions", execution_id)) for execution_id in execution_ids
    }
    return (
        all(event["matched_at"] for event in stage.events)
        and all(ExecutionState(execution["state"]).is_final for execution in stage.executions.values())
        # List the events again: an execution may have caused one after the first listing.
        and _event_ids(client, stage.started_at) == event_ids
    )


def _event_ids(client: Client, since: datetime) -> list[str]:
    after = new_id("evt", since - timedelta(milliseconds=1))
    return [event["id"] for event in client.items("/events", limit=_MAX_EVENTS, after=after)]


# --- checks ---------------------------------------------------------------------------------------


def failures(scenario: Scenario) -> list[str]:
    """Return what should have happened but did not, one line each. The list is empty if all went well."""
    of_stages = [line for stage in scenario.stages for line in _stage_failures(scenario, stage)]
    return [*of_stages, *_delivery_failures(scenario)]


def _stage_failures(scenario: Scenario, stage: Stage) -> Iterator[str]:
    """Compare executions, registry and receivers with what the stage should have led to."""
    for event in stage.events:
        if not event["matched_at"]:
            yield f"no worker matched event {event['kind']} of {event['subject']}"
    for execution in stage.executions.values():
        is_rejection = execution is stage.evaluation and not stage.is_promoted
        if execution["state"] != ("failed" if is_rejection else "succeeded"):
            yield f"{execution['automation']} of {stage.version} is {execution['state']}: {execution['reason']}"
    in_production = stage.alias_holders.get("production", {}).get("reference")
    if (in_production == stage.version) != stage.is_promoted:
        yield f"{stage.version} should {'' if stage.is_promoted else 'not '}be in production; {in_production} is"
    dispatches = [request for request in scenario.requests if _is_dispatch_of(stage.version, request)]
    if len(dispatches) != stage.is_promoted:
        yield f"the deployment of {stage.version} was dispatched {len(dispatches)} times"
    if scenario.with_jobs:
        yield from _job_failures(stage)


def _is_dispatch_of(version: str, request: Received) -> bool:
    if receiver_name(request) != "GitHub":
        return False
    payload = request.json["client_payload"]
    return f"model/{payload['model']}:{payload['version']}" == version


def _job_failures(stage: Stage) -> Iterator[str]:
    """Compare the outputs of the jobs with the registry and with the decision of the gate."""
    steps = {step["id"]: step for step in stage.evaluation["steps"]} if stage.evaluation else {}
    if "evaluate" not in steps or not steps["evaluate"]["outputs"]:
        yield f"{stage.version} was not evaluated"
        return
    if not stage.is_promoted:
        if steps["gate"]["state"] != "failed":
            yield f"the gate let {stage.version} pass"
        return
    accuracy = stage.alias_holders["production"]["metadata"].get("evaluate", {}).get("accuracy")
    if accuracy is None or accuracy != steps["evaluate"]["outputs"]["accuracy"]:
        yield f"the metadata of {stage.version} lacks the accuracy that its job measured"
    quantized = stage.alias_holders.get(_QUANTIZED)
    if quantized is None or stage.version not in stage.sources:
        yield f"no version was linked that was quantized from {stage.version}"
    elif not quantized["is_stored"]:
        yield f"{quantized['reference']} has no files"
    elif not any(
        (event["kind"], event["subject"], event["actor"]["kind"]) == ("version-linked", quantized["reference"], "job")
        for event in stage.events
    ):
        yield f"{quantized['reference']} was not linked by the job that quantized it"


def _delivery_failures(scenario: Scenario) -> Iterator[str]:
    """Compare the receipts with the requests that the receivers got."""
    sent = {
        attempt["delivery_id"]: f"{step['uses']} of {execution['automation']}"
        for stage in scenario.stages
        for execution in stage.executions.values()
        for step in execution["steps"]
        for attempt in step["attempts"]
        if attempt["state"] == "succeeded" and "url" in (attempt["request"] or {})
    }
    received = Counter(request.headers.get("webhook-id", "none") for request in scenario.requests)
    names = {receiver_name(request) for request in scenario.requests}
    for name in _RECEIVERS.values():
        if name not in names:
            yield f"{name} received nothing"
    for delivery_id in sent.keys() | received.keys():
        if received[delivery_id] != (delivery_id in sent):
            step = sent.get(delivery_id, "without a receipt")
            yield f"delivery {delivery_id} ({step}) arrived {received[delivery_id]} times"
    for request in scenario.requests:
        if not request.verified:
            yield f"{request.method} {request.path} arrived but was not verified: {request.reason}"
