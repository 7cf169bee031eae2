"""The option `--wait` of commands that change something: wait for the executions that the change triggers."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import click

from upshot.client.http import Client, api_path
from upshot.clock import parse_time, stopwatch
from upshot.console import Output
from upshot.domain.execution import ExecutionState
from upshot.errors import Unavailable
from upshot.ids import first_id
from upshot.printable import escape

_POLL_SECONDS = 0.3
_BAD_STATES = {ExecutionState.FAILED.value, ExecutionState.CANCELLED.value}
_LOWEST_RANDOM = "0" * 16  # appended to the result of `first_id`, makes a whole id
_MAX_KNOWN_EVENTS = 200
_MAX_EVENTS = 10_000  # number of events that are searched for consequences
_DEFAULT_SECONDS = 600.0

Data = dict[str, Any]


def wait_option(command: Callable[..., None]) -> Callable[..., None]:
    """
    Decorate a command with the options `--wait` and `--timeout`.

    The command receives `finish`. As its last statement, it calls `finish` with the client, the output, the response to
    the change and the result for people.
    """

    @click.option(
        "--wait", "is_waiting", is_flag=True, help="Wait for everything that this triggers. Exit with 1 if it fails."
    )
    @click.option(
        "--timeout",
        "timeout_seconds",
        type=click.FloatRange(0, min_open=True),
        default=_DEFAULT_SECONDS,
        show_default=True,
        help="With --wait: seconds after which to give up. The executions continue.",
    )
    @functools.wraps(command)
    def with_waiter(*args: Any, is_waiting: bool, timeout_seconds: float, **options: Any) -> None:
        command(*args, finish=Finish(timeout_seconds if is_waiting else None), **options)

    return with_waiter


class Finish:
    """
    Ends a command that changes something. See `wait_option`.

    Args:
        timeout_seconds: Maximum time to wait; None if the command does not wait.
    """

    def __init__(self, timeout_seconds: float | None) -> None:
        self._timeout_seconds = timeout_seconds

    @property
    def waits(self) -> bool:
        """Whether the command has the option `--wait`."""
        return self._timeout_seconds is not None

    def __call__(self, client: Client, output: Output, changed: Data, line: str) -> None:
        """
        Print the result of a command. If it has the option `--wait`, wait first, and exit by the result.

        Args:
            client: The server.
            output: Where to print.
            changed: The response to the change. Its `event_ids` are waited for.
            line: The result for people.
        """
        if not self.waits:
            output.result(changed, line)
            return
        if not output.as_json:
            output.line(line)
        self.wait(Consequences(client, changed["event_ids"]), output, changed)

    def wait(self, consequences: Consequences, output: Output, changed: Data) -> None:
        """Wait for the consequences of a change, print them, and exit by their result."""
        problems = _wait(consequences, output, self._timeout_seconds or 0)
        if output.as_json:
            output.json({**changed, "executions": list(consequences.executions.values())})
        elif not problems:
            output.line(consequences.summary())
        for problem in problems:
            click.echo(escape(f"Error: {problem}"), err=True)
        if problems:
            sys.exit(1)


def newest_event_ids(client: Client) -> frozenset[str]:
    """Return the ids of the newest events, from before executions are started by another command than a change."""
    return frozenset(event["id"] for event in client.items("/events", limit=_MAX_KNOWN_EVENTS))


def _wait(consequences: Consequences, output: Output, timeout_seconds: float) -> list[str]:
    """Wait for the consequences, and print each execution that ends. Return one line for each problem."""
    deadline = stopwatch() + timeout_seconds
    is_reported = False
    while True:
        try:
            for execution in consequences.refresh():
                if not output.as_json:
                    is_problem = execution["state"] in _BAD_STATES  # the error has its reason
                    reason = f": {execution['reason']}" if execution["reason"] and not is_problem else ""
                    state = output.state(execution["state"])
                    output.line(f"{execution['automation']} ", state, f"{reason} ({execution['id']})")
            is_reported = False
            if consequences.are_complete:
                return consequences.problems()
        except Unavailable as error:
            if not is_reported:
                click.echo(escape(f"{error}; trying again"), err=True)
            is_reported = True
        if stopwatch() > deadline:
            return [f"not finished within {timeout_seconds:g} s: {'; '.join(consequences.unfinished())}"]
        time.sleep(_POLL_SECONDS)


class Consequences:
    """
    Everything that some events trigger: the executions that answer them, the events of these executions, and so on.

    Args:
        client: The server.
        event_ids: The first events.
        executions: Executions that were started or continued, as the server returned them.
        earlier_event_ids: Events from before that. They are no consequences of these executions.
    """

    def __init__(
        self,
        client: Client,
        event_ids: Sequence[str] = (),
        *,
        executions: Iterable[Mapping[str, Any]] = (),
        earlier_event_ids: frozenset[str] = frozenset(),
    ) -> None:
        self._client = client
        self._event_ids = list(event_ids)
        self._earlier_event_ids = earlier_event_ids
        self.events: dict[str, Data] = {}  #: matched events by id
        self.executions: dict[str, Data] = {execution["id"]: dict(execution) for execution in executions}
        self.are_complete = False

    def refresh(self) -> Iterator[Data]:
        """Request everything that is unfinished. Yield each execution that has ended."""
        for event_id in self._event_ids:
            if event_id not in self.events:
                event = self._client.get(api_path("events", event_id))
                if event["matched_at"]:
                    self.events[event_id] = event
                    for execution_id in event["execution_ids"]:
                        self.executions.setdefault(
                            execution_id, {"id": execution_id, "state": "waiting", "reason": None}
                        )
        for execution_id, known in list(self.executions.items()):
            if not ExecutionState(known["state"]).is_final:
                execution = self._client.get(api_path("executions", execution_id))
                self.executions[execution_id] = execution
                if ExecutionState(execution["state"]).is_final:
                    yield execution
        if not any(self._unfinished()):
            self._find_caused_events()
            self.are_complete = not any(self._unfinished())

    def _find_caused_events(self) -> None:
        if not self.executions:
            return
        after = min(self._earlier_event_ids, default=None)
        if after is None and self.events:
            oldest = min(parse_time(event["time"]) for event in self.events.values()) - timedelta(seconds=1)
            after = first_id("evt", oldest) + _LOWEST_RANDOM
        for event in self._client.items("/events", limit=_MAX_EVENTS, after=after):
            is_caused = any(cause["execution_id"] in self.executions for cause in event["chain"])
            if is_caused and event["id"] not in {*self._event_ids, *self._earlier_event_ids}:
                self._event_ids.append(event["id"])

    def _unfinished(self) -> Iterator[str]:
        for event_id in self._event_ids:
            if event_id not in self.events:
                yield f"event {event_id} waits for a worker"
        for execution in self.executions.values():
            if not ExecutionState(execution["state"]).is_final:
                reason = f" ({execution['reason']})" if execution["reason"] else ""
                yield f"{execution.get('automation', '')} {execution['id']} is {execution['state']}{reason}".strip()

    def unfinished(self) -> list[str]:
        """Describe each event and execution that has not ended."""
        return list(self._unfinished())

    def problems(self) -> list[str]:
        """Describe the problems: executions that failed or were cancelled, and warnings of events."""
        problems = [f"event {event['id']}: {event['warning']}" for event in self.events.values() if event["warning"]]
        return problems + [
            f"{execution['automation']} {execution['state']}: {execution['reason']}; see `upshot executions show "
            f"{execution['id']}`"
            for execution in self.executions.values()
            if execution["state"] in _BAD_STATES
        ]

    def summary(self) -> str:
        """Return a summary for people."""
        if not self._event_ids and not self.executions:
            return "nothing changed, so nothing was triggered"
        count = len(self.executions)
        if not count:
            return f"no automation answers it (0 of {max(event['automations'] for event in self.events.values())})"
        return f"{'1 execution' if count == 1 else f'{count} executions'} ended, and none of them failed"
