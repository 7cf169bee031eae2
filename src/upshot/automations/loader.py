"""
From files to automations: one folder, many files, each with one or more documents.

A file with a mistake keeps out its own automations and nobody else's, all of them, until it is put
right: what is in force depends on what the folder holds now and not on what it held before, so every
worker and every restart comes to the same. Of two automations with one name, the first in the
order of paths and lines keeps it; the file of the other is broken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upshot.automations.parser.automation import read_automation
from upshot.automations.parser.diagnostics import Diagnostic, Diagnostics
from upshot.automations.parser.document import MAX_FILE_BYTES, Document, decode, read_documents, with_lines
from upshot.automations.parser.steps import ParseContext
from upshot.domain.automation import ActionSpec, Automation
from upshot.errors import AutomationInvalid, ConfigError

SUFFIXES = (".yaml", ".yml")
MAX_BODY_FILE_BYTES = 64 * 1024  # a template's limit

Catalog = Mapping[str, ActionSpec]


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file that keeps its automations out."""

    path: str  #: as the user named it
    errors: tuple[Diagnostic, ...]  #: everything that is wrong with it, in the order of lines


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """One file, read on its own."""

    path: str  #: as the user named it
    automations: tuple[Automation, ...]  #: none when there are errors
    errors: tuple[Diagnostic, ...]
    body_files: tuple[Path, ...] = ()  #: files that it names, whether they exist or not


@dataclass(frozen=True, slots=True)
class Loaded:
    """A folder as it was read."""

    automations: tuple[Automation, ...]  #: the sound ones, in the order of paths and lines
    broken: tuple[BrokenFile, ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """All findings, in the order of paths and lines."""
        return tuple(error for file in self.broken for error in file.errors)


def load_folder(folder: Path, catalog: Catalog) -> Loaded:
    """
    Read all automations of a folder.

    Args:
        folder: Read with all folders below it, hidden ones left out; one that is missing is a finding.
        catalog: The actions that steps can use.
    """
    try:
        paths = find_files(folder)
    except ConfigError as error:
        return missing_folder(folder, error)
    return merge(load_file(folder, path, catalog) for path in paths)


def missing_folder(folder: Path, error: ConfigError) -> Loaded:
    """What a folder that cannot be read amounts to: nothing, visibly."""
    return Loaded((), (BrokenFile(str(folder), (AutomationInvalid(str(folder), None, str(error)),)),))


def find_files(folder: Path) -> list[str]:
    """
    Paths of the automation files, relative to the folder, in order.

    Raises:
        ConfigError: The folder is missing.
    """
    if not folder.is_dir():
        raise ConfigError("there is no such folder; make it, or name another with UPSHOT_AUTOMATIONS")
    return sorted(_walk(folder, ""))


def _walk(folder: Path, below: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder / below))
    except FileNotFoundError:
        return  # removed since its name was read
    except OSError:
        yield below.rstrip("/")  # read as a file, it says that it cannot be read, and takes nothing else down
        return
    for entry in entries:
        path = f"{below}{entry.name}"
        if entry.name.startswith("."):
            continue  # hidden: an editor's, git's, or a mounted ConfigMap's own folders
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, f"{path}/")
        elif entry.name.endswith(SUFFIXES):
            yield path


def load_file(folder: Path, path: str, catalog: Catalog) -> LoadedFile:
    """Read one file on its own; the path is relative to the folder."""
    shown = (folder / path).as_posix()
    wanted: list[Path] = []

    def read_body_file(written: str) -> str:
        target = folder / path
        wanted.append(target.parent / written)
        return _read_inside(folder, target.parent / written, MAX_BODY_FILE_BYTES)

    findings = Diagnostics(shown)
    try:
        text = _read_file(folder, folder / path, findings)
    except ConfigError as error:
        findings.add(None, str(error))
        text = None
    automations = () if text is None else _read_text(text, path, catalog, read_body_file, findings)
    return _loaded_file(findings, automations, tuple(wanted))


def _read_file(folder: Path, target: Path, findings: Diagnostics) -> str | None:
    return decode(_read_bytes(folder, target, MAX_FILE_BYTES), findings.add)


