"""
The journal of a run: everything that it sends, as records in order.

A record is one request: its method, path and body, and files that travel with it. `Journal.append` puts it at the end,
and the sender reads from the beginning. While the server answers, the records are in memory. Records that wait for
longer than two seconds, or are more than a few megabytes, are moved to the file `journal.jsonl` in the folder of the
run, in the same order. So memory is bounded while no server answers, and a program that is killed loses nothing that is
older. When the file has been sent, it is removed.

An offline run writes every record to the file at once. A sync reads the file from its beginning and sends each record
as the sender does. It may do so again: every record can be sent twice. The ids of runs, sessions and requests are made
by the program, and the requests with metrics are numbered.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upshot.clock import stopwatch
from upshot.sdk.connection import say_once

FILE_NAME = "journal.jsonl"
RUN_FILE_NAME = "run.json"
LOCK_NAME = "lock"  #: the program of the run holds it while it runs, and a sync while it brings the run in
_MEMORY_BYTES = 8 * 1024 * 1024  # more than this is moved to the file
_LIMIT_BYTES = 64 * 1024 * 1024  # more than this is not kept, if the file cannot be written
_WAIT_SECONDS = 2.0  # a record that waits longer is moved to the file
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One request of a run."""

    kind: str  #: start, change, log, files, event or finish
    method: str
    path: str
    body: str  #: JSON
    key: str | None = None  #: the idempotency key of a request that would otherwise do its work twice
    files: Sequence[Mapping[str, Any]] = ()  #: path, digest and size, with `content` (base64) or `source` (a path)

    def with_body(self, body: Mapping[str, Any]) -> Record:
        """Return the record with another body."""
        return replace(self, body=json.dumps(body, separators=(",", ":")))

    def to_line(self) -> str:
        """Return the line of the journal."""
        head = {"kind": self.kind, "method": self.method, "path": self.path, "key": self.key, "files": self.files}
        return f'{json.dumps(head)[:-1]},"body":{self.body}}}\n'


def read_record(line: str) -> Record:
    """
    Return the record of a line.

    Raises:
        ValueError: It is not one, such as the torn last line of a program that was killed.
    """
    fields = json.loads(line)
    return Record(
        fields["kind"],
        fields["method"],
        fields["path"],
        json.dumps(fields["body"], separators=(",", ":")),
        fields["key"],
        fields["files"],
    )


def read_journal(folder: Path) -> Iterator[Record]:
    """Yield the records of the journal in a folder. A torn last line is left out."""
    with (folder / FILE_NAME).open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield read_record(line)


