"""
What each action is configured with: the `with` block of a step, as records.

A record is validated twice: as written, when strings may still be templates (their rules then wait),
and as rendered, with `context={RENDERED: True}`, when every rule holds. Nothing is coerced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

RENDERED = "rendered"  #: key of the validation context that says templates have been rendered

MAX_EVENT_TYPE_CHARS = 100  # GitHub's limit for repository_dispatch
MAX_CLIENT_PAYLOAD_KEYS = 10  # GitHub's limit for repository_dispatch
MAX_SLACK_TEXT_CHARS = 40_000  # Slack cuts above this
MAX_SLACK_BLOCKS = 50  # Slack's limit for a message

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110: methods and header names
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_NOT_FOR_HOOKS = frozenset({"CONNECT", "TRACE"})
#: set by us or by the connection; another value would make the request mean something else
_OUR_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    }
)


def is_template(value: Any) -> bool:
    """Tell whether a value as written is a text that is still to be rendered."""
    return isinstance(value, str) and any(mark in value for mark in ("{{", "{%", "{#"))


def has_template(value: Any) -> bool:
    """Tell whether plain data has a template in any of its leaves."""
    if isinstance(value, Mapping):
        return any(has_template(item) for item in value.values())
    if isinstance(value, list):
        return any(has_template(item) for item in value)
    return is_template(value)


def _wrong(reason: str) -> PydanticCustomError:
    return PydanticCustomError("not_usable", "{reason}", {"reason": reason})


def _is_rendered(info: ValidationInfo) -> bool:
    return bool(info.context and info.context.get(RENDERED))


def _rule(judge: Callable[[str], str | None]) -> AfterValidator:
    """A rule for a text that may still be a template; `judge` returns what is wrong with it, or None."""

    def validate(value: str, info: ValidationInfo) -> str:
        if not _is_rendered(info) and is_template(value):
            return value
        if problem := judge(value):
            raise _wrong(problem)
        return value

    return AfterValidator(validate)


def _judge_text(value: str) -> str | None:
    return None if value.strip() else "is empty; write something here or leave the key out"


def _judge_method(value: str) -> str | None:
    if not _TOKEN.fullmatch(value) or value.upper() in _NOT_FOR_HOOKS:
        return f"{value!r} is not a method that a webhook can use; write POST, PUT, PATCH, GET or DELETE"
    return None


def _judge_header_value(value: str) -> str | None:
    if _CONTROL.search(value):
        return "has a line break or another control character, which a header cannot carry; use the filter `trim`"
    return None


def _judge_repository(value: str) -> str | None:
    return None if _REPOSITORY.fullmatch(value) else f"{value!r} is not a repository; write owner/name"


def _judge_event_type(value: str) -> str | None:
    if len(value) > MAX_EVENT_TYPE_CHARS:
        return f"has {len(value)} characters; GitHub takes {MAX_EVENT_TYPE_CHARS}"
    return _judge_text(value)


def _judge_slack_text(value: str) -> str | None:
    if len(value) > MAX_SLACK_TEXT_CHARS:
        return f"has {len(value)} characters; Slack cuts what is longer than {MAX_SLACK_TEXT_CHARS}"
    return None


def _whole_template(value: str, info: ValidationInfo) -> str:
    if _is_rendered(info) or not is_template(value):
        raise _wrong("is a text; write the structure itself, or an expression that gives one: {{= event.data }}")
    return value


Text = Annotated[str, _rule(_judge_text)]
HeaderValue = Annotated[str, _rule(_judge_header_value)]
WholeTemplate = Annotated[str, AfterValidator(_whole_template)]
"""A template that stands for a structure, such as `{{= event.data }}`; gone once it is rendered."""


def _kebab(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class WithBlock(BaseModel):
    """What all `with` blocks have in common: frozen, strict, with the keys as YAML writes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=_kebab)


def _exactly_one(*given: bool) -> bool:
    return sum(given) == 1


