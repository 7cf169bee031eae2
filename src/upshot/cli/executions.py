"""`upshot executions`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import click

from upshot.cli.api_commands import api_command, limit_option, since_option
from upshot.cli.ids import EVENTS, EXECUTIONS, complete_automation
from upshot.cli.jobs import summary
from upshot.cli.params import TIME, refuse_empty_period
from upshot.cli.waiting import Consequences, Data, Finish, newest_event_ids, wait_option
from upshot.client.http import ApiError, Client, api_path
from upshot.clock import format_time
from upshot.console import Output, format_value, local_time
from upshot.domain.execution import ExecutionState

_STOPPED = (ExecutionState.FAILED, ExecutionState.CANCELLED)
_MAX_RETRIES = 1_000_000
_NOTHING = "there are no such executions"


@click.group()
def executions() -> None:
    """List, show, retry and cancel executions."""


@executions.command("list")
@click.option("--event", help="Id of the event that the executions answer.", shell_complete=EVENTS.complete)
@click.option("--automation", help="Name of the automation.", shell_complete=complete_automation)
@click.option(
    "--state",
    multiple=True,
    type=click.Choice([state.value for state in ExecutionState]),
    help="State of the execution. Can be repeated.",
)
@since_option("have ended, or were created if they have not,")
@limit_option(20)
@api_command
def list_executions(client: Client, output: Output, *, limit: int, event: str | None, **query: Any) -> None:
    """List executions. Those of the newest event come first."""
    event_id = EVENTS.find_optional(client, event)
    columns = {
        "id": lambda execution: execution["id"],
        "automation": lambda execution: f"{execution['automation']}{' (replay)' if execution['replay'] else ''}",
        "event": lambda execution: execution["event_id"],
        "state": lambda execution: execution["state"],
        "created": lambda execution: local_time(execution["created_at"]),
        "due": lambda execution: local_time(execution["due_at"]),
        "reason": lambda execution: execution["reason"],
    }
    output.rows(
        client.items("/executions", limit=limit, event_id=event_id, **query),
        columns,
        empty="there are no such executions",
        optional=("created", "due", "event"),
        wrapped="reason",
    )


@executions.command(short_help="Show an execution, its steps and their attempts.")
@click.argument("execution", shell_complete=EXECUTIONS.complete)
@click.option("--all-attempts", is_flag=True, help="Show request and response of every attempt, not only the last.")
@api_command
def show(client: Client, output: Output, execution: str, *, all_attempts: bool) -> None:
    """
    Show an execution: its steps, their attempts, and the request and response of the last attempt of each step.

    EXECUTION is an id, its beginning or end if no other id has the same, or `latest`.
    """
    shown = client.get(api_path("executions", EXECUTIONS.find(client, execution)))
    if output.as_json:
        output.json(shown)
        return
    output.fields(
        (
            ("execution", shown["id"]),
            ("automation", f"{shown['automation']} (revision {shown['revision']})"),
            ("replay", "yes" if shown["replay"] else None),
            ("event", shown["event_id"]),
            ("state", shown["state"]),
            ("reason", shown["reason"]),
            ("due", local_time(shown["due_at"])),
            ("created", local_time(shown["created_at"])),
            ("finished", local_time(shown["finished_at"])),
        )
    )
    in_progress = _attempt_in_progress(shown)
    for number, step in enumerate(shown["steps"], 1):
        _print_step(client, output, number, step, all_attempts=all_attempts)
        if in_progress and step["id"] == in_progress["id"]:
            attempt = max((attempt["attempt"] for attempt in step["attempts"]), default=0) + 1
            output.line("  ", f"attempt {attempt} is ", output.state("running"), f", worker {shown['worker_id']}")


@executions.command()
@click.argument("executions", nargs=-1, metavar="[EXECUTION]...", shell_complete=EXECUTIONS.complete)
@click.option(
    "--state",
    type=click.Choice([state.value for state in (*_STOPPED, ExecutionState.SKIPPED)]),
    help="Retry all executions in this state that match the other filters.",
)
@click.option("--automation", help="Only executions of this automation. Without --state: the failed ones.")
@click.option(
    "--event",
    "event_id",
    shell_complete=EVENTS.complete,
    help="Only executions that answer this event. Without --state: the failed ones.",
)
@click.option("--since", type=TIME, help="Only executions that ended since then: a time, or 2h for two hours ago.")
@click.option("--until", type=TIME, help="Only executions that ended before then.")
@click.option(
    "--revision",
    type=click.Choice(["original", "current"]),
    help="Revision of the automation. By default, the current one if the automation itself was invalid.",
)
@click.option("--force", is_flag=True, help="Repeat the step even if a newer execution for the alias completed it.")
@click.option("--dry-run", is_flag=True, help="Only list the executions.")
@wait_option
@api_command
def retry(
    client: Client,
    output: Output,
    executions: tuple[str, ...],
    *,
    revision: str | None,
    force: bool,
    dry_run: bool,
    finish: Finish,
    **filters: Any,
) -> None:
    """
    Continue failed, cancelled or overtaken executions at the step that failed. The delivery ids stay the same.

    Name the executions, or select them with filters: `retry --state failed --since 2h`. With --wait and --json, the
    result is an object with `retried` and `executions`, their last states.
    """
    refuse_empty_period(filters["since"], filters["until"])
    filters["event_id"] = EVENTS.find_optional(client, filters["event_id"])
    filters = {name: value for name, value in filters.items() if value is not None}
    if bool(executions) == bool(filters):
        raise click.UsageError("name executions, or select them with filters such as `--state failed --since 2h`")
    executions = _select(client, filters) if filters else tuple(EXECUTIONS.find(client, text) for text in executions)
    if dry_run:
        output.result([{"id": execution_id} for execution_id in executions], "\n".join(executions) or _NOTHING)
        return
    options = {name: value for name, value in (("force", force), ("revision", revision)) if value}
    is_single = not filters and len(executions) == 1
    earlier_event_ids = newest_event_ids(client) if finish.waits else frozenset()
    retried, problems = _retry(client, output, executions, options)
    if is_single and problems:
        raise problems[0]
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if finish.waits and retried:
        consequences = Consequences(client, executions=retried, earlier_event_ids=earlier_event_ids)
        finish.wait(consequences, output, {"retried": retried})
    elif output.as_json or not executions:
        output.result(retried[0] if is_single else retried, _NOTHING)
    if problems:
        sys.exit(1)


def _retry(
    client: Client, output: Output, executions: Iterable[str], options: Mapping[str, Any]
) -> tuple[list[Data], list[ApiError]]:
    """Retry executions, print a line for each, and return them and the errors."""
    retried: list[Data] = []
    problems: list[ApiError] = []
    for execution_id in executions:
        try:
            retried.append(client.post(api_path("executions", execution_id, "retry"), options or None))
        except ApiError as error:
            problems.append(error)
            continue
        if not output.as_json:
            output.line(_retried(retried[-1]))
    return retried, problems


def _select(client: Client, filters: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of the executions that match the filters, in the order of their events."""
    query = {name: format_time(value) if isinstance(value, datetime) else value for name, value in filters.items()}
    query.setdefault("state", ExecutionState.FAILED.value)
    return tuple(execution["id"] for execution in reversed(client.items("/executions", limit=_MAX_RETRIES, **query)))


