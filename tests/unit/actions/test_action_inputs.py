"""The schemas of `with` blocks: what an author can write, and what a rendered value can be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from upshot.schema.action_inputs import (
    AddAliasInputs,
    AddTagInputs,
    EmitInputs,
    GithubDispatchInputs,
    RequireInputs,
    SlackInputs,
    WebhookInputs,
)
from upshot.schema.yaml_model import RENDERED
from upshot.validation import validation_problems

DISPATCH = {"repository": "acme/deploy", "token": "{{ secrets.T }}", "event-type": "promoted"}
HOOK = {"url": "https://hooks.example.com/"}


def _first_problem(model, with_, *, rendered=False):
    with pytest.raises(ValidationError) as raised:
        model.model_validate(with_, context={RENDERED: rendered})
    (problem, *_) = validation_problems(raised.value.errors(), model, data=with_)
    return problem.dotted_path, problem.message


@pytest.mark.parametrize(
    ("model", "with_"),
    [
        pytest.param(WebhookInputs, HOOK, id="webhook, least"),
        pytest.param(
            WebhookInputs,
            HOOK
            | {"method": "put", "headers": {"X-A": "{{ alias }}"}, "json": None, "signing-secret": ["{{ secrets.A }}"]},
            id="webhook, most",
        ),
        pytest.param(WebhookInputs, HOOK | {"body-file": "payloads/x.json.j2"}, id="webhook with a body file"),
        pytest.param(
            WebhookInputs, {"url": "{{ vars.url }}", "method": "{{ vars.method }}"}, id="webhook of templates"
        ),
        pytest.param(GithubDispatchInputs, DISPATCH, id="dispatch, least"),
        pytest.param(
            GithubDispatchInputs,
            DISPATCH | {"client-payload": {str(n): n for n in range(10)}, "api-url": "https://ghe.example/api/v3"},
            id="dispatch, most",
        ),
        pytest.param(
            GithubDispatchInputs, DISPATCH | {"client-payload": "{{= event.data }}"}, id="payload as an expression"
        ),
        pytest.param(GithubDispatchInputs, DISPATCH | {"event-type": "{{ '%s' }}" % ("x" * 200)}, id="long template"),
        pytest.param(SlackInputs, {"webhook": "{{ secrets.S }}", "text": "hello"}, id="slack webhook"),
        pytest.param(
            SlackInputs,
            {"token": "{{ secrets.S }}", "channel": "C1", "blocks": "{{= vars.blocks }}", "thread-ts": "1.2"},
            id="slack bot",
        ),
        pytest.param(RequireInputs, {"that": "a >= 1", "otherwise": "no"}, id="require"),
        pytest.param(AddAliasInputs, {"alias": "production"}, id="add-alias"),
        pytest.param(AddTagInputs, {"tag": "ok", "on": "collection", "registry": "r", "collection": "c"}, id="add-tag"),
        pytest.param(EmitInputs, {"name": "done", "data": {"a": [1, None]}}, id="emit"),
    ],
)
def test_documented_inputs_are_valid(model, with_):
    """Every documented form is valid, with templates in the place of any string."""
    model.model_validate(with_)


@pytest.mark.parametrize(
    ("model", "with_", "path", "message"),
    [
        pytest.param(WebhookInputs, {}, "url", "this field is required", id="no url"),
        pytest.param(WebhookInputs, HOOK | {"uri": "x"}, "uri", "unknown key; did you mean 'url'?", id="unknown key"),
        pytest.param(
            WebhookInputs,
            HOOK | {"body_file": "x"},
            "body_file",
            "unknown key; did you mean 'body-file'?",
            id="snake case",
        ),
        pytest.param(WebhookInputs, {"url": 5}, "url", "must be a string", id="url is a number"),
        pytest.param(WebhookInputs, {"url": " "}, "url", "is empty", id="empty url"),
        pytest.param(WebhookInputs, HOOK | {"method": "P OST"}, "method", "not a method", id="method with a space"),
        pytest.param(WebhookInputs, HOOK | {"method": "CONNECT"}, "method", "not a method", id="CONNECT"),
        pytest.param(
            WebhookInputs, HOOK | {"headers": {"X-N": 5}}, "headers.X-N", "must be a string", id="number in a header"
        ),
        pytest.param(
            WebhookInputs, HOOK | {"headers": {"X A": "b"}}, "headers", "not a valid header name", id="space in a name"
        ),
        pytest.param(
            WebhookInputs,
            HOOK | {"headers": {"A\r\nB": "c"}},
            "headers",
            "not a valid header name",
            id="break in a name",
        ),
        pytest.param(
            WebhookInputs, HOOK | {"headers": {"A": "b\r\nC: d"}}, "headers.A", "line break", id="break in a value"
        ),
        pytest.param(
            WebhookInputs, HOOK | {"headers": {"A": "b\x00"}}, "headers.A", "control character", id="NUL in a value"
        ),
        pytest.param(
            WebhookInputs, HOOK | {"headers": {"A": "x", "a": "y"}}, "headers", "appears twice", id="header twice"
        ),
        pytest.param(
            WebhookInputs,
            HOOK | {"headers": {"X A": "b", "Host": "x"}},
            "headers",
            "name; Upshot sets the header Host",
            id="two headers",
        ),
        pytest.param(WebhookInputs, HOOK | {"headers": {"Host": "x"}}, "headers", "Upshot sets the header", id="Host"),
        pytest.param(
            WebhookInputs, HOOK | {"headers": {"content-length": "1"}}, "headers", "Upshot sets the header", id="length"
        ),
        pytest.param(
            WebhookInputs, HOOK | {"headers": {"Webhook-Id": "x"}}, "headers", "Upshot sets the header", id="webhook-id"
        ),
        pytest.param(WebhookInputs, HOOK | {"json": 1, "body-file": "x"}, "", "keep one", id="two bodies"),
        pytest.param(
            WebhookInputs, HOOK | {"signing-secret": []}, "signing-secret", "a list of strings", id="no secrets"
        ),
        pytest.param(
            GithubDispatchInputs, DISPATCH | {"repository": "deploy"}, "repository", "owner/name", id="no owner"
        ),
        pytest.param(GithubDispatchInputs, DISPATCH | {"repository": "a/b/c"}, "repository", "owner/name", id="a path"),
        pytest.param(GithubDispatchInputs, DISPATCH | {"repository": "a/.."}, "repository", "owner/name", id="dots"),
        pytest.param(
            GithubDispatchInputs, DISPATCH | {"repository": "a/b?c"}, "repository", "owner/name", id="a query"
        ),
        pytest.param(
            GithubDispatchInputs,
            DISPATCH | {"event-type": "x" * 101},
            "event-type",
            "GitHub accepts at most 100",
            id="long type",
        ),
        pytest.param(
            GithubDispatchInputs,
            DISPATCH | {"client-payload": {str(n): n for n in range(11)}},
            "client-payload",
            "GitHub accepts at most 10",
            id="eleven keys",
        ),
        pytest.param(SlackInputs, {"text": "x"}, "", "either `webhook`", id="no way to Slack"),
        pytest.param(SlackInputs, {"webhook": "u", "token": "t", "text": "x"}, "", "either `webhook`", id="two ways"),
        pytest.param(SlackInputs, {"token": "t", "text": "x"}, "", "go together", id="token without channel"),
        pytest.param(
            SlackInputs, {"webhook": "u", "channel": "c", "text": "x"}, "", "go together", id="webhook and channel"
        ),
        pytest.param(
            SlackInputs, {"webhook": "u", "thread-ts": "1", "text": "x"}, "", "thread-ts", id="thread, webhook"
        ),
        pytest.param(SlackInputs, {"webhook": "u"}, "", "message is empty", id="nothing to say"),
        pytest.param(SlackInputs, {"webhook": "u", "text": "x" * 40_001}, "text", "40000", id="long text"),
        pytest.param(
            SlackInputs, {"webhook": "u", "blocks": [{}] * 51}, "blocks", "accepts at most 50", id="many blocks"
        ),
        pytest.param(RequireInputs, {"that": True}, "that", "must be an expression", id="must be an expression"),
        pytest.param(RequireInputs, {"that": ""}, "that", "must be an expression", id="empty expression"),
        pytest.param(AddTagInputs, {"tag": "x", "on": "both"}, "on", "'version' or 'collection'", id="tag on both"),
        pytest.param(EmitInputs, {"data": {}}, "name", "this field is required", id="event without a name"),
    ],
)
def test_invalid_inputs_are_reported_with_their_path(model, with_, path, message):
    """A mistake is reported when the file is loaded, with the path of the key in the file."""
    reported_path, reported = _first_problem(model, with_)

    assert reported_path == path
    assert message in reported


@pytest.mark.parametrize(
    ("model", "with_", "path"),
    [
        pytest.param(WebhookInputs, {"url": ""}, "url", id="url came out empty"),
        pytest.param(WebhookInputs, HOOK | {"headers": {"A": "model\nname"}}, "headers.A", id="line break came in"),
        pytest.param(WebhookInputs, HOOK | {"headers": {"A": 5}}, "headers.A", id="number came in"),
        pytest.param(WebhookInputs, HOOK | {"method": "{{ x }}"}, "method", id="braces came out of a value"),
        pytest.param(GithubDispatchInputs, DISPATCH | {"client-payload": "text {{"}, "client-payload", id="no mapping"),
        pytest.param(GithubDispatchInputs, DISPATCH | {"event-type": "{{" + "x" * 100}, "event-type", id="long type"),
        pytest.param(EmitInputs, {"name": "x", "data": [1]}, "data", id="list as data"),
    ],
)
def test_every_rule_applies_to_rendered_values(model, with_, path):
    """A rendered value is not treated as a template, even if it contains braces."""
    reported_path, _ = _first_problem(model, with_, rendered=True)

    assert reported_path == path
