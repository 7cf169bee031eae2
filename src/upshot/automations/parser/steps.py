"""Reads a step: what it does, with what, and how often it is tried."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from upshot.automations.parser.diagnostics import Diagnostics, kind_of
from upshot.automations.parser.document import Invalid, YamlMapping, YamlSequence
from upshot.automations.parser.model_diagnostics import check_record, keys_of, line_at
from upshot.automations.sandbox import nearest
from upshot.automations.scope import Scope
from upshot.automations.template import compile_expression, compile_leaf, compile_text, template_leaves
from upshot.domain.automation import (
    DEFAULT_ATTEMPTS,
    DEFAULT_CAP_SECONDS,
    DEFAULT_FIRST_SECONDS,
    DEFAULT_TIMEOUT_SECONDS,
    ActionSpec,
    RetryPolicy,
    Step,
)
from upshot.errors import ConfigError, TemplateInvalid
from upshot.schema.action_inputs import is_template
from upshot.schema.quantities import InvalidQuantity, read_duration

STEP_KEYS = ("id", "uses", "with", "if", "retry", "timeout", "continue-on-error")
RETRY_KEYS = ("attempts", "first", "cap")
MAX_ATTEMPTS = 100
MAX_WAIT_SECONDS = 7 * 86_400.0
MAX_TIMEOUT_SECONDS = 3600.0
MIN_TIMEOUT_SECONDS = 0.1
MAX_ID_CHARS = 64
MAX_TEMPLATES = 500  # of one step; each may take a millisecond to compile when it is first rendered

LATER_STEP_KEYS = frozenset({"approval", "concurrency"})
LATER_ACTIONS = frozenset(
    {
        *("approval", "discord", "github-status", "github-workflow", "pagerduty", "remove-alias"),
        *("remove-tag", "report", "set-metadata", "set-stage", "teams", "wait"),
    }
)

_ID = re.compile(r"[a-z][a-z0-9_]*")

ReadBodyFile = Callable[[str], str]
"""Takes a path as written in `body-file`; gives the text, or raises ConfigError with the reason."""


@dataclass(frozen=True, slots=True)
class ParseContext:
    """What a step is read with."""

    catalog: Mapping[str, ActionSpec]
    read_body_file: ReadBodyFile
    body_files: dict[str, str]  #: filled while steps are read
    findings: Diagnostics
    is_kept: bool = False  #: a revision in force before: what its actions object to now, they say when they act


def read_condition(block: YamlMapping, scope: Scope, findings: Diagnostics) -> str | None:
    """Read an `if`: an expression, or plainly true or false; None where there is none."""
    value = block.get("if")
    if value is None or isinstance(value, Invalid):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    line = block.value_lines["if"]
    if not isinstance(value, str) or not value.strip():
        example = "version.metadata.format == 'onnx'"
        findings.add(line, f"`if` must be an expression such as `{example}`, and this is {kind_of(value)}")
        return None
    try:
        compiled = compile_expression(value, path=findings.path, line=line or None)
    except TemplateInvalid as error:
        findings.keep(error)
        return None
    for line_within, reason in scope.findings(compiled):
        findings.add(line and line + line_within - 1, f"if: {reason}")
    return value


def read_step_id(block: Any, default: str, findings: Diagnostics) -> str:
    """Read a step's id, which must be usable as `steps.ID`; the default where there is none."""
    word = findings.text(block, "id") if isinstance(block, YamlMapping) else None
    if word is None:
        return default
    if not _ID.fullmatch(word) or len(word) > MAX_ID_CHARS:
        fitting = re.sub(r"[^a-z0-9_]+", "_", word.lower()).strip("_")
        remedy = f"; write {fitting}" if _ID.fullmatch(fitting) and len(fitting) <= MAX_ID_CHARS else ""
        findings.add(
            block.value_lines["id"],
            f"step id {word!r} cannot be written as steps.ID in a template: "
            f"it takes lower-case letters, digits and underscores, a letter first{remedy}",
        )
    return word


