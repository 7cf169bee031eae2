"""
SQLite's one writing place, shared: whoever waits for it while another writes goes into the next transaction.

SQLite's own waiting polls with growing sleeps, and every commit waits for the disk. Here the first
writer that comes leads: it takes the turn among processes (a file lock, asked for far more often than
SQLite does), runs the work of everybody who has come by then, each under a savepoint of its own, and
commits once. SQLite's lock stays the one that is trusted.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy.engine import Connection

from upshot.clock import stopwatch

T = TypeVar("T")

LARGEST_GROUP = 64
PATIENCE_SECONDS = 2.0  # for the turn; a group takes milliseconds
SHORTEST_PAUSE_SECONDS = 0.0001
LONGEST_PAUSE_SECONDS = 0.002


class Transaction(Protocol):
    """Opens a transaction, commits it at the end, and rolls it back on an error."""

    def __call__(self, *, writing: bool) -> AbstractContextManager[Connection]:
        """The connection that is in it."""
        ...


class _Request:
    """The work of one caller, and what came of it."""

    __slots__ = ("error", "lead", "result", "woken", "work")

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.woken = threading.Event()
        self.lead = False  #: woken to lead the next group, not because it is done
        self.result: Any = None
        self.error: BaseException | None = None


class GroupCommit:
    """
    Runs writing work for many threads.

    Args:
        transaction: Opens a transaction.
        database_path: The database's file, beside which the turn is kept; None for one in memory.
    """

    def __init__(self, transaction: Transaction, database_path: str | None) -> None:
        self._transaction = transaction
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._led = False
        self._turn: int | None = None
        if database_path:
            self._turn = os.open(f"{database_path}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Let go of the turn's file."""
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None

    def run(self, work: Callable[[Connection], T]) -> T:
        """The work's result, committed; its error comes through, with nothing of its own written."""
        request = _Request(work)
        with self._lock:
            self._waiting.append(request)
            request.lead = not self._led
            self._led = True
        if not request.lead:
            request.woken.wait()
        if request.lead:
            self._lead()
        if request.error is not None:
            raise request.error
        return cast("T", request.result)

    def _lead(self) -> None:
        """Run the first group, the leader's own request in it, and name the next leader."""
        group: list[_Request] = []
        try:
            with self._taken_turn():
                with self._lock:
                    group.extend(self._waiting.popleft() for _ in range(min(LARGEST_GROUP, len(self._waiting))))
                self._commit(group)
        finally:
            with self._lock:
                heir = self._waiting[0] if self._waiting else None
                self._led = heir is not None
            if heir is not None:
                heir.lead = True
                heir.woken.set()
            for request in group:
                request.woken.set()

    def _commit(self, group: list[_Request]) -> None:
        try:
            with self._transaction(writing=True) as connection:
                for request in group:
                    _run(request, connection, alone=len(group) == 1)
        except BaseException as error:  # noqa: BLE001 - nothing of the group was kept, and each must hear of it
            for request in group:
                request.error = error

    @contextmanager
    def _taken_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        taken = _lock(self._turn)
        try:
            yield
        finally:
            if taken:
                fcntl.flock(self._turn, fcntl.LOCK_UN)


def _lock(turn: int) -> bool:
    """
    Take the turn, or go without it.

    A process that stands still while it holds the turn must not hold up all others for ever, and a
    file system may have no locks: SQLite's own lock, whose waiting is bounded, decides then.
    """
    deadline = stopwatch() + PATIENCE_SECONDS
    pause_seconds = SHORTEST_PAUSE_SECONDS
    while stopwatch() < deadline:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        except OSError:
            return False
        else:
            return True
    return False


def _run(request: _Request, connection: Connection, *, alone: bool) -> None:
    if alone:  # its error rolls back the whole transaction, which is its own
        request.result = request.work(connection)
        return
    try:
        with connection.begin_nested():
            request.result = request.work(connection)
    except Exception as error:  # noqa: BLE001 - its caller's affair; the others of the group go on
        request.error = error
