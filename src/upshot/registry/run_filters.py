"""
Filters and orders of the list of runs, in the form of MongoDB that W&B's `Api.runs` takes.

`{"$and": [{"config.lr": {"$lt": 0.1}}, {"tags": "best"}]}` compares fields of a run with values. The conditions are
evaluated here and not in SQL, so that they mean the same on every database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
from pydantic import StringConstraints, TypeAdapter

from upshot.errors import InvalidInput
from upshot.ports.run_history import RunCandidate
from upshot.suggestions import did_you_mean

MAX_FILTER_CHARS = 20_000
MAX_CONDITIONS = 500
MAX_DEPTH = 20
_MAX_PATTERN_CHARS = 1_000
_SCALAR = re.compile(r'(-?[0-9][0-9.eE+-]*|true|false|null|"[^"\\]*")[,}]')

_KINDS: Mapping[type, int] = {int: 0, float: 0, str: 1, bool: 2, datetime: 3}

Condition = Callable[[RunCandidate], bool]


class _Missing:
    """Stands for a field that a run does not have."""


_MISSING: Final = _Missing()

#: Fields by name. W&B's pages also write some of them with underscores.
_FIELDS: Mapping[str, Callable[[RunCandidate], Any]] = {
    "jobType": lambda run: run.job_type,
    "job_type": lambda run: run.job_type,
    "state": lambda run: run.state,
    "displayName": lambda run: run.name,
    "display_name": lambda run: run.name,
    "name": lambda run: run.run_id,
    "tags": lambda run: run.tags,
    "group": lambda run: run.group,
    "username": lambda run: run.created_by,
    "createdAt": lambda run: run.created_at,
    "created_at": lambda run: run.created_at,
}
_TIMES = frozenset({"createdAt", "created_at"})
_CONFIG, _SUMMARY = "config.", "summary_metrics."
_DOCUMENTED = [name for name in _FIELDS if "_" not in name] + [f"{_CONFIG}KEY", f"{_SUMMARY}KEY"]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a run."""

    name: str
    get: Callable[[RunCandidate], Any]

    @property
    def is_time(self) -> bool:
        """Whether its values are times."""
        return self.name in _TIMES


