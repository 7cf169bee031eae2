"""Uploads of artifacts that go on while the program continues."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from upshot.client.blob_cache import cache_location
from upshot.client.file_digest import LocalFile
from upshot.clock import SystemClock
from upshot.sdk.connection import read_settings, say
from upshot.sdk.sdk_errors import NoRun, WaitTimeout

_PREFIX = ".upshot-"
_NEW_SECONDS = 60.0


class Upload:
    """
    One artifact that is being logged.

    Args:
        name: Of the artifact.
        work: Logs it, and returns the version as the server has it.
    """

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.is_reported = False  #: the error was raised or printed
        self._work = work
        self._version: Any = None
        self._done = threading.Event()
        self._process_id = os.getpid()

    @property
    def is_done(self) -> bool:
        """Whether the server has the artifact, or an error has ended the upload."""
        return self._done.is_set()

    def run(self) -> None:
        """Do the work."""
        try:
            self._version = self._work()
        except BaseException as error:  # noqa: BLE001 - `wait` raises it
            self.error = error
        self._done.set()

    def join(self) -> None:
        """Wait for the end of the upload, without its result."""
        self._check_process()
        self._done.wait()

    def _check_process(self) -> None:
        """Refuse to wait in a forked process for a thread that only its parent has."""
        if not self.is_done and os.getpid() != self._process_id:
            raise NoRun(f"artifact {self.name}: the process that logged it uploads it; wait for it there")

    def wait(self, timeout: float | None = None) -> Any:
        """
        Return the version when the server has it.

        Raises:
            WaitTimeout: It takes longer than the given seconds.
        """
        self._check_process()
        if not self._done.wait(timeout):
            raise WaitTimeout(f"artifact {self.name}: it is not uploaded after {timeout:g} s; call wait() again")
        if self.error is not None:
            self.is_reported = True
            raise self.error
        return self._version


class Uploads:
    """
    The uploads of one run. They are carried out one after the other, so that versions get their numbers in the order
    in which they were logged. Each sends several files at a time.
    """

    def __init__(self) -> None:
        self._waiting: deque[Upload] = deque()
        self._unfinished: list[Upload] = []  # also those that failed, until that is reported
        self._is_working = False
        self._lock = threading.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether all uploads have ended."""
        with self._lock:
            return not self._is_working

    def start(
        self,
        name: str,
        files: Sequence[LocalFile],
        begin: Callable[[], Any],
        send: Callable[[Sequence[LocalFile]], Any],
    ) -> Upload:
        """
        Begin an upload after those before it.

        Args:
            name: Of the artifact.
            files: They are copied before this method returns. If there is no room for copies, it returns after the
                upload.
            begin: Begins the version, and returns it if the server has its content already.
            send: Sends the files, and returns the version.
        """
        if not any(file.source is not None and file.may_change for file in files):
            return self._add(name, lambda: begin() or send(files))
        try:
            copies = FileCopies(files, _copies_folder())
        except OSError as error:
            say(
                f"{error.filename2 or error.filename}: {error.strerror}: there is no copy of the files of {name}, so "
                "the program waits until they are uploaded"
            )
            upload = self._add(name, lambda: begin() or send(files))
            upload.join()
            return upload

        def work() -> Any:
            try:
                return begin() or send(copies.files)
            finally:
                copies.remove()

        return self._add(name, work)

    def _add(self, name: str, work: Callable[[], Any]) -> Upload:
        upload = Upload(name, work)
        with self._lock:
            self._unfinished = [known for known in self._unfinished if not known.is_done or known.error is not None]
            self._unfinished.append(upload)
            self._waiting.append(upload)
            if not self._is_working:
                self._is_working = True
                # A daemon: the end of the program waits in `finish`, where Ctrl-C ends the waiting.
                threading.Thread(target=self._work, name="upshot-uploads", daemon=True).start()
        return upload

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_working = False
                    return
                upload = self._waiting.popleft()
            upload.run()

    def wait_for(self, name: str) -> None:
        """Wait for the uploads of an artifact. An error is left for those who wait for the artifact itself."""
        for upload in tuple(self._unfinished):
            if upload.name == name:
                upload.join()

    def finish(self) -> list[Upload]:
        """Wait for all uploads. Return those whose error was not reported."""
        for upload in tuple(self._unfinished):
            upload.join()
        failed = [upload for upload in self._unfinished if upload.error is not None and not upload.is_reported]
        for upload in failed:
            upload.is_reported = True
        return failed

    def cancel(self) -> list[str]:
        """Leave out the uploads that have not begun. Return the names of the artifacts that are not complete."""
        with self._lock:
            self._waiting.clear()
            return [upload.name for upload in self._unfinished if not upload.is_done]


def _copies_folder() -> Path:
    settings = read_settings()
    return cache_location(settings.cache_dir, settings.cache_gb, data=settings.data)[0] / "uploads"


class FileCopies:
    """
    Copies of the files of an upload, so that the program may change its own meanwhile.

    Args:
        files: The files. Those that nobody changes are not copied.
        folder: The directory of all copies of this user. What killed programs have left there is removed.

    Raises:
        OSError: There is no room, or a file cannot be read.
    """

    def __init__(self, files: Iterable[LocalFile], folder: Path) -> None:
        self.files: list[LocalFile] = []
        self._folder = folder / f"{_PREFIX}{secrets.token_urlsafe(9)}"
        self._folder.mkdir(parents=True, mode=0o700)
        self._descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # it is in use
            _remove_old_copies(folder)
            for number, file in enumerate(files):
                copy = file
                if file.source is not None and file.may_change:
                    copy = replace(file, source=self._folder / str(number), original=file.source)
                    shutil.copyfile(file.source, self._folder / str(number))
                self.files.append(copy)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the copies."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._descriptor)


def _remove_old_copies(folder: Path) -> None:
    now = SystemClock().now().timestamp()
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process removes it
            if now - path.stat().st_mtime < _NEW_SECONDS:
                continue  # it may not be locked yet
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
