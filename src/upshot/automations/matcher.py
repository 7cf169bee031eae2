"""
Find the automations that answer an event, and for all others the reason why they do not.

An event costs the same with ten thousand automations as with the few that could match: an index finds
each trigger by the plain names in its most selective filter, or by the literal beginnings or ends of its
globs. What the index returns is then checked in full: filters, `if`, loops.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from upshot.automations.context import condition_context, event_context
from upshot.automations.rendering import Renderer
from upshot.automations.template import CompiledCondition, compile_condition
from upshot.automations.triggers import FILTER_VALUES, Filter, is_automatic, is_for_watch, is_glob
from upshot.domain.automation import Automation, Trigger
from upshot.domain.event import MAX_CHAIN_DEPTH, Event, EventKind
from upshot.errors import TemplateInvalid
from upshot.unicode_text import to_nfc


class MatchResult(StrEnum):
    """What happens to an automation whose filters accept an event."""

    MATCHED = "matched"  #: it answers the event
    ERROR = "error"  #: its `if` failed; a failed execution reports that
    LOOP = (
        "loop"  #: it would answer an event that it caused, or the chain is too long; a skipped execution reports that
    )


@dataclass(frozen=True, slots=True)
class Match:
    """An automation whose filters accept an event."""

    automation: Automation
    result: MatchResult
    reason: str | None = None  #: why it does not answer, for people; None if it does


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
        automations: Matches have the same order.
    """

    def __init__(self, automations: Iterable[Automation]) -> None:
        self._candidates = tuple(_Candidate(position, automation) for position, automation in enumerate(automations))
        enabled = [candidate for candidate in self._candidates if candidate.automation.enabled]
        kinds = {trigger.kind for candidate in enabled for trigger in candidate.automation.triggers}
        self._indexes = {kind: _Index(kind, enabled) for kind in kinds}

    def match(self, event: Event) -> tuple[Match, ...]:
        """Return the automations that answer the event, or cannot for a reason that users must see."""
        results = (check.evaluate() for check in self.checks(event))
        return tuple(result for result in results if isinstance(result, Match))

    def checks(self, event: Event) -> tuple[PendingMatch, ...]:
        """Return a check for each automation whose filters accept the event, for callers that must not block."""
        index = self._indexes.get(event.kind)
        if index is None:
            return ()
        automatic = is_automatic(event)
        accepted = {
            entry.candidate.position: entry.candidate
            for entry in index.look_up(event)
            if entry.accepts(event, automatic=automatic)
        }
        if not accepted:
            return ()
        context = _LazyContext(event)
        return tuple(PendingMatch(accepted[position].automation, event, context) for position in sorted(accepted))

    def prepare(self) -> None:
        """Compile the conditions of all automations."""
        for candidate in self._candidates:
            automation = candidate.automation
            if automation.condition is not None:
                with suppress(TemplateInvalid):  # reported when an event is matched
                    _compile_condition(automation.condition, automation.path, automation.line).prepare()

    def explain(self, event: Event) -> tuple[Explanation, ...]:
        """Return for each automation why it answers the event, or why not."""
        context = _LazyContext(event)
        return tuple(_explain(candidate, event, context) for candidate in self._candidates)


class _Candidate:
    """An automation, prepared for matching."""

    __slots__ = ("automation", "entries", "position")

    def __init__(self, position: int, automation: Automation) -> None:
        self.position = position
        self.automation = automation
        self.entries = tuple(_Entry(self, trigger) for trigger in automation.triggers)


