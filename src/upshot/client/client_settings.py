"""
The settings of programs and client commands, from environment variables and a file.

`upshot.settings` describes them, with those of the server. This module needs none of the server's libraries.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from io import StringIO
from pathlib import Path
from typing import Any

from upshot.errors import ConfigError
from upshot.net import is_base_url
from upshot.numerals import read_decimal

_PREFIX = "UPSHOT_"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The settings that a client needs. Each field is the environment variable `UPSHOT_` + its name in capitals."""

    data: Path = Path(".upshot")
    url: str | None = None
    token: str | None = field(default=None, repr=False)
    project: str | None = None
    entity: str | None = None
    run_id: str | None = None
    job_type: str | None = None
    dir: Path | None = None
    mode: str = "online"
    artifact_dir: Path = Path("artifacts")
    cache_dir: Path | None = None
    cache_gb: float = 20.0


def read_client_settings(*, data: Path | None = None, with_file: bool = False) -> ClientSettings:
    """
    Read the settings. An environment variable overrides the file.

    Args:
        data: The data directory. By default, that of UPSHOT_DATA.
        with_file: Also read the file `settings.env` in the data directory.

    Raises:
        ConfigError: A setting is invalid, or the file cannot be read.
    """
    environment = _named(os.environ)  # noqa: TID251 - `upshot.settings` needs the server's libraries
    if data is None:
        data = Path(environment.get("data", ClientSettings().data))
    values = {**(_named(read_settings_file(data)) if with_file else {}), **environment}
    given: dict[str, Any] = {
        name: _PARSERS.get(name, str)(text) for name, text in values.items() if name in _NAMES and name != "data"
    }
    return ClientSettings(data=data, **given)


def settings_file(data: Path) -> Path:
    """Return the path of the settings file in a data directory."""
    return data / "settings.env"


def read_settings_file(data: Path) -> dict[str, str | None]:
    """
    Return the variables of the settings file in a data directory. Without a file there are none.

    Raises:
        ConfigError: The file cannot be read.
    """
    file = settings_file(data)
    try:
        if not file.is_file():
            return {}
        text = file.read_text(encoding="utf-8")
    except PermissionError as error:
        raise ConfigError(
            f"{file}: {error.strerror}; run as the user to whom the data directory belongs, or choose another one with "
            "--data"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}; save it as UTF-8 text that you can read") from error
    from dotenv import dotenv_values  # noqa: PLC0415 - most directories have no such file

    return dotenv_values(stream=StringIO(text))


def _named(variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return the values of variables by the names of their settings. An empty variable is not set."""
    return {
        name.upper().removeprefix(_PREFIX).lower(): value
        for name, value in variables.items()
        if value and name.upper().startswith(_PREFIX)
    }


def _base_url(text: str) -> str:
    if not is_base_url(text):
        raise ConfigError(
            f"UPSHOT_URL must be a base URL such as https://HOST:PORT/PATH, not {text[:100]!r}; correct it"
        )
    return text


def _token(text: str) -> str:
    if re.search(r"[^!-~]", text):
        raise ConfigError(
            "UPSHOT_TOKEN must consist of visible ASCII characters, because clients send it in a header; correct it"
        )
    return text


def _gigabytes(text: str) -> float:
    number = read_decimal(text)
    if number is None or number < 0:
        raise ConfigError(
            f"UPSHOT_CACHE_GB must be a number from 0, written with digits only, not {text[:100]!r}; correct it, or "
            f"unset it for the default {ClientSettings().cache_gb:g}"
        )
    return number


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "url": _base_url,
    "token": _token,
    "artifact_dir": Path,
    "dir": Path,
    "cache_dir": Path,
    "cache_gb": _gigabytes,
}
_NAMES = frozenset(each.name for each in fields(ClientSettings))
