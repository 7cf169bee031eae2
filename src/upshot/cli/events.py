"""`upshot events`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from upshot.cli.api_commands import api_command, api_command_with
from upshot.cli.params import OBJECT, assignments
from upshot.client.http import Client, path_of
from upshot.client.output import Output, when
from upshot.clock import parse_time
from upshot.errors import Unavailable
from upshot.ids import new_id

_ASK_EVERY_SECONDS = 0.5
# Events of concurrent mutations become visible out of order by as long as a mutation takes.
_LOOK_BACK = timedelta(seconds=5)
_MANY = 100_000  # events that happen between two questions
_THE_BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)


@click.group()
def events() -> None:
    """What happened, and what answered it; emit your own."""


@events.command("list")
@click.option("--kind", help="Such as alias-added.")
@click.option("--subject", help="Such as model/churn, or model/churn:v3.")
@click.option("--name", help="Of custom events.")
@click.option("--mutation", help="Id of the mutation that made them.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1))
@api_command
def list_events(client: Client, output: Output, *, limit: int, **query: str | None) -> None:
    """List events, newest first."""
    columns = {
        "id": lambda one: one["id"],
        "time": lambda one: when(one["time"]),
        "kind": _kind,
        "subject": lambda one: one["subject"],
        "about": _about,
        "actor": lambda one: one["actor"]["name"],
        "matched": lambda one: "yes" if one["matched_at"] else "not yet",
    }
    output.rows(client.items("/events", limit=limit, **query), columns, none="nothing has happened yet")


@events.command()
@click.argument("event")
@api_command
def show(client: Client, output: Output, event: str) -> None:
    """Show an event: what it says, which automations answered it, and why the others did not."""
    one = client.get(path_of("events", event))
    if output.as_json:
        output.data(one)
        return
    output.fields(
        (
            ("event", one["id"]),
            ("kind", _kind(one)),
            ("subject", one["subject"]),
            ("time", when(one["time"])),
            ("actor", f"{one['actor']['name']} ({one['actor']['kind']})"),
            ("mutation", f"{one['mutation_id']} (event {one['sequence'] + 1} of it)"),
            ("caused by", ", ".join(f"{link['automation']} ({link['execution']})" for link in one["chain"]) or None),
            ("matched", when(one["matched_at"]) or "not yet: it waits for a worker"),
        )
    )
    output.line()
    output.line("data")
    output.text(json.dumps(one["data"], indent=2, ensure_ascii=False), indent=2)
    output.line()
    explain(output, one)


def explain(output: Output, event: dict[str, Any]) -> None:
    """Print what each automation made of an event."""
    answers = event["explanation"]
    if not answers:
        output.line("no automations are loaded")
    for answer in sorted(answers, key=lambda one: not one["answered"]):
        if answer["answered"]:
            output.line(f"answered by  {answer['automation']}  ({answer['execution']})")
        else:
            reason = answer["reason"] or "it was not loaded, or not yet, when the event was matched"
            output.line(f"not by       {answer['automation']}: {reason}")


@events.command()
@click.option("--kind", help="Such as alias-added.")
@click.option("--subject", help="Such as model/churn.")
@click.option("--last", default=10, show_default=True, type=click.IntRange(0), help="So many earlier events first.")
@api_command
def tail(client: Client, output: Output, *, last: int, **query: str | None) -> None:
    """Follow events as they happen, until Ctrl-C; with `--json` one JSON object a line."""
    try:
        for event in _follow(client, last, query):
            if output.as_json:
                click.echo(json.dumps(event, ensure_ascii=False))
            else:
                output.line(f"{event['time'][:23]}  {_kind(event):<20} {event['subject']:<30} {_about(event) or ''}")
    except KeyboardInterrupt:
        return


def _follow(client: Client, last: int, query: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    """The last so many events, then the later ones as they become visible, each once, for ever."""
    newest = client.items("/events", limit=max(last, 1), **query)
    yield from reversed(newest[:last])
    reached, newest_id = (parse_time(newest[0]["time"]), newest[0]["id"]) if newest else (_THE_BEGINNING, "")
    seen = {event["id"]: event["time"] for event in _since(client, reached, query) if event["id"] <= newest_id}
    complained = False
    while True:
        time.sleep(_ASK_EVERY_SECONDS)
        try:
            later = _since(client, reached, query)
            complained = False
        except Unavailable as error:
            if not complained:
                click.echo(f"{error}; trying again", err=True)
            complained = True
            continue
        yield from (event for event in later if event["id"] not in seen)
        seen = {event["id"]: event["time"] for event in later} or seen
        reached = max((parse_time(moment) for moment in seen.values()), default=reached)


def _since(client: Client, reached: datetime, query: dict[str, str | None]) -> list[dict[str, Any]]:
    return client.items("/events", limit=_MANY, after=new_id("evt", reached - _LOOK_BACK), **query)


@events.command()
@click.argument("name")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", type=OBJECT, help="The event's data as a JSON object, or @FILE that holds one, or @-.")
@api_command_with("--folder")
def emit(client: Client, output: Output, name: str, pairs: tuple[str, ...], data: dict[str, Any] | None) -> None:
    """
    Emit a custom event NAME, with data.

    A value that is JSON is taken as that, any other as text: `emit drift-found score=0.4 model=churn`.
    """
    accepted = client.post("/events", {"name": name, "data": {**(data or {}), **assignments(pairs)}})
    output.done(accepted, f"accepted as {accepted['id']}")


def _kind(event: dict[str, Any]) -> str:
    return f"custom {event['name']}" if event["name"] else str(event["kind"])


def _about(event: dict[str, Any]) -> str | None:
    """The word that the event turns on: an alias, a tag."""
    if event["kind"] == "custom":
        return None
    word = event["data"].get("alias") or event["data"].get("tag")
    return str(word) if word else None