def _retried(execution: Mapping[str, Any]) -> str:
    """Return the output line for a retried execution."""
    if ExecutionState(execution["state"]) is ExecutionState.SKIPPED:
        return f"{execution['id']} is skipped with revision {execution['revision']}: {execution['reason']}"
    return f"{execution['id']} is {execution['state']} again, with revision {execution['revision']}"


@executions.command()
@click.argument("execution", shell_complete=EXECUTIONS.complete)
@api_command
def cancel(client: Client, output: Output, execution: str) -> None:
    """Cancel an execution that is waiting or running. Requests that it has sent cannot be undone."""
    cancelled = client.post(api_path("executions", EXECUTIONS.find(client, execution), "cancel"))
    output.result(cancelled, f"{cancelled['id']} is {cancelled['state']}")


def _attempt_in_progress(execution: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the step that has an attempt in progress, or None."""
    if execution["state"] != ExecutionState.RUNNING.value:
        return None
    return next((step for step in execution["steps"] if not ExecutionState(step["state"]).is_final), None)


def _print_step(client: Client, output: Output, number: int, step: Mapping[str, Any], *, all_attempts: bool) -> None:
    output.line()
    phase = "" if step["phase"] == "main" else f", {step['phase']}"
    is_repeated = bool(step["attempts"]) and step["attempts"][-1]["error"] == step["reason"]
    reason = f": {step['reason']}" if step["reason"] and not is_repeated else ""
    name = f' "{step["name"]}"' if step["name"] else ""
    output.line(f"step {number}  {step['id']}{name} ({step['uses']}{phase}) is ", output.state(step["state"]), reason)
    if step["job_id"]:
        try:
            job = client.get(api_path("jobs", step["job_id"]))
        except ApiError:  # the job's retention is over
            output.line(f"  job {step['job_id']}, which has been removed")
        else:
            waits = not ExecutionState(step["state"]).is_final
            output.line(f"  {'waits for job' if waits else 'job'} {job['id']} ({summary(job)})")
    for attempt in step["attempts"]:
        _print_attempt(output, attempt, with_messages=all_attempts or attempt is step["attempts"][-1])
    if step["outputs"]:
        output.text(f"outputs {format_value(step['outputs'])}", indent=2)


def _print_attempt(output: Output, attempt: Mapping[str, Any], *, with_messages: bool) -> None:
    took = f"{1000 * attempt['took_seconds']:.0f} ms"
    wait = "" if attempt["wait_seconds"] is None else f", the next one {attempt['wait_seconds']:.1f} s later"
    error = f": {attempt['error']}" if attempt["error"] else ""
    title = f"attempt {attempt['attempt']} at {attempt['started_at']}, {took}{wait}: "
    output.line("  ", title, output.state(attempt["state"]), error)
    if not with_messages:
        return
    output.line(f"    delivery {attempt['delivery_id']}, worker {attempt['worker_id']}")
    _print_message(output, "->", attempt["request"], ("method", "url"), otherwise="input")
    _print_message(output, "<-", attempt["response"], ("status",), otherwise="result")


def _print_message(
    output: Output, arrow: str, message: Mapping[str, Any] | None, title_keys: tuple[str, ...], *, otherwise: str
) -> None:
    """
    Print the request or the response of an attempt.

    Args:
        output: Where to print.
        arrow: The direction of the message.
        message: An HTTP message, or the data that another kind of action recorded.
        title_keys: The keys of the first line.
        otherwise: The first line of a message that has none of these keys.
    """
    if message is None:
        return
    title = " ".join(format_value(message[key]) for key in title_keys if key in message)
    output.line(f"    {arrow} {title or otherwise}")
    for name, value in (message.get("headers") or {}).items():
        output.text(f"{name}: {value}", indent=7)
    if body := message.get("body"):
        output.text(format_value(body), indent=7)
    for key, value in message.items():
        if key not in (*title_keys, "headers", "body", "body_bytes") and value not in (None, False):
            output.text(f"{key}: {format_value(value)}", indent=7)
