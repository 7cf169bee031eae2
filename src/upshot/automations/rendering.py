"""
Render templates on an event loop without holding it.

A render that costs less than a millisecond happens at once. Any other is given up and done again in a
separate process (`render_process`), which is killed if it takes too long or too much memory.
"""

from __future__ import annotations

import asyncio
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

from typing_extensions import override

from upshot.automations.expressions.budget import BUDGET, RenderError, TooCostly
from upshot.automations.render_process import MAX_SECONDS, encode_request, frame, read_frame
from upshot.automations.sandbox import Lookup
from upshot.automations.template import CompiledExpression, CompiledText, CompiledTree, RenderRequest
from upshot.clock import stopwatch
from upshot.errors import TemplateInvalid, Unavailable

IN_PROCESS_WORK = 2_000  #: units (see `expressions.budget.MAX_WORK`): about a millisecond at most
MAX_PROCESSES = 2
MAX_WALL_SECONDS = 10.0  # for a request; the process itself ends after a second of processor time
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from upshot.automations.render_process import main; main()"

Compiled = CompiledTree | CompiledText | CompiledExpression


class Renderer(Protocol):
    """Renders templates for the executor."""

    async def render(self, compiled: Compiled, context: Mapping[str, Any]) -> Any:
        """
        Render a tree or a text, or evaluate an expression.

        Raises:
            TemplateInvalid: It cannot be rendered with this context, or it exceeds a limit.
            Unavailable: It cannot be rendered now.
        """
        ...


class LocalRenderer(Renderer):
    """Renders everything at once, in this process."""

    @override
    async def render(self, compiled: Compiled, context: Mapping[str, Any]) -> Any:
        return compiled.run(context)


class CheapRenderer(Renderer):
    """Renders what is cheap, and raises TooCostly for the rest."""

    @override
    async def render(self, compiled: Compiled, context: Mapping[str, Any]) -> Any:
        return render_cheaply(compiled, context)


class ProcessRenderer(Renderer):
    """Renders what is cheap in this process, and the rest in others, which are started when they are needed."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_PROCESSES, thread_name_prefix="render")
        self._idle: list[_RenderProcess] = []

    @override
    async def render(self, compiled: Compiled, context: Mapping[str, Any]) -> Any:
        try:
            return render_cheaply(compiled, context)
        except TooCostly:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self.render_slowly, compiled, context
            )

    def render_slowly(self, compiled: Compiled, context: Mapping[str, Any]) -> Any:
        """Render in a thread, which may wait: compile here if that was missing, or else use another process."""
        try:
            compiled.prepare()
            _start_again(context)
            return render_cheaply(compiled, context)
        except TooCostly:
            _start_again(context)
            names = {name: context[name] for name in compiled.roots if name in context}
            return self._render_in_process(compiled.request(), names)

    def _render_in_process(self, request: RenderRequest, context: Mapping[str, Any]) -> Any:
        process = next((idle for idle in self._take_idle() if idle.is_running), None)
        if process is not None:
            try:
                return self._answer(process, request, context)
            except _ProcessEnded as error:  # perhaps for a reason that has nothing to do with this request
                if error.is_out_of_time:
                    raise request.failed(str(error)) from None
        try:
            return self._answer(_RenderProcess(), request, context)
        except _ProcessEnded as error:
            raise request.failed(str(error)) from None

    def _answer(self, process: _RenderProcess, request: RenderRequest, context: Mapping[str, Any]) -> Any:
        try:
            answer = process.answer(request, context)
        except TemplateInvalid:
            self._idle.append(process)
            raise
        except BaseException:
            process.close()
            raise
        self._idle.append(process)
        return answer

    def _take_idle(self) -> Iterator[_RenderProcess]:
        with suppress(IndexError):
            while True:
                yield self._idle.pop()

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while self._idle:
            self._idle.pop().close()


def render_cheaply(compiled: Compiled, context: Mapping[str, Any]) -> Any:
    """
    Render in about a millisecond.

    Raises:
        TemplateInvalid: It cannot be rendered with this context.
        TooCostly: It would take longer.
    """
    with BUDGET.limit(IN_PROCESS_WORK):
        return compiled.run(context)


def _start_again(context: Mapping[str, Any]) -> None:
    for value in context.values():
        if isinstance(value, Lookup):
            value.start_again()


class _ProcessEnded(Exception):
    """A process has ended during a request, or has to."""

    def __init__(self, reason: str, *, is_out_of_time: bool) -> None:
        super().__init__(reason)
        self.is_out_of_time = is_out_of_time


class _RenderProcess:
    """A process that renders one request at a time."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={},  # no secrets
                start_new_session=True,  # Ctrl-C is for the process that started it
                bufsize=0,
            )
        except OSError as error:
            raise Unavailable(f"the process that renders expensive templates cannot be started: {error}") from error
        self._deadline = 0.0

    @property
    def is_running(self) -> bool:
        """Whether it can answer a request."""
        return self._process.poll() is None

    def answer(self, request: RenderRequest, context: Mapping[str, Any]) -> Any:
        """
        Render a request.

        Raises:
            TemplateInvalid: It cannot be rendered with this context.
            _ProcessEnded: It took too long, or the process has ended.
        """
        self._deadline = stopwatch() + MAX_WALL_SECONDS
        try:
            answer = self._exchange(encode_request(request, context))
            while answer[0] == "lookup":
                answer = self._exchange(frame(_look_up(context[answer[1]], answer[2])))
        except TimeoutError:
            reason = f"rendering this was given up after {MAX_WALL_SECONDS:g} s"
            raise _ProcessEnded(reason, is_out_of_time=True) from None
        except (EOFError, OSError, ValueError):
            raise self._ended() from None
        if answer[0] == "value":
            return answer[1]
        if answer[0] == "invalid":
            raise TemplateInvalid(*answer[1:])
        raise request.failed("this needs too much memory; loop over less, or send the data as it is")

    def _exchange(self, message: bytes) -> Any:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        rest = memoryview(message)
        while rest:
            rest = rest[self._process.stdin.write(rest) :]
        return read_frame(self._read)

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        data = b""
        while len(data) < size:
            wait_seconds = max(0.0, self._deadline - stopwatch())
            readable, _, _ = select.select([self._process.stdout], [], [], wait_seconds)
            if not readable:
                raise TimeoutError
            if not (part := self._process.stdout.read(size - len(data))):
                break
            data += part
        return data

    def _ended(self) -> _ProcessEnded:
        self._process.kill()
        status = self._process.wait()
        if status == -signal.SIGPROF:
            reason = f"this takes longer than {MAX_SECONDS:g} s to compute; loop over less, or send the data as it is"
            return _ProcessEnded(reason, is_out_of_time=True)
        return _ProcessEnded(
            f"the process that rendered this ended with status {status}; send the data as it is", is_out_of_time=False
        )

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _look_up(lookup: Lookup, name: str) -> tuple[str, Any]:
    try:
        return "value", lookup.look_up(name)
    except RenderError as error:
        return "error", str(error)
