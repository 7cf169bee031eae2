"""Parse one document of a file into an automation, and report every mistake with its line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from upshot.automations.parser.document import Document, Invalid, YamlMapping
from upshot.automations.parser.foreign_keys import automation_remedy
from upshot.automations.parser.model_diagnostics import parse_model
from upshot.automations.parser.steps import ParseContext, check_condition, parse_step
from upshot.automations.parser.triggers import parse_triggers
from upshot.automations.scope import scope_of_condition, scope_of_step
from upshot.domain.automation import Automation, Step
from upshot.ids import RevisionId
from upshot.schema.automation_file import MAX_STEPS, PLANNED_AUTOMATION_KEYS, AutomationSchema
from upshot.validation import describe_value


def revision_of(source: Mapping[str, Any], body_files: Mapping[str, str]) -> RevisionId:
    """Return the id of exactly this content of an automation. The order of keys does not matter."""
    data = orjson.dumps([source, body_files], option=orjson.OPT_SORT_KEYS)
    return RevisionId(hashlib.sha256(data).hexdigest()[:12])


def parse_automation(document: Document, path: str, context: ParseContext) -> Automation | None:
    """
    Parse one document.

    Args:
        document: As parsed from the file.
        path: Path of the file, relative to the folder of automations.
        context: The catalog, the body files, and the diagnostics that receive errors.

    Returns:
        None if something is wrong. The diagnostics then contain the mistakes.
    """
    mapping, diagnostics = document.value, context.diagnostics
    if isinstance(mapping, Invalid):
        return None
    if not isinstance(mapping, YamlMapping):
        diagnostics.add(
            document.line,
            f"an automation must be a mapping with `name`, `on` and `steps`, not {describe_value(mapping)}; "
            "separate several automations in a file with a line `---`",
        )
        return None
    errors_before = diagnostics.count
    schema = parse_model(AutomationSchema, mapping, diagnostics, remedy=_remedy(mapping))
    variables = mapping.mapping("vars")
    triggers = parse_triggers(mapping, diagnostics)
    check_condition(mapping, scope_of_condition(variables), context)
    steps, on_failure = _parse_steps(mapping, variables, context)
    if schema is None or diagnostics.count > errors_before:
        return None
    source: dict[str, Any] = orjson.loads(orjson.dumps(mapping))
    return Automation(
        name=schema.name,
        revision_id=revision_of(source, context.body_files),
        path=path,
        line=mapping.line,
        triggers=triggers,
        steps=steps,
        on_failure=on_failure,
        description=schema.description or "",
        condition=schema.if_,
        vars=source.get("vars") or {},
        enabled=schema.enabled,
        source=source,
        body_files=context.body_files,
    )


def _remedy(mapping: YamlMapping) -> Callable[[str], str | None]:
    foreign = automation_remedy(mapping)
    return lambda key: "this key is not supported yet; remove it" if key in PLANNED_AUTOMATION_KEYS else foreign(key)


def _parse_steps(
    automation: YamlMapping, variables: YamlMapping, context: ParseContext
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Parse `steps` and `on-failure`."""
    main = _steps_with_ids(automation.get("steps"), "step")
    steps = [*main, *_steps_with_ids(automation.get("on-failure"), "on-failure")]
    if len(steps) > MAX_STEPS:
        reason = f"there are more than {MAX_STEPS} steps; split the automation"
        context.diagnostics.add(automation.key_lines.get("steps", automation.line), reason)
    first_lines: dict[str, int] = {}
    for step_id, mapping in steps:
        line = mapping.key_lines.get("id", mapping.line)
        if step_id in first_lines:
            reason = f"the step on line {first_lines[step_id]} already has the id {step_id!r}; choose another"
            context.diagnostics.add(line, reason)
        first_lines.setdefault(step_id, line)
    ids = [step_id for step_id, _ in steps]
    parsed = []
    for index, (step_id, mapping) in enumerate(steps):
        scope = scope_of_step(variables, ids[:index], ids[index:], on_failure=index >= len(main))
        parsed.append(parse_step(mapping, step_id, scope, context))
    valid = [[step for step in part if step is not None] for part in (parsed[: len(main)], parsed[len(main) :])]
    return tuple(valid[0]), tuple(valid[1])


def _steps_with_ids(steps: Any, prefix: str) -> list[tuple[str, YamlMapping]]:
    """Return the mappings in a list of steps, each with its id. The schema reports everything else."""
    found: list[tuple[str, YamlMapping]] = []
    for number, step in enumerate(steps if isinstance(steps, list) else (), start=1):
        if isinstance(step, YamlMapping):
            step_id = step.get("id")
            is_valid = isinstance(step_id, str) and not isinstance(step_id, Invalid)
            found.append((str(step_id) if is_valid else f"{prefix}-{number}", step))
    return found
