"""
Load automations from a folder of files, each with one or more documents.

An error in a document disables that document and no other. `in_force` decides which automations then answer events.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from upshot.automations.files import NAME_NOT_UTF8, FolderFiles, SkippedPath, is_utf8, printable_path
from upshot.automations.in_force import LoadedFile, LoadedFolder, decide
from upshot.automations.parser.automation import parse_automation
from upshot.automations.parser.diagnostics import MAX_DIAGNOSTICS, Diagnostics, TooManyErrors
from upshot.automations.parser.document import (
    MAX_FILE_BYTES,
    Document,
    YamlMapping,
    decode,
    parse_documents,
    split_documents,
    to_yaml_nodes,
)
from upshot.automations.parser.steps import ParseContext
from upshot.domain.automation import Automation
from upshot.errors import AutomationInvalid, ConfigError
from upshot.schema.action_inputs import ActionSpec

MAX_BODY_FILE_BYTES = 64 * 1024  # the limit of a template
MAX_DOCUMENTS = 10_000  # per file

Catalog = Mapping[str, ActionSpec]
T = TypeVar("T")

_NAME = re.compile(r"""^name:[ \t]+["']?([A-Za-z0-9][A-Za-z0-9._-]*)["']?[ \t\r]*(?:#.*)?$""", re.MULTILINE)


def load_folder(folder: Path, catalog: Catalog) -> LoadedFolder:
    """
    Load all automations of a folder, as if none had been in force before.

    Args:
        folder: Searched recursively, without hidden folders. If it is missing, the result contains that error.
        catalog: The actions that steps can use.
    """
    try:
        with FolderFiles(folder) as files:
            listing = files.listing()
            loaded = [load_file(folder, path, catalog) for path in listing.paths]
    except ConfigError as error:
        return merge([unreadable(folder, SkippedPath("", str(error)))])
    return merge([*(unreadable(folder, item) for item in listing.skipped), *loaded])


def unreadable(folder: Path, item: SkippedPath) -> LoadedFile:
    """Return what is known of a file or folder that is skipped."""
    place = printable_path(folder / item.path)
    error = AutomationInvalid(place, None, item.reason)
    return LoadedFile(item.path, place, errors=(error,), hides_files=item.may_hide_files)


def load_file(folder: Path, path: str, catalog: Catalog) -> LoadedFile:
    """Load one file. The path is relative to the folder."""
    return _result(load_in_parts(folder, path, catalog))


def load_in_parts(
    folder: Path, path: str, catalog: Catalog, max_errors: int = MAX_DIAGNOSTICS
) -> Generator[int, None, LoadedFile]:
    """
    Load one file, and yield the number of errors after each document, so that the caller can pause.

    Args:
        folder: The folder of automations.
        path: Relative to the folder.
        catalog: The actions that steps can use.
        max_errors: Number of errors to keep.
    """
    place = printable_path(folder / path)
    diagnostics = Diagnostics(place, limit=max_errors)
    body_files: list[Path] = []

    def read_body_file(name: str) -> str:
        body_files.append((folder / path).parent / name)
        if any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
            raise ConfigError("this file is hidden, because a name in its path begins with a dot; rename it")
        beside = posixpath.join(posixpath.dirname(path), name)
        with FolderFiles(folder) as files:
            raw = files.read(beside, MAX_BODY_FILE_BYTES, allows_hidden=False)
        if len(raw) > MAX_BODY_FILE_BYTES:
            raise ConfigError(f"the file is larger than {MAX_BODY_FILE_BYTES // 1024} KB")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ConfigError("the file is not UTF-8; save it as UTF-8") from None

    try:
        if not is_utf8(path):
            raise ConfigError(NAME_NOT_UTF8)
        with FolderFiles(folder) as files:
            text = decode(files.read(path, MAX_FILE_BYTES), diagnostics.add)
    except ConfigError as error:
        diagnostics.add(None, str(error))
        text = None
    if text is None:
        return LoadedFile(printable_path(path), place, errors=diagnostics.errors, broken_names=(None,))
    loaded = yield from _load_text(text, printable_path(path), catalog, read_body_file, diagnostics)
    return replace(loaded, body_files=tuple(dict.fromkeys(body_files)))


def load_text(text: str, path: str, catalog: Catalog, read_body_file: Callable[[str], str] | None = None) -> LoadedFile:
    """
    Load the text of one file.

    Args:
        text: One or more documents.
        path: Name of the file, for messages.
        catalog: The actions that steps can use.
        read_body_file: Returns the text of a body file, or raises ConfigError with the reason.
    """
    diagnostics = Diagnostics(path, limit=MAX_DIAGNOSTICS)
    file = _result(_load_text(text, path, catalog, read_body_file or _no_body_file, diagnostics))
    merged = merge([file])
    return replace(file, automations=merged.automations, errors=merged.errors)


def _result(loading: Generator[object, None, T]) -> T:
    while True:
        try:
            next(loading)
        except StopIteration as end:
            result: T = end.value
            return result


def _no_body_file(name: str) -> str:
    raise ConfigError(f"{name!r} cannot be read, because the automation is not in a folder")


def _load_text(
    text: str, path: str, catalog: Catalog, read_body_file: Callable[[str], str], diagnostics: Diagnostics
) -> Generator[int, None, LoadedFile]:
    automations: list[Automation] = []
    broken_names: list[str | None] = []
    if not text.strip():
        diagnostics.add(None, "the file is empty; write an automation, or remove the file")
        broken_names.append(None)
    for number, (lines_before, part) in enumerate(split_documents(text)):
        errors_before, names = diagnostics.count, set(_NAME.findall(part))
        try:
            if number == MAX_DOCUMENTS:
                diagnostics.add(lines_before + 1, f"the file has more than {MAX_DOCUMENTS} documents; split it")
            sound: list[Automation] = []
            for document in parse_documents(part, diagnostics.add, lines_before):
                if document.value is not None:
                    context = ParseContext(catalog, read_body_file, diagnostics, {})
                    automation = parse_automation(document, path, context)
                    sound += [automation] if automation else []
                    if isinstance(document.value, YamlMapping) and "name" in document.value:
                        names.add(str(document.value["name"]))
        except TooManyErrors:
            sound = []
        if diagnostics.count == errors_before:
            automations += sound
        else:
            broken_names.append(names.pop() if len(names) == 1 else None)
        if number == MAX_DOCUMENTS:
            broken_names.append(None)
            break
        yield diagnostics.count
    return LoadedFile(path, diagnostics.path, tuple(automations), diagnostics.errors, tuple(broken_names))


def merge(files: Iterable[LoadedFile]) -> LoadedFolder:
    """Combine the files of a folder, as if none had been in force before. Names must be unique across all of them."""
    return decide(files).folder


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