def read_step(block: YamlMapping, step_id: str, scope: Scope, source: ParseContext) -> Step:
    """Read one item of `steps` or `on-failure`; what is wrong with it goes to the findings."""
    findings = source.findings
    uses = _read_uses(block, source)
    spec = source.catalog.get(uses)
    _check_keys(block, spec, source)
    with_ = findings.block(block, "with", "of the action's settings") or YamlMapping(block.line)
    if spec is not None:
        _check_with(with_, block.key_lines.get("with", block.line), spec, source)
    lines = dict(_leaf_lines(with_, ""))
    _check_templates(with_, lines, frozenset() if spec is None else spec.expressions, scope, findings)
    _read_body_file(with_, scope, source)
    return Step(
        id=step_id,
        uses=uses,
        with_=with_,
        condition=read_condition(block, scope, findings),
        retry=_read_retry(block, findings),
        timeout_seconds=_read_timeout(block, spec, findings),
        continue_on_error=findings.flag(block, "continue-on-error", default=False),
        line=block.line,
        lines=lines,
    )


def _check_keys(block: YamlMapping, spec: ActionSpec | None, source: ParseContext) -> None:
    """Report keys that a step does not have, and the action's settings where they are written beside `with`."""
    findings, settings = source.findings, () if spec is None else keys_of(spec.with_record)
    misplaced = [key for key in block if key not in STEP_KEYS and (key in settings or key in source.catalog)]
    for key in misplaced:
        remedy = (
            f"it goes under `with`, for it is {spec.uses}'s" if spec and key in settings else f"write `uses: {key}`"
        )
        findings.add(block.key_lines[key], f"unknown key {key!r}; {remedy}")
    findings.check_keys(block, (*STEP_KEYS, *misplaced), LATER_STEP_KEYS, "a step")


def _read_uses(block: YamlMapping, source: ParseContext) -> str:
    uses = source.findings.text(block, "uses")
    if uses is None:
        if block.get("uses") is None:
            source.findings.add(block.line, f"the step has no `uses`; actions are {', '.join(sorted(source.catalog))}")
        return ""
    if uses not in source.catalog:
        line = block.value_lines["uses"]
        if uses in LATER_ACTIONS:
            source.findings.add(line, f"action {uses!r} is not supported yet")
        else:
            guess = nearest(uses, source.catalog) or f"; actions are {', '.join(sorted(source.catalog))}"
            source.findings.add(line, f"unknown action {uses!r}{guess}")
    return uses


# --- with -----------------------------------------------------------------------------------------


def _check_with(with_: YamlMapping, line: int, spec: ActionSpec, source: ParseContext) -> None:
    """Check what can be known before templates are rendered: the record's rules, then the action's own."""
    findings = source.findings
    check_record(spec.with_record, with_, line, findings, holder=spec.uses, root="with", rendered=False)
    for dotted, reason in () if source.is_kept else _ask(spec, with_):
        parts = dotted.split(".") if dotted else []
        findings.add(line_at(with_, parts, line), f"{'.'.join(('with', *parts))}: {reason}")


def _ask(spec: ActionSpec, with_: YamlMapping) -> list[tuple[str, str]]:
    try:
        return list(spec.check(with_))
    except Exception as error:  # noqa: BLE001 - a stranger's action may raise anything, and must not take the rest down
        return [("", f"action {spec.uses!r} could not check this: {type(error).__name__}: {error}")]


def _check_templates(
    with_: YamlMapping, lines: Mapping[str, int], expressions: frozenset[str], scope: Scope, findings: Diagnostics
) -> None:
    for number, (leaf, text, is_expression) in enumerate(template_leaves(with_, expressions)):
        if number == MAX_TEMPLATES:
            findings.add(
                lines[leaf], f"the step has more than {MAX_TEMPLATES} templates; use a body-file, or loop in one"
            )
            return
        if isinstance(text, Invalid):
            continue
        line = lines[leaf] or None
        try:
            compiled = compile_leaf(
                text, path=findings.path, line=line, leaf=f"with.{leaf}", is_expression=is_expression
            )
        except TemplateInvalid as error:
            findings.keep(error)
            continue
        for line_within, reason in scope.findings(compiled):
            findings.add(line and line + line_within - 1, f"with.{leaf}: {reason}")


