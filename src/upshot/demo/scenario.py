"""What `upshot demo` saw, act by act: gathered from the API and the stand-ins, and judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from upshot.client.http import Client, path_of
from upshot.clock import SystemClock, stopwatch
from upshot.ids import new_id
from upshot.receivers import Received, Receivers

_ACT_SECONDS = 60.0
_POLL_SECONDS = 0.1
_EVENTS = 1000  # of one act, at most
_FINAL = frozenset({"succeeded", "failed", "cancelled", "skipped"})
_EVALUATION = "evaluate-candidate"
_COLLECTION = ("registries", "model", "collections", "fraud")
_STAND_INS = {"/github/": "GitHub", "/slack/": "Slack", "/hooks/": "webhook receiver"}

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One thing that the user did."""

    time: datetime
    words: str
    events: tuple[str, ...]  #: ids of the events that it made


@dataclass(slots=True)
class Stage:
    """A version that somebody links, and all that came of it."""

    began: datetime
    is_promoted: bool  #: what is expected of it
    version: str = ""  #: reference of the version
    mutations: list[Mutation] = field(default_factory=list)
    events: list[Data] = field(default_factory=list)  #: with their explanations, in order
    executions: dict[str, Data] = field(default_factory=dict)  #: by id, with all attempts
    jobs: dict[str, Data] = field(default_factory=dict)  #: by id
    holders: dict[str, Data] = field(default_factory=dict)  #: versions by alias, at its end

    def note(self, words: str, change: Data, moment: datetime) -> None:
        """Keep what the user did, and which events it made."""
        self.mutations.append(Mutation(moment, words, tuple(change["events"])))

    @property
    def evaluation(self) -> Data | None:
        """The execution that judged the candidate."""
        return next((one for one in self.executions.values() if one["automation"] == _EVALUATION), None)


@dataclass(slots=True)
class Scenario:
    """Everything that was seen."""

    began: datetime
    receivers: Receivers
    with_jobs: bool
    acts: list[Stage] = field(default_factory=list)

    @property
    def requests(self) -> list[Received]:
        """What arrived at the stand-ins, in order."""
        return self.receivers.requests

    def moment(self, time_: datetime) -> str:
        """A time as seconds since the story began."""
        return f"{(time_ - self.began).total_seconds():+8.3f} s"

    def begin_act(self, *, is_promoted: bool) -> Stage:
        """Of what happens from now on."""
        self.acts.append(Stage(SystemClock().now(), is_promoted))
        return self.acts[-1]


def stand_in(request: Received) -> str:
    """Who a request was for."""
    return next((name for beginning, name in _STAND_INS.items() if request.path.startswith(beginning)), "somebody")


def watch(client: Client, act: Stage) -> None:
    """Follow an act until every event is matched and every execution has ended, or for a minute at most."""
    deadline = stopwatch() + _ACT_SECONDS
    while stopwatch() < deadline and not _has_settled(client, act):
        time.sleep(_POLL_SECONDS)
    waited_for = {step["job"] for execution in act.executions.values() for step in execution["steps"] if step["job"]}
    act.jobs = {job: client.get(path_of("jobs", job)) for job in waited_for}
    collection = client.get(path_of(*_COLLECTION))
    act.holders = {
        alias: client.get(path_of(*_COLLECTION, "versions", version))
        for alias, version in collection["aliases"].items()
    }


def _has_settled(client: Client, act: Stage) -> bool:
    act.events = _events(client, act.began)
    answers = [execution for event in act.events for execution in event["executions"]]
    act.executions = {one: client.get(path_of("executions", one)) for one in answers}
    return (
        all(event["matched_at"] for event in act.events)
        and all(execution["state"] in _FINAL for execution in act.executions.values())
        # Looked at again, since an execution may have caused an event after the events were read.
        and len(_ids_of_events(client, act.began)) == len(act.events)
    )


def _events(client: Client, since: datetime) -> list[Data]:
    return [client.get(path_of("events", event)) for event in _ids_of_events(client, since)]


