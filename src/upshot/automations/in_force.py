"""
Decide which automations answer events, from what the files contain now and from what answered events before.

- A sound document is in force at once, and replaces the revision that was in force.
- The last sound revision of an automation stays in force while it is missing in a file that has a broken document,
  or that cannot be read: a mistake can hide the documents after it.
- An automation that is missing stays in force until a second reading confirms that: editors remove or empty a file
  before they write it. An automation that was renamed is replaced at once. Otherwise both would answer the next event.
- A name belongs to the automation that is in force under it. Another document with that name is an error. If two new
  documents have the same name, the first in the order of paths and lines gets it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from upshot.automations.parser.diagnostics import Diagnostic
from upshot.domain.automation import ActiveRevision, Automation
from upshot.errors import AutomationInvalid

MAX_ERRORS = 1_000  #: errors that are kept of a folder


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """The content of one file, or what is known about a folder that cannot be read."""

    path: str  #: relative to the folder of automations, printable
    place: str  #: as the user named it, for messages
    automations: tuple[Automation, ...] = ()  #: of the sound documents
    errors: tuple[Diagnostic, ...] = ()
    broken_names: tuple[str | None, ...] = ()  #: of each broken document; None if its name cannot be read
    body_files: tuple[Path, ...] = ()  #: files that it refers to, whether they exist or not
    hides_files: bool = False  #: its content is unknown: a folder, or a file that was not read to its end

    def may_contain(self, revision: ActiveRevision) -> bool:
        """Return whether the automation can be in a part that is broken or cannot be read."""
        if self.hides_files:
            return not self.path or f"{revision.path}/".startswith(f"{self.path}/")
        return self.path == revision.path and bool(self.broken_names)

    def claims(self, revision: ActiveRevision, names: Mapping[str, object]) -> bool:
        """Return whether a broken document can be this automation instead of one with another of these names."""
        return self.may_contain(revision) and (
            self.hides_files
            or any(name is None or name == revision.name or name not in names for name in self.broken_names)
        )


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file with errors."""

    path: str  #: as the user named it
    errors: tuple[Diagnostic, ...]  #: in the order of lines
    kept: tuple[str, ...] = ()  #: names of its automations whose last sound revision is in force


@dataclass(frozen=True, slots=True)
class LoadedFolder:
    """The content of a folder."""

    automations: tuple[Automation, ...]  #: in force, in the order of paths and lines
    broken: tuple[BrokenFile, ...]
    kept: frozenset[str]  #: names of those whose last sound revision is in force

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """All errors, in the order of paths and lines."""
        return tuple(error for file in self.broken for error in file.errors)


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of one reading of the folder."""

    folder: LoadedFolder
    absent: frozenset[str] = frozenset()  #: missing names; they go out of force if the next reading agrees


def decide(
    files: Iterable[LoadedFile],
    previous: Iterable[ActiveRevision] = (),
    *,
    find_revision: Callable[[ActiveRevision], Automation | None] = lambda _revision: None,
    absent_before: frozenset[str] | None = None,
) -> Decision:
    """
    Decide which automations are in force.

    Args:
        files: What the folder contains.
        previous: The revisions that were in force until now.
        find_revision: Returns a revision that stays in force, or None if it is no longer valid.
        absent_before: `absent` of the previous reading; None for the first reading.
    """
    files = sorted(files, key=lambda file: file.path)
    sound: dict[str, list[Automation]] = defaultdict(list)
    places = {file.path: file for file in files}
    for file in files:
        for automation in file.automations:
            sound[automation.name].append(automation)
    names = {revision.name: revision for revision in previous}
    counts = Counter(revision.path for revision in names.values())
    hidden = [file for file in files if file.hides_files]
    chosen: dict[str, Automation] = {}
    kept: dict[str, ActiveRevision] = {}
    absent: set[str] = set()
    for name, revision in names.items():
        own = next((automation for automation in sound[name] if automation.path == revision.path), None)
        if own is not None:
            chosen[name] = own
            continue
        sources = [*hidden, *([places[revision.path]] if revision.path in places else ())]
        if sound[name] and not any(file.claims(revision, names) for file in sources):
            continue  # it has moved
        if not any(file.may_contain(revision) for file in sources):
            is_renamed = sum(len(file.automations) for file in sources) >= counts[revision.path]
            if is_renamed or absent_before is None or name in absent_before:
                continue
            absent.add(name)
        last_sound = find_revision(revision)
        if last_sound is not None:
            chosen[name], kept[name] = last_sound, revision
    chosen |= {name: found[0] for name, found in sound.items() if found and name not in chosen}
    broken = _limit(
        BrokenFile(file.place, errors, _kept_of(file, kept))
        for file in files
        if (errors := (*file.errors, *_taken_names(file, chosen, places)))
    )
    in_force = sorted(chosen.values(), key=lambda automation: (automation.path, automation.line, automation.name))
    return Decision(LoadedFolder(tuple(in_force), tuple(broken), frozenset(kept)), frozenset(absent))


def _kept_of(file: LoadedFile, kept: Mapping[str, ActiveRevision]) -> tuple[str, ...]:
    return tuple(sorted(name for name, revision in kept.items() if file.may_contain(revision)))


def _taken_names(
    file: LoadedFile, chosen: Mapping[str, Automation], places: Mapping[str, LoadedFile]
) -> Iterable[Diagnostic]:
    for automation in file.automations:
        holder = chosen[automation.name]
        if holder is not automation:
            place = places[holder.path].place if holder.path in places else holder.path
            at = f"{place}:{holder.line}" if holder.line else place
            reason = f"{at} already has the name {automation.name!r}; names must be unique in the folder"
            yield AutomationInvalid(file.place, automation.line, reason)


def _limit(broken: Iterable[BrokenFile]) -> Iterable[BrokenFile]:
    """Leave out the errors above the limit, and count them."""
    remaining, left_out, place = MAX_ERRORS - 1, 0, ""
    for file in broken:
        errors = file.errors[:remaining]
        left_out += len(file.errors) - len(errors)
        remaining -= len(errors)
        place = place or file.path
        if errors or file.kept:
            yield BrokenFile(file.path, errors, file.kept)
    if left_out:
        reason = f"and at least {left_out} more errors in this and other files; fix those above first"
        yield BrokenFile(place, (AutomationInvalid(place, None, reason),))