def _read_inside(folder: Path, target: Path, limit_bytes: int) -> str:
    raw = _read_bytes(folder, target, limit_bytes)
    if len(raw) > limit_bytes:
        raise ConfigError(f"the file is larger than {limit_bytes // 1024} KB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError("the file is not UTF-8; save it as UTF-8") from None


def _read_bytes(folder: Path, target: Path, limit_bytes: int) -> bytes:
    """
    Read a file of the folder, and no more of it than shows that it is too large.

    Raises:
        ConfigError: It lies outside, directly or through a link; is missing; cannot be read.
    """
    try:
        real = target.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise ConfigError("the file lies outside the folder of automations; move it inside")
        if not real.is_file():
            raise ConfigError(f"this is a {'folder, and' if real.is_dir() else 'special file, and'} cannot be read")
        with real.open("rb") as file:
            return file.read(limit_bytes + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no file {target.as_posix()}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"the file cannot be read: {error}") from error


def load_text(text: str, path: str, catalog: Catalog, read_body_file: Callable[[str], str] | None = None) -> LoadedFile:
    """
    Read the text of one file.

    Args:
        text: With one document or more.
        path: What to call the file in messages.
        catalog: The actions that steps can use.
        read_body_file: Gives the text of a body file, or raises ConfigError with the reason.
    """
    findings = Diagnostics(path)
    automations = _read_text(text, path, catalog, read_body_file or _no_body_file, findings)
    return _loaded_file(findings, automations, ())


def _no_body_file(written: str) -> str:
    raise ConfigError(f"{written!r} cannot be read, for there is no folder here")


def _read_text(
    text: str, path: str, catalog: Catalog, read_body_file: Callable[[str], str], findings: Diagnostics
) -> tuple[Automation, ...]:
    documents = read_documents(text, findings.add)
    filled = [document for document in documents if document.value is not None]
    if not text.strip() and not findings.count:
        findings.add(None, "the file is empty; write an automation, or remove the file")
    automations = []
    for document in filled:
        automation = read_automation(document, path, ParseContext(catalog, read_body_file, {}, findings))
        if automation is not None:
            automations.append(automation)
    return tuple(automations)


def _loaded_file(
    findings: Diagnostics, automations: tuple[Automation, ...], body_files: tuple[Path, ...]
) -> LoadedFile:
    errors = findings.errors
    loaded = LoadedFile(findings.path, () if errors else automations, errors, body_files)
    return _without_repeated_names([loaded])[0]


def merge(files: Iterable[LoadedFile]) -> Loaded:
    """Put the files of a folder together: names are unique over all of them."""
    checked = _without_repeated_names(files)
    return Loaded(
        tuple(automation for file in checked for automation in file.automations),
        tuple(BrokenFile(file.path, file.errors) for file in checked if file.errors),
    )


def _without_repeated_names(files: Iterable[LoadedFile]) -> list[LoadedFile]:
    first: dict[str, tuple[LoadedFile, Automation]] = {}
    checked = []
    for file in files:
        errors = [
            _repeated(file, automation, *first[automation.name])
            for automation in file.automations
            if first.setdefault(automation.name, (file, automation))[1] is not automation
        ]
        checked.append(replace(file, automations=(), errors=tuple(errors)) if errors else file)
    return checked


def _repeated(file: LoadedFile, automation: Automation, other_file: LoadedFile, other: Automation) -> Diagnostic:
    return AutomationInvalid(
        file.path,
        automation.line,
        f"the name {automation.name!r} is taken by {other_file.path}:{other.line}; names are unique over the folder",
    )


def rebuild(
    name: str, source: Mapping[str, Any], body_files: Mapping[str, str], path: str, catalog: Catalog
) -> Automation:
    """
    Make an automation of a kept revision; its lines are not known any more.

    Args:
        name: Of the automation.
        source: The document as plain data.
        body_files: Text of each body file, by its path as written.
        path: File that it came from, for messages.
        catalog: The actions that are installed now.

    Raises:
        ConfigError: The rules have changed since, or an action is gone.
    """
    findings = Diagnostics(path)
    document = Document(with_lines(source), 0)
    automation = read_automation(
        document, path, ParseContext(catalog, body_files.__getitem__, {}, findings, is_kept=True)
    )
    if automation is None:
        raise ConfigError(f"automation {name!r}, as it was kept, is no longer understood: {findings.errors[0]}")
    return automation