def _read_body_file(with_: YamlMapping, scope: Scope, source: ParseContext) -> None:
    written = with_.get("body-file")
    if not isinstance(written, str) or isinstance(written, Invalid):
        return
    line = with_.value_lines["body-file"]
    if is_template(written):
        source.findings.add(line, "with.body-file: the file is read when the automation is loaded; write a plain path")
        return
    try:
        text = source.read_body_file(written)
    except ConfigError as error:
        source.findings.add(line, f"with.body-file: {error}")
        return
    source.body_files[written] = text
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source.findings.path), written))
    try:
        compiled = compile_text(text, path=place)
    except TemplateInvalid as error:
        source.findings.keep(error)
        return
    for line_within, reason in scope.findings(compiled):
        source.findings.keep(TemplateInvalid(place, line_within, reason))


def _leaf_lines(value: Any, leaf: str) -> Iterator[tuple[str, int]]:
    """Lines of all leaves, by dotted path."""
    if isinstance(value, YamlMapping):
        members: Iterator[tuple[str | int, Any, int]] = ((key, value[key], value.value_lines[key]) for key in value)
    elif isinstance(value, YamlSequence):
        members = ((place, member, value.lines[place]) for place, member in enumerate(value))
    else:
        return
    for key, member, line in members:
        dotted = f"{leaf}.{key}" if leaf else str(key)
        if isinstance(member, YamlMapping | YamlSequence):
            yield from _leaf_lines(member, dotted)
        else:
            yield dotted, line


# --- how often, how long --------------------------------------------------------------------------


def _read_retry(block: YamlMapping, findings: Diagnostics) -> RetryPolicy:
    retry = findings.block(block, "retry", "such as `{attempts: 5, first: 1s, cap: 10m}`")
    if retry is None:
        return RetryPolicy()
    findings.check_keys(retry, RETRY_KEYS, frozenset(), "`retry`")
    attempts = retry.get("attempts", DEFAULT_ATTEMPTS)
    if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= MAX_ATTEMPTS:
        if not isinstance(attempts, Invalid):
            findings.add(
                retry.value_lines["attempts"],
                f"attempts must be a whole number from 1 (no retry) to {MAX_ATTEMPTS}, not {kind_of(attempts)}",
            )
        attempts = DEFAULT_ATTEMPTS
    first = _read_duration(retry, "first", findings)
    cap = _read_duration(retry, "cap", findings)
    for key, seconds in (("first", first), ("cap", cap)):
        if seconds is not None and not 0 < seconds <= MAX_WAIT_SECONDS:
            findings.add(retry.value_lines[key], f"{key} must be more than nothing and at most 7d")
    policy = RetryPolicy(attempts, first or DEFAULT_FIRST_SECONDS, cap or max(DEFAULT_CAP_SECONDS, first or 0))
    if policy.cap_seconds < policy.first_seconds:
        findings.add(retry.value_lines["cap"], "cap is shorter than the first wait; no wait is longer than cap")
    return policy


def _read_timeout(block: YamlMapping, spec: ActionSpec | None, findings: Diagnostics) -> float:
    # An action of somebody else's package says so only if what it does outlasts its attempts.
    if getattr(spec, "has_own_time", False) and "timeout" in block:
        remedy = "say how long that may be as `timeout` under `with`"
        findings.add(block.key_lines["timeout"], f"the step waits for as long as its job takes; {remedy}")
        return DEFAULT_TIMEOUT_SECONDS
    seconds = _read_duration(block, "timeout", findings)
    if seconds is None:
        return DEFAULT_TIMEOUT_SECONDS
    if not MIN_TIMEOUT_SECONDS <= seconds <= MAX_TIMEOUT_SECONDS:
        findings.add(block.value_lines["timeout"], "timeout is for one attempt, and must be from 100ms to 1h")
    return seconds


def _read_duration(block: YamlMapping, key: str, findings: Diagnostics) -> float | None:
    """Seconds; None where there is none, or where it is no duration, which is reported."""
    value = block.get(key)
    if value is None or isinstance(value, Invalid):
        return None
    try:
        return read_duration(value)
    except InvalidQuantity as error:
        findings.add(block.value_lines[key], f"{key} is not a duration: {kind_of(value)}; {error.remedy}")
        return None
