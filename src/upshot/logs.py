"""The format of log lines: one line on stderr for each event, as `event key=value …` or as JSON."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from upshot.printable import dump_json

_NEEDS_QUOTES = re.compile(r"[\s=\"]")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, log_format: str) -> None:
    """
    Configure structlog, and the loggers of libraries.

    Args:
        level: debug, info, warning or error. Any other text means info.
        log_format: `text` or `json`.
    """
    threshold = _LEVELS.get(level.lower(), logging.INFO)
    library_format = "level=%(levelname)s logger=%(name)s event=%(message)r"
    logging.basicConfig(stream=sys.stderr, level=max(threshold, logging.WARNING), format=library_format)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", key="time"),
            _drop_none,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if log_format == "json" else _as_logfmt,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _drop_none(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in [key for key, value in line.items() if value is None]:
        del line[key]
    return line


def _as_logfmt(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> str:
    """Format a line as `key=value …`. This is not structlog's renderer because every attempt logs, and it is faster."""
    first = [(key, line.pop(key)) for key in ("time", "level", "event")]
    return " ".join([f"{key}={_quoted(value)}" for key, value in (*first, *line.items())])


def _quoted(value: Any) -> str:
    text = str(value)
    is_plain = text and text.isprintable() and not _NEEDS_QUOTES.search(text)
    return text if is_plain else dump_json(text)
