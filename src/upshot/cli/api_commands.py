"""Turn a function into a command that talks to a running Upshot through its REST API."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from upshot.cli.settings import settings_with
from upshot.client.endpoint import endpoint_path, read_endpoint
from upshot.client.http import Client
from upshot.client.output import Output
from upshot.errors import ConfigError


def connect(data: Path | None = None) -> Client:
    """
    A client for UPSHOT_URL, or for what `upshot up` runs on the data folder.

    Raises:
        ConfigError: Neither is there.
    """
    settings = settings_with(data=data)
    token = settings.token.get_secret_value() if settings.token else None
    if settings.url is not None and data is None:
        return Client(settings.url, token, is_local=False)
    running = read_endpoint(settings.data)
    if running is None:
        raise ConfigError(
            f"no Upshot answers: start `upshot up` here, or set UPSHOT_URL "
            f"({endpoint_path(settings.data)} is not there)"
        )
    return Client(running.url, token or running.token, is_local=True)


def api_command(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function that takes a client and an output first; adds `--json` and `--data`."""
    return api_command_with("--data")(command)


def api_command_with(option: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `talks`, with another name for the option of the data folder."""
    return functools.partial(_with_client, option)


def _with_client(option: str, command: Callable[..., None]) -> Callable[..., None]:
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    @click.option(
        option,
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="Data folder of the `upshot up` to talk to; otherwise UPSHOT_URL, or UPSHOT_DATA.",
    )
    @functools.wraps(command)
    def with_client(*args: Any, as_json: bool, folder: Path | None, **options: Any) -> None:
        with connect(folder) as client:
            command(client, Output(as_json=as_json), *args, **options)

    return with_client
