"""`github-dispatch`: the request to GitHub, and what its responses mean."""

from __future__ import annotations

import orjson
import pytest

from tests.unit.actions.action_calls import NOW, ScriptedEgress, perform
from upshot.actions.github_dispatch import GithubDispatch
from upshot.errors import Refused, TemplateInvalid, Unreachable

DISPATCH = GithubDispatch()
WITH = {"repository": "acme/deploy", "token": "ghp_x", "event-type": "model-promoted"}
EPOCH = int(NOW.timestamp())


async def _send(**with_):
    egress = ScriptedEgress(204)
    outcome = await perform(
        DISPATCH, WITH | {key.replace("_", "-"): value for key, value in with_.items()}, egress=egress
    )
    (sent,) = egress.sent
    return sent, outcome


async def test_the_request_follows_githubs_documentation():
    """Path, headers and body are as GitHub documents them. The delivery id is in the payload."""
    sent, outcome = await _send(client_payload={"model": "churn"})

    assert (sent.method, sent.url) == ("POST", "https://api.github.com/repos/acme/deploy/dispatches")
    assert sent.headers["Accept"] == "application/vnd.github+json"
    assert sent.headers["Authorization"] == "Bearer ghp_x"
    assert sent.headers["X-GitHub-Api-Version"] == "2022-11-28"
    assert sent.json == {
        "event_type": "model-promoted",
        "client_payload": {"model": "churn", "delivery_id": "dlv_1"},
    }
    assert sent.follow_redirects
    assert outcome.outputs == {
        "status": 204,
        "repository": "acme/deploy",
        "event_type": "model-promoted",
        "delivery_id": "dlv_1",
    }


async def test_api_url_overrides_the_setting():
    """`api-url` selects a GitHub Enterprise server instead of the one in the settings."""
    sent, _ = await _send(api_url="https://ghe.example/api/v3/")

    assert sent.url == "https://ghe.example/api/v3/repos/acme/deploy/dispatches"


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({str(n): n for n in range(10)}, id="ten keys already"),
        pytest.param({"delivery_id": "mine"}, id="the key exists already"),
        pytest.param({"x": "a" * (65_535 - 9)}, id="no room left"),
    ],
)
async def test_the_delivery_id_is_added_only_where_it_fits(payload):
    """Adding the delivery id never exceeds a limit of GitHub and never overwrites a key."""
    sent, _ = await _send(client_payload=payload)

    assert sent.json["client_payload"] == payload


async def test_a_payload_at_the_limit_is_not_sent():
    """GitHub accepts less than 64 KB of JSON. A larger payload is not sent, and the error contains its size."""
    payload = {"x": "ü" * 32_764}
    assert len(orjson.dumps(payload)) == 65_536

    with pytest.raises(TemplateInvalid, match=r"with\.client-payload: has 65536 bytes"):
        await _send(client_payload=payload)


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "wait", "words"),
    [
        pytest.param(
            401,
            {},
            b'{"message": "Bad credentials"}',
            Refused,
            None,
            "Bad credentials; the token is wrong",
            id="bad token",
        ),
        pytest.param(
            403,
            {},
            b'{"message": "Resource not accessible by personal access token"}',
            Refused,
            None,
            "Contents: write",
            id="no permission",
        ),
        pytest.param(
            403,
            {"x-ratelimit-remaining": "4999"},
            b'{"message": "Must have admin rights"}',
            Refused,
            None,
            "Contents: write",
            id="no permission, with requests left",
        ),
        pytest.param(404, {}, b'{"message": "Not Found"}', Refused, None, "the token cannot see it", id="not found"),
        pytest.param(
            422,
            {},
            b'{"message": "Invalid request.", "errors": [{"message": "client_payload is too large"}]}',
            Refused,
            None,
            "client_payload is too large",
            id="invalid",
        ),
        pytest.param(
            422, {}, b'{"message": "x", "errors": ["plain text"]}', Refused, None, "plain text", id="odd errors"
        ),
        pytest.param(422, {}, b'["not", "an", "object"]', Refused, None, "GitHub does not accept", id="odd body"),
        pytest.param(307, {"location": "https://elsewhere.example/"}, b"", Refused, None, "elsewhere", id="moved away"),
        pytest.param(
            403,
            {"retry-after": "33"},
            b'{"message": "secondary rate limit"}',
            Unreachable,
            33,
            "rate limit",
            id="secondary limit with Retry-After",
        ),
        pytest.param(
            403,
            {},
            b'{"message": "You have exceeded a secondary rate limit."}',
            Unreachable,
            60,
            "rate limit",
            id="secondary limit without a time",
        ),
        pytest.param(
            403,
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(EPOCH + 600)},
            b"{}",
            Unreachable,
            600,
            "rate limit",
            id="primary limit",
        ),
        pytest.param(
            429,
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(EPOCH - 5)},
            b"{}",
            Unreachable,
            1,
            "rate limit",
            id="primary limit that has just passed",
        ),
        pytest.param(
            429,
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9" * 300},
            b"{}",
            Unreachable,
            3600,
            "rate limit",
            id="a reset beyond reason",
        ),
        pytest.param(
            403, {"x-ratelimit-remaining": "0"}, b"{}", Unreachable, 60, "rate limit", id="limit without a reset"
        ),
        pytest.param(429, {}, b"slow down", Unreachable, 60, "slow down", id="429 without anything"),
        pytest.param(502, {}, b"<html>Unicorn!</html>", Unreachable, None, "502 Bad Gateway", id="unicorn"),
        pytest.param(503, {"retry-after": "5"}, b"", Unreachable, 5, "503", id="maintenance"),
    ],
)
async def test_rate_limits_and_missing_permissions_are_distinguished(*, status, headers, body, kind, wait, words):
    """A rate limit leads to another attempt. A missing permission with the same status is final."""
    with pytest.raises(kind) as raised:
        await perform(DISPATCH, WITH, egress=ScriptedEgress(status, headers, body))

    assert raised.value.retry_after_seconds == wait
    assert words in str(raised.value)
    assert raised.value.response["status"] == status