class _Entry:
    """One trigger of a candidate."""

    __slots__ = ("candidate", "filters", "trigger")

    def __init__(self, candidate: _Candidate, trigger: Trigger) -> None:
        self.candidate = candidate
        self.trigger = trigger
        self.filters = tuple(Filter(name, pattern) for name, pattern in trigger.filters.items())

    def accepts(self, event: Event, *, automatic: bool) -> bool:
        """Return whether an event of the trigger's kind passes all filters."""
        if automatic and "alias" not in self.trigger.filters:
            return False
        if self.trigger.watch is not None and not is_for_watch(event, self.candidate.automation.name, self.trigger):
            return False
        return all(
            filter_.accepts(FILTER_VALUES[filter_.name](event), exactly=automatic and filter_.name == "alias")
            for filter_ in self.filters
        )

    def explain_miss(self, event: Event) -> str:
        """Return which filter the event does not pass. It is empty if the event passes all filters."""
        if event.kind is not self.trigger.kind:
            return f"on {self.trigger.kind}, this is {event.kind}"
        automatic = is_automatic(event)
        if automatic and "alias" not in self.trigger.filters:
            return _AUTOMATIC
        for filter_ in self.filters:
            value = FILTER_VALUES[filter_.name](event)
            exactly = automatic and filter_.name == "alias"
            if not filter_.accepts(value, exactly=exactly):
                if exactly and filter_.accepts(value):
                    return _AUTOMATIC
                if value is None:
                    return f"the event has no {filter_.name}, wanted {filter_.describe()}"
                shown = " and ".join(map(repr, value)) or "empty" if isinstance(value, tuple) else repr(value)
                return f"{filter_.name} is {shown}, wanted {filter_.describe()}"
        if self.trigger.watch is not None and not is_for_watch(event, self.candidate.automation.name, self.trigger):
            return "this is about the condition of another automation or trigger"
        return ""


_AUTOMATIC = "latest moved by itself, which only the filter `alias: latest` answers"


# --- index ----------------------------------------------------------------------------------------


class _IndexKey(NamedTuple):
    """The literal part of a pattern under which the index finds it."""

    part: str  #: "whole", "start" or "end"
    text: str


def _index_key(pattern: str) -> _IndexKey | None:
    """Return the index key of a pattern, or None if the pattern begins and ends with a wildcard."""
    pattern = to_nfc(pattern)
    if not is_glob(pattern):
        return _IndexKey("whole", pattern)
    first_wildcard = next(index for index, char in enumerate(pattern) if char in "*?[")
    if start := pattern[:first_wildcard]:
        return _IndexKey("start", start)
    # A text after `]` can belong to a set of characters. Only a text after `*` or `?` is certainly literal.
    end = pattern[max(pattern.rfind("*"), pattern.rfind("?")) + 1 :]
    return _IndexKey("end", end) if end and "]" not in end and "[" not in end else None


class _FilterIndex:
    """Finds triggers by the value of one filter."""

    __slots__ = ("_end", "_end_lengths", "_start", "_start_lengths", "_value_of", "_whole")

    def __init__(self, filter_name: str) -> None:
        self._value_of = FILTER_VALUES[filter_name]
        self._whole: dict[str, list[_Entry]] = defaultdict(list)
        self._start: dict[str, list[_Entry]] = defaultdict(list)
        self._end: dict[str, list[_Entry]] = defaultdict(list)
        self._start_lengths: set[int] = set()
        self._end_lengths: set[int] = set()

    def add(self, key: _IndexKey, entry: _Entry) -> None:
        """Add an entry under a key."""
        if key.part == "whole":
            self._whole[key.text].append(entry)
        elif key.part == "start":
            self._start[key.text].append(entry)
            self._start_lengths.add(len(key.text))
        else:
            self._end[key.text].append(entry)
            self._end_lengths.add(len(key.text))

    def look_up(self, event: Event) -> Iterator[_Entry]:
        """Yield the entries that could accept the event's value."""
        value = self._value_of(event)
        if value is None:
            return
        for name in map(to_nfc, value if isinstance(value, tuple) else (value,)):
            yield from self._whole.get(name, ())
            for length in self._start_lengths:
                yield from self._start.get(name[:length], ())
            for length in self._end_lengths:
                yield from self._end.get(name[-length:], ())


class _Index:
    """The triggers of one kind, each under its most selective filter. Those without any are always checked."""

    def __init__(self, kind: EventKind, candidates: Sequence[_Candidate]) -> None:
        entries = [entry for candidate in candidates for entry in candidate.entries if entry.trigger.kind is kind]
        keys_by_entry = [dict(_index_keys(entry)) for entry in entries]
        sizes = Counter((name, key) for by_filter in keys_by_entry for name, keys in by_filter.items() for key in keys)
        self._always: list[_Entry] = []
        self._filters: dict[str, _FilterIndex] = {}
        for entry, by_filter in zip(entries, keys_by_entry, strict=True):
            if not by_filter:
                self._always.append(entry)
                continue
            name = min(by_filter, key=lambda name: sum(sizes[name, key] for key in by_filter[name]))
            index = self._filters.setdefault(name, _FilterIndex(name))
            for key in by_filter[name]:
                index.add(key, entry)

    def look_up(self, event: Event) -> Iterator[_Entry]:
        """Yield all entries that could accept the event. Some can appear twice."""
        yield from self._always
        for index in self._filters.values():
            yield from index.look_up(event)


