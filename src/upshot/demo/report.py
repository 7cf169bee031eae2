"""Tells what `upshot demo` saw, in order: what was done, the events, who answered, what the jobs did, what arrived."""

from __future__ import annotations

from itertools import groupby

from upshot.client.output import Output, plain
from upshot.clock import parse_time
from upshot.demo.scenario import Data, Scenario, Stage, stand_in
from upshot.receivers import Received

_SHOWN_CHARS = 200  # of a body
_LOG_LINES = 6  # of a job, the last
_DIGEST_CHARS = len("sha256:") + 12
_NAMED = ("alias-", "tag-")  # beginnings of kinds that are about a word
_INDENT = " " * 14


def tell_act(output: Output, story: Scenario, act: Stage) -> None:
    """What the user did and what it set off, mutation by mutation."""
    words = {event: mutation.words for mutation in act.mutations for event in mutation.events}
    for _, group in groupby(act.events, key=lambda event: event["mutation_id"]):
        events = list(group)
        output.line()
        output.line(
            f"{story.moment(parse_time(events[0]['time']))}  {words.get(events[0]['id']) or _because(events[0])}"
        )
        for event in events:
            if _is_answered(event):
                # Why the others did not: once will do.
                _tell_event(output, event, act, with_misses=act is story.acts[0] and event["id"] in words)
        if unanswered := [_title(event) for event in events if not _is_answered(event)]:
            output.line(output.faint(f"{_INDENT}{', '.join(unanswered)}: nobody answers"))


def tell_requests(output: Output, story: Scenario) -> None:
    """What arrived at the stand-ins."""
    output.line()
    output.line("what arrived at the stand-ins, in order:")
    for request in story.requests:
        _tell_request(output, story, request)


def _because(event: Data) -> str:
    """What had led to it, and who did it."""
    return f"because of {event['chain'][-1]['automation']}, by {event['actor']['kind']} {event['actor']['name']}"


def _is_answered(event: Data) -> bool:
    return any(answer["answered"] for answer in event["explanation"])


def _title(event: Data) -> str:
    word = event["data"].get("alias") or event["data"].get("tag") if event["kind"].startswith(_NAMED) else None
    by_itself = ", moved by itself" if event["data"].get("automatic") else ""
    about = f" ({word}{by_itself})" if word else ""
    return f"{event['kind']}{about} {event['subject']}"


def _tell_event(output: Output, event: Data, act: Stage, *, with_misses: bool) -> None:
    output.line(f"{_INDENT}event {_title(event)}")
    for answer in event["explanation"]:
        if answer["answered"]:
            _tell_execution(output, act, act.executions[answer["execution"]])
    for miss in event["explanation"]:
        if with_misses and not miss["answered"]:
            output.line(output.faint(f"{_INDENT}  not by {miss['automation']}: {miss['reason']}"))


def _tell_execution(output: Output, act: Stage, execution: Data) -> None:
    reason = f": {execution['reason']}" if execution["state"] == "failed" else ""
    output.line(f"{_INDENT}  answered by {execution['automation']}: ", output.state(execution["state"]), reason)
    for step in execution["steps"]:
        if step["phase"] != "main" and step["state"] == "skipped":
            continue  # nothing failed
        job = act.jobs.get(step["job"])
        took = _seconds(job) if job else _took(step)
        reason = f": {step['reason']}" if step["reason"] else ""
        output.line(f"{_INDENT}    {step['id']} ({step['uses']}) ", output.state(step["state"]), took, reason)
        if job:
            _tell_job(output, job)


def _took(step: Data) -> str:
    attempts = step["attempts"]
    if not attempts:
        return ""
    more = f" at attempt {len(attempts)}" if len(attempts) > 1 else ""
    return f" in {1000 * attempts[-1]['took_seconds']:.0f} ms{more}"


def _seconds(job: Data) -> str:
    if not (job["started_at"] and job["finished_at"]):
        return ""
    return f" in {(parse_time(job['finished_at']) - parse_time(job['started_at'])).total_seconds():.2f} s"


def _tell_job(output: Output, job: Data) -> None:
    image = f"image {job['image']} ({(job['image_digest'] or 'no digest')[:_DIGEST_CHARS]})" if job["image"] else ""
    command = " ".join(job["spec"]["command"] or ())
    facts = [job["id"], f"on {job['backend']}", image or command, f"exit code {job['exit_code']}"]
    output.line(f"{_INDENT}      ", ", ".join(facts))
    for line in job["log_tail"].splitlines()[-_LOG_LINES:]:
        output.line(output.faint(f"{_INDENT}      | {line}"))
    if job["outputs"]:
        output.line(f"{_INDENT}      outputs {plain(job['outputs'])}")


def _tell_request(output: Output, story: Scenario, request: Received) -> None:
    verdict = output.state("verified") if request.verified else f"not verified: {request.reason}"
    output.line(
        f"{story.moment(request.time)}  {stand_in(request)} received {request.method} {request.path}, "
        f"answered {request.status}: ",
        verdict,
    )
    if delivery := request.headers.get("webhook-id"):
        output.line(f"{_INDENT}webhook-id: {delivery}")
    body = request.body.decode("utf-8", "replace")
    rest = len(body) - _SHOWN_CHARS
    output.line(_INDENT, body[:_SHOWN_CHARS] + (f"… and {rest} characters more" if rest > 0 else ""))
