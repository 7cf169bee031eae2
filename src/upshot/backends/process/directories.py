"""The jobs directory of a backend contains one directory per job. Two jobs cannot have the same directory name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from upshot.backends.process.input_copy import copy_tree
from upshot.backends.process.options import Account
from upshot.backends.process.request import EVENT, INPUT, WORK
from upshot.backends.process.safe_files import (
    NotRegularFile,
    create_private_dir,
    create_private_file,
    open_dir,
    read_regular_file,
    remove_contents,
)
from upshot.backends.process.shim import (
    LOG,
    OUTPUT,
    RESULT,
    SECRETS,
    SHIM_RECORD,
    STOP_REQUEST,
    ShimResult,
    boot_id,
    create_file,
    create_record,
    read_process,
)
from upshot.backends.protocol import ContainerRequest, EngineUnavailable
from upshot.clock import stopwatch
from upshot.domain.job import FailureKind

OUTPUTS = "outputs.json"
LABELS = "labels.json"

_IDENTITY = ".identity"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")  # a DNS label, and so a single path component
_MAX_NAME_CHARS = 200  # a file name has at most 255
_RECORD_BYTES = 64 * 1024
_DRAFT_PREFIX, _REMOVED_PREFIX = ".new-", ".gone-"
_STALE_AFTER = timedelta(minutes=10)  # creating or removing a directory takes milliseconds
_RENEW_SECONDS = 60.0  # copying an input can take long
_WRITABLE_FOR_OTHERS = 0o022
_ENTERED_BY_OTHERS = 0o001
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_TAMPERED = {errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENXIO}  # the job has replaced its shim's record


def is_valid_name(name: str) -> bool:
    """Return whether a job can have this name. Other names are never looked up in the file system."""
    return len(name) <= _MAX_NAME_CHARS and _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class ShimRecord:
    """The shim that runs the command. Without a pid: the command was stopped before any shim started it."""

    pid: int | None
    start_ticks: int
    boot_id: str
    started_at: datetime

    @property
    def is_from_this_boot(self) -> bool:
        """Whether the machine has not been restarted since."""
        return self.boot_id == boot_id()

    def signal(self, signum: int) -> None:
        """Send a signal to the shim, unless it has ended and another process has its pid now."""
        process = read_process(self.pid) if self.pid is not None else None
        if process is not None and process.start_ticks == self.start_ticks and self.is_from_this_boot:
            with contextlib.suppress(OSError):
                os.kill(process.pid, signum)


@dataclass(frozen=True, slots=True)
class JobDirectory:
    """
    An open job directory.

    A job that runs as the worker's own user can change these files. The worker relies on them only for
    what concerns this job.
    """

    path: Path
    fd: int

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.path.name

    def labels(self) -> dict[str, Any] | None:
        """Return the `identity_labels` of the container request, by which the worker finds the job again."""
        return self._read_record(LABELS)

    def shim_record(self) -> ShimRecord | None:
        """Return the record of the shim, or None if no shim has started yet."""
        record = self._read_record(SHIM_RECORD)
        if record is None:
            return None
        try:
            started_at = datetime.fromtimestamp(record["started_at"], UTC)
            return ShimRecord(record["pid"], int(record["start_ticks"]), str(record["boot_id"]), started_at)
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            return ShimRecord(None, 0, "", datetime.fromtimestamp(0, UTC))

    def has_shim(self) -> bool:
        """
        Return whether a shim is running. It holds a lock, which the kernel releases when it ends.

        Raises:
            OSError: Whether a shim is running is unknown, for example because this process has too many open files.
        """
        try:
            fd = os.open(SHIM_RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _TAMPERED:
                return False
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def result(self) -> ShimResult | None:
        """Return how the command ended, or None if it has not ended."""
        record = self._read_record(RESULT)
        if record is None:
            return None
        try:
            return ShimResult(
                exit_code=None if record["exit_code"] is None else int(record["exit_code"]),
                finished_at=float(record["finished_at"]),
                failure=FailureKind(record["failure"]).value if record.get("failure") else None,
                note=None if record.get("note") is None else str(record["note"]),
            )
        except (KeyError, TypeError, ValueError):
            note = f"{self.path / RESULT} is damaged; the job may have overwritten it"
            return ShimResult(None, 0.0, FailureKind.ENGINE_LOST.value, note)

    def write_result(self, result: ShimResult) -> None:
        """Record how the command ended, unless a result exists already."""
        self._create_record(RESULT, result._asdict())

    def claim_unstarted(self, now: datetime) -> bool:
        """Prevent all shims from starting the command. Return False if a shim has started already."""
        if self.shim_record() is not None:
            return False
        record = {"pid": None, "start_ticks": 0, "boot_id": boot_id(), "started_at": now.timestamp()}
        return self._create_record(SHIM_RECORD, record)

    def request_stop(self, grace_seconds: float) -> None:
        """Ask the shim to stop the command. If the disk is full, the shim uses the job's own grace period."""
        draft, signum = f".{STOP_REQUEST}.{os.urandom(8).hex()}", signal.SIGUSR1
        try:
            os.close(create_file(self.fd, draft, json.dumps({"grace_seconds": grace_seconds}).encode()))
            os.rename(draft, STOP_REQUEST, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            signum = signal.SIGTERM
        if (record := self.shim_record()) is not None:
            record.signal(signum)

    def read_outputs(self, *, limit_bytes: int) -> bytes | None:
        """
        Return the content of `outputs.json`, or None if the job has not written it.

        Raises:
            NotRegularFile: It is not a regular file, or larger than the limit.
            OSError: It cannot be read.
        """
        try:
            status = os.stat(OUTPUT, dir_fd=self.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                replacement = "a link" if stat.S_ISLNK(status.st_mode) else "something else"
                raise NotRegularFile(f"cannot be read: the job replaced its directory with {replacement}")
            with open_dir(OUTPUT, self.fd) as output_fd:
                return read_regular_file(output_fd, OUTPUTS, limit_bytes=limit_bytes)
        except FileNotFoundError:
            return None

    def _create_record(self, name: str, record: dict[str, Any]) -> bool:
        """Create a record, and return whether it did not exist before."""
        fd = create_record(self.fd, name, record)
        if fd is not None:
            os.close(fd)
        return fd is not None

    def _read_record(self, name: str) -> dict[str, Any] | None:
        """Return a record, None if it does not exist, or an empty record if the job has tampered with it."""
        try:
            self._remove_draft(name)
            data = read_regular_file(self.fd, name, limit_bytes=_RECORD_BYTES)
            record = None if data is None else json.loads(data)
        except (NotRegularFile, ValueError, PermissionError):
            return {}
        return record if record is None or isinstance(record, dict) else {}

    def _remove_draft(self, name: str) -> None:
        """
        Remove the draft from which a record was made.

        A record is a second link to its draft for a moment, or for good if its writer was killed then. A file with
        several links would count as tampered with.
        """
        try:
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if status.st_nlink == 1:
            return
        for other in os.listdir(self.fd):  # noqa: PTH208 - a descriptor, not a path
            with contextlib.suppress(FileNotFoundError):
                if other.startswith(f".{name}.") and os.path.samestat(
                    os.stat(other, dir_fd=self.fd, follow_symlinks=False), status
                ):
                    os.unlink(other, dir_fd=self.fd)


class JobDirectories:
    """
    The job directories of a backend.

    Args:
        root: Directory that contains them. It is created if it does not exist.
        account: The user that the commands run as.
    """

    def __init__(self, root: Path, account: Account) -> None:
        self.root = root
        self._account = account

    def prepare(self) -> None:
        """
        Create the root directory if necessary, and check that only the worker's user can write to it.

        Raises:
            EngineUnavailable: It is not a directory, or others can write to it.
        """
        missing = [path for path in self.root.parents if not path.exists()]
        self.root.parent.mkdir(parents=True, exist_ok=True)
        if not self._account.is_worker:
            for path in missing:
                path.chmod(0o711)
        with contextlib.suppress(FileExistsError):
            self.root.mkdir(0o700)
        status = self.root.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise EngineUnavailable(f"{self.root} is not a directory; name another one, or remove the file")
        if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_FOR_OTHERS:
            raise EngineUnavailable(
                f"users other than the worker's can write to {self.root}; give the backend a directory of its own"
            )
        if not self._account.is_worker and not status.st_mode & _ENTERED_BY_OTHERS:
            self.root.chmod(0o711)

    def identity(self) -> str:
        """Return the random id of the root directory. It is created once and stored there."""
        with open_dir(str(self.root)) as root_fd:
            while (data := read_regular_file(root_fd, _IDENTITY, limit_bytes=100)) is None:
                fd = create_record(root_fd, _IDENTITY, {"id": os.urandom(8).hex()})
                if fd is not None:
                    os.close(fd)
        return str(json.loads(data)["id"])

    def names(self) -> list[str]:
        """Return the names of all jobs."""
        return [entry.name for entry in self.root.iterdir() if is_valid_name(entry.name)]

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[JobDirectory | None]:
        """Open a job directory for a `with` block, which gets None if the directory does not exist."""
        path = self.root / name
        with contextlib.ExitStack() as stack:
            job = None
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if is_valid_name(name):
                    if not os.access(path, os.R_OK | os.X_OK, follow_symlinks=False) and path.is_dir():
                        path.chmod(0o700)  # a job of the worker's own user has removed the permissions
                    job = JobDirectory(path, stack.enter_context(open_dir(str(path))))
            yield job

    def copy_input(self, request: ContainerRequest, check: Callable[[], None]) -> Path | None:
        """
        Copy the files of a job's input into a directory, which `create` moves into the job directory.

        Args:
            request: The request.
            check: Called again and again. What it raises ends the copy.

        Returns:
            The directory, or None if nothing is to be copied. The caller removes it with `discard`.

        Raises:
            OSError: The files cannot be copied. Nothing of them is left.
        """
        if request.input is None or request.input.directory is None or (self.root / request.name).is_dir():
            return None
        draft = Path(tempfile.mkdtemp(prefix=f"{_DRAFT_PREFIX}input-{request.name}-", dir=self.root))
        renewed_at = stopwatch()

        def check_and_renew() -> None:
            nonlocal renewed_at
            check()
            if stopwatch() - renewed_at > _RENEW_SECONDS:
                os.utime(draft)  # so that it does not become stale
                renewed_at = stopwatch()

        try:
            copy_tree(request.input.directory, draft / INPUT, check_and_renew)
        except BaseException:
            self._delete(draft)
            raise
        return draft

    def discard(self, draft: Path) -> None:
        """Remove what `copy_input` has made, if it is not part of a job directory."""
        self._delete(draft)

    def create(self, request: ContainerRequest, copied_input: Path | None = None) -> None:
        """
        Create a job directory with everything that the command needs, atomically. Keep one that exists.

        Args:
            request: The request.
            copied_input: The result of `copy_input`.
        """
        owner = self._account.owner
        draft = Path(tempfile.mkdtemp(prefix=f"{_DRAFT_PREFIX}{request.name}-", dir=self.root))
        try:
            with open_dir(str(draft)) as fd:
                os.close(create_file(fd, LABELS, json.dumps(dict(request.identity_labels)).encode()))
                os.mkdir(LOG, 0o700, dir_fd=fd)
                for name in (OUTPUT, WORK, SECRETS):
                    create_private_dir(fd, name, owner=owner)
                if request.input is None or request.input.directory is None:
                    create_private_dir(fd, INPUT, owner=owner)
                else:
                    self._move_input(copied_input, fd)
                with open_dir(SECRETS, fd) as secrets_fd:
                    for name, text in request.spec.secret_files.items():
                        create_private_file(secrets_fd, name, text.encode("utf-8", "surrogatepass"), owner=owner)
                create_private_file(fd, EVENT, request.event, owner=owner)
                os.fchmod(fd, 0o700 if owner is None else 0o711)  # the job's user may enter it, but not list it
                os.fsync(fd)
            draft.rename(self.root / request.name)
        except OSError:
            self._delete(draft)
            if not (self.root / request.name).is_dir():
                raise

    def _move_input(self, copied_input: Path | None, job_fd: int) -> None:
        """Move the copy of an input into a job directory. Only the job's user can enter it."""
        if copied_input is None or not (copied_input / INPUT).is_dir():
            raise FileNotFoundError("the job directory was removed while the job was started; start it again")
        os.rename(copied_input / INPUT, INPUT, dst_dir_fd=job_fd)
        with open_dir(INPUT, job_fd) as fd:
            os.fchmod(fd, 0o500)
            if self._account.owner is not None:
                os.fchown(fd, *self._account.owner)

    def remove(self, name: str) -> str | None:
        """
        Remove a job directory. The job disappears at once, before its files are deleted.

        Returns:
            Why some files could not be deleted, or None if all of them are deleted.
        """
        removed = self.root / f"{_REMOVED_PREFIX}{name}-{os.urandom(8).hex()}"
        with contextlib.suppress(FileNotFoundError):
            (self.root / name).rename(removed)
        return self._delete(removed)

    def remove_stale(self, now: datetime) -> None:
        """Delete directories that a killed worker has only half created or half removed."""
        for entry in os.scandir(self.root):
            with contextlib.suppress(OSError):
                age = now - datetime.fromtimestamp(entry.stat(follow_symlinks=False).st_ctime, UTC)
                if entry.name.startswith((_DRAFT_PREFIX, _REMOVED_PREFIX)) and age > _STALE_AFTER:
                    self._delete(Path(entry.path))

    def _delete(self, path: Path) -> str | None:
        try:
            with open_dir(str(path)) as fd:
                remove_contents(fd)
            path.rmdir()
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{path}: {error}"
        return None
