"""From one document of a file to an automation: every rule of the language, every finding with its line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from upshot.automations.parser.diagnostics import Diagnostics, kind_of
from upshot.automations.parser.document import Document, Invalid, YamlMapping, YamlSequence
from upshot.automations.parser.steps import ParseContext, read_condition, read_step, read_step_id
from upshot.automations.parser.triggers import read_triggers
from upshot.automations.scope import scope_of_condition, scope_of_step
from upshot.domain.automation import Automation, Step
from upshot.schema.action_inputs import has_template

KEYS = ("name", "description", "on", "if", "vars", "enabled", "steps", "on-failure")
LATER_KEYS = frozenset({"approval", "concurrency", "cooldown", "debounce"})
MAX_NAME_CHARS = 128
MAX_STEPS = 50  # of one automation, `on-failure` included

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def revision_of(source: Mapping[str, Any], body_files: Mapping[str, str]) -> str:
    """Name exactly this text of an automation; the order of keys does not count."""
    data = orjson.dumps([source, body_files], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()[:12]


def read_automation(document: Document, path: str, source: ParseContext) -> Automation | None:
    """
    Read one document.

    Args:
        document: As the file has it.
        path: File, as a path relative to the folder of automations.
        source: The catalog, body files, and where findings go.

    Returns:
        The automation, or None when something is wrong, which the findings then say.
    """
    block, findings = document.value, source.findings
    if isinstance(block, Invalid):
        return None
    if not isinstance(block, YamlMapping):
        findings.add(
            document.line,
            f"an automation is a mapping with `name`, `on` and `steps`, and this is {kind_of(block)}; "
            "several automations in a file are separated by a line `---`",
        )
        return None
    before = findings.count
    automation = _read_block(block, path, source)
    return automation if findings.count == before else None


def _read_block(block: YamlMapping, path: str, source: ParseContext) -> Automation:
    findings = source.findings
    findings.check_keys(block, KEYS, LATER_KEYS, "an automation")
    for key in ("name", "on", "steps"):
        if block.get(key) is None:
            findings.add(block.key_lines.get(key, block.line), f"`{key}` is missing")
    variables = _read_vars(block, findings)
    steps, on_failure = _read_steps(block, variables, source)
    data: dict[str, Any] = orjson.loads(orjson.dumps(block))
    return Automation(
        name=_read_name(block, findings),
        revision=revision_of(data, source.body_files),
        path=path,
        line=block.line,
        triggers=() if block.get("on") is None else read_triggers(block, findings),
        steps=_with_plain_data(steps, data.get("steps")),
        on_failure=_with_plain_data(on_failure, data.get("on-failure")),
        description=findings.text(block, "description") or "",
        condition=read_condition(block, scope_of_condition(variables), findings),
        vars=data.get("vars") or {},
        enabled=findings.flag(block, "enabled", default=True),
        source=data,
        body_files=source.body_files,
    )


def _read_name(block: YamlMapping, findings: Diagnostics) -> str:
    name = findings.text(block, "name")
    if name is None:
        return ""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        findings.add(
            block.value_lines["name"],
            f"name {name[:40]!r}: write at most {MAX_NAME_CHARS} letters, digits, hyphens, underscores and dots, "
            "a letter or digit first, such as `promote-to-production`",
        )
    return name


def _read_vars(block: YamlMapping, findings: Diagnostics) -> YamlMapping:
    variables = findings.block(block, "vars", "of names and plain values") or YamlMapping(block.line)
    for name, value in variables.items():
        line = variables.key_lines[name]
        if not _VARIABLE.fullmatch(name):
            remedy = name.replace("-", "_")
            findings.add(
                line,
                f"variable {name!r} cannot be written as vars.NAME in a template: it takes letters, digits and "
                f"underscores, a letter first" + (f"; write {remedy}" if _VARIABLE.fullmatch(remedy) else ""),
            )
        if has_template(value) and not isinstance(value, Invalid):
            findings.add(line, f"variable {name!r} is plain data; templates are rendered in `with` only")
    return variables


def _read_steps(block: YamlMapping, variables: YamlMapping, source: ParseContext) -> tuple[list[Step], list[Step]]:
    main = _step_blocks(block, "steps", "step", source.findings)
    on_failure = _step_blocks(block, "on-failure", "on-failure", source.findings)
    if len(main) + len(on_failure) > MAX_STEPS:
        source.findings.add(block.key_lines["steps"], f"there are more than {MAX_STEPS} steps; split the automation")
    _check_ids([*main, *on_failure], source.findings)
    ids = [step_id for step_id, _ in main]
    failure_ids = [step_id for step_id, _ in on_failure]
    return (
        [
            read_step(
                step,
                step_id,
                scope_of_step(variables, ids[:place], ids[place:] + failure_ids, on_failure=False),
                source,
            )
            for place, (step_id, step) in enumerate(main)
        ],
        [
            read_step(
                step,
                step_id,
                scope_of_step(variables, ids + failure_ids[:place], failure_ids[place:], on_failure=True),
                source,
            )
            for place, (step_id, step) in enumerate(on_failure)
        ],
    )


def _step_blocks(block: YamlMapping, key: str, prefix: str, findings: Diagnostics) -> list[tuple[str, YamlMapping]]:
    """The steps of a list, each with its id."""
    value = block.get(key)
    if value is None or isinstance(value, Invalid):
        return []
    if not isinstance(value, YamlSequence) or not value:
        what = "an empty list" if value == [] else kind_of(value)
        findings.add(block.value_lines[key], f"`{key}` must be a list of steps, and this is {what}; write `- uses: …`")
        return []
    steps = []
    for number, (step, line) in enumerate(zip(value, value.lines, strict=True), start=1):
        step_id = read_step_id(step, f"{prefix}-{number}", findings)
        if isinstance(step, YamlMapping):
            steps.append((step_id, step))
        elif not isinstance(step, Invalid):
            findings.add(line, f"a step is a mapping with `uses`, and this is {kind_of(step)}")
    return steps


def _check_ids(steps: list[tuple[str, YamlMapping]], findings: Diagnostics) -> None:
    seen: dict[str, int] = {}
    for step_id, block in steps:
        line = block.key_lines.get("id", block.line)
        if step_id in seen:
            findings.add(line, f"step id {step_id!r} is taken by the step on line {seen[step_id]}; choose another")
        seen.setdefault(step_id, line)


def _with_plain_data(steps: list[Step], data: Any) -> tuple[Step, ...]:
    """Exchange the blocks, which know their lines, for the plain data that is kept."""
    if not isinstance(data, list) or len(data) != len(steps):
        return tuple(steps)  # something was wrong with one of them, and none will be used
    return tuple(replace(step, with_=plain.get("with") or {}) for step, plain in zip(steps, data, strict=True))
