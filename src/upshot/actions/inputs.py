"""From a step's `with` block to what an action works with, and the findings that actions share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from upshot.actions.protocol import ActionCall
from upshot.errors import TemplateInvalid
from upshot.schema.action_inputs import RENDERED, ActionInputs, is_template

Record = TypeVar("Record", bound=ActionInputs)
Finding = tuple[str, str]  #: dotted path in `with`, message
UrlCheck = Callable[[str], str | None]  #: what is wrong with a URL as far as is known without a look-up, or None


def read_with(record: type[Record], call: ActionCall) -> Record:
    """
    Read a rendered `with` block.

    Raises:
        TemplateInvalid: What the templates gave breaks a rule of the record.
    """
    try:
        return record.model_validate(call.with_, context={RENDERED: True})
    except ValidationError as error:
        findings = (f"{'.'.join(map(str, ('with', *found['loc'])))}: {found['msg']}" for found in error.errors())
        raise not_usable("; ".join(findings)) from error


def not_usable(finding: str) -> TemplateInvalid:
    """The error for a rendered value that cannot be used; the step knows its own place."""
    return TemplateInvalid("", None, finding)


def encode_json(value: Any, *, key: str) -> bytes:
    """
    Encode what the templates gave.

    Args:
        value: Plain data.
        key: Of the `with` block, for the message.

    Raises:
        TemplateInvalid: JSON cannot say it: an integer beyond 64 bits, half a character.
    """
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise not_usable(f"with.{key}: cannot be written as JSON: {error}") from error


def written_secrets(with_: Mapping[str, Any], *keys: str) -> Iterable[Finding]:
    """Findings for secrets that stand in the file itself."""
    for key in keys:
        value = with_.get(key)
        for secret in value if isinstance(value, list) else (value,):
            if isinstance(secret, str) and not is_template(secret):
                name = key.upper().replace("-", "_")
                advice = f"set UPSHOT_SECRET_{name} in the worker's environment and write {{{{ secrets.{name} }}}} here"
                yield key, f"a secret must not stand in the file; {advice}"
                break


def written_url(with_: Mapping[str, Any], key: str, check_url: UrlCheck) -> Iterable[Finding]:
    """A finding for a URL that stands in the file and cannot be used."""
    url = with_.get(key)
    if isinstance(url, str) and not is_template(url) and (problem := check_url(url)):
        yield key, problem
