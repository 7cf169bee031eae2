"""`webhook`: send any HTTP request, optionally signed. Without a body of its own, it sends a CloudEvent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import override

from upshot.actions.egress_rules import parse_url
from upshot.actions.http_responses import error_from_response, is_success, response_json
from upshot.actions.inputs import (
    encode_json,
    invalid_input,
    literal_secrets,
    literal_url_problems,
    parse_inputs,
)
from upshot.actions.protocol import STORED_BODY_BYTES, Action, ActionCall, ActionContext, HttpResponse, Outcome
from upshot.actions.standard_webhooks import parse_secret, sign
from upshot.clock import format_time
from upshot.domain.event import Event
from upshot.json_data import JsonData
from upshot.schema.action_inputs import InputProblem, WebhookInputs

MAX_KEPT_AS_TEXT = 20  #: paths in a receipt
_METHODS_WITHOUT_EVENT = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})  #: have a body only if the step gives one


class Webhook(Action):
    """
    Sends one HTTP request to a URL of the author's choice.

    The header `webhook-id` always contains the delivery id. A 2xx response is success. 408, 425, 429 and 5xx lead
    to another attempt. Every other response is final. Outputs: `status`, and `body` as data if it is JSON,
    otherwise as text.
    """

    uses = "webhook"
    inputs_model = WebhookInputs
    url_keys = ("url",)

    @override
    def check(self, with_: Mapping[str, Any]) -> Iterable[InputProblem]:
        yield from literal_url_problems(with_, "url")
        yield from literal_secrets(with_, "signing-secret")

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(WebhookInputs, call)
        method = inputs.method.upper()
        body, content_type = _body(inputs, method, call)
        headers = {"webhook-id": call.delivery_id, **inputs.headers}
        if body and not any(name.lower() == "content-type" for name in headers):
            headers["content-type"] = content_type
        if inputs.signing_secret is not None:
            keys = _signing_keys(inputs.signing_secret)
            headers |= sign(keys, message_id=call.delivery_id, time=call.now, body=body)
        response = await context.egress.send(
            method, inputs.url, headers=headers, body=body, timeout_seconds=call.timeout_seconds
        )
        if not is_success(response):
            raise error_from_response(response, receiver=parse_url(inputs.url).destination, now=call.now)
        data = await _read_data(response)
        receipt = response.receipt_json()
        if data is not None and data.kept_as_text:
            receipt["kept_as_text"] = list(data.kept_as_text[:MAX_KEPT_AS_TEXT])
        return Outcome(
            outputs={"status": response.status, "body": response.text if data is None else data.value},
            request=response.request,
            response=receipt,
            timings=response.timings,
        )


def _signing_keys(secrets: str | list[str]) -> list[bytes]:
    try:
        return [parse_secret(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    except ValueError as error:
        raise invalid_input(f"with.signing-secret: {error}") from error


def _body(inputs: WebhookInputs, method: str, call: ActionCall) -> tuple[bytes, str]:
    """Return the body and its content type."""
    if inputs.has_json:
        return encode_json(inputs.json_, key="json"), "application/json"
    if call.body is not None:
        return call.body, "application/json"
    if method in _METHODS_WITHOUT_EVENT:
        return b"", ""
    return encode_json(cloud_event(call.event, call), key="json"), "application/cloudevents+json"


def cloud_event(event: Event, call: ActionCall) -> dict[str, Any]:
    """Return the event as a structured CloudEvent 1.0 with the extensions `actor`, `automation` and `mutationid`."""
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


async def _read_data(response: HttpResponse) -> JsonData | None:
    """Return the body as data, or None if it is not complete or not JSON. The event loop does not wait for it."""
    if response.truncated:
        return None
    if len(response.body) <= STORED_BODY_BYTES:
        return response_json(response)
    return await asyncio.to_thread(response_json, response)
