"""
The base of every schema of a YAML file, and rules for values that can be templates.

A `with` block is validated twice. Before its templates are rendered, a rule skips values that are
still templates. Afterwards (`context={RENDERED: True}`) every rule applies. Nothing is coerced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from upshot.schema.quantities import InvalidQuantity
from upshot.schema.template_text import VALUE, template_parts, without_templates
from upshot.validation import describe_value, invalid

MAX_SHOWN_CHARS = 200
INVALID_TEMPLATE = "invalid_template"  #: kind of an error about a template that is not rendered yet

_TO_JSON = re.compile(r"tojson(\([^)]*\))?")

RENDERED = "rendered"  #: key of the validation context: true if the data contains no templates any more

Rule = Callable[[str], str | None]  #: returns what is wrong with a value, or None


class JsonSchema:
    """
    Describes a type for `upshot schema` if its validator has no schema.

    Args:
        keywords: Keywords of JSON Schema. They are added to those of the type. `TEMPLATES` and `PLAIN_TEXT` say
            how a template can stand for the value.
    """

    def __init__(self, keywords: Mapping[str, Any]) -> None:
        self._keywords = keywords

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), **self._keywords}


DEFINED_AS = "x-defined-as"  #: keyword: the definition of the whole schema that describes the value
TEMPLATES = "x-templates"  #: keyword: what kind of template can stand for the value
ANY_TEMPLATE = "any"  #: a text with templates, such as `{{ vars.memory }}`
NO_TEMPLATE = "none"  #: the value is read when the file is loaded, or it is an expression
ONLY_TEMPLATE = "only"  #: a secret: it must not be written into the file

TEMPLATE_PATTERN = r"\{[{%#]"  #: pattern of a text that is a template
NOT_BLANK = {"pattern": r"\S"}
#: One line with or without templates, whose `-` can remove line breaks.
ONE_LINE_TEMPLATE = "one-line"
END = r"(?![\s\S])"  #: end of the text in a pattern; in Python, `$` also matches before a last line break
ONE_LINE = {"pattern": rf"^[^\n\r]*\S[^\n\r]*{END}", TEMPLATES: ONE_LINE_TEMPLATE}
SECRET = JsonSchema({TEMPLATES: ONLY_TEMPLATE})


class YamlModel(BaseModel):
    """A mapping in a YAML file: frozen, strict, with keys in kebab-case. The field `with_` is the key `with`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=lambda name: name.rstrip("_").replace("_", "-")
    )


def is_template(value: Any) -> bool:
    """Return whether a value is a string with template syntax in it."""
    return isinstance(value, str) and ("{{" in value or "{%" in value or "{#" in value)


def has_template(value: Any) -> bool:
    """Return whether plain data contains a template at any depth."""
    if isinstance(value, Mapping):
        return any(has_template(item) for item in value.values())
    if isinstance(value, list):
        return any(has_template(item) for item in value)
    return is_template(value)


def can_be_template(value: Any, info: ValidationInfo) -> bool:
    """Return whether a value is a template that is not rendered yet, so that no rule applies to it."""
    return is_template(value) and not (info.context and info.context.get(RENDERED))


def invalid_template(reason: str) -> PydanticCustomError:
    """Return an error about the template itself, not about its value. Its reason is shown unchanged."""
    return PydanticCustomError(INVALID_TEMPLATE, "{reason}", {"reason": reason})


def check_one_line(value: str) -> str | None:
    """Return what is wrong with a string that must be one line, outside of its templates."""
    if "\n" not in value and "\r" not in value:
        return None
    text = without_templates(value)
    if "\n" not in text and "\r" not in text:
        return None
    shown = " ".join(value.split())[:MAX_SHOWN_CHARS]
    quote = "'" if '"' in shown else '"'
    return f"contains a line break, as `>` and `|` add one at the end; write it in one line: {quote}{shown}{quote}"


def one_line() -> AfterValidator:
    """Return a validator for a string that must be one line. It applies to templates that are not rendered, too."""

    def validate(value: str, info: ValidationInfo) -> str:
        if can_be_template(value, info) and (problem := check_one_line(value)):
            raise invalid_template(problem)
        if not is_template(value) and "\n" in value and not (info.context and info.context.get(RENDERED)):
            raise invalid(check_one_line(value) or "")
        return value

    return AfterValidator(validate)


