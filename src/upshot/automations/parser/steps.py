"""Parse a step: its action, the inputs of the action, its retry policy."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from upshot.automations.parser.diagnostics import Diagnostics
from upshot.automations.parser.document import Invalid, YamlMapping, YamlSequence
from upshot.automations.parser.foreign_keys import action_remedy, input_remedy, step_remedy
from upshot.automations.parser.model_diagnostics import line_of_path, parse_model
from upshot.automations.parser.templates import (
    check_template,
    comment_problem,
    may_have_placeholders,
    placeholder_problem,
    report_placeholders,
    report_template_keys,
)
from upshot.automations.scope import Scope
from upshot.automations.template import compile_text, template_leaves
from upshot.domain.automation import DEFAULT_CAP_SECONDS, DEFAULT_TIMEOUT_SECONDS, RetryPolicy, Step
from upshot.errors import ConfigError, TemplateInvalid
from upshot.schema.action_inputs import ActionSpec
from upshot.schema.automation_file import PLANNED_STEP_KEYS, RetrySchema, StepSchema
from upshot.schema.yaml_model import is_template
from upshot.suggestions import did_you_mean
from upshot.validation import keys_of

MAX_TEMPLATES = 500  # per step; each takes about a millisecond to compile when it is first rendered

#: Actions that a later release supports.
PLANNED_ACTIONS = frozenset(
    {
        "approval",
        "discord",
        "github-status",
        "github-workflow",
        "pagerduty",
        "remove-alias",
        "remove-tag",
        "report",
        "set-metadata",
        "set-stage",
        "teams",
        "wait",
    }
)


@dataclass(frozen=True, slots=True)
class ParseContext:
    """What parsing a document needs besides its text."""

    catalog: Mapping[str, ActionSpec]
    read_body_file: Callable[[str], str]  #: returns the text of a `body-file`; raises ConfigError with the reason
    diagnostics: Diagnostics
    body_files: dict[str, str]  #: text by path; filled while steps are parsed
    is_stored_revision: bool = False  #: valid when it was stored, so actions report new objections only when they run


def check_condition(mapping: YamlMapping, scope: Scope, context: ParseContext) -> None:
    """Report an `if` that does not compile or uses unknown names."""
    condition = mapping.get("if")
    if not isinstance(condition, str) or isinstance(condition, Invalid) or not condition.strip():
        return  # the schema reports a wrong type
    check_template(
        condition,
        leaf="if",
        line=mapping.value_lines["if"] or None,
        scope=scope,
        diagnostics=context.diagnostics,
        is_expression=True,
        show_forms=not context.is_stored_revision,
    )


def parse_step(mapping: YamlMapping, step_id: str, scope: Scope, context: ParseContext) -> Step | None:
    """Parse one item of `steps` or `on-failure`. Report its mistakes, and return None if there are any."""
    diagnostics, errors_before = context.diagnostics, context.diagnostics.count
    action = _find_action(mapping, context)
    schema = parse_model(StepSchema, mapping, diagnostics, remedy=_step_remedy(mapping, action, context))
    with_ = mapping.mapping("with")
    if not context.is_stored_revision and may_have_placeholders(with_):
        report_placeholders(with_, scope, diagnostics, program_keys=getattr(action, "program_keys", ()))
        report_template_keys(with_, "with", diagnostics)
    if action is not None:
        if isinstance(mapping.get("with"), YamlMapping | None):
            _check_inputs(with_, mapping.key_lines.get("with", mapping.line), action, context)
        if getattr(action, "has_own_timeout", False) and "timeout" in mapping:
            remedy_text = "limit the job with `timeout` under `with`"
            diagnostics.add(mapping.key_lines["timeout"], f"timeout: this step waits until its job ends; {remedy_text}")
    lines = dict(_leaf_lines(with_, ""))
    _check_templates(with_, lines, action, scope, context)
    _read_body_file(with_, scope, context)
    check_condition(mapping, scope, context)
    if schema is None or diagnostics.count > errors_before:
        return None
    retry = schema.retry or RetrySchema()
    return Step(
        id=step_id,
        uses=schema.uses,
        with_=orjson.loads(orjson.dumps(with_)),
        name=schema.name or "",
        condition=schema.if_,
        retry=RetryPolicy(retry.attempts, retry.first, retry.cap or max(DEFAULT_CAP_SECONDS, retry.first)),
        timeout_seconds=schema.timeout or DEFAULT_TIMEOUT_SECONDS,
        continue_on_error=schema.continue_on_error,
        ignores_overtaking=(
            getattr(action, "sends_when_overtaken", False) if schema.overtaken is None else schema.overtaken == "send"
        ),
        line=mapping.line,
        lines=lines,
    )


def _step_remedy(mapping: YamlMapping, action: ActionSpec | None, context: ParseContext) -> Callable[[str], str | None]:
    """Return what to say about an unknown or missing key of a step."""
    foreign_key = step_remedy(mapping)

    def remedy(key: str) -> str | None:
        if key == "uses" and "run" in mapping:
            return "this field is required; write `uses: launch` for a step that runs a command"
        if key == "uses":
            return f"this field is required{did_you_mean('', context.catalog)}"
        if key in PLANNED_STEP_KEYS:
            return "this key is not supported yet; remove it"
        if action is not None and key in keys_of(action.inputs_model):
            return f"unknown key; write it under `with`, because it is an input of {action.uses}"
        if key in context.catalog:
            return f"unknown key; write `uses: {key}`"
        return foreign_key(key)

    return remedy


def _find_action(mapping: YamlMapping, context: ParseContext) -> ActionSpec | None:
    uses = mapping.get("uses")
    if not isinstance(uses, str) or isinstance(uses, Invalid):
        return None  # the schema reports a wrong type
    if uses not in context.catalog:
        unknown = f"unknown action {uses!r}{did_you_mean(uses, context.catalog)}"
        if foreign := action_remedy(uses):
            unknown = f"unknown action {uses!r}; {foreign}"
        planned = f"action {uses!r} is not supported yet"
        context.diagnostics.add(mapping.value_lines["uses"], planned if uses in PLANNED_ACTIONS else unknown)
    return context.catalog.get(uses)


# --- with -----------------------------------------------------------------------------------------


def _check_inputs(with_: YamlMapping, line: int, action: ActionSpec, context: ParseContext) -> None:
    """Check what is known before templates are rendered: the action's schema, then its own rules."""
    diagnostics = context.diagnostics
    remedy = input_remedy(action.uses, with_)
    parse_model(action.inputs_model, with_, diagnostics, line=line, root="with", has_templates=True, remedy=remedy)
    if context.is_stored_revision:
        return
    try:
        problems = list(action.check(with_))
    except Exception as error:  # noqa: BLE001 - an installed action can raise anything, which must not stop the parser
        problems = [("", f"action {action.uses!r} failed to check this: {type(error).__name__}: {error}")]
    for dotted, reason in problems:
        path = tuple(dotted.split(".")) if dotted else ()
        diagnostics.add(line_of_path(with_, path, line), f"{'.'.join(('with', *path))}: {reason}")


