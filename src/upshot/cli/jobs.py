"""`upshot jobs`."""

from __future__ import annotations

import json
import re
import shlex
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import click

from upshot.cli.api_commands import api_command, limit_option, poll, since_option
from upshot.cli.ids import EXECUTIONS, JOBS, complete_automation
from upshot.cli.whole_number import WholeNumber
from upshot.client.http import Client, api_path
from upshot.console import Output, format_value, local_time
from upshot.domain.job import JOB_OPTIONS, JobState
from upshot.domain.job_options import Option, ValueKind
from upshot.schema.quantities import show_amount

_LINES = re.compile(r"[^\n]*\n|[^\n]+")


@click.group()
def jobs() -> None:
    """List, show and cancel container jobs; print their logs."""


@jobs.command("list")
@click.option(
    "--state",
    multiple=True,
    type=click.Choice([state.value for state in JobState]),
    help="State of the job. Can be repeated.",
)
@click.option("--queue", help="Name of the queue.")
@click.option("--automation", help="Name of the automation.", shell_complete=complete_automation)
@click.option("--execution", help="Id of the execution that started the job.", shell_complete=EXECUTIONS.complete)
@since_option("have ended, or were created if they have not,")
@limit_option(20)
@api_command
def list_jobs(client: Client, output: Output, *, limit: int, execution: str | None, **query: Any) -> None:
    """List jobs, newest first."""
    execution_id = EXECUTIONS.find_optional(client, execution)
    columns = {
        "id": lambda job: job["id"],
        "step": lambda job: f"{job['automation']}/{job['step_id']}",
        "queue": lambda job: job["queue"],
        "state": lambda job: job["state"],
        "created": lambda job: local_time(job["created_at"]),
        "machine": lambda job: job["machine"],
        "reason": lambda job: job["reason"],
    }
    output.rows(
        client.items("/jobs", limit=limit, execution_id=execution_id, **query),
        columns,
        empty="there are no such jobs",
        optional=("created", "machine", "queue", "step"),
        wrapped="reason",
    )


@jobs.command(short_help="Show a job, and why it waits or how it ended.")
@click.argument("job", shell_complete=JOBS.complete)
@api_command
def show(client: Client, output: Output, job: str) -> None:
    """
    Show a job: its options, its state, why it waits, its outputs and the end of its log.

    JOB is an id, its beginning or end if no other id has the same, or `latest`.
    """
    shown = client.get(api_path("jobs", JOBS.find(client, job)))
    if output.as_json:
        output.json(shown)
        return
    stop_requested = f"{local_time(shown['stop_requested_at'])} by {shown['stop_requested_by']}"
    output.fields(
        (
            ("job", shown["id"]),
            ("step", f"{shown['automation']}/{shown['step_id']} of {shown['execution_id']}"),
            ("event", shown["event_id"]),
            ("version", shown["version"]),
            ("queue", shown["queue"] + (f", priority {shown['priority']}" if shown["priority"] else "")),
            ("state", shown["state"]),
            ("waits", shown["wait_reason"]),
            ("failure", shown["failure"]),
            ("reason", None if shown["wait_reason"] else shown["reason"]),
            ("exit code", shown["exit_code"]),
            ("attempt", f"{shown['attempt']} of {shown['retry']['max_attempts']}"),
            ("created", local_time(shown["created_at"])),
            ("started", local_time(shown["started_at"])),
            ("finished", local_time(shown["finished_at"])),
            ("stop requested", stop_requested if shown["stop_requested_by"] else None),
            ("machine", shown["machine"]),
            ("backend", shown["backend"]),
            ("container", shown["container"]),
            ("image", shown["image"] or None),
            ("digest", shown["image_digest"]),
        )
    )
    output.line()
    output.line("options")
    for name, option in JOB_OPTIONS.items():
        value = shown["spec"].get(name)
        if name != "image" and value not in (None, False, {}, [], 0):
            output.text(f"{option.key}: {_format_option(option, value)}", indent=2)
    if shown["outputs"] is not None:
        output.line()
        output.line("outputs")
        output.text(json.dumps(shown["outputs"], indent=2, ensure_ascii=False), indent=2)
    if shown["log_tail"]:
        output.line()
        output.line(f"log (the end; for all of it: upshot jobs logs {shown['id']})")
        output.text(shown["log_tail"], indent=2)


def summary(job: Mapping[str, Any]) -> str:
    """Describe a job in a few words: its state, its machine, and why it waits or how it ended."""
    reason = job["wait_reason"] or job["reason"]
    state = f"{job['state']} on {job['machine']}" if job["machine"] else job["state"]
    return f"{state}: {reason}" if reason else str(state)


def _format_option(option: Option, value: Any) -> str:
    match option.kind:
        case ValueKind.BYTES | ValueKind.SECONDS:
            return show_amount(option, value)
        case ValueKind.WORDS if any("\n" in word for word in value):  # a script would be unreadable if it were quoted
            return "\n".join(["", *value])
        case ValueKind.WORDS:
            return shlex.join(value)
        case _:
            return format_value(value)


@jobs.command()
@click.argument("job", shell_complete=JOBS.complete)
@click.option("--follow", "-f", is_flag=True, help="Keep printing new output until the job ends, or until Ctrl-C.")
@click.option("--tail", type=WholeNumber(0), help="Number of existing lines to print. By default: all.")
@api_command
def logs(client: Client, output: Output, job: str, *, follow: bool, tail: int | None) -> None:
    """
    Print the log of a job. The job may still be running.

    With `--json`, print one JSON object per line: a numbered chunk of the log.
    """
    path = api_path("jobs", JOBS.find(client, job), "log")
    after = 0

    def next_page() -> Any:
        nonlocal after
        page = client.get(path, after=after)
        after = page["next"]
        return page

    last_chunks: deque[dict[str, Any]] = deque()
    try:
        while True:
            page = next_page()
            if tail is None:
                _print_chunks(output, page["items"])
            else:
                last_chunks.extend(page["items"])
            if page["done"] or not page["items"]:
                break
        _print_chunks(output, _last_lines(last_chunks, tail or 0))
        if follow and not page["done"]:
            for page in poll(next_page):
                _print_chunks(output, page["items"])
                if page["done"]:
                    break
    except KeyboardInterrupt:
        return


def _last_lines(chunks: deque[dict[str, Any]], count: int) -> Iterable[dict[str, Any]]:
    """Return the chunks that contain the last `count` lines. The first of them may be shortened."""
    last: deque[dict[str, Any]] = deque()
    while chunks and count > 0:
        chunk = chunks.pop()
        lines = _LINES.findall(chunk["text"])
        last.appendleft({**chunk, "text": "".join(lines[-count:])})
        count -= len(lines)
    return last


def _print_chunks(output: Output, chunks: Iterable[Mapping[str, Any]]) -> None:
    for chunk in chunks:
        if output.as_json:
            output.json(chunk, compact=True)
        else:
            output.raw(chunk["text"])


@jobs.command()
@click.argument("job", shell_complete=JOBS.complete)
@api_command
def cancel(client: Client, output: Output, job: str) -> None:
    """Stop a job. A running job is asked to end, and is killed after its grace period."""
    stopped = client.post(api_path("jobs", JOBS.find(client, job), "cancel"))
    is_final = JobState(stopped["state"]).is_final
    output.result(stopped, f"{stopped['id']} is {stopped['state']}" + ("" if is_final else "; a stop was requested"))