def _ids_of_events(client: Client, since: datetime) -> list[str]:
    after = new_id("evt", since - timedelta(milliseconds=1))
    return [event["id"] for event in client.items("/events", limit=_EVENTS, after=after)]


# --- judged ---------------------------------------------------------------------------------------


def shortcomings(story: Scenario) -> list[str]:
    """What should have happened and did not, in plain words; nothing when all is well."""
    found = [line for act in story.acts for line in (*_unfinished(act), *_not_decided(story, act))]
    return [*found, *_not_received(story), *_not_verified(story)]


def _unfinished(act: Stage) -> Iterator[str]:
    for event in act.events:
        if not event["matched_at"]:
            yield f"event {event['kind']} of {event['subject']} was not matched: no worker took it"
    for execution in act.executions.values():
        is_refusal = execution is act.evaluation and not act.is_promoted
        expected = "failed" if is_refusal else "succeeded"
        if execution["state"] != expected:
            yield f"{execution['automation']} of {act.version} is {execution['state']}: {execution['reason']}"


def _not_decided(story: Scenario, act: Stage) -> Iterator[str]:
    """Hold what the registry says now against what the act should have led to."""
    in_production = act.holders.get("production", {}).get("reference")
    if (in_production == act.version) != act.is_promoted:
        yield f"{act.version} should {'' if act.is_promoted else 'not '}be in production; {in_production} is"
    dispatched = [request for request in story.requests if _dispatches(request, act.version)]
    if len(dispatched) != act.is_promoted:
        yield f"the deployment of {act.version} was dispatched {len(dispatched)} times"
    if story.with_jobs:
        yield from _not_worked(act)


def _dispatches(request: Received, version: str) -> bool:
    if stand_in(request) != "GitHub":
        return False
    payload = request.json["client_payload"]
    return f"model/{payload['model']}:{payload['version']}" == version


def _not_worked(act: Stage) -> Iterator[str]:
    """Hold what the jobs gave against what the registry and the gate say."""
    steps = {step["id"]: step for step in act.evaluation["steps"]} if act.evaluation else {}
    if "evaluate" not in steps or not steps["evaluate"]["outputs"]:
        yield f"{act.version} was not evaluated"
        return
    if not act.is_promoted and steps["gate"]["state"] != "failed":
        yield f"the gate let {act.version} pass"
    if not act.is_promoted:
        return
    accuracy = act.holders["production"]["metadata"].get("evaluate", {}).get("accuracy")
    if accuracy is None or accuracy != steps["evaluate"]["outputs"]["accuracy"]:
        yield f"the metadata of {act.version} does not hold the accuracy that its job has measured"
    quantized = act.holders.get("quantized")
    if quantized is None or quantized["metadata"].get("quantized_from") != act.version:
        yield f"no version is linked that was quantized from {act.version}"
    elif not any(_is_of_job(event, quantized["reference"]) for event in act.events):
        yield f"{quantized['reference']} was not linked by the job that quantized it"


def _is_of_job(event: Data, version: str) -> bool:
    return bool(event["kind"] == "version-linked" and event["subject"] == version and event["actor"]["kind"] == "job")


def _not_received(story: Scenario) -> Iterator[str]:
    """Compare the receipts with what the stand-ins saw, both ways."""
    sent = {
        attempt["delivery_id"]: f"{step['uses']} of {execution['automation']}"
        for act in story.acts
        for execution in act.executions.values()
        for step in execution["steps"]
        for attempt in step["attempts"]
        if attempt["state"] == "succeeded" and "url" in (attempt["request"] or {})
    }
    got = Counter(request.headers.get("webhook-id", "none") for request in story.requests)
    for name in _STAND_INS.values():
        if not any(stand_in(request) == name for request in story.requests):
            yield f"nothing arrived at the stand-in for {name}"
    for delivery in sent.keys() | got.keys():
        if got[delivery] != (delivery in sent):
            yield f"delivery {delivery} ({sent.get(delivery, 'of no receipt')}) arrived {got[delivery]} times"


def _not_verified(story: Scenario) -> Iterator[str]:
    for request in story.requests:
        if not request.verified:
            yield f"{request.method} {request.path} arrived and was not verified: {request.reason}"
