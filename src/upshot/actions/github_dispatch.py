"""`github-dispatch`: start the workflows of a repository that listen to `repository_dispatch`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson
from typing_extensions import override

from upshot.actions.http_responses import (
    error_from_response,
    excerpt,
    is_success,
    response_error,
    response_json,
    retry_after_seconds,
    status_text,
)
from upshot.actions.inputs import (
    encode_json,
    invalid_input,
    literal_secrets,
    literal_url_problems,
    parse_inputs,
)
from upshot.actions.protocol import Action, ActionCall, ActionContext, HttpResponse, Outcome
from upshot.errors import ActionError, Refused, TryLater
from upshot.ids import DeliveryId
from upshot.masking import cut_text
from upshot.schema.action_inputs import MAX_CLIENT_PAYLOAD_KEYS, GithubDispatchInputs, InputProblem
from upshot.schema.yaml_model import has_template

MAX_CLIENT_PAYLOAD_BYTES = 64 * 1024  # GitHub's limit, exclusive
API_VERSION = "2022-11-28"  # default version of GitHub's REST API
MIN_RATE_LIMIT_SECONDS = 60.0  # GitHub: if it names no time, wait at least a minute, and longer each time
MAX_MESSAGE_CHARS = 500  #: of GitHub in an error
MAX_RATE_LIMIT_SECONDS = 3600.0  # GitHub's primary rate limit resets each hour
DELIVERY_KEY = "delivery_id"  #: added to the client payload if it fits, because GitHub has no idempotency key

_AUTHORIZE_FOR_SSO = "the organization requires single sign-on: authorize the token for it, under Configure SSO"
_REMEDIES = {
    401: "the token is wrong or has expired",
    403: "the token lacks a permission: it needs Contents: write on this repository",
    404: "there is no such repository, or the token cannot see it: it needs Contents: write on this repository",
    422: "GitHub does not accept this event-type or client-payload",
}
#: GitHub's reasons for a refusal that need another remedy than the status: words of its message, and what to do.
_REASON_REMEDIES = (
    ("saml enforcement", _AUTHORIZE_FOR_SSO),
    ("single sign-on", _AUTHORIZE_FOR_SSO),
    (
        "archived",
        "the repository is archived, so no workflow can run: unarchive it, or disable the automation",
    ),
    ("ip allow list", "the organization has an IP allow list: add the address of the worker to it"),
    ("oauth app access restrictions", "the organization restricts OAuth apps: ask an owner to approve the app"),
    ("account was suspended", "the account of the token is suspended: use the token of another account"),
    ("repository access blocked", "GitHub has blocked the repository: ask its owner"),
    ("actions has been disabled", "GitHub Actions is disabled for this repository: enable it in its settings"),
    (
        "lifetime",
        "the organization does not accept tokens that are valid for so long: create one with a shorter lifetime",
    ),
)
_MAX_URL_CHARS = 300


class GithubDispatch(Action):
    """
    Sends a `repository_dispatch` event. GitHub answers 204 even if no workflow listens.

    If the payload has room for another key, `client_payload.delivery_id` is added, so that a workflow can show
    which delivery it belongs to. Outputs: `status`, `repository`, `event_type`, `delivery_id`.
    """

    uses = "github-dispatch"
    inputs_model = GithubDispatchInputs
    url_keys = ("api-url",)

    @override
    def check(self, with_: Mapping[str, Any]) -> Iterable[InputProblem]:
        yield from literal_url_problems(with_, "api-url")
        yield from literal_secrets(with_, "token")
        payload = with_.get("client-payload")
        if isinstance(payload, Mapping) and not has_template(payload):
            size = len(encode_json(payload, key="client-payload"))
            if size >= MAX_CLIENT_PAYLOAD_BYTES:
                yield "client-payload", _too_large(size)

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(GithubDispatchInputs, call)
        api_url = (inputs.api_url or context.github_api_url).rstrip("/")
        response = await context.egress.send(
            "POST",
            f"{api_url}/repos/{inputs.repository}/dispatches",
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {inputs.token}",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": API_VERSION,
                "webhook-id": call.delivery_id,
            },
            body=_body(inputs, call.delivery_id),
            timeout_seconds=call.timeout_seconds,
            follow_redirects=True,
        )
        if not is_success(response):
            raise _error(response, inputs.repository, call)
        return Outcome(
            outputs={
                "status": response.status,
                "repository": inputs.repository,
                "event_type": inputs.event_type,
                "delivery_id": call.delivery_id,
            },
            request=response.request,
            response=response.receipt_json(),
            timings=response.timings,
        )


def _body(inputs: GithubDispatchInputs, delivery_id: DeliveryId) -> bytes:
    payload = inputs.client_payload
    size = len(encode_json(payload, key="client-payload"))
    if size >= MAX_CLIENT_PAYLOAD_BYTES:
        raise invalid_input(f"with.client-payload: {_too_large(size)}")
    if DELIVERY_KEY not in payload and len(payload) < MAX_CLIENT_PAYLOAD_KEYS:
        with_delivery_id = {**payload, DELIVERY_KEY: delivery_id}
        if len(orjson.dumps(with_delivery_id)) < MAX_CLIENT_PAYLOAD_BYTES:
            payload = with_delivery_id
    return encode_json({"event_type": inputs.event_type, "client_payload": payload}, key="client-payload")


def _too_large(size: int) -> str:
    limit = MAX_CLIENT_PAYLOAD_BYTES
    return f"has {size} bytes as JSON; GitHub accepts less than {limit}, so send a reference instead"


def _error(response: HttpResponse, repository: str, call: ActionCall) -> ActionError:
    answer = f"{status_text(response.status)}{_github_message(response)}"
    wait = _rate_limit_seconds(response, call.now, call.attempt)
    if wait is not None:
        message = f"GitHub's rate limit is reached: it answered {answer}"
        return response_error(TryLater, message, response, retry_after_seconds=wait)
    if remedy := _refusal_remedy(response):
        return response_error(Refused, f"{repository}: GitHub answered {answer}; {remedy}", response)
    return error_from_response(response, receiver=f"{repository}: GitHub", now=call.now)


def _refusal_remedy(response: HttpResponse) -> str | None:
    """Return what to do about a refusal: by GitHub's own reason, or else by the status. None for other statuses."""
    if response.status not in _REMEDIES:
        return None
    sso, _, url = response.headers.get("x-github-sso", "").partition(";")
    if sso.strip() == "required":
        address = url.strip().removeprefix("url=")
        is_link = address.startswith("https://") and len(address) <= _MAX_URL_CHARS
        return f"{_AUTHORIZE_FOR_SSO}{f', at {address}' if is_link else ''}"
    message = _github_message(response).lower()
    reasons = (remedy for words, remedy in _REASON_REMEDIES if words in message)
    return next(reasons, _REMEDIES[response.status])


