"""Settings as a command sees them: the environment, and on top what was said on the command line."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

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
