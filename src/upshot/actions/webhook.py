"""`webhook`: any HTTP request, signed if wanted; a CloudEvent when no body is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from upshot.actions.egress_rules import read_url
from upshot.actions.http_responses import failure, is_success
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
from upshot.actions.standard_webhooks import read_secret, sign
from upshot.clock import format_time
from upshot.domain.event import Event
from upshot.schema.action_inputs import WebhookInputs

_WITHOUT_EVENT = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})  #: methods that say nothing unless told to


class Webhook:
    """
    Send one HTTP request to a URL of the author's choice.

    `webhook-id` always carries the delivery id. 2xx is success; 408, 425, 429 and 5xx are tried
    again; every other answer is final. Outputs: `status`, and `body` as data where it is JSON.
    """

    uses = "webhook"
    with_record = WebhookInputs
    expressions: frozenset[str] = frozenset()

    def __init__(self, check_url: UrlCheck) -> None:
        self._check_url = check_url

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Findings on the URL and on secrets that stand in the file."""
        yield from written_url(with_, "url", self._check_url)
        yield from written_secrets(with_, "signing-secret")

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Send it."""
        given = read_with(WebhookInputs, call)
        method = given.method.upper()
        body, content_type = _body(given, method, call)
        headers = {"webhook-id": call.delivery_id, **given.headers}
        if body and not any(name.lower() == "content-type" for name in headers):
            headers["content-type"] = content_type
        if given.signing_secret is not None:
            headers |= sign(_keys(given.signing_secret), message_id=call.delivery_id, moment=call.now, body=body)
        answer = await tools.egress.send(
            method, given.url, headers=headers, body=body, timeout_seconds=call.timeout_seconds
        )
        if not is_success(answer):
            raise failure(answer, receiver=read_url(given.url).destination, now=call.now)
        return Outcome(
            outputs={"status": answer.status, "body": _content(answer)},
            request=answer.request,
            response=answer.as_response(),
            timings=answer.timings,
        )


def _keys(secrets: str | list[str]) -> list[bytes]:
    try:
        return [read_secret(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    except ValueError as error:
        raise not_usable(f"with.signing-secret: {error}") from error


def _body(given: WebhookInputs, method: str, call: ActionCall) -> tuple[bytes, str]:
    """What to send, and its content type."""
    if given.gives_json:
        return encode_json(given.json_, key="json"), "application/json"
    if call.body is not None:
        return call.body, "application/json"
    if method in _WITHOUT_EVENT:
        return b"", ""
    return encode_json(cloud_event(call.event, call), key="json"), "application/cloudevents+json"


def cloud_event(event: Event, call: ActionCall) -> dict[str, Any]:
    """The event as a structured CloudEvent 1.0; our own attributes are `actor`, `automation` and `mutationid`."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": call.event_source,
        "type": f"upshot.{event.kind.value}",
        "subject": event.subject,
        "time": format_time(event.time),
        "datacontenttype": "application/json",
        "actor": event.actor.name,
        "automation": call.automation,
        "mutationid": event.mutation_id,
        "data": dict(event.data),
    }


def _content(answer: HttpResponse) -> Any:
    """The answer's body as data where it is JSON as a whole, else as text."""
    if not answer.truncated and answer.body:
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            pass
    return answer.text
