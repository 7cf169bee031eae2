"""
Load automations from a folder of files, each with one or more documents.

An error in a file disables all automations of that file, and no others, until it is fixed. What is
active therefore depends on what the folder contains now, not on what it contained before, so every
worker arrives at the same result, also after a restart. If two automations have the same name, the
first in the order of paths and lines keeps it, and the file of the other is broken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upshot.automations.parser.automation import parse_automation
from upshot.automations.parser.diagnostics import Diagnostic, Diagnostics
from upshot.automations.parser.document import MAX_FILE_BYTES, Document, decode, parse_documents, to_yaml_nodes
from upshot.automations.parser.steps import ParseContext
from upshot.domain.automation import Automation
from upshot.errors import AutomationInvalid, ConfigError
from upshot.schema.action_inputs import ActionSpec

SUFFIXES = (".yaml", ".yml")
MAX_BODY_FILE_BYTES = 64 * 1024  # the limit of a template

Catalog = Mapping[str, ActionSpec]


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file whose automations are disabled because of errors."""

    path: str  #: as the user named it
    errors: tuple[Diagnostic, ...]  #: in the order of lines


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """The content of one file."""

    path: str  #: as the user named it
    automations: tuple[Automation, ...]  #: empty if there are errors
    errors: tuple[Diagnostic, ...]
    body_files: tuple[Path, ...] = ()  #: files that it refers to, whether they exist or not


@dataclass(frozen=True, slots=True)
class LoadedFolder:
    """The content of a folder."""

    automations: tuple[Automation, ...]  #: the valid ones, in the order of paths and lines
    broken: tuple[BrokenFile, ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """All errors, in the order of paths and lines."""
        return tuple(error for file in self.broken for error in file.errors)


def load_folder(folder: Path, catalog: Catalog) -> LoadedFolder:
    """
    Load all automations of a folder.

    Args:
        folder: Searched recursively, without hidden folders. If it is missing, the result contains that error.
        catalog: The actions that steps can use.
    """
    try:
        paths = find_files(folder)
    except ConfigError as error:
        return unreadable_folder(folder, error)
    return merge(load_file(folder, path, catalog) for path in paths)


def unreadable_folder(folder: Path, error: ConfigError) -> LoadedFolder:
    """Return the content of a folder that cannot be read: one error."""
    return LoadedFolder((), (BrokenFile(str(folder), (AutomationInvalid(str(folder), None, str(error)),)),))


def find_files(folder: Path) -> list[str]:
    """
    Return the paths of the automation files, relative to the folder, in order.

    Raises:
        ConfigError: The folder is missing.
    """
    if not folder.is_dir():
        raise ConfigError(
            "this folder does not exist; create it, run `upshot init`, or set UPSHOT_AUTOMATIONS to another one"
        )
    return sorted(_walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder / prefix))
    except FileNotFoundError:
        return  # removed since it was listed
    except OSError:
        yield prefix.rstrip("/")  # reading it as a file fails and reports the error, and other files stay valid
        return
    for entry in entries:
        path = f"{prefix}{entry.name}"
        if entry.name.startswith("."):
            continue  # hidden: from an editor, from git, or the folders of a mounted ConfigMap
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, f"{path}/")
        elif entry.name.endswith(SUFFIXES):
            yield path


def load_file(folder: Path, path: str, catalog: Catalog) -> LoadedFile:
    """Load one file. The path is relative to the folder."""
    target = folder / path
    body_files: list[Path] = []

    def read_body_file(name: str) -> str:
        body_files.append(target.parent / name)
        raw = _read_bytes(folder, target.parent / name, MAX_BODY_FILE_BYTES)
        if len(raw) > MAX_BODY_FILE_BYTES:
            raise ConfigError(f"the file is larger than {MAX_BODY_FILE_BYTES // 1024} KB")
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ConfigError("the file is not UTF-8; save it as UTF-8") from None

    diagnostics = Diagnostics(target.as_posix())
    try:
        text = decode(_read_bytes(folder, target, MAX_FILE_BYTES), diagnostics.add)
    except ConfigError as error:
        diagnostics.add(None, str(error))
        text = None
    if text is None:
        return LoadedFile(diagnostics.path, (), diagnostics.errors)
    loaded = _parse_file(text, path, catalog, read_body_file, diagnostics)
    return replace(loaded, body_files=tuple(body_files))


