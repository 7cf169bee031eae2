"""`upshot events`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from upshot.cli.api_commands import api_command, api_command_with, limit_option, poll, since_option
from upshot.cli.ids import EVENTS
from upshot.cli.params import OBJECT, TIME, parse_assignments, refuse_empty_period
from upshot.cli.waiting import Consequences, Finish, newest_event_ids, wait_option
from upshot.cli.whole_number import WholeNumber
from upshot.client.http import Client, api_path
from upshot.clock import SystemClock, parse_time, stopwatch
from upshot.console import Output, local_time
from upshot.ids import first_id, new_id

# Events of concurrent mutations can become visible out of order, by as long as a mutation takes.
_OVERLAP = timedelta(seconds=5)
_MAX_NEW_EVENTS = 100_000  # between two requests
_MAX_REPLAYED = 1_000_000
_REPLAYED_PER_REQUEST = 100
_MATCH_SECONDS = 2.0  # usually a new event is matched within milliseconds
_BEFORE_ALL_EVENTS = datetime(2020, 1, 1, tzinfo=UTC)


@click.group()
def events() -> None:
    """List, show and follow events; emit custom events."""


@events.command("list")
@click.option("--kind", help="Kind of the event, such as alias-added.")
@click.option("--subject", help="Subject of the event, such as model/churn or model/churn:v3.")
@click.option("--name", help="Name of the custom event.")
@click.option("--mutation", "mutation_id", help="Id of the mutation that caused the event.")
@since_option("happened")
@limit_option(20)
@api_command
def list_events(client: Client, output: Output, *, limit: int, **query: str | None) -> None:
    """
    List events, newest first.

    `answered` says how many of the loaded automations answered the event: `1 of 7`.
    """
    columns = {
        "id": lambda event: event["id"],
        "time": lambda event: local_time(event["time"]),
        "kind": _kind,
        "subject": lambda event: event["subject"],
        "about": _about,
        "actor": lambda event: event["actor"]["name"],
        "answered": _answered,
    }
    output.rows(
        client.items("/events", limit=limit, **query),
        columns,
        empty="there are no such events",
        optional=("actor", "time", "about", "subject"),
    )


@events.command(short_help="Show an event, and why automations answered it or not.")
@click.argument("event", shell_complete=EVENTS.complete)
@api_command
def show(client: Client, output: Output, event: str) -> None:
    """
    Show an event: its data, the automations that answered it, and why the other automations did not.

    EVENT is an id, its beginning or end if no other id has the same, or `latest`.
    """
    shown = client.get(api_path("events", EVENTS.find(client, event)))
    if output.as_json:
        output.json(shown)
        return
    causes = [f"{cause['automation']} ({cause['execution_id']})" for cause in shown["chain"]]
    output.fields(
        (
            ("event", shown["id"]),
            ("kind", _kind(shown)),
            ("subject", shown["subject"]),
            ("time", local_time(shown["time"])),
            ("actor", f"{shown['actor']['name']} ({shown['actor']['kind']})"),
            ("mutation", f"{shown['mutation_id']} (event {shown['sequence'] + 1} of the mutation)"),
            ("caused by", ", ".join(causes) or None),
            ("matched", local_time(shown["matched_at"]) or "not yet: it waits for a worker"),
            ("answered", _answered(shown) if shown["matched_at"] else None),
            ("warning", shown["warning"]),
        )
    )
    output.line()
    output.line("data")
    output.text(json.dumps(shown["data"], indent=2, ensure_ascii=False), indent=2)
    output.line()
    if not shown["explanation"]:
        output.line("no automations are loaded")
    for answer in sorted(shown["explanation"], key=lambda answer: not answer["answered"]):
        if answer["answered"]:
            output.line(f"answered by  {answer['automation']}  ({answer['execution_id']})")
        else:
            reason = answer["reason"] or "it was not loaded when the event was matched"
            output.line(f"not by       {answer['automation']}: {reason}")
    for fault in shown["broken"]:
        output.line(f"broken {'then' if shown['matched_at'] else 'now '}  {_describe_fault(fault)}")


@events.command()
@click.option("--kind", help="Kind of the event, such as alias-added.")
@click.option("--subject", help="Subject of the event, such as model/churn.")
@click.option("--last", default=10, show_default=True, type=WholeNumber(0), help="Number of past events to print.")
@api_command
def tail(client: Client, output: Output, *, last: int, **query: str | None) -> None:
    """Print new events until Ctrl-C. With `--json`, print one JSON object per line."""
    try:
        for event in _follow(client, last, query):
            if output.as_json:
                output.json(event, compact=True)
            else:
                output.line(_tail_line(event))
    except KeyboardInterrupt:
        return


def _follow(client: Client, last: int, query: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    """
    Yield the `last` newest events, then each later event once. An event is yielded when it is matched, so that its line
    shows the answers.

    An event that no worker matches is yielded after two seconds.
    """
    newest = client.items("/events", limit=max(last, 1), **query)
    yield from reversed(newest[:last])
    reached, newest_id = (parse_time(newest[0]["time"]), newest[0]["id"]) if newest else (_BEFORE_ALL_EVENTS, "")

    def recent() -> list[dict[str, Any]]:
        after_id = new_id("evt", reached - _OVERLAP)
        return client.items("/events", limit=_MAX_NEW_EVENTS, after=after_id, **query)

    seen = {event["id"]: event["time"] for event in recent() if event["id"] <= newest_id}
    first_seen: dict[str, float] = {}
    for events in poll(recent):
        shown = []
        for event in events:
            if event["id"] not in seen:
                waited = stopwatch() - first_seen.setdefault(event["id"], stopwatch())
                if not event["matched_at"] and waited < _MATCH_SECONDS:
                    break  # later events wait, too, so that the order is kept
                yield event
            shown.append(event)
        seen = {event["id"]: event["time"] for event in shown} or seen
        first_seen = {event_id: since for event_id, since in first_seen.items() if event_id not in seen}
        reached = max((parse_time(time) for time in seen.values()), default=reached)


def _tail_line(event: dict[str, Any]) -> str:
    about = f" ({_about(event)})" if _about(event) else ""
    names = ", ".join(answer["automation"] for answer in event["answered_by"])
    answered = f"{_answered(event)}: {names}" if names else _answered(event)
    subject = "" if event["name"] == event["subject"] else f" {event['subject']}"
    return f"{event['time'][:23]}  {event['id']}  {_kind(event)}{subject}{about}, answered by {answered}"


def _answered(event: dict[str, Any]) -> str:
    """Return how many of the automations answered an event, such as `0 of 7`."""
    if not event["matched_at"]:
        return "not yet"
    return f"{len({answer['automation'] for answer in event['answered_by']})} of {event['automations']}"


@events.command()
@click.argument("name")
@click.argument("pairs", nargs=-1, metavar="[KEY=TEXT|KEY:=JSON]...")
@click.option("--data", type=OBJECT, help="Data of the event as a JSON object, @FILE, or @- for standard input.")
@wait_option
@api_command_with("--folder")
def emit(
    client: Client, output: Output, name: str, pairs: tuple[str, ...], *, data: dict[str, Any] | None, finish: Finish
) -> None:
    """
    Emit a custom event NAME with data.

    `KEY=TEXT` is a text, even if it looks like a number. `KEY:=JSON` is a number, true, false, null, a list or an
    object: `emit drift-found model=churn score:=0.4`.
    """
    accepted = client.post("/events", {"name": name, "data": {**(data or {}), **parse_assignments(pairs)}})
    finish(client, output, accepted, f"accepted as {accepted['id']}")


@events.command()
@click.argument("events", nargs=-1, metavar="[EVENT]...", shell_complete=EVENTS.complete)
@click.option("--since", type=TIME, help="Replay all events since then: a time, or 2h for two hours ago.")
@click.option("--until", type=TIME, help="Only events before then.")
@click.option("--automation", help="Only this automation.")
@click.option("--dry-run", is_flag=True, help="List the answers without starting them.")
@wait_option
@api_command
def replay(
    client: Client,
    output: Output,
    *,
    events: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    automation: str | None,
    dry_run: bool,
    finish: Finish,
) -> None:
    """
    Answer events again, with the automations that are loaded now.

    Every answer is a new execution with its own delivery ids, also for an event that no automation answered before.
    Name events, or select them with --since and --until.
    """
    if bool(events) == (since is not None) or (until is not None and since is None):
        raise click.UsageError("name events, or select them with --since, and --until")
    refuse_empty_period(since, until)
    if since is not None:
        found = client.items("/events", limit=_MAX_REPLAYED, after=f"{first_id('evt', since)}{16 * '0'}")
        end = first_id("evt", until or SystemClock().now())
        events = tuple(event["id"] for event in found if event["id"] < end)
    else:
        events = tuple(EVENTS.find(client, text) for text in events)
    earlier_event_ids = newest_event_ids(client) if finish.waits else frozenset()
    items: list[Any] = []
    for start in range(0, len(events), _REPLAYED_PER_REQUEST):
        body = {
            "event_ids": events[start : start + _REPLAYED_PER_REQUEST],
            "automation": automation,
            "dry_run": dry_run,
        }
        replayed = client.post("/replays", body)["items"]
        items += replayed
        for event in () if output.as_json else replayed:
            _print_replay(output, event, dry_run=dry_run)
    if output.as_json and not finish.waits:
        output.json(items)
        return
    count = sum(answer["reason"] is None for event in items for answer in event["answers"])
    executions = "1 execution" if count == 1 else f"{count} executions"
    verb = "would follow" if dry_run else "follows" if count == 1 else "follow"
    if not output.as_json:
        output.line(f"{executions} for {len(items)} event{'' if len(items) == 1 else 's'} {verb}")
    if finish.waits:
        started = [
            {"id": answer["execution_id"], "automation": answer["automation"], "state": "waiting", "reason": None}
            for event in items
            for answer in event["answers"]
            if answer["execution_id"] is not None
        ]
        finish.wait(
            Consequences(client, executions=started, earlier_event_ids=earlier_event_ids), output, {"items": items}
        )


def _print_replay(output: Output, event: dict[str, Any], *, dry_run: bool) -> None:
    if event["reason"]:
        output.line(f"{event['event_id']}: {event['reason']}")
    for answer in event["answers"]:
        if answer["reason"]:
            output.line(f"{event['event_id']}: not by {answer['automation']}: {answer['reason']}")
        else:
            verb = "would be answered" if dry_run else "is answered again"
            execution = "" if dry_run else f", in {answer['execution_id']}"
            name = f"{answer['automation']} (revision {answer['revision']})"
            output.line(f"{event['event_id']}: {verb} by {name}{execution}")


def _describe_fault(fault: dict[str, Any]) -> str:
    place = fault["path"] if fault["line"] is None else f"{fault['path']}:{fault['line']}"
    more = f" (and {fault['error_count'] - 1} more errors)" if fault["error_count"] > 1 else ""
    until = f" until {local_time(fault['until'])}" if fault["until"] else ""
    kept = f"; the last sound revision stayed in force: {', '.join(fault['kept'])}" if fault["kept"] else ""
    return f"{place}: {fault['reason']}{more}; since {local_time(fault['since'])}{until}{kept}"


def _kind(event: dict[str, Any]) -> str:
    return f"custom {event['name']}" if event["name"] else str(event["kind"])


def _about(event: dict[str, Any]) -> str | None:
    """Return the alias, the tag or the change of stage that an event is about, if any."""
    if event["kind"] == "custom":
        return None
    if event["kind"] == "stage-changed":
        change = event["data"]["stage"]
        return f"{change['from']} -> {change['to']}"
    word = event["data"].get("alias") or event["data"].get("tag")
    return str(word) if word else None
