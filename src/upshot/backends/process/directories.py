"""The folder of a backend, and in it a folder for each job, whose name makes it the only one."""

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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from upshot.backends.process.options import Account
from upshot.backends.process.request import EVENT, INPUT, WORK
from upshot.backends.process.safe_files import (
    NotRegularFile,
    empty,
    make_folder,
    opened,
    read_plain,
    write_private,
)
from upshot.backends.process.shim import (
    CLAIM,
    END,
    LOG,
    OUTPUT,
    SECRETS,
    STOP,
    ShimResult,
    boot_id,
    publish,
    read_process,
    write_new,
)
from upshot.backends.protocol import ContainerRequest, EngineUnavailable
from upshot.domain.job import FailureKind

OUTPUTS = "outputs.json"
ORDER = "order.json"  #: whose job it is

_IDENTITY = ".identity"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")  # a DNS label, so that it is one part of a path
_RECORD_BYTES = 64 * 1024
_DRAFT, _GONE = ".new-", ".gone-"
_DRAFTS_LAST = timedelta(minutes=10)  # a folder takes milliseconds to be made
_WRITABLE_FOR_OTHERS = 0o022
_ENTERED_BY_OTHERS = 0o001
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_PLAYED_WITH = {errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENXIO}  # of a record of ours: by the job itself


def is_name(name: str) -> bool:
    """Whether a job can be called so; nothing else is ever looked for in the folder."""
    return len(name) <= 200 and _NAME.fullmatch(name) is not None  # noqa: PLR2004 - a file's name has 255 at most


@dataclass(frozen=True, slots=True)
class ShimRecord:
    """Who runs the command: a shim; or nobody, where it was ended before it began."""

    pid: int | None
    ticks: int
    boot: str
    started_at: datetime

    @property
    def is_of_this_boot(self) -> bool:
        """The machine has not been started again since."""
        return self.boot == boot_id()

    def poke(self, number: int) -> None:
        """Send a signal to the shim, and to no other process that has its number now."""
        process = read_process(self.pid) if self.pid is not None else None
        if process is not None and process.ticks == self.ticks and self.is_of_this_boot:
            with contextlib.suppress(OSError):
                os.kill(process.pid, number)


