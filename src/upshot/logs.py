"""How log lines look: one wide line for each thing that happened, `event key=value …` or JSON, on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_NEEDS_QUOTES = re.compile(r"[\s=\"\x00-\x1f\x7f]")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, form: str) -> None:
    """
    Set up structlog, and the loggers of libraries behind it.

    Args:
        level: debug, info, warning or error; anything else counts as info.
        form: `text` or `json`.
    """
    threshold = _LEVELS.get(level.lower(), logging.INFO)
    form_of_libraries = "level=%(levelname)s logger=%(name)s event=%(message)r"
    logging.basicConfig(stream=sys.stderr, level=max(threshold, logging.WARNING), format=form_of_libraries)
    renderer = structlog.processors.JSONRenderer() if form == "json" else _as_logfmt
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", key="time"),
            _drop_empty,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _drop_empty(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A key that has nothing to say is left out of the line."""
    for key in [key for key, value in line.items() if value is None]:
        del line[key]
    return line


def _as_logfmt(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> str:
    """`key=value …`, values in quotes where they need them; written for every attempt, so it has to be quick."""
    first = [(key, line.pop(key)) for key in ("time", "level", "event")]
    return " ".join([f"{key}={_quoted(value)}" for key, value in (*first, *line.items())])


def _quoted(value: Any) -> str:
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return json.dumps(text, ensure_ascii=False) if not text or _NEEDS_QUOTES.search(text) else text