def is_typed_template(value: str) -> bool:
    """Return whether a template is one expression whose value keeps its type: `{{= … }}`."""
    text = value.strip()
    return text.startswith("{{=") and text.endswith("}}")


def text_for_other_type(value: str) -> str:
    """Return the message about a template that renders to a text where another type is required."""
    return f"cannot be a text, and this would be one; write `{_as_typed(value)}`"


def _as_typed(value: str) -> str:
    """Return the typed form of a template that is one expression."""
    parts = list(template_parts(value.strip()))
    if len(parts) != 1 or parts[0].kind != VALUE:
        return "{{= … }}"
    return f"{{{{= {without_tojson(parts[0].inner)} }}}}"


def without_tojson(expression: str) -> str:
    """Return an expression without a filter `tojson` at its end."""
    before, bar, last = expression.rpartition("|")
    return before.strip() if bar and _TO_JSON.fullmatch(last.strip()) else expression


def rule(check: Rule) -> AfterValidator:
    """Return a validator that applies a rule to a string, unless it is a template that is not rendered yet."""

    def validate(value: str, info: ValidationInfo) -> str:
        if not can_be_template(value, info) and (problem := check(value)):
            raise invalid(problem)
        return value

    return AfterValidator(validate)


def quantity(parse: Callable[[Any], Any], minimum: float, maximum: float, show: Callable[[Any], str]) -> PlainValidator:
    """
    Return a validator for a number with a unit, such as `4GiB` or `30s`.

    Args:
        parse: Returns the number, or raises InvalidQuantity.
        minimum: Smallest valid number.
        maximum: Largest valid number.
        show: Formats a number for messages.
    """

    def validate(value: Any, info: ValidationInfo) -> Any:
        if can_be_template(value, info):
            return value
        try:
            amount = parse(value)
        except InvalidQuantity as error:
            raise invalid(f"{describe_value(value)} {error}") from error
        if not minimum <= amount <= maximum:
            raise invalid(f"must be from {show(minimum)} to {show(maximum)}, not {value}")
        return amount

    return PlainValidator(validate)


def structure(expected: str, fits: Callable[[Any], bool]) -> PlainValidator:
    """
    Return a validator for data that one template may produce as a whole, such as `{{= event.data }}`.

    Args:
        expected: What the data must be, for messages: `a list`.
        fits: Returns whether rendered data is valid.
    """

    def validate(value: Any, info: ValidationInfo) -> Any:
        if fits(value):
            return value
        if not can_be_template(value, info):
            raise invalid(f"must be {expected}, or one expression that returns it: {{{{= … }}}}")
        if not is_typed_template(value):
            raise invalid_template(f"must be {expected}, and this would be a text; write `{_as_typed(value)}`")
        return value

    return PlainValidator(validate)


def check_not_blank(value: str) -> str | None:
    """Return what is wrong with a string that must not be blank, or None."""
    return None if value.strip() else "is empty; write something here or remove the key"


def _unless_template(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    return value if can_be_template(value, info) else validate(value)


def _unless_typed_template(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    if not can_be_template(value, info):
        return validate(value)
    if not is_typed_template(value):
        raise invalid_template(text_for_other_type(value))
    return value


TEXT_OR_TEMPLATE = WrapValidator(_unless_template)  #: marks a word that a template may stand for
OR_TEMPLATE = WrapValidator(_unless_typed_template)  #: marks another type that one expression may stand for

NonBlank = Annotated[str, rule(check_not_blank), JsonSchema(NOT_BLANK)]
OneLine = Annotated[str, one_line(), rule(check_not_blank), JsonSchema(ONE_LINE)]
TemplatableMapping = Annotated[
    Mapping[str, Any],
    structure("a mapping", lambda value: isinstance(value, Mapping) and all(isinstance(key, str) for key in value)),
    JsonSchema({"type": "object"}),
]
TemplatableList = Annotated[
    list[Any], structure("a list", lambda value: isinstance(value, list)), JsonSchema({"type": "array"})
]
