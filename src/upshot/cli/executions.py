"""`upshot executions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.cli.jobs import standing
from upshot.client.http import ApiError, Client, path_of
from upshot.client.output import Output, plain, when

_STATES = ("waiting", "running", "succeeded", "failed", "cancelled", "skipped")
_GOES_ON = ("waiting", "running")


@click.group()
def executions() -> None:
    """What automations did; retry, cancel."""


@executions.command("list")
@click.option("--event", help="Id of the event that they answer.")
@click.option("--automation", help="Name of the automation.")
@click.option("--state", type=click.Choice(_STATES))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@api_command
def list_executions(client: Client, output: Output, *, limit: int, **query: str | None) -> None:
    """List executions, those of the newest event first."""
    columns = {
        "id": lambda one: one["id"],
        "automation": lambda one: one["automation"],
        "event": lambda one: one["event"],
        "state": lambda one: one["state"],
        "made": lambda one: when(one["created_at"]),
        "goes on": lambda one: when(one["due_at"]),
        "reason": lambda one: one["reason"],
    }
    output.rows(client.items("/executions", limit=limit, **query), columns, none="there are no such executions")


@executions.command()
@click.argument("execution")
@api_command
def show(client: Client, output: Output, execution: str) -> None:
    """Show an execution: its steps, and each attempt with its request and its answer."""
    one = client.get(path_of("executions", execution))
    if output.as_json:
        output.data(one)
        return
    output.fields(
        (
            ("execution", one["id"]),
            ("automation", f"{one['automation']} (revision {one['revision']})"),
            ("event", one["event"]),
            ("state", one["state"]),
            ("reason", one["reason"]),
            ("goes on", when(one["due_at"])),
            ("made", when(one["created_at"])),
            ("finished", when(one["finished_at"])),
        )
    )
    for number, step in enumerate(one["steps"], 1):
        _print_step(client, output, number, step)


@executions.command()
@click.argument("execution")
@api_command
def retry(client: Client, output: Output, execution: str) -> None:
    """Go on with a failed or cancelled execution from the step that failed, with the same delivery ids."""
    one = client.post(path_of("executions", execution, "retry"))
    output.done(one, f"{one['id']} is {one['state']} again")


@executions.command()
@click.argument("execution")
@api_command
def cancel(client: Client, output: Output, execution: str) -> None:
    """Stop an execution that waits or runs; what was sent stays sent."""
    one = client.post(path_of("executions", execution, "cancel"))
    output.done(one, f"{one['id']} is {one['state']}")


def _print_step(client: Client, output: Output, number: int, step: Mapping[str, Any]) -> None:
    output.line()
    phase = "" if step["phase"] == "main" else f", {step['phase']}"
    reason = f": {step['reason']}" if step["reason"] else ""
    output.line(f"step {number}  {step['id']} ({step['uses']}{phase}) is ", output.state(step["state"]), reason)
    if step["job"]:
        output.line(f"  {_about_job(client, step)}")
    for attempt in step["attempts"]:
        _print_attempt(output, attempt)
    if step["outputs"]:
        output.text(f"outputs {plain(step['outputs'])}", indent=2)


def _about_job(client: Client, step: Mapping[str, Any]) -> str:
    """What a step waits for, or what it was."""
    waits = step["state"] in _GOES_ON
    try:
        job = client.get(path_of("jobs", step["job"]))
    except ApiError:  # jobs are kept for a time
        return f"job {step['job']}, which is not kept any more"
    return f"{'waits for job' if waits else 'job'} {job['id']} ({standing(job)})"


def _print_attempt(output: Output, attempt: Mapping[str, Any]) -> None:
    took = f"{1000 * attempt['took_seconds']:.0f} ms"
    then = "" if attempt["wait_seconds"] is None else f", the next one {attempt['wait_seconds']:.1f} s later"
    error = f": {attempt['error']}" if attempt["error"] else ""
    head = f"attempt {attempt['number']} at {attempt['started_at']}, {took}{then}: "
    output.line("  ", head, output.state(attempt["state"]), error)
    output.line(f"    delivery {attempt['delivery_id']}, worker {attempt['worker']}")
    _print_message(output, "->", attempt["request"], ("method", "url"))
    _print_message(output, "<-", attempt["response"], ("status",))


_UNSAID = {"->": "asked for", "<-": "came of it"}  # where nothing was sent over HTTP


def _print_message(output: Output, arrow: str, message: Mapping[str, Any] | None, line: tuple[str, ...]) -> None:
    """A request or an answer: its first line, headers and body; of other actions, what they keep."""
    if message is None:
        return
    rest = {key: value for key, value in message.items() if key not in (*line, "headers", "body", "body_bytes")}
    first = " ".join(plain(message[key]) for key in line if key in message)
    output.line(f"    {arrow} {first or _UNSAID[arrow]}")
    for name, value in (message.get("headers") or {}).items():
        output.text(f"{name}: {value}", indent=7)
    if body := message.get("body"):
        output.text(plain(body), indent=7)
    for key, value in rest.items():
        if value not in (None, False):
            output.text(f"{key}: {plain(value)}", indent=7)
