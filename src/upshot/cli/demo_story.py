"""What `upshot demo` saw: gathered from the API and the stand-ins, told in order, and judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from upshot.cli.client import Client, path_of
from upshot.cli.output import Output
from upshot.clock import parse_time, stopwatch
from upshot.ids import new_id
from upshot.receivers import Received, Receivers

_STORY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_SHOWN_CHARS = 360  # of a body
_FINAL = frozenset({"succeeded", "failed", "cancelled", "skipped"})
_STAND_INS = {"/github/": "GitHub", "/slack/": "Slack", "/hooks/": "webhook receiver"}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One thing that the user did."""

    time: datetime
    words: str
    events: tuple[str, ...]  #: ids of the events that it made


@dataclass(slots=True)
class Story:
    """Everything that was seen."""

    began: datetime
    receivers: Receivers
    mutations: list[Mutation] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)  #: with their explanations, in order
    executions: dict[str, Mapping[str, Any]] = field(default_factory=dict)  #: by id, with all attempts

    @property
    def requests(self) -> list[Received]:
        """What arrived at the stand-ins, in order."""
        return self.receivers.requests

    def moment(self, time_: datetime) -> str:
        """A time as seconds since the story began."""
        return f"{(time_ - self.began).total_seconds():+8.3f} s"


def watch(client: Client, story: Story) -> None:
    """Follow the story until every event is matched and every execution has ended, or for a minute at most."""
    deadline = stopwatch() + _STORY_SECONDS
    while stopwatch() < deadline:
        story.events = _events(client, story.began)
        answers = [execution for event in story.events for execution in event["executions"]]
        story.executions = {one: client.get(path_of("executions", one)) for one in answers}
        settled = all(event["matched_at"] for event in story.events) and all(
            execution["state"] in _FINAL for execution in story.executions.values()
        )
        # Looked at again, since an execution may have emitted an event after the events were read.
        if settled and len(_events(client, story.began)) == len(story.events):
            return
        time.sleep(_POLL_SECONDS)


def _events(client: Client, since: datetime) -> list[Mapping[str, Any]]:
    found = client.items("/events", limit=1000, after=new_id("evt", since - timedelta(milliseconds=1)))
    return [client.get(path_of("events", event["id"])) for event in found]


# --- told -----------------------------------------------------------------------------------------


def print_story(output: Output, story: Story) -> None:
    """Tell it in order: what was done, the events, who answered and who did not, what arrived."""
    caused_by_user = {event for mutation in story.mutations for event in mutation.events}
    for mutation in story.mutations:
        output.line()
        output.line(f"{story.moment(mutation.time)}  {mutation.words}")
        for event in story.events:
            if event["id"] in mutation.events:
                _print_event(output, story, event)
    for event in story.events:
        if event["id"] not in caused_by_user:
            output.line()
            causes = ", ".join(link["automation"] for link in event["chain"])
            output.line(f"{story.moment(parse_time(event['time']))}  and because of {causes}")
            _print_event(output, story, event)
    output.line()
    output.line("what arrived at the stand-ins, in order:")
    for request in story.requests:
        _print_request(output, story, request)


def _print_event(output: Output, story: Story, event: Mapping[str, Any]) -> None:
    word = event["data"].get("alias") or event["data"].get("tag")
    by_itself = ", moved by itself" if event["data"].get("automatic") else ""
    about = f" ({word}{by_itself})" if word else ""
    output.line(f"              event {event['kind']}{about}: {event['subject']}")
    for answer in sorted(event["explanation"], key=lambda one: not one["answered"]):
        if answer["answered"]:
            execution = story.executions[answer["execution"]]
            output.line(f"                answered by {answer['automation']}: ", output.state(execution["state"]))
            for step in execution["steps"]:
                output.line(f"                  {step['id']} ({step['uses']}) ", *_step(output, step))
        else:
            output.line(output.faint(f"                not by {answer['automation']}: {answer['reason']}"))


def _step(output: Output, step: Mapping[str, Any]) -> Iterator[Any]:
    yield output.state(step["state"])
    if step["reason"]:
        yield f": {step['reason']}"
    if step["attempts"]:
        yield f" in {1000 * step['attempts'][-1]['took_seconds']:.0f} ms"
    if len(step["attempts"]) > 1:
        yield f" at attempt {len(step['attempts'])}"


def _print_request(output: Output, story: Story, request: Received) -> None:
    verdict = output.state("verified") if request.verified else f"not verified: {request.reason}"
    output.line(
        f"{story.moment(request.time)}  {_stand_in(request)} received {request.method} {request.path}, "
        f"answered {request.status}: ",
        verdict,
    )
    if delivery := request.headers.get("webhook-id"):
        output.line(f"              webhook-id: {delivery}")
    body = request.body.decode("utf-8", "replace")
    rest = len(body) - _SHOWN_CHARS
    output.line(" " * 14, body[:_SHOWN_CHARS] + (f"… and {rest} characters more" if rest > 0 else ""))


def _stand_in(request: Received) -> str:
    return next((name for beginning, name in _STAND_INS.items() if request.path.startswith(beginning)), "somebody")


# --- judged ---------------------------------------------------------------------------------------


def shortcomings(story: Story) -> list[str]:
    """What should have happened and did not, in plain words; nothing when all is well."""
    return [*_unfinished(story), *_not_received(story), *_not_verified(story)]


def _unfinished(story: Story) -> Iterator[str]:
    for event in story.events:
        if not event["matched_at"]:
            yield f"event {event['kind']} of {event['subject']} was not matched: no worker took it"
    for execution in story.executions.values():
        if execution["state"] != "succeeded":
            yield f"{execution['automation']} is {execution['state']}: {execution['reason']}"


def _not_received(story: Story) -> Iterator[str]:
    """Compare the receipts with what the stand-ins saw, both ways."""
    sent = {
        attempt["delivery_id"]: f"{step['uses']} of {execution['automation']}"
        for execution in story.executions.values()
        for step in execution["steps"]
        for attempt in step["attempts"]
        if attempt["state"] == "succeeded" and "url" in (attempt["request"] or {})
    }
    got = Counter(request.headers.get("webhook-id", "none") for request in story.requests)
    for name in _STAND_INS.values():
        if not any(_stand_in(request) == name for request in story.requests):
            yield f"nothing arrived at the stand-in for {name}"
    for delivery in sent.keys() | got.keys():
        if got[delivery] != (delivery in sent):
            yield f"delivery {delivery} ({sent.get(delivery, 'of no receipt')}) arrived {got[delivery]} times"


def _not_verified(story: Story) -> Iterator[str]:
    for request in story.requests:
        if not request.verified:
            yield f"{request.method} {request.path} arrived and was not verified: {request.reason}"
