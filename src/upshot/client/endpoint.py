"""The endpoint of a running Upshot: `DATA/endpoint.json`, which `upshot up` writes and clients read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from upshot.errors import ConfigError
from upshot.private_files import write_private


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a program needs to connect to a running Upshot, and the processes that belong to it."""

    url: str
    token: str | None
    redis_url: str
    database_url: str
    processes: Mapping[str, int]  #: process ids by name: web, worker, and redis if `upshot up` started it


def endpoint_path(data: Path) -> Path:
    """Return the path of the endpoint file in a data directory."""
    return data / "endpoint.json"


def write_endpoint(data: Path, endpoint: Endpoint) -> None:
    """Replace the endpoint file atomically. Only its owner can read it."""
    write_private(endpoint_path(data), json.dumps(asdict(endpoint), indent=2) + "\n")


def read_endpoint(data: Path) -> Endpoint | None:
    """
    Read the endpoint of a data directory.

    Returns:
        The endpoint, or None if no Upshot runs on this directory.

    Raises:
        ConfigError: The file exists but cannot be read, or is not an endpoint file.
    """
    path = endpoint_path(data)
    try:
        fields = json.loads(path.read_text())
        return Endpoint(
            fields["url"], fields["token"], fields["redis_url"], fields["database_url"], fields["processes"]
        )
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise ConfigError(f"{path}: only the user who started `upshot up` can read this file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: this is not an endpoint file; stop `upshot up`, remove the file and start again"
        ) from error


def remove_endpoint(data: Path) -> None:
    """Remove the endpoint file, so that clients know that no Upshot runs on this directory."""
    with contextlib.suppress(FileNotFoundError):
        endpoint_path(data).unlink()
