"""`upshot jobs`."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.client.http import Client, path_of
from upshot.client.output import Output, plain, when
from upshot.domain.job import JobState
from upshot.errors import Unavailable
from upshot.schema.quantities import show_bytes, show_duration

_ASK_EVERY_SECONDS = 0.5
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


@click.group()
def jobs() -> None:
    """Container jobs: where they stand, what they say; cancel."""


@jobs.command("list")
@click.option("--state", type=click.Choice([state.value for state in JobState]))
@click.option("--queue", help="Name of the queue.")
@click.option("--automation", help="Name of the automation.")
@click.option("--execution", help="Id of the execution whose step waits for it.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@api_command
def list_jobs(client: Client, output: Output, *, limit: int, **query: str | None) -> None:
    """List jobs, newest first."""
    columns = {
        "id": lambda one: one["id"],
        "step": lambda one: f"{one['automation']}/{one['step']}",
        "queue": lambda one: one["queue"],
        "state": lambda one: one["state"],
        "made": lambda one: when(one["created_at"]),
        "machine": lambda one: one["machine"],
        "reason": lambda one: one["reason"],
    }
    output.rows(client.items("/jobs", limit=limit, **query), columns, none="there are no such jobs")


@jobs.command()
@click.argument("job")
@api_command
def show(client: Client, output: Output, job: str) -> None:
    """Show a job: what it runs, where it stands and why it waits, what it gave, the end of its log."""
    one = client.get(path_of("jobs", job))
    if output.as_json:
        output.data(one)
        return
    output.fields(
        (
            ("job", one["id"]),
            ("step", f"{one['automation']}/{one['step']} of {one['execution']}"),
            ("event", one["event"]),
            ("version", one["version"]),
            ("queue", one["queue"] + (f", priority {one['priority']}" if one["priority"] else "")),
            ("state", one["state"]),
            ("waits", one["waits"]),
            ("cause", one["cause"]),
            ("reason", None if one["waits"] else one["reason"]),
            ("exit code", one["exit_code"]),
            ("try", f"{one['try_number']} of {one['tries']['most']}"),
            ("made", when(one["created_at"])),
            ("started", when(one["started_at"])),
            ("finished", when(one["finished_at"])),
            ("stop asked", one["stop_asked_by"] and f"{when(one['stop_asked_at'])}, by {one['stop_asked_by']}"),
            ("machine", one["machine"]),
            ("backend", one["backend"]),
            ("container", one["container"]),
            ("image", one["image"] or None),
            ("digest", one["image_digest"]),
        )
    )
    _print_spec(output, one["spec"])
    if one["outputs"] is not None:
        output.line()
        output.line("outputs")
        output.text(json.dumps(one["outputs"], indent=2, ensure_ascii=False), indent=2)
    if one["log_tail"]:
        output.line()
        output.line(f"log (its end; all that is kept: upshot jobs logs {one['id']})")
        output.text(one["log_tail"], indent=2)


@jobs.command()
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Go on as it says more, until it ends, or Ctrl-C.")
@click.option("--tail", type=click.IntRange(0), help="Only the last so many lines of what is there.")
@api_command
def logs(client: Client, output: Output, job: str, *, follow: bool, tail: int | None) -> None:
    """
    Print what a job has said, also while it runs.

    With `--json` one JSON object a line: a piece of the log, with its number.
    """
    path = path_of("jobs", job, "log")
    try:
        after, done = _print_kept(client, output, path, tail)
        if follow and not done:
            for piece in _later(client, path, after):
                _print_piece(output, piece)
    except KeyboardInterrupt:
        return


@jobs.command()
@click.argument("job")
@api_command
def cancel(client: Client, output: Output, job: str) -> None:
    """Stop a job; one that runs is told to end, and killed when its grace is over."""
    one = client.post(path_of("jobs", job, "cancel"))
    is_over = JobState(one["state"]).is_final
    output.done(one, f"{one['id']} is {one['state']}" + ("" if is_over else ", and was asked to stop"))


def standing(job: Mapping[str, Any]) -> str:
    """Where a job stands, in a few words: state, why, and on which machine."""
    reason = job["waits"] or job["reason"]
    place = f" on {job['machine']}" if job["machine"] else ""
    return f"{job['state']}{place}: {reason}" if reason else f"{job['state']}{place}"


def _print_spec(output: Output, spec: Mapping[str, Any]) -> None:
    """What of the spec says something: not what was left out."""
    said = {name: value for name, value in spec.items() if name != "image" and value not in (None, False, {}, [], 0)}
    output.line()
    output.line("runs")
    for name, value in said.items():
        output.text(_in_units(name, value), indent=2)


def _in_units(name: str, value: Any) -> str:
    if name in {"command", "args"}:
        script = any("\n" in word for word in value)  # quoted, nobody could read it
        return "\n".join([f"{name}:", *value]) if script else f"{name}: {shlex.join(value)}"
    for ending, show_amount in (("_bytes", show_bytes), ("_seconds", show_duration)):
        if name.endswith(ending):
            return f"{name.removesuffix(ending)}: {show_amount(value)}"
    return f"{name.replace('_', ' ')}: {plain(value)}"


# --- logs -----------------------------------------------------------------------------------------


def _print_kept(client: Client, output: Output, path: str, tail: int | None) -> tuple[int, bool]:
    """Print what is there now; tells the number of its last piece, and whether no more will come."""
    pieces: deque[dict[str, Any]] = deque()
    after = 0
    while True:
        page = client.get(path, after=after)
        if tail is None:
            for piece in page["items"]:
                _print_piece(output, piece)
        else:
            pieces.extend(page["items"])
        after = page["next"]
        if page["done"] or not page["items"]:
            break
    for piece in _last_lines(pieces, tail or 0):
        _print_piece(output, piece)
    return after, page["done"]


def _last_lines(pieces: deque[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The pieces that hold so many last lines, the first of them cut."""
    kept: deque[dict[str, Any]] = deque()
    while pieces and count > 0:
        piece = pieces.pop()
        lines = _LINES.findall(piece["text"])
        kept.appendleft({**piece, "text": "".join(lines[-count:])})
        count -= len(lines)
    return iter(kept)


def _later(client: Client, path: str, after: int) -> Iterator[dict[str, Any]]:
    """The pieces that come after, until the job has ended; a server that is away is waited for."""
    complained, done = False, False
    while not done:
        time.sleep(_ASK_EVERY_SECONDS)
        try:
            page = client.get(path, after=after)
            complained = False
        except Unavailable as error:
            if not complained:
                click.echo(f"{error}; trying again", err=True)
            complained = True
            continue
        yield from page["items"]
        after, done = page["next"], page["done"]


def _print_piece(output: Output, piece: Mapping[str, Any]) -> None:
    if output.as_json:
        click.echo(json.dumps(piece, ensure_ascii=False))
    else:
        output.passage(piece["text"])