def _check_templates(
    with_: YamlMapping, lines: Mapping[str, int], action: ActionSpec | None, scope: Scope, context: ParseContext
) -> None:
    expressions = frozenset[str]() if action is None else action.expressions
    keeps_secrets_from = None if action is None or getattr(action, "sends", True) else action.uses
    for number, (leaf, text, is_expression) in enumerate(template_leaves(with_, expressions)):
        if number == MAX_TEMPLATES:
            reason = f"the step has more than {MAX_TEMPLATES} templates; use a body-file, or a loop in one template"
            context.diagnostics.add(lines[leaf], reason)
            return
        if isinstance(text, Invalid):
            continue
        check_template(
            text,
            leaf=f"with.{leaf}",
            line=lines[leaf] or None,
            scope=scope,
            diagnostics=context.diagnostics,
            is_expression=is_expression,
            keeps_secrets_from=keeps_secrets_from,
            show_forms=not context.is_stored_revision,
        )


def _read_body_file(with_: YamlMapping, scope: Scope, context: ParseContext) -> None:
    name, diagnostics = with_.get("body-file"), context.diagnostics
    if not isinstance(name, str) or isinstance(name, Invalid):
        return
    line = with_.value_lines["body-file"]
    if is_template(name):
        reason = "the file is read when the automation is loaded; write a plain path"
        diagnostics.add(line, f"with.body-file: {reason}")
        return
    try:
        text = context.read_body_file(name)
    except ConfigError as error:
        diagnostics.add(line, f"with.body-file: {error}")
        return
    context.body_files[name] = text
    path = posixpath.normpath(posixpath.join(posixpath.dirname(diagnostics.path), name))
    try:
        compiled = compile_text(text, path=path)
    except TemplateInvalid as error:
        diagnostics.add_error(error)
        return
    for line_within, reason in scope.problems(compiled):
        diagnostics.add_error(TemplateInvalid(path, line_within, reason))
    if not context.is_stored_revision and (problem := placeholder_problem(text, "", scope) or comment_problem(text)):
        diagnostics.add_error(TemplateInvalid(path, *problem))


def _leaf_lines(value: Any, leaf: str) -> Iterator[tuple[str, int]]:
    """Yield the dotted path and the line of each leaf."""
    if isinstance(value, YamlMapping):
        members: Iterator[tuple[str | int, Any, int]] = ((key, value[key], value.value_lines[key]) for key in value)
    elif isinstance(value, YamlSequence):
        members = ((index, item, value.lines[index]) for index, item in enumerate(value))
    else:
        return
    for key, member, line in members:
        dotted = f"{leaf}.{key}" if leaf else str(key)
        if isinstance(member, YamlMapping | YamlSequence):
            yield from _leaf_lines(member, dotted)
        else:
            yield dotted, line
