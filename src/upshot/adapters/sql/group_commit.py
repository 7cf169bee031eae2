"""
Group commit for SQLite, which allows one writer at a time.

SQLite's own waiting polls with growing sleeps, and every commit waits for the disk. Here the first
writer that arrives is the leader. It takes a file lock, which it polls far more often than SQLite does,
so that processes take turns. It then runs the work of every writer that has arrived by then, each under
its own savepoint, and commits once. Correctness depends on SQLite's lock alone.
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

from upshot.adapters.sql.sql_errors import is_full
from upshot.clock import stopwatch
from upshot.errors import NoSpace, Unavailable

T = TypeVar("T")

MAX_GROUP = 64
LOCK_TIMEOUT_SECONDS = 2.0  # for the file lock; a group takes milliseconds
TURN_SECONDS = 8.0  # for a writer's turn; longer than one leader waits for both locks
MIN_PAUSE_SECONDS = 0.0001
MAX_PAUSE_SECONDS = 0.002


class OpenTransaction(Protocol):
    """Opens a transaction, commits it at the end, and rolls it back on an error."""

    def __call__(self, *, writing: bool) -> AbstractContextManager[Connection]:
        """Return the connection that is in the transaction."""
        ...


class _Request:
    """The work of one caller, with its result."""

    __slots__ = ("error", "is_leader", "result", "woken", "work")

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.woken = threading.Event()
        self.is_leader = False  #: woken to lead the next group, not because its work is done
        self.result: Any = None
        self.error: BaseException | None = None


class GroupCommit:
    """
    Runs writing work for many threads.

    Args:
        transaction: Opens a transaction.
        database_path: The database file. The lock file is beside it. None for a database in memory.
    """

    def __init__(self, transaction: OpenTransaction, database_path: str | None) -> None:
        self._transaction = transaction
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._has_leader = False
        self._lock_file: int | None = None
        if database_path:
            self._lock_file = os.open(f"{database_path}.write-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Close the lock file."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def run(self, work: Callable[[Connection], T]) -> T:
        """
        Return the result of the work, committed.

        An error of the work is raised here, and nothing that this work wrote is kept.

        Raises:
            Unavailable: The writers before this one did not finish in time, or SQLite gave the transaction up.
        """
        request = _Request(work)
        with self._lock:
            self._waiting.append(request)
            request.is_leader = not self._has_leader
            self._has_leader = True
        if not request.is_leader and not request.woken.wait(TURN_SECONDS):
            self._leave(request)
        if request.is_leader:
            self._lead(request)
        if request.error is not None:
            raise request.error
        return cast("T", request.result)

    def _leave(self, request: _Request) -> None:
        """Give up waiting. A request that a leader has taken, or that became the leader, goes on."""
        with self._lock:
            if request.is_leader:
                return
            if request in self._waiting:
                self._waiting.remove(request)
                raise Unavailable(f"the database is locked: the writers before did not finish in {TURN_SECONDS:g} s")
        request.woken.wait()  # its group is being committed, which takes a bounded time

    def _lead(self, own: _Request) -> None:
        """Run the first group, which includes the leader's own request, and appoint the next leader."""
        group: list[_Request] = []
        try:
            with self._file_locked():
                with self._lock:
                    group.extend(self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting))))
                self._commit(group)
        finally:
            with self._lock:
                if own in self._waiting:  # an error came before the group was taken, and is raised to the caller
                    self._waiting.remove(own)
                successor = self._waiting[0] if self._waiting else None
                self._has_leader = successor is not None
            if successor is not None:
                successor.is_leader = True
                successor.woken.set()
            for request in group:
                request.woken.set()

    def _commit(self, group: list[_Request]) -> None:
        try:
            with self._transaction(writing=True) as connection:
                if len(group) == 1:  # an error rolls back the whole transaction, which contains only this work
                    group[0].result = group[0].work(connection)
                    return
                for request in group:
                    try:
                        with connection.begin_nested():
                            request.result = request.work(connection)
                    except Exception as error:
                        if not _is_open(connection):
                            # The rest of the group would run without a transaction.
                            unavailable = NoSpace if is_full(error) else Unavailable
                            raise unavailable(f"SQLite gave the transaction up: {error}") from error
                        request.error = error  # the caller handles it; the rest of the group continues
        except BaseException as error:  # noqa: BLE001 - nothing of the group was committed, and every caller must know
            for request in group:
                request.error = error

    @contextmanager
    def _file_locked(self) -> Iterator[None]:
        """
        Hold the file lock, or continue without it after the timeout.

        A process that is stopped while it holds the lock must not block all others, and a file system may
        not support locks. SQLite's own lock, whose waiting is bounded, decides in these cases.
        """
        locked = self._lock_file is not None and _try_lock(self._lock_file)
        try:
            yield
        finally:
            if locked and self._lock_file is not None:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)


def _is_open(connection: Connection) -> bool:
    """Return whether the transaction is still open. SQLite ends it by itself on a full disk or an I/O error."""
    driver_connection = connection.connection.driver_connection
    return bool(getattr(driver_connection, "in_transaction", False))


def _try_lock(file: int) -> bool:
    deadline = stopwatch() + LOCK_TIMEOUT_SECONDS
    pause_seconds = MIN_PAUSE_SECONDS
    while stopwatch() < deadline:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)
        except OSError:
            return False
        else:
            return True
    return False
