"""Run jobs without a container engine: as processes on the worker's machine, if its operator allows that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upshot.backends.process.backend import ProcessBackend
from upshot.backends.process.options import read_options
from upshot.backends.protocol import Backend


def make(options: Mapping[str, Any]) -> Backend:
    """
    Make a backend from its options in the operator's file.

    Raises:
        ConfigError: An option is invalid, or this machine does not support it.
    """
    return ProcessBackend(read_options(options))