@dataclass(frozen=True, slots=True)
class JobDirectory:
    """
    A job's folder, held open.

    What a job running as our own user writes into it is not believed further than the job itself.
    """

    path: Path
    folder: int

    @property
    def name(self) -> str:
        """The job's."""
        return self.path.name

    def label(self) -> dict[str, Any] | None:
        """Whose job it is: `installation` and `job`."""
        return self._record(ORDER)

    def claim(self) -> ShimRecord | None:
        """Who runs the command; None while nobody ever has."""
        kept = self._record(CLAIM)
        if kept is None:
            return None
        try:
            moment = datetime.fromtimestamp(kept["started_at"], UTC)
            return ShimRecord(kept["pid"], int(kept["ticks"]), str(kept["boot"]), moment)
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            return ShimRecord(None, 0, "", datetime.fromtimestamp(0, UTC))

    def is_watched(self) -> bool:
        """Whether a shim lives: it holds a lock for so long, and the kernel lets go of it with the shim."""
        try:
            file = os.open(CLAIM, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.folder)
        except OSError as error:
            if error.errno in _PLAYED_WITH:
                return False
            raise  # we cannot tell, as when too many files are open: no reason to give it up
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def end(self) -> ShimResult | None:
        """How it ended; None while it has not."""
        kept = self._record(END)
        if kept is None:
            return None
        try:
            return ShimResult(
                exit_code=None if kept["exit_code"] is None else int(kept["exit_code"]),
                finished_at=float(kept["finished_at"]),
                failure=FailureKind(kept["cause"]).value if kept.get("cause") else None,
                note=None if kept.get("note") is None else str(kept["note"]),
            )
        except (KeyError, TypeError, ValueError):
            return ShimResult(None, 0.0, FailureKind.ENGINE_LOST.value, f"{self.path / END} was written over")

    def finish(self, end: ShimResult) -> None:
        """Say how it ended, if nobody has."""
        if (file := publish(self.folder, END, end._asdict())) is not None:
            os.close(file)

    def take_unbegun(self, now: datetime) -> bool:
        """See to it that nobody runs the command any more; False where somebody has begun to."""
        if self.claim() is not None:
            return False
        claim = {"pid": None, "ticks": 0, "boot": boot_id(), "started_at": now.timestamp()}
        file = publish(self.folder, CLAIM, claim)
        if file is not None:
            os.close(file)
        return file is not None

    def wish_end(self, grace_seconds: float) -> None:
        """Tell the shim to end the command; where the disk is full, it hears of it without the grace's length."""
        draft, number = f".{STOP}.{os.urandom(8).hex()}", signal.SIGUSR1
        try:
            os.close(write_new(self.folder, draft, json.dumps({"grace_seconds": grace_seconds}).encode()))
            os.rename(draft, STOP, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            number = signal.SIGTERM
        if (claim := self.claim()) is not None:
            claim.poke(number)

    def read_outputs(self, *, limit_bytes: int) -> bytes | None:
        """What the job gives back; raises NotPlain and OSError."""
        try:
            found = os.stat(OUTPUT, dir_fd=self.folder, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                what = "a link" if stat.S_ISLNK(found.st_mode) else "no folder"
                raise NotRegularFile(f"cannot be read: its folder is {what} now")
            with opened(OUTPUT, self.folder) as output:
                return read_plain(output, OUTPUTS, limit_bytes=limit_bytes)
        except FileNotFoundError:
            return None

    def _record(self, name: str) -> dict[str, Any] | None:
        """One of our own files; one that is not ours any more says nothing."""
        try:
            data = read_plain(self.folder, name, limit_bytes=_RECORD_BYTES)
            record = None if data is None else json.loads(data)
        except (NotRegularFile, ValueError, PermissionError):
            return {}
        return record if record is None or isinstance(record, dict) else {}


class JobDirectories:
    """
    All jobs of a backend.

    Args:
        root: Its folder; made if it is not there.
        account: The user that the commands run as.
    """

    def __init__(self, root: Path, account: Account) -> None:
        self.root = root
        self._account = account

    def prepare(self) -> None:
        """
        See that the folder is there, and ours alone.

        Raises:
            EngineUnavailable: It is no folder, or others may write to it.
        """
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.root.mkdir(0o700)
        found = self.root.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise EngineUnavailable(f"{self.root} is no folder; name another, or remove what is there")
        if found.st_uid != os.geteuid() or found.st_mode & _WRITABLE_FOR_OTHERS:
            raise EngineUnavailable(
                f"{self.root} can be written by others than this worker's user; give it a folder of its own"
            )
        if not self._account.is_us and not found.st_mode & _ENTERED_BY_OTHERS:
            self.root.chmod(0o711)

    def identity(self) -> str:
        """A word of chance that stays with the folder."""
        with opened(str(self.root)) as root:
            while (kept := read_plain(root, _IDENTITY, limit_bytes=100)) is None:
                file = publish(root, _IDENTITY, {"id": os.urandom(8).hex()})
                if file is not None:
                    os.close(file)
        return str(json.loads(kept)["id"])

    def names(self) -> list[str]:
        """Of all jobs that are there."""
        return [name for name in (entry.name for entry in self.root.iterdir()) if is_name(name)]

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[JobDirectory | None]:
        """A job's folder; None where there is none."""
        if not is_name(name):
            yield None
            return
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._opened(self.root / name))
            except (FileNotFoundError, NotADirectoryError):
                yield None
                return
            yield JobDirectory(self.root / name, folder)

    def _opened(self, path: Path) -> contextlib.AbstractContextManager[int]:
        if not os.access(path, os.R_OK | os.X_OK, follow_symlinks=False) and path.is_dir():
            path.chmod(0o700)  # a job of our own user has shut it
        return opened(str(path))

    def make(self, order: ContainerRequest) -> None:
        """Make a job's folder with all that lies in it before the start, at once; one that is there is left."""
        owner = self._account.owner
        draft = Path(tempfile.mkdtemp(prefix=f"{_DRAFT}{order.name}-", dir=self.root))
        try:
            with opened(str(draft)) as folder:
                label = {"installation": order.installation, "job": order.job_id}
                os.close(write_new(folder, ORDER, json.dumps(label).encode()))
                os.mkdir(LOG, 0o700, dir_fd=folder)
                for name in (OUTPUT, INPUT, WORK, SECRETS):
                    make_folder(folder, name, owner=owner)
                with opened(SECRETS, folder) as secrets:
                    for name, text in order.spec.files.items():
                        write_private(secrets, name, text.encode("utf-8", "surrogatepass"), owner=owner)
                write_private(folder, EVENT, order.event, owner=owner)
                os.fchmod(folder, 0o700 if owner is None else 0o711)  # entered by its user, and not listed
                os.fsync(folder)
            draft.rename(self.root / order.name)
        except OSError:
            self._clear(draft)
            if not (self.root / order.name).is_dir():
                raise

    def take_away(self, name: str) -> str | None:
        """Remove a job's folder, at once for all who look; returns why something of it is left, if so."""
        gone = self.root / f"{_GONE}{name}-{os.urandom(8).hex()}"
        with contextlib.suppress(FileNotFoundError):
            (self.root / name).rename(gone)
        return self._clear(gone)

    def sweep(self, now: datetime) -> None:
        """Remove what a worker that died has left half made, or half removed."""
        for entry in os.scandir(self.root):
            with contextlib.suppress(OSError):
                age = now - datetime.fromtimestamp(entry.stat(follow_symlinks=False).st_ctime, UTC)
                if entry.name.startswith((_DRAFT, _GONE)) and age > _DRAFTS_LAST:
                    self._clear(Path(entry.path))

    def _clear(self, path: Path) -> str | None:
        try:
            with opened(str(path)) as folder:
                empty(folder)
            path.rmdir()
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{path}: {error}"
        return None
