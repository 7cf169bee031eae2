"""Settings of commands: environment variables, overridden by command-line options."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from upshot.client.endpoint import read_endpoint
from upshot.errors import ConfigError
from upshot.settings import Settings
from upshot.validation import validation_problems


def settings_with(**options: Any) -> Settings:
    """
    Read the settings. Options override environment variables; None means that an option was not given.

    Raises:
        ConfigError: Some settings are invalid. The text names each of them.
    """
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        problems = validation_problems(error.errors(), show_values=False)  # a value may be a secret
        lines = [f"UPSHOT_{str(problem.path[0]).upper()} {problem.message}" for problem in problems]
        raise ConfigError("; ".join(lines)) from error


def with_running_endpoint(settings: Settings) -> Settings:
    """Fill in the Redis and database URLs of the `upshot up` that runs on this data directory, if they are not set."""
    endpoint = None if settings.redis_url else read_endpoint(settings.data)
    if endpoint is None:
        return settings
    database_url = settings.database_url or endpoint.database_url
    return settings.model_copy(update={"redis_url": endpoint.redis_url, "database_url": database_url})
