"""Parse the rendered inputs of a step, and report problems that several actions check for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from upshot.actions.egress_rules import InvalidUrl, parse_url
from upshot.actions.protocol import ActionCall
from upshot.errors import TemplateInvalid
from upshot.schema.action_inputs import ActionInputs, InputProblem
from upshot.schema.yaml_model import RENDERED, is_template
from upshot.validation import validation_problems

Inputs = TypeVar("Inputs", bound=ActionInputs)


def parse_inputs(model: type[Inputs], call: ActionCall) -> Inputs:
    """
    Parse a rendered `with` block.

    Raises:
        TemplateInvalid: A rendered value breaks a rule of the schema.
    """
    try:
        return model.model_validate(call.with_, context={RENDERED: True})
    except ValidationError as error:
        problems = validation_problems(error.errors(), model, data=call.with_, show_values=False)
        messages = (f"{'.'.join(map(str, ('with', *path)))}: {message}" for path, message in problems)
        raise invalid_input("; ".join(messages)) from error


def invalid_input(reason: str) -> TemplateInvalid:
    """Return the error for a rendered value that cannot be used. The step adds its own location."""
    return TemplateInvalid("", None, reason)


def encode_json(value: Any, *, key: str) -> bytes:
    """
    Encode rendered plain data as JSON.

    Args:
        value: Plain data.
        key: Its key in the `with` block, for the message.

    Raises:
        TemplateInvalid: JSON cannot represent it, such as an integer beyond 64 bits or half a character.
    """
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise invalid_input(f"with.{key}: cannot be written as JSON: {error}") from error


def literal_secrets(with_: Mapping[str, Any], *keys: str) -> Iterable[InputProblem]:
    """Report secrets that are written into the file itself."""
    for key in keys:
        value = with_.get(key)
        secrets = value if isinstance(value, list) else [value]
        if any(isinstance(secret, str) and not is_template(secret) for secret in secrets):
            name = key.upper().replace("-", "_")
            remedy = f"set UPSHOT_SECRET_{name} in the worker's environment and write {{{{ secrets.{name} }}}} here"
            yield key, f"a secret must not be written into the file; {remedy}"


def literal_url(with_: Mapping[str, Any], key: str) -> str | None:
    """Return the URL that is written into the file itself, or None."""
    url = with_.get(key)
    return url if isinstance(url, str) and not is_template(url) and "\n" not in url else None


def literal_url_problems(with_: Mapping[str, Any], key: str) -> Iterable[InputProblem]:
    """
    Report a URL that is written into the file and that no machine can use.

    Which machines may be reached depends on the settings of the worker, so the file is valid in any case.
    """
    if url := literal_url(with_, key):
        try:
            parse_url(url)
        except InvalidUrl as error:
            yield key, str(error)
