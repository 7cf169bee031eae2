"""Jobs as containers of a Docker engine, or of Podman through the same API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upshot.backends.docker.backend import DockerBackend
from upshot.backends.docker.options import read_settings
from upshot.backends.protocol import Backend


def make(options: Mapping[str, Any]) -> Backend:
    """
    Make a backend as the operator's file has it; nothing is connected yet.

    Raises:
        ConfigError: The options cannot be meant, or name files that cannot be read.
    """
    return DockerBackend(read_settings(options))
