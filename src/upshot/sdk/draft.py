"""The files of an artifact that is not logged yet."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from upshot.client.file_digest import LocalFile, hash_file
from upshot.domain.manifest import ManifestEntry
from upshot.errors import InvalidInput
from upshot.sdk.sdk_errors import InvalidArgument
from upshot.unicode_text import to_nfc

_MAX_FILES = 100_000
_MAX_PATH_CHARS = 1_024


class Draft:
    """The files and references that have been added, by their path in the artifact."""

    def __init__(self) -> None:
        self.files: dict[str, LocalFile] = {}
        self._composed: dict[str, str] = {}  # path by its composed form
        self._new_files: Path | None = None  # directory of what `new_file` writes

    def add(self, path: str, source: Path, *, overwrite: bool = False, may_change: bool = True) -> ManifestEntry:
        """
        Add a file, which the program may change after the artifact was logged.

        Raises:
            InvalidArgument: There is no such file, it changes meanwhile, or the path is invalid or used.
        """
        try:
            digest, size = hash_file(source)
        except InvalidInput as error:
            raise InvalidArgument(str(error)) from error
        except OSError as error:
            raise InvalidArgument(f"{source}: cannot be read: {error.strerror or error}") from error
        if may_change and (kept := _keep_offline(source, digest)):
            source, may_change = kept, False
        return self.add_entry(ManifestEntry(path, digest, size), source, overwrite=overwrite, may_change=may_change)

    def add_folder(self, folder: Path, name: str | None, *, overwrite: bool, may_change: bool = True) -> None:
        """
        Add the content of a directory, under a path if there is a name.

        Raises:
            InvalidArgument: There is no such directory, a link leads out of it, or a path is invalid or used.
        """
        from upshot.client.uploads import run_in_threads

        if not folder.is_dir():
            raise InvalidArgument(f"{folder}: this is not a directory; add a file with add_file()")
        prefix = f"{check_path(name.strip('/'))}/" if name and name.strip("/") else ""
        files = [(f"{prefix}{path}", file) for path, file in find_files(folder.absolute())]
        for path, _ in files:
            check_path(path)
        run_in_threads(lambda file: self.add(*file, overwrite=overwrite, may_change=may_change), files)

    @contextmanager
    def new_file(self, name: str, mode: str, encoding: str | None) -> Iterator[IO[Any]]:
        """
        Open a new file in a temporary directory, and add it when the block ends without an error.

        Raises:
            InvalidArgument: The path is invalid, or it is used and the mode has an `x`.
        """
        check_path(name)
        overwrite = "x" not in mode
        if not overwrite and name in self.files:
            raise InvalidArgument(f"{name!r} is in the artifact already; use another name, or mode='w'")
        if self._new_files is None:
            self._new_files = Path(tempfile.mkdtemp(prefix="upshot-"))
        path = self._new_files.joinpath(*name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode.replace("x", "w"), encoding=encoding or (None if "b" in mode else "utf-8")) as file:
            yield file
        self.add(name, path, overwrite=overwrite, may_change=False)

    def remove_new_files(self) -> None:
        """Remove the temporary directory of `new_file`."""
        if self._new_files is not None:
            shutil.rmtree(self._new_files, ignore_errors=True)

    def add_entry(
        self, entry: ManifestEntry, source: Path | None, *, overwrite: bool = False, may_change: bool = True
    ) -> ManifestEntry:
        """
        Add a file whose digest is known, or a reference.

        Raises:
            InvalidArgument: The path is invalid, or it is used for other content.
        """
        check_path(entry.path)
        known = self.files.get(entry.path)
        if known is not None and known.entry.digest != entry.digest and not overwrite:
            raise InvalidArgument(
                f"{entry.path!r} is in the artifact already, with other content; use another name, or overwrite=True"
            )
        other = self._composed.setdefault(to_nfc(entry.path), entry.path)
        if other != entry.path:
            raise InvalidArgument(f"{entry.path!r} and {other!r} differ only in how accents are written; rename one")
        if known is None and len(self.files) >= _MAX_FILES:
            raise InvalidArgument(f"an artifact has at most {_MAX_FILES:,} files; pack small files into an archive")
        self.files[entry.path] = LocalFile(entry, source, may_change)
        return entry

    def remove(self, path: str) -> None:
        """
        Remove a file, or all files under a path.

        Raises:
            InvalidArgument: There is none.
        """
        found = [known for known in self.files if known == path or known.startswith(f"{path}/")]
        if not found:
            raise InvalidArgument(f"{path!r} is not in the artifact")
        for known in found:
            del self.files[known]
            self._composed.pop(to_nfc(known), None)


def _keep_offline(source: Path, digest: str) -> Path | None:
    """Return a copy of a file in the folder of the program's run if it is offline, otherwise None."""
    from upshot.sdk.session import current_run

    run = current_run()
    return run.keep_file(source, digest) if run is not None and run.offline else None


def check_path(path: str) -> str:
    """
    Validate a path in an artifact, and return it.

    Raises:
        InvalidArgument: It is absolute, leads out of the artifact, or has a character that is not allowed.
    """
    is_plain = "\\" not in path and not any(part in {"", ".", ".."} for part in path.split("/"))
    if not is_plain or "\x00" in path:
        raise InvalidArgument(f"{path!r} is not a path inside the artifact; write it like data/train.csv")
    if len(path) > _MAX_PATH_CHARS:
        raise InvalidArgument(f"{path[:80]!r}…: at most {_MAX_PATH_CHARS} characters are allowed in a path")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{path!r}: the name of the file is not valid Unicode; rename it") from error
    return path


def find_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """
    Yield the files of a directory, by their path in it.

    Raises:
        InvalidArgument: A link leads out of the directory or in a circle, or something is neither file nor directory.
    """
    root = folder.resolve()

    def walk(current: Path, prefix: str, above: frozenset[Path]) -> Iterator[tuple[str, Path]]:
        with os.scandir(current) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink() and not (real := path.resolve()).is_relative_to(root):
                raise InvalidArgument(
                    f"{path}: this link leads out of {folder}, to {real}; add the file itself with add_file()"
                )
            if entry.is_dir():
                real = path.resolve()
                if real in above:
                    raise InvalidArgument(f"{path}: this link leads in a circle; remove it")
                yield from walk(path, f"{prefix}{entry.name}/", above | {real})
            elif entry.is_file():
                yield f"{prefix}{entry.name}", path
            else:
                kind = "broken link" if entry.is_symlink() else _kind(path)
                raise InvalidArgument(f"{path}: a {kind} is not a file; remove it, or add the files one by one")

    yield from walk(folder, "", frozenset({root}))


def _kind(path: Path) -> str:
    mode = path.lstat().st_mode
    kinds = {stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket", stat.S_ISBLK: "device", stat.S_ISCHR: "device"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "special file")
