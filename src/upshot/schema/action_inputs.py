"""The inputs of each action: the `with` block of a step, as one schema for each action."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from upshot.domain.reference import MAX_NAME_CHARS, check_alias, check_name
from upshot.domain.stage import parse_stage
from upshot.errors import InvalidInput
from upshot.schema.slack_blocks import texts_with_limits
from upshot.schema.template_text import VALUE, template_parts, without_templates
from upshot.schema.yaml_model import (
    END,
    MAX_SHOWN_CHARS,
    NO_TEMPLATE,
    NOT_BLANK,
    ONE_LINE_TEMPLATE,
    ONLY_TEMPLATE,
    RENDERED,
    SECRET,
    TEMPLATES,
    JsonSchema,
    NonBlank,
    OneLine,
    TemplatableList,
    TemplatableMapping,
    YamlModel,
    can_be_template,
    check_not_blank,
    invalid_template,
    is_template,
    one_line,
    rule,
    structure,
    without_tojson,
)
from upshot.suggestions import did_you_mean
from upshot.validation import invalid

InputProblem = tuple[str, str]  #: a mistake in a `with` block: dotted path below `with`, and message

MAX_EVENT_TYPE_CHARS = 100  # GitHub's limit for repository_dispatch
MAX_CLIENT_PAYLOAD_KEYS = 10  # GitHub's limit for repository_dispatch
MAX_SLACK_TEXT_CHARS = 40_000  # Slack truncates longer texts
MAX_SLACK_BLOCKS = 50  # Slack's limit for a message

_AS_JSON_PATTERN = r"^\s*\{\{[^=]((?!\}\})[\s\S])*\|\s*tojson(\([^)]*\))?\s*-?\}\}\s*$"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110: methods and header names
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
#: The methods that a webhook can use: those of RFC 9110, and others that services use, most of them for WebDAV.
METHODS = (
    *("POST", "PUT", "PATCH", "GET", "DELETE", "HEAD", "OPTIONS"),
    *("COPY", "LINK", "LIST", "LOCK", "MERGE", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "PURGE", "QUERY", "REPORT"),
    *("SEARCH", "SUBSCRIBE", "UNLINK", "UNLOCK", "UNSUBSCRIBE", "NOTIFY"),
)
#: Upshot or the HTTP client sets these. Another value would change the meaning of the request.
_RESERVED_HEADERS = frozenset(
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


def _check_method(value: str) -> str | None:
    if value.upper() in METHODS:
        return None
    guess = did_you_mean(value.upper(), METHODS, list_known=False)
    return f"{value!r} is not a method that a webhook can use{guess or '; write POST, PUT, PATCH, GET or DELETE'}"


def _check_header_value(value: str) -> str | None:
    if _CONTROL.search(value):
        return "contains a line break or another control character, which a header cannot carry; use the filter `trim`"
    return None


def _check_repository(value: str) -> str | None:
    return None if _REPOSITORY.fullmatch(value) else f"{value!r} is not a repository; write owner/name"


def _check_event_type(value: str) -> str | None:
    if len(value) > MAX_EVENT_TYPE_CHARS:
        return f"has {len(value)} characters; GitHub accepts at most {MAX_EVENT_TYPE_CHARS}"
    return check_not_blank(value)


def _check_slack_text(value: str) -> str | None:
    if len(value) > MAX_SLACK_TEXT_CHARS:
        return f"has {len(value)} characters; Slack truncates a text after {MAX_SLACK_TEXT_CHARS}"
    return None


def _by_registry(check: Callable[[str], object]) -> Callable[[str], str | None]:
    """Return a rule that reports a name which the registry would reject for every event."""

    def problem(value: str) -> str | None:
        try:
            check(value)
        except InvalidInput as error:
            return str(error)
        return None

    return problem


def _check_json_body(body: str) -> str | None:
    """Return what is wrong with a body that is JSON in a text. It would be sent as one JSON string."""
    parts = list(template_parts(body.strip()))
    if len(parts) == 1 and parts[0].kind == VALUE and (data := without_tojson(parts[0].inner)) != parts[0].inner:
        return f'would be sent as one string that contains JSON; write `json: "{{{{= {data} }}}}"`'
    text = body.strip()
    if text[:1] + text[-1:] not in ("{}", "[]") or text.startswith(("{{", "{%", "{#")) or not _is_json_template(text):
        return None
    remedy = "write it without quotes and without `|`, because JSON is YAML"
    if not is_template(body) or '"{{' in body:
        line = " ".join(text.split())
        remedy = f"{remedy}: `json: {line}`" if len(line) <= MAX_SHOWN_CHARS else remedy
    return f"would be sent as one string that contains JSON; {remedy}; or write it into a `body-file`"


def _is_json_template(text: str) -> bool:
    """Return whether a text is JSON once its templates are replaced by values."""
    if "{%" in text:
        return text[0] == "{"
    try:
        json.loads(without_templates(text, "0"), strict=False)
    except ValueError:
        return False
    return True


Url = Annotated[OneLine, JsonSchema({"pattern": rf"^[Hh][Tt][Tt][Pp][Ss]?://\S+{END}"})]
_HEADER_SCHEMA = {"pattern": rf"^[^\n\r]*{END}", TEMPLATES: ONE_LINE_TEMPLATE}
_NAME_SCHEMA = {"pattern": r"^[^/\\#?%:\x00-\x1f]+$", "maxLength": MAX_NAME_CHARS}
_ALIAS_SCHEMA = {**_NAME_SCHEMA, "not": {"pattern": "^v(0|[1-9][0-9]{0,8})$"}}
_METHOD_SCHEMA = {"pattern": f"^(?:{'|'.join(METHODS)}|{'|'.join(METHODS).lower()})$"}
_TEXT_SCHEMA = {"type": "string", **NOT_BLANK, TEMPLATES: ONLY_TEMPLATE}  # minimum length of signing secrets


def _is_string_or_list(value: Any) -> bool:
    strings = value if isinstance(value, list) else [value]
    return bool(strings) and all(isinstance(item, str) and item.strip() for item in strings)


StringOrList = Annotated[
    str | list[str],
    structure("a string or a list of strings", _is_string_or_list),
    JsonSchema({"anyOf": [_TEXT_SCHEMA, {"type": "array", "minItems": 1, "items": _TEXT_SCHEMA}]}),
]


class ActionInputs(YamlModel):
    """The `with` block of a step."""


class WebhookInputs(ActionInputs):
    """An HTTP request."""

    url: Url
    method: Annotated[str, one_line(), rule(_check_method), JsonSchema(_METHOD_SCHEMA)] = "POST"
    headers: Mapping[str, Annotated[str, one_line(), rule(_check_header_value), JsonSchema(_HEADER_SCHEMA)]] = Field(
        default_factory=dict
    )
    #: the body as data; `has_json` distinguishes the body null from no body
    json_: Annotated[Any, JsonSchema({"not": {"type": "string", "pattern": _AS_JSON_PATTERN}})] = None
    body_file: Annotated[OneLine, JsonSchema({TEMPLATES: NO_TEMPLATE})] | None = (
        None  #: a template file beside the automation; `ActionCall.body` is its rendered text
    )
    signing_secret: StringOrList | None = None  #: several while a secret is rotated

    @property
    def has_json(self) -> bool:
        """Whether the block contains the key `json`."""
        return "json_" in self.model_fields_set

    @field_validator("headers")
    @classmethod
    def _check_header_names(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        seen: set[str] = set()
        problems = []
        for name in headers:
            lower = name.lower()
            if not _TOKEN.fullmatch(name):
                problems.append(f"{name!r} is not a valid header name")
            elif lower in _RESERVED_HEADERS:
                problems.append(f"Upshot sets the header {name}; remove it")
            elif lower in seen:
                problems.append(f"the header {name} appears twice, in different spellings; keep one")
            seen.add(lower)
        if problems:
            raise invalid("; ".join(problems))
        return headers

    @field_validator("json_")
    @classmethod
    def _check_is_data(cls, body: Any, info: ValidationInfo) -> Any:
        is_rendered = info.context and info.context.get(RENDERED)
        if isinstance(body, str) and not is_rendered and (problem := _check_json_body(body)):
            raise invalid_template(problem)
        return body

    @model_validator(mode="after")
    def _check_body(self) -> Self:
        if self.has_json and self.body_file is not None:
            raise invalid("both `json` and `body-file` are given; keep one")
        return self


class GithubDispatchInputs(ActionInputs):
    """A `repository_dispatch` event on GitHub."""

    repository: Annotated[
        str, one_line(), rule(_check_repository), JsonSchema({"pattern": f"^(?:{_REPOSITORY.pattern})$"})
    ]
    token: Annotated[OneLine, SECRET]
    event_type: Annotated[
        str, one_line(), rule(_check_event_type), JsonSchema({**NOT_BLANK, "maxLength": MAX_EVENT_TYPE_CHARS})
    ]
    client_payload: TemplatableMapping = Field(default_factory=dict)
    api_url: Url | None = None  #: None means the setting `UPSHOT_GITHUB_API_URL`

    @field_validator("client_payload")
    @classmethod
    def _check_key_count(cls, payload: Any) -> Any:
        if isinstance(payload, Mapping) and len(payload) > MAX_CLIENT_PAYLOAD_KEYS:
            raise invalid(
                f"has {len(payload)} keys; GitHub accepts at most {MAX_CLIENT_PAYLOAD_KEYS} at the top level, "
                "so group some of them in a mapping under one key"
            )
        return payload


class SlackInputs(ActionInputs):
    """A message to Slack, sent through an incoming webhook or by a bot."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"anyOf": [{"required": ["webhook"]}, {"required": ["token", "channel"]}]},
                {"anyOf": [{"required": ["text"]}, {"required": ["blocks"]}]},
            ]
        }
    )

    webhook: Url | None = None
    token: Annotated[OneLine, SECRET] | None = None
    channel: OneLine | None = None
    text: Annotated[str, rule(_check_slack_text)] | None = None
    blocks: TemplatableList | None = None
    thread_ts: OneLine | None = None  #: `ts` of the message to reply to; only with a token

    @field_validator("blocks")
    @classmethod
    def _check_blocks(cls, blocks: Any, info: ValidationInfo) -> Any:
        if isinstance(blocks, list) and len(blocks) > MAX_SLACK_BLOCKS:
            raise invalid(f"has {len(blocks)} blocks; Slack accepts at most {MAX_SLACK_BLOCKS} in a message")
        for what, text, limit in texts_with_limits(blocks) if isinstance(blocks, list) else ():
            if len(text) > limit and not can_be_template(text, info):
                raise invalid(
                    f"{what} has {len(text):,} characters; Slack accepts at most {limit:,}: shorten what it contains, "
                    f"such as with `| slack | truncate({limit * 2 // 3})`, or split it into several blocks"
                )
        return blocks

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if (self.webhook is None) == (self.token is None):
            raise invalid("give either `webhook`, or `token` and `channel`")
        if (self.token is None) != (self.channel is None):
            raise invalid("`token` and `channel` go together; an incoming webhook has a fixed channel")
        if self.thread_ts is not None and self.token is None:
            raise invalid("`thread-ts` needs `token` and `channel`; an incoming webhook cannot reply in a thread")
        if not self.text and not self.blocks:
            raise invalid("the message is empty; give `text`, `blocks` or both")
        return self