@dataclass(frozen=True, slots=True)
class RunOrder:
    """How runs are sorted. Of equal runs, the newest comes first; those without a value come last."""

    field: Field
    descending: bool

    def key(self, run: RunCandidate) -> tuple[int, Any] | None:
        """Return what to compare, or None if the run has no value."""
        return sort_key(self.field.get(run))


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, and in which order."""

    matches: Condition = lambda _run: True
    order: RunOrder | None = None  #: None is newest first
    sources: frozenset[str] = frozenset()  #: of `created_at`, `tags`, `config` and `summary`, what it reads


def parse_run_filter(text: str | None, order: str | None) -> RunFilter:
    """
    Parse a filter and an order.

    Args:
        text: JSON; None matches every run.
        order: A field, after `-` for the highest first; None is newest first.

    Raises:
        InvalidInput: The text is not JSON, or an operator, a field or a value is unknown.
    """
    parser = _Parser()
    matches: Condition = lambda _run: True  # noqa: E731 - a condition like the others
    if text is not None:
        matches = parser.parse(_read(text))
    by = parser.order(order) if order is not None else None
    return RunFilter(matches, by, frozenset(parser.sources))


def sort_key(value: Any) -> tuple[int, Any] | None:
    """Return a value in a form that can be compared with others: numbers come before texts. None if it has no order."""
    kind = _KINDS.get(type(value))
    if kind is None:
        return None
    return kind, value.timestamp() if isinstance(value, datetime) else value


def _read(text: str) -> Any:
    if len(text) > MAX_FILTER_CHARS:
        raise InvalidInput(f"filters: {len(text):,} characters; at most {MAX_FILTER_CHARS:,} are allowed")
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise InvalidInput(f'filters: not JSON: {error}; write it like {{"config.lr": {{"$lt": 0.1}}}}') from error


class _Parser:
    def __init__(self) -> None:
        self.sources: set[str] = set()
        self._conditions = 0

    def order(self, text: str) -> RunOrder:
        sign, name = (text[0], text[1:]) if text[:1] in "+- " else ("+", text)  # an unescaped `+` arrives as a space
        return RunOrder(self._field(name, "order"), descending=sign == "-")

    def parse(self, node: Any, place: str = "filters", depth: int = 0) -> Condition:
        """Return the condition that an object states: all of its entries."""
        if not isinstance(node, dict):
            raise InvalidInput(f"{place}: must be an object, not {_shown(node)}")
        if depth > MAX_DEPTH:
            raise InvalidInput(f"{place}: nested deeper than {MAX_DEPTH} levels")
        conditions = [self._entry(name, value, f"{place}.{name[:80]}", depth) for name, value in node.items()]
        return _all(conditions)

    def _entry(self, name: str, value: Any, place: str, depth: int) -> Condition:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InvalidInput(f"{place}: more than {MAX_CONDITIONS} conditions")
        if not name.startswith("$"):
            return self._field_condition(self._field(name, place), value, place)
        combine = _COMBINATIONS.get(name)
        if combine is None:
            known = [*_COMBINATIONS, *_OPERATORS]
            hint = "; write it for a field" if name in _OPERATORS else did_you_mean(name, known)
            raise InvalidInput(f"{place}: unknown operator {name[:40]!r}{hint}")
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"{place}: must be a list of objects, not {_shown(value)}")
        return combine([self.parse(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)])

    def _field(self, name: str, place: str) -> Field:
        if get := _FIELDS.get(name):
            if name in _TIMES:
                self.sources.add("created_at")
            elif name == "tags":
                self.sources.add("tags")
            return Field(name, get)
        for prefix, source in ((_CONFIG, "config"), (_SUMMARY, "summary")):
            if name.startswith(prefix) and len(name) > len(prefix):
                self.sources.add(source)
                return Field(name, _value_getter(source, name.removeprefix(prefix)))
        raise InvalidInput(f"{place}: unknown field {name[:80]!r}{did_you_mean(name, _DOCUMENTED)}")

    def _field_condition(self, field: Field, value: Any, place: str) -> Condition:
        if not isinstance(value, dict) or not any(key.startswith("$") for key in value):
            value = {"$eq": value}
        conditions = []
        for name, operand in value.items():
            self._conditions += 1
            make = _OPERATORS.get(name)
            if make is None:
                raise InvalidInput(f"{place}: unknown operator {name[:40]!r}{did_you_mean(name, list(_OPERATORS))}")
            conditions.append(_on(field, make(_operand(field, operand, name, f"{place}.{name}"), f"{place}.{name}")))
        return _all(conditions)


def _on(field: Field, test: Callable[[Any], bool]) -> Condition:
    get = field.get
    return lambda run: test(get(run))


def _operand(field: Field, operand: Any, name: str, place: str) -> Any:
    """Return what to compare with; a time for a field of times."""
    if not field.is_time or name in ("$exists", "$regex"):
        return operand
    if name in ("$in", "$nin") and isinstance(operand, list):
        return [_time(item, place) for item in operand]
    return operand if operand is None else _time(operand, place)


def _time(value: Any, place: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{place}: {_shown(value)} is not a time such as 2026-11-01T09:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _value_getter(source: str, key: str) -> Callable[[RunCandidate], Any]:
    """Return what reads a key of the config or the summary. A key with dots may also be a path of nested keys."""
    parts = key.split(".")
    mark = f"{orjson.dumps(key).decode()}:"
    first = f"{orjson.dumps(parts[0]).decode()}:"

    def get(run: RunCandidate) -> Any:
        text = run.config_json if source == "config" else run.summary_json
        found = _find_scalar(text, mark)
        if found is not None:
            return orjson.loads(found)
        if mark not in text and first not in text:
            return _MISSING
        values: Any = run.config if source == "config" else run.summary
        if key in values:
            return values[key]
        for part in parts:
            if not isinstance(values, dict) or part not in values:
                return _MISSING
            values = values[part]
        return values

    return get


def _find_scalar(text: str, mark: str) -> str | None:
    """
    Return the value after a key of an object that orjson has written, without parsing all of it.

    Returns:
        None if it is not certain that the key is the object's own and not a nested one's, or if its value is long.
    """
    position = text.find(mark)
    if position < 1 or text[position - 1] not in ",{":  # it is the end of a longer key with an escaped quotation mark
        return None
    if text.count("{", 0, position) != 1 or text.count("[", 0, position):  # it may be nested
        return None
    match = _SCALAR.match(text, position + len(mark))
    return match[1] if match else None


# --- operators ----------------------------------------------------------------------------------


def _equals(value: Any, operand: Any) -> bool:
    if value is _MISSING or value is None:
        return operand is None
    if isinstance(value, bool) is not isinstance(operand, bool):
        return False
    if isinstance(value, list | tuple) and not isinstance(operand, list):
        return any(_equals(item, operand) for item in value)
    return bool(list(value) == operand if isinstance(value, tuple) else value == operand)


def _eq(operand: Any, _place: str) -> Callable[[Any], bool]:
    return lambda value: _equals(value, operand)


def _ne(operand: Any, _place: str) -> Callable[[Any], bool]:
    return lambda value: not _equals(value, operand)


def _compare(is_so: Callable[[Any, Any], bool]) -> Callable[[Any, str], Callable[[Any], bool]]:
    def make(operand: Any, place: str) -> Callable[[Any], bool]:
        wanted = sort_key(operand)
        if wanted is None:
            raise InvalidInput(f"{place}: {_shown(operand)} has no order; give a number or a text")
        kind, bound = wanted

        def test(value: Any) -> bool:
            if isinstance(value, list | tuple):
                return any(test(item) for item in value)
            found = sort_key(value)
            return found is not None and found[0] == kind and is_so(found[1], bound)

        return test

    return make


def _in(operand: Any, place: str) -> Callable[[Any], bool]:
    if not isinstance(operand, list):
        raise InvalidInput(f"{place}: must be a list, not {_shown(operand)}")
    return lambda value: any(_equals(value, item) for item in operand)


def _nin(operand: Any, place: str) -> Callable[[Any], bool]:
    is_in = _in(operand, place)
    return lambda value: not is_in(value)


def _exists(operand: Any, place: str) -> Callable[[Any], bool]:
    if not isinstance(operand, bool):
        raise InvalidInput(f"{place}: must be true or false, not {_shown(operand)}")
    return lambda value: (value is not _MISSING and value is not None) is operand


def _regex(operand: Any, place: str) -> Callable[[Any], bool]:
    if not isinstance(operand, str) or len(operand) > _MAX_PATTERN_CHARS:
        raise InvalidInput(f"{place}: must be a regular expression of up to {_MAX_PATTERN_CHARS:,} characters")
    try:  # pydantic's engine takes linear time for every expression; Python's can take forever
        adapter = TypeAdapter(Annotated[str, StringConstraints(pattern=operand)])
    except Exception as error:
        reason = str(error).replace("\n", " ")[:200]
        raise InvalidInput(f"{place}: {operand[:80]!r} is not a regular expression: {reason}") from error
    matches = adapter.validator.isinstance_python

    def test(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return any(test(item) for item in value)
        return isinstance(value, str) and matches(value)

    return test


_OPERATORS: Mapping[str, Callable[[Any, str], Callable[[Any], bool]]] = {
    "$eq": _eq,
    "$ne": _ne,
    "$gt": _compare(lambda value, bound: value > bound),
    "$gte": _compare(lambda value, bound: value >= bound),
    "$lt": _compare(lambda value, bound: value < bound),
    "$lte": _compare(lambda value, bound: value <= bound),
    "$in": _in,
    "$nin": _nin,
    "$exists": _exists,
    "$regex": _regex,
}


def _all(conditions: Sequence[Condition]) -> Condition:
    match conditions:
        case [only]:
            return only
        case [first, second]:  # often, and a few times as fast
            return lambda run: first(run) and second(run)
        case _:
            return lambda run: all(matches(run) for matches in conditions)


def _any(conditions: Sequence[Condition]) -> Condition:
    return lambda run: any(matches(run) for matches in conditions)


def _none(conditions: Sequence[Condition]) -> Condition:
    return lambda run: not any(matches(run) for matches in conditions)


_COMBINATIONS: Mapping[str, Callable[[Sequence[Condition]], Condition]] = {"$and": _all, "$or": _any, "$nor": _none}


def _shown(value: Any) -> str:
    return str(value)[:80] if value is None or isinstance(value, bool) else repr(value)[:80]
