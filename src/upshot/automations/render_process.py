"""
The process that renders expensive templates: with little memory, a second of processor time and no secrets.

Usage: `python -m upshot.automations.render_process`, by `rendering` only.

    request   the fields of a RenderRequest, and the names of the context
    answer    ["lookup", name, key]: the other process answers with ["value", …] or ["error", …]
              ["value", …], ["invalid", path, line, reason], or ["memory"]

Each message is JSON, after its length. Pickle would not be safe, because a template may have taken over this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from typing_extensions import override

from upshot.automations.context import EmptyStrings
from upshot.automations.expressions.budget import RenderError
from upshot.automations.sandbox import Lookup
from upshot.automations.template import RenderRequest
from upshot.errors import TemplateInvalid

MAX_MEMORY_BYTES = 256 * 1024 * 1024  #: in addition to what the process needs by itself
MAX_SECONDS = 1.0  #: of processor time: for compiling, and again for rendering

_LENGTH = struct.Struct(">I")


# --- messages, for both sides ---------------------------------------------------------------------


def frame(message: Any) -> bytes:
    """Encode a message."""
    try:
        encoded = orjson.dumps(message, default=dict)
    except TypeError:  # Python's own JSON is slow, and has long integers and half characters
        encoded = json.dumps(message, default=dict).encode()
    return _LENGTH.pack(len(encoded)) + encoded


def encode_request(request: RenderRequest, context: Mapping[str, Any]) -> bytes:
    """Encode a request. Values that are looked up stay in this process."""
    special = (Lookup, EmptyStrings)
    return frame(
        {
            "request": [request.kind, request.source, request.path, request.lines, sorted(request.expressions)],
            "slack_texts": None if request.slack_texts is None else sorted(request.slack_texts),
            "context": {name: value for name, value in context.items() if not isinstance(value, special)},
            "lookups": [name for name, value in context.items() if isinstance(value, Lookup)],
            "empty": [name for name, value in context.items() if isinstance(value, EmptyStrings)],
        }
    )


def read_frame(read: Callable[[int], bytes]) -> Any:
    """
    Read a message.

    Args:
        read: Returns exactly so many bytes, or fewer at the end.

    Raises:
        EOFError: The other process has ended.
    """
    header = read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    message = read(length)
    if len(message) < length:
        raise EOFError
    try:
        return orjson.loads(message)
    except ValueError:
        return json.loads(message)


# --- the process ----------------------------------------------------------------------------------


class _RemoteLookup(Lookup):
    """A Lookup of the other process."""

    def __init__(self, name: str, ask: Callable[[Any], Any]) -> None:
        self._name = name
        self._ask = ask

    @override
    def look_up(self, name: str) -> Any:
        kind, value = self._ask(("lookup", self._name, name))
        if kind == "error":
            raise RenderError(value)
        return value


def main() -> None:
    """Answer requests until standard input ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also inside a function in C
    _limit_memory()

    def send(message: Any) -> None:
        answers.write(frame(message))
        answers.flush()

    def ask(message: Any) -> Any:
        send(message)
        return read_frame(requests.read)

    with contextlib.suppress(EOFError):
        while True:
            try:
                answer = _answer(read_frame(requests.read), ask)
            except MemoryError:
                answer = ("memory",)
            signal.setitimer(signal.ITIMER_PROF, 0)
            send(answer)
            if answer == ("memory",):
                return  # another process starts with all of its memory


def _answer(message: Any, ask: Callable[[Any], Any]) -> tuple[Any, ...]:
    kind, source, path, lines, expressions = message["request"]
    context = {
        **message["context"],
        **{name: _RemoteLookup(name, ask) for name in message["lookups"]},
        **{name: EmptyStrings() for name in message["empty"]},
    }
    try:
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        texts = message["slack_texts"]
        slack_texts = None if texts is None else frozenset(texts)
        compiled = RenderRequest(kind, source, path, lines, frozenset(expressions), slack_texts).compile()
        compiled.prepare(large=True)
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        return ("value", compiled.run(context))
    except TemplateInvalid as error:
        return ("invalid", error.path, error.line, error.reason)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # only Linux says how much a process uses
        used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit_bytes = used_bytes + MAX_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


if __name__ == "__main__":
    main()