class RequireInputs(ActionInputs):
    """A condition that stops the execution unless it holds."""

    #: an expression before rendering, its value afterwards
    that: Annotated[Any, JsonSchema({"type": "string", **NOT_BLANK, TEMPLATES: NO_TEMPLATE})]
    otherwise: NonBlank = "the requirement is not met"

    @field_validator("that")
    @classmethod
    def _check_expression(cls, that: Any, info: ValidationInfo) -> Any:
        is_rendered = info.context and info.context.get(RENDERED)
        if not is_rendered and not (isinstance(that, str) and that.strip()):
            raise invalid("must be an expression such as: steps.evaluate.outputs.accuracy >= vars.bar")
        return that


class VersionSelector(ActionInputs):
    """Selects a version. Keys that are left out are taken from the event."""

    registry: OneLine | None = None
    collection: OneLine | None = None
    version: OneLine | None = None  #: `v3`, or an alias


class FindVersionInputs(VersionSelector):
    """A version to look up."""

    optional: bool = False  #: continue with `found: false` if there is no such version


class AddAliasInputs(VersionSelector):
    """An alias to add to a version."""

    alias: Annotated[str, one_line(), rule(_by_registry(check_alias)), JsonSchema(_ALIAS_SCHEMA)]


class AddTagInputs(VersionSelector):
    """A tag to add to a version or a collection."""

    tag: Annotated[str, one_line(), rule(_by_registry(lambda name: check_name(name, "tag"))), JsonSchema(_NAME_SCHEMA)]
    on_: Literal["version", "collection"] = "version"


class SetStageInputs(VersionSelector):
    """A stage to move a version to."""

    stage: Annotated[str, rule(_by_registry(parse_stage))]
    archive_existing: bool = False  #: move the other versions of the stage to `Archived`


class EmitInputs(ActionInputs):
    """A custom event to create."""

    name: Annotated[OneLine, rule(_by_registry(lambda name: check_name(name, "event")))]
    data: TemplatableMapping = Field(default_factory=dict)


class ActionSpec(Protocol):
    """What the parser needs to know about an action to check a `with` block. Nothing is executed."""

    uses: str  #: its name in YAML
    inputs_model: type[Any]  #: schema of its `with` block, a subclass of ActionInputs
    expressions: frozenset[str]  #: top-level keys of `with` that are conditions, as `if` is, and not templates

    def check(self, with_: Mapping[str, Any]) -> Iterable[InputProblem]:
        """Return mistakes that the schema does not find. Templates in `with_` are not rendered yet."""
        ...
