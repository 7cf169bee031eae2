"""
The JSON Schema of automation files, for editors.

It is generated from the models that the parser uses. Draft 7 is the newest draft that yaml-language-server
supports. A schema cannot express rules about several places of a file, such as the names that a template uses. `upshot
validate` checks these rules, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from upshot.automations.parser.foreign_keys import ALTERNATIVES_PATTERN
from upshot.automations.triggers import FILTERS_BY_KIND
from upshot.domain.event import EventKind
from upshot.schema.action_inputs import ActionSpec
from upshot.schema.automation_file import AutomationSchema, RetrySchema, StepSchema
from upshot.schema.metric_watch import CONDITIONS, MetricWatchSchema, ThresholdSchema
from upshot.schema.yaml_model import (
    ANY_TEMPLATE,
    DEFINED_AS,
    END,
    NO_TEMPLATE,
    ONE_LINE_TEMPLATE,
    ONLY_TEMPLATE,
    TEMPLATE_PATTERN,
    TEMPLATES,
)

Schema = dict[str, Any]

MAX_PATTERN_CHARS = 256  #: length of a pattern in a filter

_TEMPLATE: Schema = {"type": "string", "pattern": TEMPLATE_PATTERN}
_ONE_LINE_TEMPLATE: Schema = {
    "type": "string",
    "pattern": rf"{TEMPLATE_PATTERN}[\s\S]*[^\n\r]{END}|{TEMPLATE_PATTERN}-|-[%#}}]\}}",
}
_TYPED_TEMPLATE: Schema = {"type": "string", "pattern": r"^\s*\{\{=[\s\S]*\}\}\s*$"}
_GLOB: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_PATTERN_CHARS,
    # Neither a template nor an exclusion or regular expression of another system.
    "pattern": rf"^(?!not +\S|{ALTERNATIVES_PATTERN}$)"
    rf"(?![!^]|/.+/[gimsuy]*$|(?:.*[-_)\]])?\.[*+]|.*\\|.*\$$)(?![\s\S]*{TEMPLATE_PATTERN})",
}
_KEYS = {
    "name": "Unique in the folder.",
    "description": "For people.",
    "on": "The events that trigger the automation.",
    "if": "An expression over the event. If it is false, the event is not answered.",
    "vars": "Values of your own, used as vars.NAME.",
    "enabled": "false disables the automation.",
    "steps": "What the automation does, in order.",
    "on-failure": "Steps that run after a step has failed.",
}
_STEP_KEYS = {
    "id": "Later steps use the outputs as steps.ID.outputs.",
    "name": "For people: executions show it.",
    "uses": "The action.",
    "with": "The inputs of the action. Every string is a template.",
    "if": "An expression. If it is false, the step is skipped.",
    "retry": "How often the step is attempted, and the waits in between.",
    "timeout": "For one whole attempt, such as 30s.",
    "continue-on-error": "Continue with the next step if this step fails.",
    "overtaken": "What a late attempt does if a newer event of the same alias was delivered meanwhile.",
}


def json_schema(catalog: Mapping[str, ActionSpec]) -> Schema:
    """
    Return the JSON Schema of one document of an automation file.

    Args:
        catalog: The actions that steps can use.
    """
    automation, step = _schema(AutomationSchema), _schema(StepSchema)
    definitions = {
        "on": _triggers(),
        **_metric_conditions(),
        "filters": {"anyOf": [_filter(), {"type": "array", "minItems": 1, "items": _filter()}]},
        "plain": _plain_data(),
        "step": _step(step, catalog),
        "retry": _schema(RetrySchema),
    }
    for uses, action in sorted(catalog.items()):
        definitions |= _inputs(uses, action)
    _describe(automation, _KEYS)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Upshot automation",
        **automation,
        "description": "What happens when a model changes in the registry.",
        "$defs": definitions,
    }


def _schema(model: Any) -> Schema:
    """Return the schema of a record without titles and defaults, which editors would show instead of the keys."""
    schema: Schema = _without_noise(model.model_json_schema(by_alias=True, ref_template="#/$defs/{model}"))
    schema.pop("$defs", None)
    return schema


def _without_noise(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_noise(item) for item in value]
    if not isinstance(value, dict):
        return value
    if DEFINED_AS in value:
        return {"$ref": f"#/$defs/{value[DEFINED_AS]}"}
    kept = {key: item for key, item in value.items() if not (key in ("title", "default") and _is_noise(value, key))}
    return {key: _without_noise(item) for key, item in kept.items()}


def _is_noise(schema: Schema, key: str) -> bool:
    return not isinstance(schema[key], dict) or "type" not in schema[key]  # an input can have the name `title`


def _describe(schema: Schema, descriptions: Mapping[str, str]) -> None:
    for key, text in descriptions.items():
        value = schema["properties"][key]
        # A `$ref` hides its neighbours in draft 7.
        schema["properties"][key] = {"description": text, **({"allOf": [value]} if "$ref" in value else value)}


# --- on -------------------------------------------------------------------------------------------


def _triggers() -> Schema:
    kinds: Schema = {"enum": [kind.value for kind in FILTERS_BY_KIND if kind is not EventKind.RUN_METRIC]}
    filters: Schema = {
        kind.value: {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {name: {"$ref": "#/$defs/filters"} for name in names},
        }
        for kind, names in FILTERS_BY_KIND.items()
    }
    watch = _schema(MetricWatchSchema)
    filters[EventKind.RUN_METRIC.value]["properties"] |= watch["properties"]
    filters[EventKind.RUN_METRIC.value] |= {
        "type": "object",
        "required": watch["required"],
        "oneOf": [{"required": [name], "properties": {name: {"type": "object"}}} for name in CONDITIONS],
    }
    mapping: Schema = {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": filters}
    return {"anyOf": [kinds, mapping, {"type": "array", "minItems": 1, "items": {"anyOf": [kinds, mapping]}}]}


def _metric_conditions() -> Schema:
    """Return the definitions that the schema of `run-metric` refers to."""
    schema = MetricWatchSchema.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    definitions: Schema = {name: _without_noise(part) for name, part in schema["$defs"].items()}
    limits = definitions[ThresholdSchema.__name__]
    limits["anyOf"] = [
        {"required": [word], "properties": {word: {"type": "number"}}} for word in sorted(limits["properties"])
    ]
    return definitions


def _filter() -> Schema:
    globs: Schema = {"anyOf": [_GLOB, {"type": "array", "minItems": 1, "items": _GLOB}]}
    excluded: Schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["not"],
        "properties": {"not": globs},
    }
    return {"anyOf": [_GLOB, excluded]}


def _plain_data() -> Schema:
    """Describe data without templates."""
    return {
        "if": {"type": "string"},
        "then": {"not": {"pattern": TEMPLATE_PATTERN}},
        "else": {
            "items": {"$ref": "#/$defs/plain"},
            "additionalProperties": {"$ref": "#/$defs/plain"},
        },
    }


# --- steps ----------------------------------------------------------------------------------------


def _step(step: Schema, catalog: Mapping[str, ActionSpec]) -> Schema:
    _describe(step, _STEP_KEYS)
    properties = step["properties"]
    properties["uses"] = {
        "description": _STEP_KEYS["uses"],
        "anyOf": [{"const": uses, "description": _summary(action)} for uses, action in sorted(catalog.items())],
    }
    properties["retry"] = {
        "description": _STEP_KEYS["retry"],
        "anyOf": [{"$ref": "#/$defs/retry"}, {"type": "null"}],
    }
    step["allOf"] = [_rule_of_action(uses, action) for uses, action in sorted(catalog.items())]
    return step


def _rule_of_action(uses: str, action: ActionSpec) -> Schema:
    inputs = {"$ref": f"#/$defs/with-{uses}"}
    has_required = bool(_requires_inputs(action))
    with_: Schema = inputs if has_required else {"anyOf": [inputs, {"type": "null"}]}
    then: Schema = {"properties": {"with": with_}}
    if has_required:
        then["required"] = ["with"]
    if getattr(action, "has_own_timeout", False):
        then["properties"]["timeout"] = False
    return {"if": {"required": ["uses"], "properties": {"uses": {"const": uses}}}, "then": then}


def _requires_inputs(action: ActionSpec) -> bool:
    return any(field.is_required() for field in action.inputs_model.model_fields.values())


def _summary(action: ActionSpec) -> str:
    return (inspect.getdoc(type(action)) or action.uses).split("\n\n")[0].replace("\n", " ")


def _inputs(uses: str, action: ActionSpec) -> Schema:
    """Return the definitions of the inputs of an action: `with-slack`, and what it refers to."""
    name = f"with-{uses}"
    schema = action.inputs_model.model_json_schema(by_alias=True, ref_template=f"#/$defs/{name}-{{model}}")
    definitions = schema.pop("$defs", {})
    parts = {name: schema} | {f"{name}-{inner}": part for inner, part in definitions.items()}
    described = {key: _with_templates_below(_without_noise(part)) for key, part in parts.items()}
    described[name]["description"] = _summary(action)
    return described


def _with_templates_below(schema: Schema) -> Schema:
    """Allow templates in place of the values in an object."""
    found = dict(schema)
    if "properties" in found:
        found["properties"] = {key: _or_template(value) for key, value in found["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = _or_template(found[key])
    return found


def _or_template(schema: Schema) -> Schema:
    """Allow a template in place of a value, where the parser allows it."""
    found = _with_templates_below(schema)
    templates = found.pop(TEMPLATES, None)
    description = {"description": found.pop("description")} if "description" in found else {}
    if templates == NO_TEMPLATE or not found.keys() & {"type", "anyOf", "$ref", "enum", "const", "oneOf"}:
        return {**description, **found}  # anything is valid, which includes templates
    if templates == ONLY_TEMPLATE:
        return {**description, **_TEMPLATE}
    if templates == ANY_TEMPLATE:
        return {**description, "anyOf": [found, _TEMPLATE]}
    if templates == ONE_LINE_TEMPLATE:
        return {**description, "anyOf": [found, _ONE_LINE_TEMPLATE]}
    if "anyOf" in found:
        return {**description, **found, "anyOf": [_or_template(option) for option in found["anyOf"]]}
    if found.get("type") == "null":
        return found
    is_text = found.get("type") == "string" or "enum" in found or "const" in found
    return {**description, "anyOf": [found, _TEMPLATE if is_text else _TYPED_TEMPLATE]}
