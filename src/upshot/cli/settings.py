"""
Settings of commands: the file `settings.env` in the data directory, environment variables and options.

An option overrides an environment variable, and an environment variable overrides the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from upshot.client.client_settings import read_settings_file, settings_file
from upshot.client.endpoint import read_endpoint
from upshot.errors import ConfigError
from upshot.settings import CONFIDENTIAL, SECRET_PREFIX, Settings, environment_warnings
from upshot.suggestions import did_you_mean
from upshot.validation import validation_problems


def settings_with(**options: Any) -> Settings:
    """
    Read the settings. None means that an option was not given.

    Raises:
        ConfigError: Some settings are invalid. The text names each of them.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)
        file = settings_file(settings.data)
        variables = read_settings_file(settings.data)
        if not variables:
            return settings
        _check_names(file, variables)
        return Settings(_env_file=file, **{**given, "data": settings.data})
    except ValidationError as error:
        raise ConfigError("; ".join(map(_describe, error.errors()))) from error


def warn_of_environment() -> None:
    """Print a warning about each variable that begins with `UPSHOT_` and is not a setting."""
    for warning in environment_warnings(os.environ):  # noqa: TID251 - settings are variables
        click.echo(f"warning: {warning}", err=True)


def _describe(error: Any) -> str:
    """Return the setting, what is wrong with its value, and the remedy."""
    name = str(error["loc"][0])
    is_shown = name not in CONFIDENTIAL
    (problem,) = validation_problems([error], show_values=is_shown)
    value = "" if not is_shown or str(error["input"]) in problem.message else f", not {str(error['input'])[:100]!r}"
    default = Settings.model_fields[name].default
    remedy = "correct it" if default in (None, "") else f"correct it, or unset it for the default {default}"
    return f"UPSHOT_{name.upper()} {problem.message}{value}; {remedy}"


def _check_names(file: Path, variables: Mapping[str, str | None]) -> None:
    """Raise ConfigError if a line of the file has no effect."""
    known = {f"UPSHOT_{name.upper()}" for name in Settings.model_fields} - {"UPSHOT_DATA"}
    for name, value in variables.items():
        if name.startswith(SECRET_PREFIX):
            secret = name.removeprefix(SECRET_PREFIX)
            raise ConfigError(f"{file}: {name}: secrets are not settings; put it into {file.parent}/secrets/{secret}")
        if name.upper() not in known:
            raise ConfigError(f"{file}: {name} is not a setting for this file{did_you_mean(name, known)}")
        if value is None:
            raise ConfigError(f"{file}: {name} has no value; write {name}=VALUE")


def with_running_endpoint(settings: Settings) -> Settings:
    """Fill in the Redis and database URLs of the `upshot up` that runs on this data directory, if they are not set."""
    endpoint = None if settings.redis_url else read_endpoint(settings.data)
    if endpoint is None:
        return settings
    # The SQLite file is found by the data directory.
    is_sqlite = endpoint.database_url.startswith("sqlite:")
    database_url = settings.database_url or (None if is_sqlite else endpoint.database_url)
    return settings.model_copy(update={"redis_url": endpoint.redis_url, "database_url": database_url})
