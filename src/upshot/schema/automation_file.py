"""The keys of an automation file: the automation itself, its steps, their `retry`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, PlainValidator, model_validator

from upshot.domain.automation import DEFAULT_ATTEMPTS, DEFAULT_FIRST_SECONDS
from upshot.schema.quantities import duration_schema, read_duration, show_duration
from upshot.schema.yaml_model import (
    DEFINED_AS,
    TEMPLATE_PATTERN,
    JsonSchema,
    YamlModel,
    has_template,
    is_template,
    quantity,
    rule,
)
from upshot.validation import describe_value, invalid

MAX_NAME_CHARS = 128
MAX_STEP_ID_CHARS = 64
MAX_STEP_NAME_CHARS = 128
MAX_STEPS = 50  # maximum of one automation, including `on-failure`
MAX_ATTEMPTS = 100
MIN_WAIT_SECONDS = 1e-12  # the shortest that can be written
MAX_WAIT_SECONDS = 7 * 86_400.0
MIN_TIMEOUT_SECONDS = 0.1
MAX_TIMEOUT_SECONDS = 3600.0

#: Keys that a later release supports.
PLANNED_AUTOMATION_KEYS = frozenset({"approval", "concurrency", "cooldown", "debounce"})
PLANNED_STEP_KEYS = frozenset({"approval", "concurrency"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_STEP_ID = re.compile(r"[a-z][a-z0-9_]*")

# The same rules for editors.
_NAME_SCHEMA = {"pattern": f"^{_NAME.pattern}$", "maxLength": MAX_NAME_CHARS}
_STEP_ID_SCHEMA = {"pattern": f"^{_STEP_ID.pattern}$", "maxLength": MAX_STEP_ID_CHARS}
_STEP_NAME_SCHEMA = {"pattern": rf"^(?![\s\S]*{TEMPLATE_PATTERN})[^\n]*\S[^\n]*\n?$", "maxLength": MAX_STEP_NAME_CHARS}
_CONDITION_SCHEMA = {"type": ["string", "boolean"], "pattern": r"^(?!\s*\$?\{\{)[\s\S]*\S"}  # without braces
_VARS_SCHEMA = {
    "propertyNames": {"pattern": f"^{_VARIABLE.pattern}$"},
    "additionalProperties": {DEFINED_AS: "plain"},
}


def _check_name(name: str) -> str | None:
    if _NAME.fullmatch(name) and len(name) <= MAX_NAME_CHARS:
        return None
    return (
        f"{name[:40]!r} is not a valid name; write at most {MAX_NAME_CHARS} letters, digits, hyphens, underscores and "
        "dots, beginning with a letter or digit, such as `promote-to-production`"
    )


def _check_step_id(step_id: str) -> str | None:
    if _STEP_ID.fullmatch(step_id) and len(step_id) <= MAX_STEP_ID_CHARS:
        return None
    valid = re.sub(r"[^a-z0-9_]+", "_", step_id.lower()).strip("_")
    remedy = f"; write {valid}" if _STEP_ID.fullmatch(valid) and len(valid) <= MAX_STEP_ID_CHARS else ""
    return (
        f"{step_id!r} cannot be used as steps.ID in a template; "
        f"use lower-case letters, digits and underscores, beginning with a letter{remedy}"
    )


def _check_step_name(name: str) -> str | None:
    if is_template(name) or "${{" in name:
        return "is shown as it is written, so it cannot contain templates; write plain words"
    if not name.strip() or len(name) > MAX_STEP_NAME_CHARS or not name.strip("\n").isprintable():
        return f"must be one line of 1 to {MAX_STEP_NAME_CHARS} characters"
    return None


def _check_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        valid = name.replace("-", "_")
        remedy = f"; write {valid}" if _VARIABLE.fullmatch(valid) else ""
        raise invalid(
            "this name cannot be used as vars.NAME in a template; "
            f"use letters, digits and underscores, beginning with a letter{remedy}"
        )
    return name


def _check_plain(value: Any) -> Any:
    if has_template(value):
        raise invalid("a variable is plain data; templates are rendered under `with` only")
    return value


def _parse_condition(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    example = "version.metadata.format == 'onnx'"
    if value is None:
        raise invalid(f"is empty, so nothing is decided; write an expression such as `{example}`, or remove the key")
    if not isinstance(value, str) or not value.strip():
        raise invalid(f"must be an expression such as `{example}`, not {describe_value(value)}")
    return value


def _check_steps(value: Any) -> Any:
    if not isinstance(value, list) or not value:
        actual = "an empty list" if value == [] else describe_value(value)
        raise invalid(f"must be a list of steps, not {actual}; write `- uses: …`")
    return value


def _check_step(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise invalid(f"a step must be a mapping with `uses`, not {describe_value(value)}")
    return value


def _check_attempts(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ATTEMPTS:
        raise invalid(f"must be a whole number from 1 (no retry) to {MAX_ATTEMPTS}, not {describe_value(value)}")
    return value


def _check_overtaken(value: Any) -> str:
    if value not in ("skip", "send"):
        raise invalid(f"must be `skip` or `send`, not {describe_value(value)}")
    return str(value)


def _check_wait(seconds: float) -> float:
    if seconds <= 0:
        raise invalid("must be longer than 0s")
    return seconds


Condition = Annotated[str | None, PlainValidator(_parse_condition), JsonSchema(_CONDITION_SCHEMA)]
Steps = Annotated[
    list[Annotated[Any, PlainValidator(_check_step)]],
    BeforeValidator(_check_steps),
    JsonSchema({"minItems": 1, "maxItems": MAX_STEPS, "items": {DEFINED_AS: "step"}}),
]
Wait = Annotated[
    float,
    quantity(read_duration, 0, MAX_WAIT_SECONDS, show_duration),
    AfterValidator(_check_wait),
    JsonSchema(duration_schema(MIN_WAIT_SECONDS, MAX_WAIT_SECONDS)),
]
Timeout = Annotated[
    float,
    quantity(read_duration, MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS, show_duration),
    JsonSchema(duration_schema(MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS)),
]


class RetrySchema(YamlModel):
    """How often a step is attempted, and the waits in between."""

    attempts: Annotated[
        int,
        PlainValidator(_check_attempts),
        JsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_ATTEMPTS}),
    ] = DEFAULT_ATTEMPTS
    first: Wait = DEFAULT_FIRST_SECONDS
    cap: Wait | None = None  #: None is an hour, or `first` if that is longer

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.cap is not None and self.cap < self.first:
            raise invalid("`cap` is shorter than the first wait; make it at least as long as `first`")
        return self


class StepSchema(YamlModel):
    """One item of `steps` or `on-failure`. The action's own schema describes `with`."""

    id: Annotated[str, rule(_check_step_id), JsonSchema(_STEP_ID_SCHEMA)] | None = None
    #: for people
    name: Annotated[str, rule(_check_step_name), AfterValidator(str.strip), JsonSchema(_STEP_NAME_SCHEMA)] | None = None
    uses: str
    with_: Mapping[str, Any] | None = None
    if_: Condition = None
    retry: RetrySchema | None = None
    timeout: Timeout | None = None
    continue_on_error: bool = False
    #: None means the default of the action
    overtaken: Annotated[str, PlainValidator(_check_overtaken), JsonSchema({"enum": ["skip", "send"]})] | None = None


class AutomationSchema(YamlModel):
    """One document of an automation file. StepSchema describes its steps, `automations.triggers` its triggers."""

    name: Annotated[str, rule(_check_name), JsonSchema(_NAME_SCHEMA)]
    description: str | None = None
    on_: Annotated[Any, JsonSchema({DEFINED_AS: "on"})]
    if_: Condition = None
    vars: (
        Annotated[
            Mapping[Annotated[str, AfterValidator(_check_variable)], Annotated[Any, AfterValidator(_check_plain)]],
            JsonSchema(_VARS_SCHEMA),
        ]
        | None
    ) = None
    enabled: bool = True
    steps: Steps
    on_failure: Steps | None = None
