"""
From an event to the automations that answer it, and for all others the reason why they do not.

Ten thousand automations cost an event no more than the few that could match: each trigger stands
in an index under the literals (or the literal beginnings or ends of globs) of its most selective
filter. What the index gives is then checked in full: filters, then `if`, then loops.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from upshot.automations.context import condition_context, event_context
from upshot.automations.template import CompiledExpression, compile_expression
from upshot.automations.triggers import FIELDS, Filter, is_automatic, is_glob
from upshot.domain.automation import Automation, Trigger
from upshot.domain.event import MAX_CHAIN_DEPTH, Event, EventKind
from upshot.errors import TemplateInvalid


class MatchResult(StrEnum):
    """What becomes of an automation that an event speaks to."""

    MATCHED = "matched"  #: it answers
    ERROR = "error"  #: its `if` failed on this event; the answer is a failed execution that says so
    LOOP = "loop"  #: it would answer itself, or the chain is too long; a skipped execution says so


@dataclass(frozen=True, slots=True)
class Match:
    """An automation that an event speaks to."""

    automation: Automation
    verdict: MatchResult
    reason: str | None = None  #: why not, for a person; None when it answers


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an automation answers an event, or does not."""

    automation: Automation
    answers: bool
    reason: str  #: `alias is 'staging', wanted 'production'`


class Matcher:
    """
    Matches events against a set of automations.

    Args:
        automations: In the order in which matches are given.
    """

    def __init__(self, automations: Iterable[Automation]) -> None:
        self._candidates = tuple(_Candidate(place, automation) for place, automation in enumerate(automations))
        awake = [candidate for candidate in self._candidates if candidate.automation.enabled]
        self._indexes = {kind: _Index(kind, awake) for kind in {t.kind for c in awake for t in c.automation.triggers}}

    def match(self, event: Event) -> tuple[Match, ...]:
        """The automations that the event speaks to, each once, in their order."""
        index = self._indexes.get(event.kind)
        if index is None:
            return ()
        automatic = is_automatic(event)
        found = {
            entry.candidate.place: entry.candidate
            for entry in index.look_up(event)
            if entry.accepts(event, automatic=automatic)
        }
        if not found:
            return ()
        names = _LazyContext(event)
        judged = (_judge(found[place], event, names) for place in sorted(found))
        return tuple(match for match in judged if isinstance(match, Match))

    def explain(self, event: Event) -> tuple[Explanation, ...]:
        """What each automation makes of the event, whether it answers or not."""
        names = _LazyContext(event)
        return tuple(_explain(candidate, event, names) for candidate in self._candidates)


class _Candidate:
    """An automation with what is prepared for matching."""

    __slots__ = ("automation", "entries", "place")

    def __init__(self, place: int, automation: Automation) -> None:
        self.place = place
        self.automation = automation
        self.entries = tuple(_Entry(self, trigger) for trigger in automation.triggers)

    def condition(self) -> CompiledExpression | None:
        automation = self.automation
        if automation.condition is None:
            return None
        return _compile_condition(automation.condition, automation.path, automation.line)


@lru_cache(maxsize=50_000)
def _compile_condition(text: str, path: str, line: int) -> CompiledExpression:
    return compile_expression(text, path=path, line=line)


class _Entry:
    """One trigger of a candidate."""

    __slots__ = ("candidate", "filters", "trigger")

    def __init__(self, candidate: _Candidate, trigger: Trigger) -> None:
        self.candidate = candidate
        self.trigger = trigger
        self.filters = tuple(Filter(field, pattern) for field, pattern in trigger.filters.items())

    def accepts(self, event: Event, *, automatic: bool) -> bool:
        """Tell whether the event passes all filters; its kind is right already."""
        if automatic and "alias" not in self.trigger.filters:
            return False
        return all(
            filter_.accepts(FIELDS[filter_.field](event), exactly=automatic and filter_.field == "alias")
            for filter_ in self.filters
        )

    def miss(self, event: Event) -> str:
        """Say which filter the event does not pass; empty when it passes all."""
        if event.kind is not self.trigger.kind:
            return f"on {self.trigger.kind}, this is {event.kind}"
        automatic = is_automatic(event)
        if automatic and "alias" not in self.trigger.filters:
            return _AUTOMATIC
        for filter_ in self.filters:
            value = FIELDS[filter_.field](event)
            exactly = automatic and filter_.field == "alias"
            if not filter_.accepts(value, exactly=exactly):
                if exactly and filter_.accepts(value):
                    return _AUTOMATIC
                is_what = "has none" if value is None else f"is {value!r}"
                return f"{filter_.field} {is_what}, wanted {filter_.describe()}"
        return ""


_AUTOMATIC = "latest moved by itself, which only the filter `alias: latest` answers"


# --- index ----------------------------------------------------------------------------------------


class _IndexKey(NamedTuple):
    """By what a pattern can be found: the whole value, its beginning, or its end."""

    part: str  #: "whole", "start" or "end"
    text: str


def _handle(pattern: str) -> _IndexKey | None:
    """How to find a pattern; None when it begins and ends with a wildcard."""
    if not is_glob(pattern):
        return _IndexKey("whole", pattern)
    wild = [place for place, mark in enumerate(pattern) if mark in "*?["]
    if start := pattern[: wild[0]]:
        return _IndexKey("start", start)
    # An end after `]` could belong to a set of characters; only what follows a `*` or `?` is surely literal.
    end = pattern[max(pattern.rfind("*"), pattern.rfind("?")) + 1 :]
    return _IndexKey("end", end) if end and "]" not in end and "[" not in end else None


