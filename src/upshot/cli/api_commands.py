"""Decorators for commands that call the REST API of a running Upshot."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from upshot.cli.settings import settings_with
from upshot.cli.whole_number import WholeNumber
from upshot.client.endpoint import endpoint_path, read_endpoint
from upshot.client.http import Client
from upshot.console import Output
from upshot.errors import ConfigError, Unavailable
from upshot.printable import escape

T = TypeVar("T")

_POLL_SECONDS = 0.5


def connect(data: Path | None = None) -> Client:
    """
    Return a client for UPSHOT_URL, or for the `upshot up` that runs on the data directory.

    Args:
        data: The data directory. If it is given, UPSHOT_URL is ignored.

    Raises:
        ConfigError: UPSHOT_URL is not set, and no Upshot runs on the data directory.
    """
    settings = settings_with(data=data)
    token = settings.token.get_secret_value() if settings.token else None
    if settings.url is not None and data is None:
        return Client(settings.url, token, is_local=False)
    endpoint = read_endpoint(settings.data)
    if endpoint is None:
        raise ConfigError(
            f"no Upshot answers: start `upshot up` here, or set UPSHOT_URL "
            f"({endpoint_path(settings.data)} does not exist)"
        )
    return Client(endpoint.url, token or endpoint.token, is_local=True)


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
