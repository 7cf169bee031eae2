"""
The data folder of `upshot up`, and who may work on it.

Two locks: `lock` is held by the supervisor alone, `lock.parts` by it and by every process that it
starts. So a free `lock` beside a held `lock.parts` means: the supervisor was killed, and something
that it started still works here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from upshot.client.endpoint import write_private
from upshot.errors import ConfigError


class DataDir:
    """
    Files of one installation; makes the folder, closed to other users.

    Raises:
        ConfigError: It cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.redis = self.path / "redis"
        self.logs = self.path / "logs"
        try:
            if not self.path.exists():
                self.path.mkdir(mode=0o700, parents=True)
                (self.path / ".gitignore").write_text("*\n")  # it holds a token and a password
            for folder in (self.redis, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: {error.strerror}; choose a data folder that you can write to with --data"
            ) from error

    def token(self) -> str:
        """The token of this installation, made when it is first asked for."""
        return self._kept("token", lambda: f"upshot_{secrets.token_urlsafe(32)}")

    def redis_password(self) -> str:
        """The password of the embedded Redis, made when it is first asked for."""
        return self._kept("redis/password", lambda: secrets.token_hex(32))

    def _kept(self, name: str, make: Callable[[], str]) -> str:
        path = self.path / name
        with contextlib.suppress(FileNotFoundError):
            if kept := path.read_text().strip():
                return kept
        fresh = make()
        write_private(path, f"{fresh}\n")
        return fresh

    def last_worker(self) -> str | None:
        """Id of the worker that was started last and has not stopped cleanly since; None when there is none."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "worker-id").read_text().strip() or None
        return None

    def note_worker(self, worker_id: str | None) -> None:
        """Keep the id of the worker that is being started; None: it has stopped cleanly."""
        if worker_id is None:
            (self.path / "worker-id").unlink(missing_ok=True)
        else:
            write_private(self.path / "worker-id", f"{worker_id}\n")


class SupervisorLock:
    """
    The right to run `upshot up` on a data folder; let go when the process ends, however it ends.

    Raises:
        ConfigError: Another `upshot up` has it; names that one's process and address.
    """

    def __init__(self, folder: DataDir) -> None:
        path = folder.path / "lock"
        self._descriptor = _open(path)
        if not _take(self._descriptor):
            holder = _holder(path)
            os.close(self._descriptor)
            raise ConfigError(
                f"{folder.path}: `upshot up` runs on this data already{holder}; "
                "stop that one first, or choose another folder with --data"
            )

    def sign(self, url: str) -> None:
        """Leave word for those who come second."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)


class ChildrenLock:
    """The lock that every started process inherits (`descriptor`), so that it is held until the last has ended."""

    def __init__(self, folder: DataDir) -> None:
        self.descriptor = _open(folder.path / "lock.parts")

    def take(self) -> bool:
        """Try to take it; False while something of an earlier run still works here."""
        return _take(self.descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    try:
        form = json.loads(path.read_text())
        return f" (process {form['pid']}, {form['url']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # it is just starting and has not signed yet
