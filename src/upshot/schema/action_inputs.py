"""
What each action is configured with: the `with` block of a step, as records.

A record is validated twice: as written, when strings may still be templates (their rules then wait),
and as rendered, with `context={RENDERED: True}`, when every rule holds. Nothing is coerced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from upshot.domain.reference import check_alias, check_name
from upshot.errors import InvalidInput

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


def wrong(reason: str) -> PydanticCustomError:
    """A finding of ours, for a validator to raise; loaders and actions show it as it is."""
    return PydanticCustomError("not_usable", "{reason}", {"reason": reason})


def is_rendered(info: ValidationInfo) -> bool:
    """Tell whether templates have been rendered, so that every rule holds."""
    return bool(info.context and info.context.get(RENDERED))


def rule(judge: Callable[[str], str | None]) -> AfterValidator:
    """A rule for a text that may still be a template; `judge` returns what is wrong with it, or None."""

    def validate(value: str, info: ValidationInfo) -> str:
        if not is_rendered(info) and is_template(value):
            return value
        if problem := judge(value):
            raise wrong(problem)
        return value

    return AfterValidator(validate)


def judge_text(value: str) -> str | None:
    """What is wrong with a text that must say something."""
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
    return judge_text(value)


def _judge_alias(value: str) -> str | None:
    return _objection(lambda: check_alias(value))


def _judge_tag(value: str) -> str | None:
    return _objection(lambda: check_name(value, "tag"))


def _objection(check: Callable[[], object]) -> str | None:
    """What the registry says against a name, which it would refuse with every event."""
    try:
        check()
    except InvalidInput as error:
        return str(error)
    return None


def _judge_slack_text(value: str) -> str | None:
    if len(value) > MAX_SLACK_TEXT_CHARS:
        return f"has {len(value)} characters; Slack cuts what is longer than {MAX_SLACK_TEXT_CHARS}"
    return None


def _structure(what: str, fits: Callable[[Any], bool]) -> PlainValidator:
    """A rule for a structure that may also be one template that gives it, such as `{{= event.data }}`."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        if fits(value) or (not is_rendered(info) and is_template(value)):
            return value
        raise wrong(f"is not {what}; write it out, or as one expression that gives it: {{{{= … }}}}")

    return PlainValidator(validate)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_texts(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)


Text = Annotated[str, rule(judge_text)]
HeaderValue = Annotated[str, rule(_judge_header_value)]
# As written, each of these may also hold a template text; as rendered, it is what its type says.
Structure = Annotated[Mapping[str, Any], _structure("a mapping", _is_mapping)]
Items = Annotated[list[Any], _structure("a list", _is_list)]
Texts = Annotated[str | list[str], _structure("a text or a list of texts", _is_texts)]


def _kebab(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class ActionInputs(BaseModel):
    """What all `with` blocks have in common: frozen, strict, with the keys as YAML writes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=_kebab)


def _exactly_one(*given: bool) -> bool:
    return sum(given) == 1


class WebhookInputs(ActionInputs):
    """An HTTP request of the author's own."""

    url: Text
    method: Annotated[str, rule(_judge_method)] = "POST"
    headers: Mapping[str, HeaderValue] = Field(default_factory=dict)
    json_: Any = None  #: the body as data; whether it was given tells `gives_json`, for null is a body, too
    body_file: Text | None = None  #: a template file beside the automation; arrives rendered as `Call.body`
    signing_secret: Texts | None = None  #: several while one is being rotated out

    @property
    def gives_json(self) -> bool:
        """The block has a `json` key."""
        return "json_" in self.model_fields_set

    @field_validator("headers")
    @classmethod
    def _check_names(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        seen: set[str] = set()
        problems = []
        for name in headers:
            lower = name.lower()
            if not _TOKEN.fullmatch(name):
                problems.append(f"{name!r} is not a header name")
            elif lower in _OUR_HEADERS:
                problems.append(f"{name} is set by Upshot itself; leave it out")
            elif lower in seen:
                problems.append(f"{name} is given twice, in different spellings; keep one")
            seen.add(lower)
        if problems:
            raise wrong("; ".join(problems))
        return headers

    @model_validator(mode="after")
    def _check_body(self) -> Self:
        if self.gives_json and self.body_file is not None:
            raise wrong("json and body-file are both given; keep one")
        return self


class GithubDispatchInputs(ActionInputs):
    """GitHub's `repository_dispatch`."""

    repository: Annotated[str, rule(_judge_repository)]
    token: Text
    event_type: Annotated[str, rule(_judge_event_type)]
    client_payload: Structure = Field(default_factory=dict)
    api_url: Text | None = None  #: None: the setting `UPSHOT_GITHUB_API_URL`

    @field_validator("client_payload")
    @classmethod
    def _check_keys(cls, payload: Any) -> Any:
        if isinstance(payload, Mapping) and len(payload) > MAX_CLIENT_PAYLOAD_KEYS:
            raise wrong(
                f"has {len(payload)} keys; GitHub takes {MAX_CLIENT_PAYLOAD_KEYS} at the top level, "
                "so put some of them into a mapping under one key"
            )
        return payload


class SlackInputs(ActionInputs):
    """A message to Slack, through an incoming webhook or as a bot."""

    webhook: Text | None = None
    token: Text | None = None
    channel: Text | None = None
    text: Annotated[str, rule(_judge_slack_text)] | None = None
    blocks: Items | None = None
    thread_ts: Text | None = None  #: `ts` of the message to answer in its thread; with a token only

    @field_validator("blocks")
    @classmethod
    def _check_blocks(cls, blocks: Any) -> Any:
        if isinstance(blocks, list) and len(blocks) > MAX_SLACK_BLOCKS:
            raise wrong(f"has {len(blocks)} blocks; Slack takes {MAX_SLACK_BLOCKS} in a message")
        return blocks

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        if not _exactly_one(self.webhook is not None, self.token is not None):
            raise wrong("give either webhook, or token and channel")
        if (self.token is None) != (self.channel is None):
            raise wrong("token and channel go together; an incoming webhook has its channel already")
        if self.thread_ts is not None and self.token is None:
            raise wrong("thread-ts needs token and channel; an incoming webhook cannot answer in a thread")
        if not self.text and not self.blocks:
            raise wrong("the message is empty; give text, blocks or both")
        return self


class RequireInputs(ActionInputs):
    """A condition without which the execution does not go on."""

    that: Any  #: an expression as written; its value once it is evaluated
    otherwise: Text = "the requirement does not hold"

    @field_validator("that")
    @classmethod
    def _check_expression(cls, that: Any, info: ValidationInfo) -> Any:
        if not is_rendered(info) and not (isinstance(that, str) and that.strip()):
            raise wrong("is not an expression; write one such as: steps.evaluate.outputs.accuracy >= vars.bar")
        return that


class VersionSelector(ActionInputs):
    """Which version is meant; what is left out is the event's."""

    registry: Text | None = None
    collection: Text | None = None
    version: Text | None = None  #: `v3`, or an alias


class FindVersionInputs(VersionSelector):
    """A version to look up."""

    optional: bool = False  #: go on where there is none, with `found` false


class AddAliasInputs(VersionSelector):
    """An alias to give to a version."""

    alias: Annotated[str, rule(_judge_alias)]


class AddTagInputs(VersionSelector):
    """A tag to give to a version, or to a collection."""

    tag: Annotated[str, rule(_judge_tag)]
    on_: Literal["version", "collection"] = "version"


class EmitInputs(ActionInputs):
    """A custom event to make."""

    name: Text
    data: Structure = Field(default_factory=dict)
