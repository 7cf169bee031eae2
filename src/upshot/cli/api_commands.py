"""Decorators for commands that call the REST API of a running Upshot."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from upshot.cli.connection import connect
from upshot.cli.params import TIME
from upshot.cli.whole_number import WholeNumber
from upshot.clock import format_optional_time
from upshot.console import Output
from upshot.errors import Unavailable
from upshot.printable import escape

T = TypeVar("T")

_POLL_SECONDS = 0.5


def api_command(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command whose first arguments are a client and an output. Add the options `--json` and `--data`."""
    return api_command_with("--data")(command)


def api_command_with(data_option: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator `api_command` with another name for the option of the data directory."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
        @click.option(
            data_option,
            "data_dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Data directory of the running `upshot up`. By default: UPSHOT_URL, then UPSHOT_DATA.",
        )
        @functools.wraps(command)
        def with_client(*args: Any, as_json: bool, data_dir: Path | None, **options: Any) -> None:
            with connect(data_dir) as client:
                command(client, Output(as_json=as_json), *args, **options)

        return with_client

    return decorate


def limit_option(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option `--limit` of a list."""
    limit = WholeNumber(1)
    return click.option("--limit", default=default, show_default=True, type=limit, help="Maximum number of entries.")


def since_option(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option `--since` of a list. `what` says what happened to an item since then."""
    return click.option(
        "--since",
        type=TIME,
        callback=lambda _ctx, _param, time: format_optional_time(time),
        help=f"Only those that {what} since then: a time, or 2h for two hours ago.",
    )


_FILTERS = {
    "alias": "Only those with this alias.",
    "tag": "Only those with this tag.",
    "type": "Only those of this artifact type.",
    "stage": "Only those in this stage: development, staging, production or archived.",
    "metadata": "Only those with this value in the metadata, as KEY=VALUE; a dot leads to a nested key. Repeatable.",
}


def filter_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds options which filter a list. Their values are query parameters of the API."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name in reversed(names):
            is_list = name == "metadata"
            option = click.option(
                f"--{name}", multiple=is_list, metavar="KEY=VALUE" if is_list else None, help=_FILTERS[name]
            )
            command = option(command)
        return command

    return decorate


def poll(request: Callable[[], T]) -> Iterator[T]:
    """Yield the result of a request every half second. If the server does not answer, report that once and go on."""
    is_reported = False
    while True:
        time.sleep(_POLL_SECONDS)
        try:
            result = request()
        except Unavailable as error:
            if not is_reported:
                click.echo(escape(f"{error}; trying again"), err=True)
            is_reported = True
            continue
        is_reported = False
        yield result
