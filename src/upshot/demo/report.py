"""Reports of a demo in order: user actions, events, executions, jobs, and the requests that arrived."""

from __future__ import annotations

from itertools import groupby

from upshot.clock import parse_time
from upshot.console import Output, format_value
from upshot.demo.scenario import Data, Scenario, Stage, receiver_name

_BODY_CHARS = 200
_LOG_LINES = 6  # at the end of a job's log
_DIGEST_CHARS = len("sha256:") + 12
_INDENT = " " * 14


def report_stage(output: Output, scenario: Scenario, stage: Stage) -> None:
    """Print what the user did and what happened because of it, mutation by mutation."""
    output.line()
    output.line(f"{scenario.offset(stage.started_at)}  $ {stage.command}")
    for line in stage.printed:
        output.line(output.dim(f"{_INDENT}| {line}"))
    for _, group in groupby(stage.events, key=lambda event: event["mutation_id"]):
        events = list(group)
        output.line()
        output.line(f"{scenario.offset(parse_time(events[0]['time']))}  {_describe_mutation(events)}")
        for event in events:
            if _is_answered(event):
                # Why other automations do not answer is worth showing once.
                with_misses = stage is scenario.stages[0] and not event["chain"]
                _report_event(output, event, stage, with_misses=with_misses)
        if unanswered := [_title(event) for event in events if not _is_answered(event)]:
            output.line(output.dim(f"{_INDENT}{', '.join(unanswered)}: no automation answers"))


def _describe_mutation(events: list[Data]) -> str:
    first = events[0]
    if first["chain"]:
        return f"because of {first['chain'][-1]['automation']}, by {first['actor']['kind']} {first['actor']['name']}"
    if first["kind"].startswith("run-"):
        return f"the run {first['subject']} has {first['kind'].removeprefix('run-')}"
    by_kind = {event["kind"]: event for event in events}
    aliases = ", ".join(
        event["data"]["alias"] for event in events if event["kind"] == "alias-added" and not event["data"]["automatic"]
    )
    with_aliases = f", alias {aliases}" if aliases else ""
    if created := by_kind.get("artifact-created"):
        return f"a checkpoint is logged as {created['subject']}{with_aliases}"
    if linked := by_kind.get("version-linked"):
        version = linked["data"]["version"]
        return f"{version['artifact']} is linked to the registry as {linked['subject']}{with_aliases}"
    return f"the alias `{aliases}` is moved to {first['subject']}"


def _is_answered(event: Data) -> bool:
    return any(answer["answered"] for answer in event["explanation"])


def _title(event: Data) -> str:
    about = ""
    if event["kind"].startswith(("alias-", "tag-")):
        alias_or_tag = event["data"].get("alias") or event["data"].get("tag")
        automatic = ", moved automatically" if event["data"].get("automatic") else ""
        about = f" ({alias_or_tag}{automatic})"
    return f"{event['kind']}{about} {event['subject']}"


def _report_event(output: Output, event: Data, stage: Stage, *, with_misses: bool) -> None:
    output.line(f"{_INDENT}event {_title(event)}")
    for answer in event["explanation"]:
        if answer["answered"]:
            _report_execution(output, stage, stage.executions[answer["execution_id"]])
    for answer in event["explanation"]:
        if with_misses and not answer["answered"]:
            output.line(output.dim(f"{_INDENT}  not by {answer['automation']}: {answer['reason']}"))


def _report_execution(output: Output, stage: Stage, execution: Data) -> None:
    reason = f": {execution['reason']}" if execution["state"] == "failed" else ""
    output.line(f"{_INDENT}  answered by {execution['automation']}: ", output.state(execution["state"]), reason)
    for step in execution["steps"]:
        if step["phase"] != "main" and step["state"] == "skipped":
            continue  # an `on-failure` step of an execution that did not fail
        job = stage.jobs.get(step["job_id"])
        took = ""
        if job:
            if job["started_at"] and job["finished_at"]:
                seconds = (parse_time(job["finished_at"]) - parse_time(job["started_at"])).total_seconds()
                took = f" in {seconds:.2f} s"
        elif attempts := step["attempts"]:
            count = f" at attempt {len(attempts)}" if len(attempts) > 1 else ""
            took = f" in {1000 * attempts[-1]['took_seconds']:.0f} ms{count}"
        reason = f": {step['reason']}" if step["reason"] else ""
        output.line(f"{_INDENT}    {step['id']} ({step['uses']}) ", output.state(step["state"]), took, reason)
        if job:
            _report_job(output, job)


def _report_job(output: Output, job: Data) -> None:
    image = f"image {job['image']} ({(job['image_digest'] or 'no digest')[:_DIGEST_CHARS]})" if job["image"] else ""
    command = " ".join(job["spec"]["command"] or ())
    output.line(f"{_INDENT}      {job['id']}, on {job['backend']}, {image or command}, exit code {job['exit_code']}")
    for line in job["log_tail"].splitlines()[-_LOG_LINES:]:
        output.line(output.dim(f"{_INDENT}      | {line}"))
    if job["outputs"]:
        output.line(f"{_INDENT}      outputs {format_value(job['outputs'])}")


def report_lineage(output: Output, reference: str, direction: str, lines: list[str]) -> None:
    """Print the lineage of a version in one direction."""
    output.line()
    output.line(f"$ upshot lineage {reference} {direction}")
    for line in lines:
        output.line(line)


def report_requests(output: Output, scenario: Scenario) -> None:
    """Print the requests that the receivers got."""
    output.line()
    output.line("requests that arrived at the receivers, in order:")
    for request in scenario.requests:
        result = output.state("verified") if request.verified else f"not verified: {request.reason}"
        output.line(
            f"{scenario.offset(request.time)}  {receiver_name(request)} received {request.method} {request.path}, "
            f"answered {request.status}: ",
            result,
        )
        if delivery_id := request.headers.get("webhook-id"):
            output.line(f"{_INDENT}webhook-id: {delivery_id}")
        body = request.body.decode("utf-8", "replace")
        omitted = len(body) - _BODY_CHARS
        output.line(_INDENT, body[:_BODY_CHARS] + (f"… and {omitted} more characters" if omitted > 0 else ""))