class Journal:
    """
    The records of a run that were not sent yet.

    Args:
        folder: The folder of the run. It is made when something is written.
        about: What the file `run.json` in it says: project, id and session of the run.
        at_once: Write every record to the file at once, because no server will receive it from this program.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], *, at_once: bool = False) -> None:
        self.folder = folder
        self.at_once = at_once
        self._lock_file: int | None = None
        self._about = about
        self._memory: deque[tuple[Record, str, float]] = deque()  # newer than the file
        self._memory_bytes = 0
        self._lock = threading.RLock()  # of the memory: `append` waits for nothing else
        self._disk = threading.RLock()  # of the file
        self._file_bytes = 0  # valid bytes of the file
        self._read_bytes = 0  # those of them that were sent
        self._changed = threading.Condition(self._lock)
        self.lost = 0  #: records that could not be kept

    def append(self, record: Record) -> bool:
        """Add a record at the end. Return False if there is no room for it."""
        line = record.to_line()
        with self._changed:
            if self._memory_bytes + len(line) > _LIMIT_BYTES and self._memory:
                self.lost += 1
                return False
            self._memory.append((record, line, stopwatch()))
            self._memory_bytes += len(line)
            self._changed.notify()
        if self.at_once:
            self.spill(all=True)
        return True

    @property
    def is_large(self) -> bool:
        """Whether more is in memory than there should be."""
        return self._memory_bytes > _MEMORY_BYTES

    @property
    def has_unwritten(self) -> bool:
        """Whether something is only in memory, or is lost."""
        return bool(self._memory or self.lost)

    def is_empty(self) -> bool:
        """Return whether everything has been sent."""
        return not self._memory and self._read_bytes == self._file_bytes

    def first(self, timeout: float) -> Record | None:
        """Return the first record, or None if there is none after so many seconds."""
        with self._changed:
            if not self._memory and self._read_bytes == self._file_bytes:
                self._changed.wait(timeout)
        with self._disk:
            if self._read_bytes < self._file_bytes:
                line = self._read_line()
                if line is not None:
                    return read_record(line)
            with self._lock:
                return self._memory[0][0] if self._memory else None

    def remove_first(self) -> None:
        """Remove the first record: it has been sent."""
        with self._disk:
            if self._read_bytes < self._file_bytes:
                self._read_bytes += len((self._read_line() or "\n").encode())
                if self._read_bytes >= self._file_bytes:
                    self._remove_file()
                return
            with self._lock:
                if self._memory:
                    self._memory_bytes -= len(self._memory.popleft()[1])

    def spill(self, *, all: bool = False) -> None:
        """Move the records in memory to the file, if they wait for long, or are large, or `all`."""
        with self._lock:
            oldest = self._memory[0][2] if self._memory else None
        if oldest is None or not (all or self.is_large or stopwatch() - oldest > _WAIT_SECONDS):
            return
        with self._disk:
            with self._lock:
                lines = [line for _, line, _ in self._memory]
            content = "".join(lines).encode()
            before = self._file_bytes
            try:
                self._write(content)
            except OSError as error:
                say_once(
                    f"{self.folder}: cannot be written ({error.strerror or error}); what no server has received is "
                    "kept in memory, as far as there is room"
                )
            written = content[: self._file_bytes - before].count(b"\n")
            with self._lock:
                for _ in range(written):
                    self._memory_bytes -= len(self._memory.popleft()[1])

    def make_folder(self) -> None:
        """
        Make the folder of the run, and keep the folder of all runs out of Git.

        Raises:
            OSError: It cannot be made.
        """
        if (self.folder / RUN_FILE_NAME).exists():
            return
        is_new = not self.folder.parent.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_new:  # a directory that exists belongs to the user
            (self.folder.parent / ".gitignore").write_text("*\n")
        self.release()
        self._lock_file = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new = self.folder / f"{RUN_FILE_NAME}.new"
        new.write_text(json.dumps(self._about) + "\n")
        new.replace(self.folder / RUN_FILE_NAME)

    def release(self) -> None:
        """Let a sync bring the run in: this program writes nothing more."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def remove_folder(self) -> None:
        """Remove the folder of the run: everything has been sent."""
        with self._disk:
            if self.folder.exists():
                shutil.rmtree(self.folder, ignore_errors=True)
            self.release()

    def _write(self, content: bytes) -> None:
        """
        Append to the file as many lines as there is room for.

        Raises:
            OSError: There is no room for all.
        """
        self.make_folder()
        descriptor = os.open(self.folder / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.lseek(descriptor, self._file_bytes, os.SEEK_SET)
            rest = memoryview(content)
            try:
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            finally:
                self._file_bytes += content.rfind(b"\n", 0, len(content) - len(rest)) + 1
                if rest:
                    os.ftruncate(descriptor, self._file_bytes)
        finally:
            os.close(descriptor)

    def _read_line(self) -> str | None:
        parts = []
        try:
            with (self.folder / FILE_NAME).open("rb") as file:
                file.seek(self._read_bytes)
                while part := file.readline(_READ_BYTES):
                    parts.append(part)
                    if part.endswith(b"\n"):
                        return b"".join(parts).decode()
        except OSError as error:
            say_once(
                f"{self.folder / FILE_NAME}: cannot be read ({error.strerror or error}); what is in it was not sent"
            )
        self._read_bytes = self._file_bytes  # somebody removed it
        return None

    def _remove_file(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / FILE_NAME).unlink()
        self._read_bytes = self._file_bytes = 0
