"""
The backends that queues can name: the built-in ones, and those of the entry point group `upshot.backends`.

A backend is loaded when the operator's file declares it, so no worker pays for a client library that it does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from upshot.backends.protocol import Backend
from upshot.errors import ConfigError
from upshot.schema.queues import PROCESS, JobsConfig
from upshot.suggestions import did_you_mean

#: An entry point has the name of its backend and loads a `BackendFactory`.
ENTRY_POINT_GROUP = "upshot.backends"

_BUILT_IN = {
    "docker": "upshot.backends.docker",
    "kubernetes": "upshot.backends.kubernetes",
    "process": "upshot.backends.process",
}

#: Makes a backend from its options; raises ConfigError if they are invalid.
BackendFactory = Callable[[Mapping[str, Any]], Backend]


def make_backends(config: JobsConfig, data_dir: Path) -> Mapping[str, Backend]:
    """
    Make all declared backends.

    Args:
        config: The operator's rules.
        data_dir: The data directory. A process backend keeps its jobs there unless its options name another place.

    Returns:
        The backends, by the names that queues use.

    Raises:
        ConfigError: The options of a backend are invalid, or it is not installed.
    """
    backends: dict[str, Backend] = {}
    for name, settings in config.backends.items():
        options = settings.options
        if settings.uses == PROCESS:
            options = {"directory": str(data_dir / "processes" / name), **options}
        try:
            backends[name] = _find_factory(settings.uses)(options)
        except ConfigError as error:
            place = f"{settings.source}: " if settings.source else ""
            raise ConfigError(f"{place}backend {name!r}: {error}") from error
    return backends


def known_backends() -> tuple[str, ...]:
    """Return the names of the built-in and the installed backends."""
    return (*_BUILT_IN, *sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP)))


def _find_factory(uses: str) -> BackendFactory:
    if (module := _BUILT_IN.get(uses)) is not None:
        factory: BackendFactory = import_module(module).make
        return factory
    known = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if uses not in known:
        raise ConfigError(f"unknown backend {uses!r}{did_you_mean(uses, known_backends())}")
    try:
        factory = known[uses].load()
    except Exception as error:
        raise ConfigError(f"its package cannot be loaded: {type(error).__name__}: {error}") from error
    return factory
