"""
Bring in runs that were kept in a folder: offline runs, and what a program could not send before its end.

The records of the journal are sent in their order. After each, the position is written to `sync.json` in the folder, so
that a sync which was interrupted continues there. A record that is sent twice changes nothing: the ids of runs,
artifact versions and links were made by the program, and requests with metrics are numbered. An artifact version whose
content the server has already is the server's version from then on, which `sync.json` records, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from upshot.client.addresses import ApiError, api_path
from upshot.clock import format_time
from upshot.errors import InvalidInput, UpshotError
from upshot.sdk.connection import new_client
from upshot.sdk.journal import FILE_NAME, LOCK_NAME, RUN_FILE_NAME, Record, read_record
from upshot.sdk.transport import Transport, is_about_body, is_temporary

STATE_NAME = "sync.json"


class InUse(UpshotError):
    """The program of the run still runs, or another sync brings it in."""


@dataclass(slots=True)
class Report:
    """What a sync of one run did, or would do."""

    folder: Path
    run: str  #: `project/id`
    counts: dict[str, int] = field(default_factory=dict)  #: records by kind
    kept_aliases: list[str] = field(default_factory=list)  #: `series:alias` that somebody has moved meanwhile
    rejected: list[str] = field(default_factory=list)  #: what the server did not accept, and why


def find_folders(paths: list[Path]) -> list[Path]:
    """
    Return the folders of runs among the paths and directly below them, the oldest first.

    Raises:
        InvalidInput: A path is not a directory.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise InvalidInput(f"{path}: there is no such directory; write a directory of runs, or one run's")
        inner = [path] if (path / RUN_FILE_NAME).is_file() else sorted(path.iterdir())
        found.update((folder, None) for folder in inner if (folder / RUN_FILE_NAME).is_file())
    return sorted(found, key=lambda folder: folder.name)


def sync_folder(folder: Path, *, dry_run: bool = False, keep: bool = False) -> Report | None:
    """
    Bring in one run, and remove its folder, unless something in it was not accepted.

    Args:
        folder: The folder of the run.
        dry_run: Only count what there is.
        keep: Keep the folder. It is not brought in again.

    Returns:
        None if there is nothing left to bring in.

    Raises:
        InUse: Its program still runs, or another sync brings it in.
        InvalidInput: The folder cannot be read.
        Unavailable: No server answers. The next sync continues where this one stopped.
    """
    with _locked(folder):
        if not (folder / RUN_FILE_NAME).is_file():
            return None  # another sync was faster
        about = _read_about(folder)
        report = Report(folder, f"{about['project']}/{about['id']}")
        state = _State(folder)
        if state.is_done:
            return None
        if dry_run:
            for record, _ in _records(folder, state.offset):
                report.counts[record.kind] = report.counts.get(record.kind, 0) + 1
            return report
        sender = _Sender(folder, report, state)
        for record, end in _records(folder, state.offset):
            sender.send(record)
            report.counts[record.kind] = report.counts.get(record.kind, 0) + 1
            state.has_end |= record.kind == "finish"
            state.save(end)
        if not state.has_end:
            sender.send(_lost_end(folder, about))
        state.finish()
        if not keep and not report.rejected:
            (folder / RUN_FILE_NAME).unlink(missing_ok=True)  # if this is interrupted, the rest is not a run
            shutil.rmtree(folder, ignore_errors=True)
        return report


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run, which its program holds while it runs."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield  # another sync has removed the folder
        return
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be locked: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InUse(f"{folder}: its program still runs, or another sync brings it in") from error
        yield
    finally:
        os.close(descriptor)


def _read_about(folder: Path) -> Mapping[str, Any]:
    try:
        about = json.loads((folder / RUN_FILE_NAME).read_text(encoding="utf-8"))
        return {name: about[name] for name in ("project", "id", "session")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{folder / RUN_FILE_NAME}: cannot be read ({error}); restore it, or remove {folder}"
        ) from error


def _records(folder: Path, offset: int) -> Iterator[tuple[Record, int]]:
    """Yield the records from a position on, each with the position behind it. A torn last line is left out."""
    path = folder / FILE_NAME
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return  # the program was killed while it wrote this
            offset += len(line)
            try:
                record = read_record(line.decode())
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInput(
                    f"{path}: the line at byte {offset - len(line)} cannot be read ({error}); what is before it was "
                    "brought in; restore the file, or remove the line"
                ) from error
            yield record, offset


