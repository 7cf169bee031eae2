"""
The data directory of `upshot up`, and the locks on it.

The supervisor alone holds `lock`. The supervisor and all processes that it starts hold `lock.children`.
If `lock` is free and `lock.children` is not, the supervisor was killed and a process that it started
still uses the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from upshot.errors import ConfigError
from upshot.ids import WorkerId
from upshot.private_files import make_data_directory, make_private_directory, write_private


class DataDir:
    """
    The files of one installation. Other users cannot read them. Creates the directory.

    Raises:
        ConfigError: The directory cannot be created, or is not writable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.redis = self.path / "redis"
        self.logs = self.path / "logs"
        self.secrets = self.path / "secrets"  #: one file for each secret, with the secret's name
        self.worker_heartbeat = self.path / "worker-heartbeat"  #: touched by the worker while its event loop runs
        try:
            if make_data_directory(self.path):
                write_private(self.path / ".gitignore", "*\n")  # it contains a token and a password
            for directory in (self.redis, self.logs, self.secrets):
                make_private_directory(directory)
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: {error.strerror}; choose a data directory that you can write to with --data"
            ) from error

    def token(self) -> str:
        """Return the API token of this installation. Create it at the first call."""
        return self._read_or_create("token", lambda: f"upshot_{secrets.token_urlsafe(32)}")

    def redis_password(self) -> str:
        """Return the password of the embedded Redis. Create it at the first call."""
        return self._read_or_create("redis/password", lambda: secrets.token_hex(32))

    def _read_or_create(self, name: str, create: Callable[[], str]) -> str:
        path = self.path / name
        with contextlib.suppress(FileNotFoundError):
            if text := path.read_text().strip():
                return text
        text = create()
        write_private(path, f"{text}\n")
        return text

    def last_worker_id(self) -> WorkerId | None:
        """Return the id of the worker that was started last, or None if it has stopped cleanly."""
        with contextlib.suppress(FileNotFoundError):
            if worker_id := (self.path / "worker-id").read_text().strip():
                return WorkerId(worker_id)
        return None

    def save_worker_id(self, worker_id: WorkerId | None) -> None:
        """Store the id of the worker that is being started. None: the last worker has stopped cleanly."""
        if worker_id is None:
            (self.path / "worker-id").unlink(missing_ok=True)
        else:
            write_private(self.path / "worker-id", f"{worker_id}\n")


class SupervisorLock:
    """
    The right to run `upshot up` on a data directory. The kernel releases it when this process ends.

    Raises:
        ConfigError: Another `upshot up` has it. The message names its process id and address.
    """

    def __init__(self, data_dir: DataDir) -> None:
        path = data_dir.path / "lock"
        self._fd = _open(path)
        if not _try_lock(self._fd):
            try:
                holder = json.loads(path.read_text())
                described = f" (process {holder['pid']}, {holder['url']})"
            except (OSError, ValueError, KeyError, TypeError):
                described = ""  # the other process is just starting and has not written its address yet
            os.close(self._fd)
            raise ConfigError(
                f"{data_dir.path}: `upshot up` already runs on this data directory{described}; "
                "stop it first, or choose another directory with --data"
            )

    def write_holder(self, url: str) -> None:
        """Write the process id and address of this process into the lock file, for the message of a second one."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)


class ChildrenLock:
    """A lock that every child process inherits, so that it is held until the last of them has ended."""

    def __init__(self, data_dir: DataDir) -> None:
        self.fd = _open(data_dir.path / "lock.children")

    def acquire(self) -> bool:
        """Try to acquire the lock. Return False while a process of an earlier run still uses the directory."""
        return _try_lock(self.fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
