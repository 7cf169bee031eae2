"""
The backends that queues can name: ours, and those of entry point group `upshot.backends`.

Each is loaded when it is first declared, so that nobody pays for the library of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from upshot.backends.protocol import Backend
from upshot.errors import ConfigError
from upshot.schema.queues import PROCESS, BackendSettings, JobsConfig

#: Each entry point's name is the backend's; it loads a function that makes one of its options.
GROUP = "upshot.backends"

_BUILT_IN = {
    "docker": "upshot.backends.docker",
    "kubernetes": "upshot.backends.kubernetes",
    "process": "upshot.backends.process",
}

Make = Callable[[Mapping[str, Any]], Backend]  #: raises ConfigError for options that cannot be meant


def make_backends(book: JobsConfig, data: Path) -> Mapping[str, Backend]:
    """
    The backends that are declared, by the names that queues use.

    Args:
        book: The operator's rules.
        data: The data folder: a process backend keeps its jobs there, unless its options name another place.

    Raises:
        ConfigError: The options of one cannot be meant, or it is not installed.
    """
    return {name: _make(name, settings, data / "processes" / name) for name, settings in book.backends.items()}


def _make(name: str, settings: BackendSettings, folder: Path) -> Backend:
    place = f"{settings.source}: " if settings.source else ""
    options = {"folder": str(folder), **settings.options} if settings.uses == PROCESS else settings.options
    try:
        return _find(settings.uses)(options)
    except ConfigError as error:
        raise ConfigError(f"{place}backend {name!r}: {error}") from error


def _find(uses: str) -> Make:
    if (module := _BUILT_IN.get(uses)) is not None:
        make: Make = import_module(module).make
        return make
    known = {point.name: point for point in entry_points(group=GROUP)}
    if uses not in known:
        raise ConfigError(f"there is no backend {uses!r}; there are {', '.join(sorted({*_BUILT_IN, *known}))}")
    try:
        loaded: Make = known[uses].load()
    except Exception as error:
        raise ConfigError(f"its package cannot be loaded: {type(error).__name__}: {error}") from error
    return loaded
