"""Settings as a command sees them: the environment, and on top what was said on the command line."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from upshot.client.endpoint import read_endpoint
from upshot.errors import ConfigError
from upshot.settings import Settings


def settings_with(**options: Any) -> Settings:
    """
    Read the settings; an option that is None was not given.

    Raises:
        ConfigError: Settings that cannot be meant, each by name.
    """
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        findings = [f"UPSHOT_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors()]
        raise ConfigError("; ".join(findings)) from error


def joined(settings: Settings) -> Settings:
    """With Redis and database of the `upshot up` that runs on this data, where no others are named."""
    running = None if settings.redis_url else read_endpoint(settings.data)
    if running is None:
        return settings
    database_url = settings.database_url or running.database_url
    return settings.model_copy(update={"redis_url": running.redis_url, "database_url": database_url})
