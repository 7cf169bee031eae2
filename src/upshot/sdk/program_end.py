"""
Notice how the program ends, and end its runs.

A run is `finished` if the program ends by itself, `failed` after an exception or an exit code other than 0, and
`killed` after Ctrl-C, SIGTERM or a request to stop it. A program that ends without notice (`os._exit`, `kill -9`, a
crash) sends no more heartbeats, and the server considers its run failed.

A forked process, such as a worker of a data loader, does not own the runs of its parent: it does not end them, and its
SIGTERM is an ordinary one.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

EndRuns = Callable[[str, int | None, float], None]

_PATIENCE_SECONDS = 30.0  #: how long the end of a program waits for a server that does not answer
_SIGTERM_SECONDS = 10.0  #: the same after SIGTERM: something kills the program soon


class ProgramEnd:
    """
    What is known about the end of this program.

    Args:
        end_runs: Ends all runs: with a state, an exit code, and how long to wait for a server that does not answer.
        on_fork: Called in a forked process.
    """

    def __init__(self, end_runs: EndRuns, on_fork: Callable[[], None]) -> None:
        self._end_runs = end_runs
        self._on_fork = on_fork
        self._failure: tuple[str, int | None] | None = None
        self._exit_code = 0
        self._terminated = False
        self._process_id: int | None = None  # of the process whose runs these are
        self._is_installed = False
        self._previous_handler: Any = signal.SIG_DFL

    def watch(self) -> None:
        """Notice from now on how this process ends. Its parent, if it was forked, has runs of its own."""
        if self._process_id == os.getpid():
            return
        self._process_id = os.getpid()
        self._failure, self._exit_code, self._terminated = None, 0, False
        if not self._is_installed:
            self._is_installed = True
            self._install()
        if threading.current_thread() is threading.main_thread():
            with contextlib.suppress(ValueError, OSError):
                found = signal.getsignal(signal.SIGTERM)
                if found is not None and found not in (signal.SIG_IGN, self._on_sigterm):
                    self._previous_handler = found
                    signal.signal(signal.SIGTERM, self._on_sigterm)

    def _install(self) -> None:
        atexit.register(self._at_exit)
        self._wrap_excepthook()
        self._wrap_exit()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._in_child)

    @property
    def was_terminated(self) -> bool:
        """Whether the program got a SIGTERM."""
        return self._terminated

    def _wrap_excepthook(self) -> None:
        hook = sys.excepthook

        def notice(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
            if os.getpid() == self._process_id:
                self._failure = ("killed", None) if issubclass(kind, KeyboardInterrupt) else ("failed", 1)
            hook(kind, error, traceback)

        sys.excepthook = notice

    def _wrap_exit(self) -> None:
        leave = sys.exit

        def notice(status: Any = None, /) -> Any:
            try:
                leave(status)
            except SystemExit as error:
                if threading.current_thread() is threading.main_thread():
                    self._exit_code = to_exit_code(error)
                    error.__dict__["_upshot"] = _Attached(self)
                raise

        sys.exit = notice

    def forget_exit(self) -> None:
        """Forget a `sys.exit()` that was caught."""
        self._exit_code = 0

    def _at_exit(self) -> None:
        if os.getpid() != self._process_id:
            return
        code = self._exit_code
        state, exit_code = self._failure or ("failed" if code else "finished", code)
        if self._terminated:
            state, exit_code = "killed", None
        self._end_runs(state, exit_code, _PATIENCE_SECONDS)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        is_own = os.getpid() == self._process_id
        is_first = not self._terminated
        self._terminated = True
        if callable(self._previous_handler):
            self._previous_handler(number, frame)  # the program's own: it decides
            return
        if is_own and is_first:
            # Not here: the signal may have interrupted a function that holds a lock.
            with contextlib.suppress(RuntimeError):  # the interpreter is ending, and does it itself
                threading.Thread(target=self._end_and_repeat, args=(number,), name="upshot-end", daemon=True).start()
                return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _end_and_repeat(self, number: int) -> None:
        """End the runs, and send the signal again. It then ends the program."""
        try:
            self._end_runs("killed", None, _SIGTERM_SECONDS)
        finally:
            os.kill(os.getpid(), number)

    def _in_child(self) -> None:
        self._on_fork()
        with contextlib.suppress(ValueError, OSError):
            if signal.getsignal(signal.SIGTERM) == self._on_sigterm and not callable(self._previous_handler):
                signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Attached:
    """An object that an exception of `sys.exit()` has. It is deleted with it, and notices whether it was caught."""

    def __init__(self, end: ProgramEnd) -> None:
        self._end = end

    def __del__(self) -> None:
        try:
            sys._getframe(1)  # noqa: SLF001 - the interpreter deletes an exception that ends it outside of all frames
        except ValueError:
            return
        self._end.forget_exit()


def interrupt_program() -> None:
    """
    Raise KeyboardInterrupt in the main thread, as Ctrl-C does.

    A program that a shell script starts in the background ignores Ctrl-C. It gets the exception, too.
    """
    if callable(signal.getsignal(signal.SIGINT)):
        _thread.interrupt_main()
        return
    import ctypes

    main_thread = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main_thread, ctypes.py_object(KeyboardInterrupt))


def to_exit_code(error: SystemExit) -> int:
    """Return the exit code of a program that ends with this exception."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1