def _lost_end(folder: Path, about: Mapping[str, Any]) -> Record:
    """Return the end of a run whose program was killed: it failed when it wrote last."""
    written_at = datetime.fromtimestamp((folder / FILE_NAME).stat().st_mtime, UTC) if _has_journal(folder) else None
    body = {"state": "failed", "session": about["session"]}
    if written_at is not None:
        body["finished_at"] = format_time(written_at)
    path = api_path("projects", about["project"], "runs", about["id"], "finish")
    return Record("finish", "POST", path, json.dumps(body))


def _has_journal(folder: Path) -> bool:
    return (folder / FILE_NAME).is_file()


class _State:
    """How far the sync of a folder is."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_NAME
        self.offset = 0
        self.is_done = False
        self.has_end = False  #: the program has said how the run ended
        self.versions: dict[str, str] = {}  #: id of the server's version by the id that the program made
        with contextlib.suppress(OSError, ValueError):
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self.versions, self.has_end = stored["versions"], stored["has_end"]
            self.offset, self.is_done = stored["offset"], stored["is_done"]

    def save(self, offset: int) -> None:
        """Write that the records before a position have been sent."""
        self.offset = offset
        new = self._path.with_suffix(".new")
        state = {
            "offset": offset,
            "is_done": self.is_done,
            "has_end": self.has_end,
            "versions": self.versions,
        }
        new.write_text(json.dumps(state))
        new.replace(self._path)

    def finish(self) -> None:
        """Write that everything has been sent."""
        self.is_done = True
        self.save(self.offset)


class _Sender:
    """Sends the records of one run."""

    def __init__(self, folder: Path, report: Report, state: _State) -> None:
        self._folder = folder
        self._report = report
        self._state = state
        self._transport = Transport(folder)
        self._kinds: Mapping[str, Callable[[Record], Any]] = {
            "log": self._send_log,
            "artifact": self._send_artifact,
            "link": self._send_link,
            "use": self._send_use,
        }

    def send(self, record: Record) -> None:
        """
        Send a record. What the server rejects for good is reported, and the next one follows.

        Raises:
            ApiError: The server rejected it, and may accept it later.
            Unavailable: No server answers.
        """
        try:
            send = self._kinds.get(record.kind) or self._transport.send
            send(record)
        except ApiError as error:
            if is_temporary(error):
                raise
            if record.kind == "start":
                raise UpshotError(
                    f"{self._report.run} was not brought in, and {self._folder} is kept: {error}"
                ) from error
            self._report.rejected.append(f"{record.kind}: {error}")
            if is_about_body(error):
                self._transport.send_instead(record)
        except (OSError, InvalidInput) as error:
            self._report.rejected.append(f"{record.kind}: {error}")

    def _send_log(self, record: Record) -> None:
        self._transport.send(record.with_body({**json.loads(record.body), "late": True}))

    def _send_artifact(self, record: Record) -> None:
        from upshot.client.file_digest import LocalFile
        from upshot.client.uploads import log_version
        from upshot.domain.manifest import ManifestEntry

        request = json.loads(record.body)
        files = [
            LocalFile(
                ManifestEntry(file["path"], file["digest"], file["size"], file.get("ref")),
                self._folder / file["source"] if file.get("source") else None,
            )
            for file in record.files
        ]
        project = request.pop("project")
        with new_client() as client:
            version = log_version(client, project, request, files, what=request["name"])
        self._state.versions[request["id"]] = version["artifact_version_id"]
        self._note_aliases(version)

    def _send_link(self, record: Record) -> None:
        body = json.loads(record.body)
        body["artifact"] = self._state.versions.get(body["artifact"], body["artifact"])
        self._note_aliases(self._transport.send(record.with_body(body)))

    def _send_use(self, record: Record) -> None:
        body = json.loads(record.body)
        body["artifact"] = self._state.versions.get(body["artifact"], body["artifact"])
        self._transport.send(record.with_body(body))

    def _note_aliases(self, version: Mapping[str, Any]) -> None:
        name = version["reference"].rpartition(":")[0]
        self._report.kept_aliases += [f"{name}:{alias}" for alias in version["kept_aliases"]]
