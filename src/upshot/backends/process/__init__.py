"""Jobs without an engine: commands on the worker's machine, where its operator allows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upshot.backends.process.backend import ProcessBackend
from upshot.backends.process.options import read_options
from upshot.backends.protocol import Backend


def make(options: Mapping[str, Any]) -> Backend:
    """
    Make a backend as the operator's file has it.

    Raises:
        ConfigError: The options cannot be meant, or cannot be had on this machine.
    """
    return ProcessBackend(read_options(options))