class _FieldIndex:
    """Triggers that can be found by one field of an event."""

    __slots__ = ("_end", "_end_lengths", "_start", "_start_lengths", "_value_of", "_whole")

    def __init__(self, field: str) -> None:
        self._value_of = FIELDS[field]
        self._whole: dict[str, list[_Entry]] = defaultdict(list)
        self._start: dict[str, list[_Entry]] = defaultdict(list)
        self._end: dict[str, list[_Entry]] = defaultdict(list)
        self._start_lengths: set[int] = set()
        self._end_lengths: set[int] = set()

    def put(self, handle: _IndexKey, entry: _Entry) -> None:
        """Let the entry be found by this handle."""
        if handle.part == "whole":
            self._whole[handle.text].append(entry)
        elif handle.part == "start":
            self._start[handle.text].append(entry)
            self._start_lengths.add(len(handle.text))
        else:
            self._end[handle.text].append(entry)
            self._end_lengths.add(len(handle.text))

    def look_up(self, event: Event) -> Iterator[_Entry]:
        """Those that could accept the event's value."""
        value = self._value_of(event)
        if value is None:
            return
        yield from self._whole.get(value, ())
        for length in self._start_lengths:
            yield from self._start.get(value[:length], ())
        for length in self._end_lengths:
            yield from self._end.get(value[-length:], ())


class _Index:
    """The triggers of one kind, each under its most selective field; those without any are always looked at."""

    def __init__(self, kind: EventKind, candidates: Sequence[_Candidate]) -> None:
        entries = [entry for candidate in candidates for entry in candidate.entries if entry.trigger.kind is kind]
        handles = [dict(_handles(entry)) for entry in entries]
        crowd = Counter(
            (field, handle) for by_field in handles for field, found in by_field.items() for handle in found
        )
        self._scanned: list[_Entry] = []
        self._fields: dict[str, _FieldIndex] = {}
        for entry, by_field in zip(entries, handles, strict=True):
            if not by_field:
                self._scanned.append(entry)
                continue
            field = min(by_field, key=lambda field: sum(crowd[field, handle] for handle in by_field[field]))
            index = self._fields.setdefault(field, _FieldIndex(field))
            for handle in by_field[field]:
                index.put(handle, entry)

    def look_up(self, event: Event) -> Iterator[_Entry]:
        """All entries that could accept the event; some may come twice."""
        yield from self._scanned
        for index in self._fields.values():
            yield from index.look_up(event)


def _handles(entry: _Entry) -> Iterator[tuple[str, frozenset[_IndexKey]]]:
    """The fields by which an entry can be found: those whose every alternative has a handle."""
    for filter_ in entry.filters:
        found = [_handle(pattern) for pattern in filter_.pattern.any_of]
        if found and None not in found:
            yield filter_.field, frozenset(handle for handle in found if handle is not None)


# --- judgement ------------------------------------------------------------------------------------


class _LazyContext:
    """The names of an event, made when the first `if` asks for them."""

    __slots__ = ("_event", "_names")

    def __init__(self, event: Event) -> None:
        self._event = event
        self._names: dict[str, Any] | None = None

    def get(self) -> Mapping[str, Any]:
        if self._names is None:
            self._names = event_context(self._event)
        return self._names


def _judge(candidate: _Candidate, event: Event, names: _LazyContext) -> Match | str:
    """Look at `if` and at loops; a text says why the automation does not answer."""
    automation = candidate.automation
    try:
        condition = candidate.condition()
        if condition is not None:
            context = condition_context(names.get(), automation_name=automation.name, vars=automation.vars)
            if not condition.evaluate(context):
                return f"if: {automation.condition} is false"
    except TemplateInvalid as error:
        return Match(automation, MatchResult.ERROR, f"if: {error}")
    loop = _loop(automation, event)
    return Match(automation, MatchResult.MATCHED if loop is None else MatchResult.LOOP, loop)


def _loop(automation: Automation, event: Event) -> str | None:
    version = event.version_reference
    for cause in event.chain:
        if cause.automation == automation.name and cause.version_reference == version:
            return f"this event was caused by this automation itself, in execution {cause.execution_id}"
    if len(event.chain) >= MAX_CHAIN_DEPTH:
        names = " → ".join(cause.automation for cause in event.chain)
        return f"{len(event.chain)} executions led to this event, and a chain stops there: {names}"
    return None


def _explain(candidate: _Candidate, event: Event, names: _LazyContext) -> Explanation:
    automation = candidate.automation
    if not automation.enabled:
        return Explanation(automation, answers=False, reason="disabled by `enabled: false`")
    misses = [entry.miss(event) for entry in candidate.entries]
    if all(misses):
        return Explanation(automation, answers=False, reason="; ".join(_most_telling(misses)))
    judged = _judge(candidate, event, names)
    if isinstance(judged, str):
        return Explanation(automation, answers=False, reason=judged)
    if judged.verdict is MatchResult.MATCHED:
        return Explanation(automation, answers=True, reason=f"on {event.kind}, and all that it asks for is so")
    return Explanation(automation, answers=False, reason=judged.reason or "")


def _most_telling(misses: Sequence[str]) -> Sequence[str]:
    """Of several triggers, those of the right kind say more than those of another."""
    near = [miss for miss in misses if not miss.startswith("on ")]
    return list(dict.fromkeys(near or misses))