class WebhookWith(WithBlock):
    """An HTTP request of the author's own."""

    url: Text
    method: Annotated[str, _rule(_judge_method)] = "POST"
    headers: Mapping[str, HeaderValue] = Field(default_factory=dict)
    json_: Any = None  #: the body as data; whether it was given tells `gives_json`, for null is a body, too
    body_file: Text | None = None  #: a template file beside the automation; arrives rendered as `Call.body`
    signing_secret: Text | list[Text] | None = None  #: several while one is being rotated out

    @property
    def gives_json(self) -> bool:
        """The block has a `json` key."""
        return "json_" in self.model_fields_set

    @field_validator("headers")
    @classmethod
    def _check_names(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        seen: set[str] = set()
        for name in headers:
            lower = name.lower()
            if not _TOKEN.fullmatch(name):
                raise _wrong(f"{name!r} is not a header name")
            if lower in _OUR_HEADERS:
                raise _wrong(f"{name} is set by Upshot itself; leave it out")
            if lower in seen:
                raise _wrong(f"{name} is given twice, in different spellings; keep one")
            seen.add(lower)
        return headers

    @field_validator("signing_secret")
    @classmethod
    def _check_secrets(cls, secrets: str | list[str] | None) -> str | list[str] | None:
        if secrets == []:
            raise _wrong("is an empty list; name a secret or leave the key out")
        return secrets

    @model_validator(mode="after")
    def _check_body(self) -> Self:
        if self.gives_json and self.body_file is not None:
            raise _wrong("json and body-file are both given; keep one")
        return self


class GithubDispatchWith(WithBlock):
    """GitHub's `repository_dispatch`."""

    repository: Annotated[str, _rule(_judge_repository)]
    token: Text
    event_type: Annotated[str, _rule(_judge_event_type)]
    client_payload: Mapping[str, Any] | WholeTemplate = Field(default_factory=dict)
    api_url: Text | None = None  #: None: the setting `UPSHOT_GITHUB_API_URL`

    @field_validator("client_payload")
    @classmethod
    def _check_keys(cls, payload: Mapping[str, Any] | str) -> Mapping[str, Any] | str:
        if len(payload) > MAX_CLIENT_PAYLOAD_KEYS and not isinstance(payload, str):
            raise _wrong(
                f"has {len(payload)} keys; GitHub takes {MAX_CLIENT_PAYLOAD_KEYS} at the top level, "
                "so put some of them into a mapping under one key"
            )
        return payload


class SlackWith(WithBlock):
    """A message to Slack, through an incoming webhook or as a bot."""

    webhook: Text | None = None
    token: Text | None = None
    channel: Text | None = None
    text: Annotated[str, _rule(_judge_slack_text)] | None = None
    blocks: list[Any] | WholeTemplate | None = None
    thread_ts: Text | None = None  #: `ts` of the message to answer in its thread; with a token only

    @field_validator("blocks")
    @classmethod
    def _check_blocks(cls, blocks: list[Any] | str | None) -> list[Any] | str | None:
        if isinstance(blocks, list) and len(blocks) > MAX_SLACK_BLOCKS:
            raise _wrong(f"has {len(blocks)} blocks; Slack takes {MAX_SLACK_BLOCKS} in a message")
        return blocks

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        if not _exactly_one(self.webhook is not None, self.token is not None):
            raise _wrong("give either webhook, or token and channel")
        if (self.token is None) != (self.channel is None):
            raise _wrong("token and channel go together; an incoming webhook has its channel already")
        if self.thread_ts is not None and self.token is None:
            raise _wrong("thread-ts needs token and channel; an incoming webhook cannot answer in a thread")
        if not self.text and not self.blocks:
            raise _wrong("the message is empty; give text, blocks or both")
        return self


class RequireWith(WithBlock):
    """A condition without which the execution does not go on."""

    that: Any  #: an expression as written; its value once it is evaluated
    otherwise: Text = "the requirement does not hold"

    @field_validator("that")
    @classmethod
    def _check_expression(cls, that: Any, info: ValidationInfo) -> Any:
        if not _is_rendered(info) and not (isinstance(that, str) and that.strip()):
            raise _wrong("is not an expression; write one such as: steps.evaluate.outputs.accuracy >= vars.bar")
        return that


class OfVersion(WithBlock):
    """Which version is meant; what is left out is the event's."""

    registry: Text | None = None
    collection: Text | None = None
    version: Text | None = None  #: `v3`, or an alias


class AddAliasWith(OfVersion):
    """An alias to give to a version."""

    alias: Text


class AddTagWith(OfVersion):
    """A tag to give to a version, or to a collection."""

    tag: Text
    on_: Literal["version", "collection"] = "version"


class EmitWith(WithBlock):
    """A custom event to make."""

    name: Text
    data: Mapping[str, Any] | WholeTemplate = Field(default_factory=dict)
