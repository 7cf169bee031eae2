"""Jobs as containers of a Docker engine, or of Podman through the same API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upshot.backends.docker.backend import DockerBackend
from upshot.backends.docker.options import read_options
from upshot.backends.protocol import Backend


def make(options: Mapping[str, Any]) -> Backend:
    """
    Make a backend with the options in the operator's file. It connects when it is first used.

    Raises:
        ConfigError: An option is invalid, or it names a file that cannot be read.
    """
    return DockerBackend(read_options(options))