def _read_bytes(folder: Path, target: Path, limit_bytes: int) -> bytes:
    """
    Read a file of the folder, at most one byte more than the limit.

    Raises:
        ConfigError: The file is outside the folder, directly or through a link, or it cannot be read.
    """
    try:
        real = target.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise ConfigError("the file is outside the folder of automations; move it inside")
        if not real.is_file():
            raise ConfigError(f"this is a {'folder' if real.is_dir() else 'special file'}, which cannot be read")
        with real.open("rb") as file:
            return file.read(limit_bytes + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no file {target.as_posix()}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"the file cannot be read: {error}") from error


def load_text(text: str, path: str, catalog: Catalog, read_body_file: Callable[[str], str] | None = None) -> LoadedFile:
    """
    Load the text of one file.

    Args:
        text: One or more documents.
        path: Name of the file, for messages.
        catalog: The actions that steps can use.
        read_body_file: Returns the text of a body file, or raises ConfigError with the reason.
    """
    return _parse_file(text, path, catalog, read_body_file or _no_body_file, Diagnostics(path))


def _no_body_file(name: str) -> str:
    raise ConfigError(f"{name!r} cannot be read, because the automation is not in a folder")


def _parse_file(
    text: str, path: str, catalog: Catalog, read_body_file: Callable[[str], str], diagnostics: Diagnostics
) -> LoadedFile:
    documents = parse_documents(text, diagnostics.add)
    if not text.strip() and not diagnostics.count:
        diagnostics.add(None, "the file is empty; write an automation, or remove the file")
    parsed = [
        parse_automation(document, path, ParseContext(catalog, read_body_file, diagnostics, {}))
        for document in documents
        if document.value is not None
    ]
    automations = tuple(automation for automation in parsed if automation is not None)
    errors = diagnostics.errors
    return _check_names([LoadedFile(diagnostics.path, () if errors else automations, errors)])[0]


def merge(files: Iterable[LoadedFile]) -> LoadedFolder:
    """Combine the files of a folder. Names must be unique across all of them."""
    checked = _check_names(files)
    return LoadedFolder(
        tuple(automation for file in checked for automation in file.automations),
        tuple(BrokenFile(file.path, file.errors) for file in checked if file.errors),
    )


def _check_names(files: Iterable[LoadedFile]) -> list[LoadedFile]:
    """Report automations whose name is taken, and disable their files."""
    first: dict[str, tuple[LoadedFile, Automation]] = {}
    checked = []
    for file in files:
        errors = []
        for automation in file.automations:
            first_file, first_automation = first.setdefault(automation.name, (file, automation))
            if first_automation is not automation:
                taken = f"{first_file.path}:{first_automation.line} already has the name {automation.name!r}"
                reason = f"{taken}; names must be unique in the folder"
                errors.append(AutomationInvalid(file.path, automation.line, reason))
        checked.append(replace(file, automations=(), errors=tuple(errors)) if errors else file)
    return checked


def load_revision(
    name: str, source: Mapping[str, Any], body_files: Mapping[str, str], path: str, catalog: Catalog
) -> Automation:
    """
    Parse a stored revision of an automation. Its lines are unknown.

    Args:
        name: Name of the automation.
        source: The document as plain data.
        body_files: Text of each body file, by the path in the document.
        path: The file that it came from, for messages.
        catalog: The actions that are installed now.

    Raises:
        ConfigError: The rules have changed since it was stored, or an action is not installed.
    """
    diagnostics = Diagnostics(path)
    document = Document(to_yaml_nodes(source), 0)
    context = ParseContext(catalog, body_files.__getitem__, diagnostics, {}, is_stored_revision=True)
    automation = parse_automation(document, path, context)
    if automation is None:
        raise ConfigError(f"the stored revision of automation {name!r} is not valid any more: {diagnostics.errors[0]}")
    return automation