def _index_keys(entry: _Entry) -> Iterator[tuple[str, frozenset[_IndexKey]]]:
    """Yield the filters by which an entry can be found: those whose every alternative has a key."""
    for filter_ in entry.filters:
        keys = [_index_key(pattern) for pattern in filter_.pattern.any_of]
        if keys and None not in keys:
            yield filter_.name, frozenset(key for key in keys if key is not None)


# --- conditions and loops -------------------------------------------------------------------------


class _LazyContext:
    """The names that depend on the event, computed when the first `if` needs them."""

    __slots__ = ("_event", "_names")

    def __init__(self, event: Event) -> None:
        self._event = event
        self._names: dict[str, Any] | None = None

    def get(self) -> Mapping[str, Any]:
        if self._names is None:
            self._names = event_context(self._event)
        return self._names


@lru_cache(maxsize=50_000)
def _compile_condition(text: str, path: str, line: int) -> CompiledCondition:
    return compile_condition(text, path=path, line=line)


class PendingMatch:
    """An automation whose filters accept an event, and whose `if` and chain are still to be checked."""

    __slots__ = ("_event", "_event_names", "automation")

    def __init__(self, automation: Automation, event: Event, event_names: _LazyContext) -> None:
        self.automation = automation
        self._event = event
        self._event_names = event_names

    def evaluate(self) -> Match | str:
        """Check now. A string is the reason why the automation does not answer."""
        try:
            if self.automation.condition is not None and not self._condition().evaluate(self._context()):
                return self._condition_is_false()
        except TemplateInvalid as error:
            return self._failed(error)
        return self._passed()

    async def evaluate_with(self, renderer: Renderer) -> Match | str:
        """Check with a renderer, which raises what it raises, except TemplateInvalid."""
        try:
            if self.automation.condition is not None and not await renderer.render(self._condition(), self._context()):
                return self._condition_is_false()
        except TemplateInvalid as error:
            return self._failed(error)
        return self._passed()

    def _condition(self) -> CompiledCondition:
        return _compile_condition(self.automation.condition or "", self.automation.path, self.automation.line)

    def _context(self) -> Mapping[str, Any]:
        automation = self.automation
        return condition_context(self._event_names.get(), automation_name=automation.name, vars=automation.vars)

    def _condition_is_false(self) -> str:
        return f"if: {self.automation.condition} is false"

    def _failed(self, error: TemplateInvalid) -> Match:
        return Match(self.automation, MatchResult.ERROR, f"if: {error}")

    def _passed(self) -> Match:
        loop = _loop(self.automation, self._event)
        return Match(self.automation, MatchResult.MATCHED if loop is None else MatchResult.LOOP, loop)


def check_condition(automation: Automation, event: Event) -> Match | str:
    """Check the `if` and the chain of an automation, but not its filters. Return the match, or why there is none."""
    return PendingMatch(automation, event, _LazyContext(event)).evaluate()


def _loop(automation: Automation, event: Event) -> str | None:
    version = event.version_reference
    for cause in event.chain:
        if cause.automation == automation.name and cause.version_reference == version:
            return f"this automation itself caused the event, in execution {cause.execution_id}"
    if len(event.chain) >= MAX_CHAIN_DEPTH:
        names = " → ".join(cause.automation for cause in event.chain)
        return f"a chain of {len(event.chain)} executions led to this event, which is the maximum: {names}"
    return None


def _explain(candidate: _Candidate, event: Event, event_names: _LazyContext) -> Explanation:
    automation = candidate.automation
    if not automation.enabled:
        return Explanation(automation, answers=False, reason="disabled by `enabled: false`")
    misses = [entry.explain_miss(event) for entry in candidate.entries]
    if all(misses):
        # Of several triggers, those for this kind of event say more than those for other kinds.
        same_kind = [miss for miss in misses if not miss.startswith("on ")]
        return Explanation(automation, answers=False, reason="; ".join(dict.fromkeys(same_kind or misses)))
    match = PendingMatch(automation, event, event_names).evaluate()
    if isinstance(match, str):
        return Explanation(automation, answers=False, reason=match)
    if match.result is MatchResult.MATCHED:
        return Explanation(automation, answers=True, reason=f"on {event.kind}, and all conditions hold")
    return Explanation(automation, answers=False, reason=match.reason or "")