@pytest.mark.parametrize(("attempt", "wait"), [(1, 60), (2, 120), (3, 240), (8, 3600), (2000, 3600)])
async def test_waits_grow_if_github_names_no_time(attempt, wait):
    """The wait is at least a minute and doubles with each attempt, up to an hour."""
    with pytest.raises(Unreachable) as raised:
        await perform(DISPATCH, WITH, egress=ScriptedEgress(429), attempt=attempt)

    assert raised.value.retry_after_seconds == wait


@pytest.mark.parametrize(
    ("change", "path"),
    [
        pytest.param({"token": "ghp_real"}, "token", id="token in the file"),
        pytest.param({"client-payload": {"x": "a" * 70_000}}, "client-payload", id="payload too large"),
    ],
)
def test_mistakes_are_reported_when_the_automation_is_loaded(change, path):
    """Problems that are visible in the file are reported before any event triggers the automation."""
    ((found_path, message),) = DISPATCH.check(WITH | {"token": "{{ secrets.T }}"} | change)

    assert found_path == path
    assert "ghp_real" not in message


@pytest.mark.parametrize(
    ("status", "headers", "message", "says"),
    [
        (403, {}, "Repository was archived so is read-only.", "the repository is archived, so no workflow can run"),
        (
            403,
            {"x-github-sso": "required; url=https://github.com/orgs/acme/sso?authorization_request=A1"},
            "Resource protected by organization SAML enforcement.",
            "authorize the token for it, under Configure SSO, at https://github.com/orgs/acme/sso?authorization_request=A1",
        ),
        (403, {}, "Resource protected by organization SAML enforcement. You must grant", "under Configure SSO"),
        (403, {}, "the `acme` organization has an IP allow list enabled", "add the address of the worker to it"),
        (403, {}, "Sorry. Your account was suspended.", "use the token of another account"),
        (403, {}, "Resource not accessible by personal access token", "it needs Contents: write"),
        (404, {"x-github-sso": "partial-results; organizations=1"}, "Not Found", "there is no such repository"),
        (404, {"x-github-sso": "required; url=http://evil"}, "Not Found", "under Configure SSO"),
    ],
)
async def test_githubs_reasons_have_remedies_of_their_own(status, headers, message, says):
    """An archived repository and single sign-on are not a missing permission."""
    egress = ScriptedEgress(status, headers=headers, body=orjson.dumps({"message": message}))
    with pytest.raises(Refused) as caught:
        await perform(DISPATCH, WITH, egress=egress)

    assert says in str(caught.value)
    assert message in str(caught.value)
    assert "http://evil" not in str(caught.value)
