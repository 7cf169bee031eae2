"""`github-dispatch`: start the workflows of a repository that listen to `repository_dispatch`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson

from upshot.actions.http_responses import excerpt, failure, is_success, refusal, retry_after_seconds, status_words
from upshot.actions.inputs import (
    Finding,
    UrlCheck,
    encode_json,
    not_usable,
    read_with,
    written_secrets,
    written_url,
)
from upshot.actions.protocol import ActionCall, ActionContext, HttpResponse, Outcome
from upshot.errors import ActionError, Refused, Unreachable
from upshot.schema.action_inputs import MAX_CLIENT_PAYLOAD_KEYS, GithubDispatchInputs, has_template

MAX_CLIENT_PAYLOAD_BYTES = 64 * 1024  # GitHub's limit, exclusive
API_VERSION = "2022-11-28"  # GitHub's default version of its REST API
MIN_RATE_LIMIT_SECONDS = 60.0  # GitHub: at least a minute where it names no time, and growing
MAX_RATE_LIMIT_SECONDS = 3600.0  # GitHub's primary limit begins anew each hour
DELIVERY_KEY = "delivery_id"  #: of the client payload, where it fits: GitHub knows no idempotency key

_REMEDIES = {
    401: "the token is wrong or has expired",
    403: "the token may not do this: it needs the permission Contents: write on this repository",
    404: "no such repository, or the token cannot see it: it needs the permission Contents: write on it",
    422: "GitHub does not take event-type or client-payload as they are",
}


class GithubDispatch:
    """
    Send a `repository_dispatch` event; GitHub answers 204 also when no workflow listens.

    `client_payload.delivery_id` is added where a key is free, so that a workflow can show which
    delivery it answers. Outputs: `status`, `repository`, `event_type`, `delivery_id`.
    """

    uses = "github-dispatch"
    with_record = GithubDispatchInputs
    expressions: frozenset[str] = frozenset()

    def __init__(self, check_url: UrlCheck) -> None:
        self._check_url = check_url

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Findings on the API's URL, on a token that stands in the file, and on a payload that is too large."""
        yield from written_url(with_, "api-url", self._check_url)
        yield from written_secrets(with_, "token")
        payload = with_.get("client-payload")
        if isinstance(payload, Mapping) and not has_template(payload):
            size = len(encode_json(payload, key="client-payload"))
            if size >= MAX_CLIENT_PAYLOAD_BYTES:
                yield "client-payload", _too_large(size)

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Send it."""
        given = read_with(GithubDispatchInputs, call)
        api = (given.api_url or tools.github_api_url).rstrip("/")
        body = _body(given, call.delivery_id)
        answer = await tools.egress.send(
            "POST",
            f"{api}/repos/{given.repository}/dispatches",
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {given.token}",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": API_VERSION,
                "webhook-id": call.delivery_id,
            },
            body=body,
            timeout_seconds=call.timeout_seconds,
            follow_redirects=True,
        )
        if not is_success(answer):
            raise _failure(answer, given.repository, call)
        return Outcome(
            outputs={
                "status": answer.status,
                "repository": given.repository,
                "event_type": given.event_type,
                "delivery_id": call.delivery_id,
            },
            request=answer.request,
            response=answer.as_response(),
            timings=answer.timings,
        )


def _body(given: GithubDispatchInputs, delivery_id: str) -> bytes:
    payload = given.client_payload
    bare = {"event_type": given.event_type, "client_payload": payload}
    size = len(encode_json(payload, key="client-payload"))
    if size >= MAX_CLIENT_PAYLOAD_BYTES:
        raise not_usable(f"with.client-payload: {_too_large(size)}")
    if DELIVERY_KEY in payload or len(payload) >= MAX_CLIENT_PAYLOAD_KEYS:
        return encode_json(bare, key="client-payload")
    marked = {**payload, DELIVERY_KEY: delivery_id}
    if len(orjson.dumps(marked)) >= MAX_CLIENT_PAYLOAD_BYTES:
        return encode_json(bare, key="client-payload")
    return encode_json({**bare, "client_payload": marked}, key="client-payload")


def _too_large(size: int) -> str:
    return f"has {size} bytes as JSON; GitHub takes less than {MAX_CLIENT_PAYLOAD_BYTES}, so send a reference instead"


def _failure(answer: HttpResponse, repository: str, call: ActionCall) -> ActionError:
    limited = _rate_limit_seconds(answer, call.now, call.attempt)
    if limited is not None:
        said = f"GitHub's rate limit: it answered {status_words(answer.status)}{_message(answer)}"
        return refusal(Unreachable, said, answer, retry_after_seconds=limited)
    if remedy := _REMEDIES.get(answer.status):
        said = f"{repository}: GitHub answered {status_words(answer.status)}{_message(answer)}; {remedy}"
        return refusal(Refused, said, answer)
    return failure(answer, receiver=f"{repository}: GitHub", now=call.now)


def _rate_limit_seconds(answer: HttpResponse, now: datetime, attempt: int) -> float | None:
    """
    How long to wait when this answer means "too much"; None when it means "not allowed" or something else.

    GitHub says both with 403; headers and message tell them apart, never the status.
    """
    if answer.status not in {403, 429}:
        return None
    asked = retry_after_seconds(answer, now)
    if asked is not None:
        return asked
    if answer.headers.get("x-ratelimit-remaining") == "0":
        reset = answer.headers.get("x-ratelimit-reset", "")
        if reset.isascii() and reset.isdigit():
            return min(max(1.0, float(reset[:12]) - now.timestamp()), MAX_RATE_LIMIT_SECONDS)
    elif answer.status == 403 and "rate limit" not in answer.text.lower():  # noqa: PLR2004 - forbidden
        return None
    return min(MIN_RATE_LIMIT_SECONDS * 2.0 ** min(attempt - 1, 10), MAX_RATE_LIMIT_SECONDS)


def _message(answer: HttpResponse) -> str:
    """What GitHub says in `message` and `errors`; the beginning of the body where it says nothing there."""
    try:
        said = orjson.loads(answer.body)
        parts = [said["message"], *(str(error.get("message") or error) for error in said.get("errors") or ())]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return excerpt(answer)
    return f": {'; '.join(map(str, parts))[:500]}"
