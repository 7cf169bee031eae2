"""The files of a run: those that `save` names, and media."""

from __future__ import annotations

import base64
import glob as patterns
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upshot.sdk.connection import say, say_once
from upshot.sdk.journal import Journal, Record
from upshot.sdk.run_names import new_session
from upshot.sdk.sdk_errors import InvalidArgument
from upshot.sdk.transport import file_record

_POLICIES = ("now", "live", "end")
_INLINE_BYTES = 1024 * 1024  # a larger file is copied into the folder of the run


@dataclass(slots=True)
class FileToSave:
    """A file, and its path in the run."""

    path: str
    source: Path
    seen: tuple[int, int]  #: when it was modified, and its size, when it was last copied

    def has_changed(self) -> bool:
        """Return whether the file has changed since it was last copied."""
        try:
            return _state(self.source) != self.seen
        except OSError:
            return False


class RunFiles:
    """
    The files that a run of this program adds.

    Args:
        run_path: Path of the run in the API.
        journal: What the run sends.
    """

    def __init__(self, run_path: str, journal: Journal) -> None:
        self._run_path = run_path
        self._journal = journal
        self._saved: dict[str, FileToSave] = {}  # by path in the run: those that may change

    def save(self, files: Iterable[FileToSave], *, policy: str) -> list[str]:
        """Add copies of files to the run, and return the paths in the run."""
        saved = []
        for file in files:
            if self._copy(file.path, file.source):
                saved.append(file.path)
            if policy != "now":
                self._saved[file.path] = file
        return saved

    def save_changed(self) -> None:
        """Add copies of the files that have changed since they were saved."""
        for file in self._saved.values():
            if file.has_changed():
                self._copy(file.path, file.source)

    def add(self, path: str, content: bytes) -> None:
        """Add a file with this content to the run."""
        digest = hashlib.sha256(content).hexdigest()
        file: dict[str, Any] = {"path": path, "digest": f"sha256:{digest}", "size": len(content)}
        if len(content) <= _INLINE_BYTES:
            file["content"] = base64.b64encode(content).decode()
        else:
            try:
                self._journal.make_folder()
                file["source"] = f"{digest}.bin"
                (self._journal.folder / file["source"]).write_bytes(content)
            except OSError as error:
                say_once(f"{path} was left out: {self._journal.folder} cannot be written: {error.strerror or error}")
                return
        self._append(file_record(self._run_path, [file]))

    def _copy(self, path: str, source: Path) -> bool:
        """Add a copy of a file to the run. Return False, with a note, if it cannot be copied."""
        from upshot.client.file_digest import copy_and_hash

        copy = self._journal.folder / f"{new_session()}.bin"
        try:
            if source.stat().st_size <= _INLINE_BYTES:
                self.add(path, source.read_bytes())
                return True
            self._journal.make_folder()
            with source.open("rb") as file, copy.open("xb") as target:
                digest = copy_and_hash(file, target)
        except OSError as error:
            copy.unlink(missing_ok=True)
            say(f"save: {source} was not copied into the run: {error.strerror or error}")
            return False
        file_json = {"path": path, "digest": digest, "size": copy.stat().st_size, "source": copy.name}
        self._append(file_record(self._run_path, [file_json]))
        return True

    def _append(self, record: Record) -> None:
        if not self._journal.append(record):
            say_once("files of the run are being left out: no server answers, and there is no more room for them")


def find_files_to_save(
    path: str | bytes | os.PathLike[str], base_path: str | os.PathLike[str] | None, *, policy: str, glob: bool
) -> list[FileToSave]:
    """
    Return the files that a path or a pattern means.

    Raises:
        InvalidArgument: They are not below `base_path`, or the policy is unknown.
    """
    if policy not in _POLICIES:
        raise InvalidArgument(f"save(policy={policy!r}): write one of {', '.join(_POLICIES)}")
    text = os.fsdecode(path)
    if "://" in text:
        say(f"save: {text} is not a local file; use an artifact with add_reference()")
        return []
    pattern = Path(os.path.abspath(text))  # noqa: PTH100 - a link in it stays
    if base_path is not None:
        base = Path(os.path.abspath(base_path))  # noqa: PTH100
        if not pattern.is_relative_to(base):
            pattern = base / text if not Path(text).is_absolute() else pattern
        pattern = Path(os.path.normpath(pattern))
        if not pattern.is_relative_to(base):
            raise InvalidArgument(f"save: {text} is not below {base_path}; pass a base_path that is above it")
    else:
        base = Path.cwd()
        if not pattern.is_relative_to(base):
            base = pattern.parents[1] if len(pattern.parents) > 1 else pattern.parent  # its directory stays in the path
    found = sorted(patterns.glob(str(pattern), recursive=True)) if glob else [str(pattern)]  # noqa: PTH207 - a pattern with its directory
    if glob and not found and pattern.exists():  # a name with `[` in it
        found = [str(pattern)]
    files = [file for name in found for file in _files(Path(name))]
    if not files:
        say(f"save: there is no file {text}")
    return [FileToSave(file.relative_to(base).as_posix(), file, _state(file)) for file in files]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    elif path.is_file():
        yield path


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