def _rate_limit_seconds(response: HttpResponse, now: datetime, attempt: int) -> float | None:
    """
    Return how long to wait if the response means "too many requests", and None if it means anything else.

    GitHub also uses 403 for a missing permission. Headers and message distinguish the two, the status does not.
    """
    if response.status not in {403, 429}:
        return None
    retry_after = retry_after_seconds(response, now)
    if retry_after is not None:
        return retry_after
    if response.headers.get("x-ratelimit-remaining") == "0":
        reset = response.headers.get("x-ratelimit-reset", "")
        if reset.isascii() and reset.isdigit():
            return min(max(1.0, float(reset[:12]) - now.timestamp()), MAX_RATE_LIMIT_SECONDS)
    elif response.status == 403 and "rate limit" not in response.text.lower():  # noqa: PLR2004 - forbidden
        return None
    return min(MIN_RATE_LIMIT_SECONDS * 2.0 ** min(attempt - 1, 10), MAX_RATE_LIMIT_SECONDS)


def _github_message(response: HttpResponse) -> str:
    """Return GitHub's `message` and `errors`, or the beginning of the body if there are none."""
    data = response_json(response)
    try:
        body = data.value if data is not None else {}
        parts = [body["message"], *(str(error.get("message") or error) for error in body.get("errors") or ())]
    except (KeyError, TypeError, AttributeError):
        return excerpt(response)
    return f": {cut_text('; '.join(map(str, parts)), MAX_MESSAGE_CHARS)}"
