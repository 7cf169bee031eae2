"""Parse `on`, the triggers of an automation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, create_model

from upshot.automations.parser.diagnostics import Diagnostics
from upshot.automations.parser.document import Invalid, YamlMapping, YamlSequence
from upshot.automations.parser.foreign_keys import kind_remedy, pattern_problem
from upshot.automations.parser.model_diagnostics import parse_model
from upshot.automations.triggers import FILTERS_BY_KIND, PLANNED_KINDS, STAGE_FILTERS, is_glob
from upshot.domain.automation import Pattern, Trigger
from upshot.domain.event import EventKind
from upshot.domain.stage import parse_stage
from upshot.errors import InvalidInput
from upshot.schema.metric_watch import EXAMPLE, MetricWatchSchema
from upshot.schema.yaml_model import YamlModel, is_template, rule
from upshot.suggestions import did_you_mean
from upshot.unicode_text import find_invisible
from upshot.validation import describe_value, invalid

MAX_PATTERN_CHARS = 256

_KINDS = {kind.value: kind for kind in EventKind}
_EXAMPLE = "write a kind of event, or a list of them: `on: version-linked`, or `on: {alias-added: {alias: production}}`"


def _check_glob(name: str, value: str) -> str | None:
    if is_template(value):
        return "is a pattern, not a template; use `if` for conditions that depend on the event"
    if not value or len(value) > MAX_PATTERN_CHARS:
        return f"must have 1 to {MAX_PATTERN_CHARS} characters; remove the filter to accept anything"
    if found := find_invisible(value):
        return f"contains the character {found}, which cannot be seen, so nothing matches; remove it"
    return pattern_problem(value, name)


def _as_list(value: Any) -> Any:
    if value == []:
        raise invalid("is an empty list, which nothing matches; remove the filter to accept anything")
    return value if isinstance(value, list) else [value]


class _NotSchema(YamlModel):
    """`{not: test-*}`."""

    not_: Annotated[list[Annotated[str, rule(partial(_check_glob, "not"))]], BeforeValidator(_as_list)]


def _filter(name: str) -> Any:
    """Return the type of a filter: a glob, an exclusion, or a list of these."""
    entry = Annotated[
        Annotated[str, rule(partial(_check_glob, name)), Tag("glob")] | Annotated[_NotSchema, Tag("mapping")],
        Discriminator(lambda value: "mapping" if isinstance(value, Mapping | _NotSchema) else "glob"),
    ]
    return Annotated[list[entry], BeforeValidator(_as_list)]


@cache
def _filters_schema(kind: EventKind) -> type[YamlModel]:
    """Return the schema of the filters of a kind of event."""
    fields: dict[str, Any] = {
        f"{name.replace('-', '_')}_": (_filter(name), Field(default_factory=list)) for name in FILTERS_BY_KIND[kind]
    }
    base = MetricWatchSchema if kind is EventKind.RUN_METRIC else YamlModel
    return create_model(kind.value, __base__=base, **fields)


def parse_triggers(automation: YamlMapping, diagnostics: Diagnostics) -> tuple[Trigger, ...]:
    """Parse the triggers of an automation: a kind, a mapping of kinds to filters, or a list of both."""
    if "on" not in automation:
        return ()  # the schema of the automation reports that
    value, line = automation["on"], automation.value_lines["on"]
    if value == []:
        diagnostics.add(line, f"`on` is an empty list, so nothing triggers this automation; {_EXAMPLE}")
    entries = zip(value, value.lines, strict=True) if isinstance(value, YamlSequence) else [(value, line)]
    triggers: list[Trigger | None] = []
    for entry, entry_line in entries:
        if isinstance(entry, str):
            triggers.append(_parse_trigger(entry, YamlMapping(entry_line), entry_line, automation, diagnostics))
        elif isinstance(entry, YamlMapping) and entry:
            for kind, filters in entry.items():
                triggers.append(_parse_trigger(kind, filters, entry.key_lines[kind], automation, diagnostics))
        else:
            diagnostics.add(entry_line, f"`on` cannot be {describe_value(entry)}; {_EXAMPLE}")
    return tuple(trigger for trigger in triggers if trigger is not None)


def _parse_trigger(
    word: str, filters: Any, line: int, automation: YamlMapping, diagnostics: Diagnostics
) -> Trigger | None:
    if isinstance(word, Invalid) or isinstance(filters, Invalid):
        return None
    kind = _KINDS.get(word)
    if kind is None and word in PLANNED_KINDS:
        diagnostics.add(line, f"event kind {word!r} is not supported yet")
        return None
    if kind is None:
        foreign = kind_remedy(word, filters, automation.get("name"))
        remedy = f"; {foreign}" if foreign else did_you_mean(word, _KINDS)
        diagnostics.add(line, f"unknown event kind {word!r}{remedy}")
        return None
    if filters is None and kind is EventKind.RUN_METRIC:
        diagnostics.add(line, f"run-metric: needs a metric and a condition; {EXAMPLE}")
        return None
    if filters is None:
        return Trigger(kind, {}, line)
    if not isinstance(filters, YamlMapping):
        actual = describe_value(filters)
        diagnostics.add(line, f"{word}: must be a mapping of filters such as `{{alias: production}}`, not {actual}")
        return None
    schema = parse_model(_filters_schema(kind), filters, diagnostics, line=line, root=word)
    if schema is None:
        return None
    patterns = {
        name: _pattern(getattr(schema, f"{name.replace('-', '_')}_"))
        for name in filters
        if name in FILTERS_BY_KIND[kind]
    }
    for name in STAGE_FILTERS.intersection(patterns):
        try:
            patterns[name] = _stage_pattern(patterns[name])
        except InvalidInput as error:
            diagnostics.add(filters.key_lines[name], f"{word}.{name}: {error}")
            return None
    return Trigger(kind, patterns, line, schema.to_watch() if isinstance(schema, MetricWatchSchema) else None)


def _stage_pattern(pattern: Pattern) -> Pattern:
    """Return a pattern with the names of stages as events have them."""
    any_of, none_of = (
        tuple(name if is_glob(name) else parse_stage(name).value for name in names)
        for names in (pattern.any_of, pattern.none_of)
    )
    return Pattern(any_of, none_of)


def _pattern(entries: list[str | _NotSchema]) -> Pattern:
    excluded = [glob for entry in entries if isinstance(entry, _NotSchema) for glob in entry.not_]
    return Pattern(tuple(entry for entry in entries if isinstance(entry, str)), tuple(excluded))
