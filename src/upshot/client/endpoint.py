"""Where a running Upshot answers: `DATA/endpoint.json`, written by `upshot up` and read by the CLI."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from upshot.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a program needs to talk to a running Upshot, and the processes that it is made of."""

    url: str
    token: str | None
    redis_url: str
    database_url: str
    processes: Mapping[str, int]  #: process id by part: web, worker, and redis where it is ours


def endpoint_path(data: Path) -> Path:
    """Where the endpoint of a data folder is written."""
    return data / "endpoint.json"


def write_endpoint(data: Path, endpoint: Endpoint) -> None:
    """Replace the file at once, readable by its owner only."""
    write_private(endpoint_path(data), json.dumps(asdict(endpoint), indent=2) + "\n")


def read_endpoint(data: Path) -> Endpoint | None:
    """
    The endpoint of a data folder; None when nothing runs on it.

    Raises:
        ConfigError: The file is there and is not ours.
    """
    path = endpoint_path(data)
    try:
        form = json.loads(path.read_text())
        return Endpoint(form["url"], form["token"], form["redis_url"], form["database_url"], form["processes"])
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise ConfigError(f"{path}: only the user who started `upshot up` may read it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not an endpoint file; stop `upshot up`, remove it and start again") from error


def remove_endpoint(data: Path) -> None:
    """Say that nothing answers any more."""
    with contextlib.suppress(FileNotFoundError):
        endpoint_path(data).unlink()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; whoever reads it sees the old text or the new one, whole."""
    fresh = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()  # what a crash left behind may have other permissions
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)
