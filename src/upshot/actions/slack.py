"""`slack`: post a message, through an incoming webhook or as a bot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import override

from upshot.actions.http_responses import (
    MAX_EXCERPT_CHARS,
    error_from_response,
    excerpt,
    is_success,
    response_error,
    response_json,
    retry_after_seconds,
    status_text,
)
from upshot.actions.inputs import encode_json, literal_secrets, literal_url_problems, parse_inputs
from upshot.actions.protocol import Action, ActionCall, ActionContext, HttpResponse, Outcome
from upshot.errors import ActionError, Ambiguous, Refused, TryLater
from upshot.masking import cut_text
from upshot.schema.action_inputs import InputProblem, SlackInputs
from upshot.schema.slack_blocks import text_paths

#: Error codes of `chat.postMessage` that are worth another attempt. All others are final.
_TEMPORARY = frozenset({"ratelimited", "rate_limited", "internal_error", "service_unavailable", "request_timeout"})
_REMEDIES = {
    # chat.postMessage
    "channel_not_found": "the bot cannot see this channel: write the channel's id, or invite the bot",
    "not_in_channel": "the bot is not in the channel: invite it with /invite, or give it the scope chat:write.public",
    "is_archived": "the channel is archived: choose another one",
    "invalid_auth": "the token is wrong: it must be a bot token (xoxb-…) of this workspace",
    "not_authed": "the token is empty",
    "account_inactive": "the token belongs to a bot or workspace that was removed",
    "token_revoked": "the token was revoked: install the app again and replace the token",
    "token_expired": "the token has expired: replace it",
    "missing_scope": "the token lacks a scope: give the app chat:write and install it again",
    "invalid_blocks": "the blocks are invalid: try them in Slack's Block Kit Builder",
    "msg_blocks_too_long": "the blocks are too long: shorten their texts, such as with `| truncate(1000)`",
    "msg_too_long": "the text is too long: shorten it",
    "no_text": "the message is empty: give `text`",
    "restricted_action": "a rule of the workspace forbids the bot to post in this channel",
    # incoming webhooks
    "invalid_payload": "Slack cannot read the message: check `text` and `blocks`",
    "action_prohibited": "a rule of the workspace forbids this webhook to post",
    "channel_is_archived": "the webhook's channel is archived: create a new webhook",
    "no_service": "the webhook was removed or disabled: create a new one and replace the URL",
    "no_active_hooks": "the webhook was disabled: create a new one and replace the URL",
    "invalid_token": "the webhook's URL is wrong or was revoked: create a new webhook and replace the URL",
    "team_disabled": "the workspace was disabled",
}
#: How Slack says that a text is too long, and where it is.
_TOO_LONG = re.compile(
    r"must be less than (?P<limit>[0-9]{1,6}) characters(?: \[json-pointer:(?P<path>[^\]]{1,200})\])?"
)


class Slack(Action):
    """
    Posts a message to Slack.

    Values in `text` and in the texts of `blocks` are escaped, so that the name of a model or a description cannot
    mention a channel. The filter `safe` marks a value as markup. Outputs: `status`. With a token also `ts` and
    `channel`, so that a later step can reply in the thread (`thread-ts`).
    """

    uses = "slack"
    sends_when_overtaken = True  # a message is a record of its event, and replaces no state
    inputs_model = SlackInputs
    url_keys = ("webhook",)

    @staticmethod
    def slack_texts(with_: Mapping[str, Any]) -> frozenset[str]:
        """Return the dotted paths of the leaves that Slack reads as text, where values are escaped."""
        return frozenset({"text", "blocks", *text_paths(with_.get("blocks"), "blocks")})

    @override
    def check(self, with_: Mapping[str, Any]) -> Iterable[InputProblem]:
        yield from literal_url_problems(with_, "webhook")
        yield from literal_secrets(with_, "token")

    @override
    async def perform(self, call: ActionCall, context: ActionContext) -> Outcome:
        inputs = parse_inputs(SlackInputs, call)
        message: dict[str, Any] = {"text": inputs.text, "blocks": inputs.blocks}
        headers = {"Content-Type": "application/json; charset=utf-8", "webhook-id": call.delivery_id}
        if inputs.webhook is not None:
            url, outputs_of = inputs.webhook, _webhook_outputs
        else:
            url, outputs_of = f"{context.slack_api_url.rstrip('/')}/chat.postMessage", _api_outputs
            headers["Authorization"] = f"Bearer {inputs.token}"
            # Slack has no idempotency key. With the metadata, a person or a later program can find the delivery.
            metadata = {"event_type": "upshot_delivery", "event_payload": {"delivery_id": call.delivery_id}}
            message |= {"channel": inputs.channel, "thread_ts": inputs.thread_ts, "metadata": metadata}
        body = encode_json({key: value for key, value in message.items() if value is not None}, key="blocks")
        response = await context.egress.send(
            "POST", url, headers=headers, body=body, timeout_seconds=call.timeout_seconds
        )
        return Outcome(
            outputs={"status": response.status, **outputs_of(response, call)},
            request=response.request,
            response=response.receipt_json(),
            timings=response.timings,
        )


def _webhook_outputs(response: HttpResponse, call: ActionCall) -> dict[str, Any]:
    """Return no outputs, or raise the error in the plain text of an incoming webhook's response."""
    if not is_success(response):
        raise _error(response, response.text.strip(), call)
    return {}


def _api_outputs(response: HttpResponse, call: ActionCall) -> dict[str, Any]:
    """Return where the message is, or raise an error. `chat.postMessage` answers 200 also if it fails."""
    data = response_json(response)
    body = data.value if data is not None else None
    if not isinstance(body, dict) or "ok" not in body:
        if is_success(response) and response.stopped is not None:
            message = f"Slack's answer was not read: {response.stopped}; it may have posted the message"
            raise response_error(Ambiguous, message, response)
        if is_success(response):
            answer = f"{status_text(response.status)}{excerpt(response)}"
            message = f"this is not Slack's API: it answered {answer}; check UPSHOT_SLACK_API_URL"
            raise response_error(Refused, message, response)
        raise error_from_response(response, receiver="Slack", now=call.now)
    if body["ok"] is not True or not is_success(response):
        raise _error(response, str(body.get("error", "")), call, needed=body.get("needed"))
    return {"ts": body.get("ts"), "channel": body.get("channel")}


def _error(response: HttpResponse, code: str, call: ActionCall, *, needed: Any = None) -> ActionError:
    """Return the error for an error code of Slack, or for the status if the code is unknown."""
    if code in _TEMPORARY:
        wait = retry_after_seconds(response, call.now)
        return response_error(TryLater, f"Slack answered {code}", response, retry_after_seconds=wait)
    if too_long := _TOO_LONG.search(response.text):
        maximum = int(too_long["limit"]) - 1
        where = f"{too_long['path']} " if too_long["path"] else "a text "
        message = (
            f"Slack answered {code}: {where}can have at most {maximum:,} characters; "
            f"shorten what it contains, such as with `| slack | truncate({maximum * 2 // 3})`, or split it"
        )
        return response_error(Refused, message, response)
    if remedy := _REMEDIES.get(code):
        scope = f" (needed: {needed})" if needed else ""
        return response_error(Refused, f"Slack answered {code}: {remedy}{scope}", response)
    if is_success(response):
        reason = f"answered {cut_text(code, MAX_EXCERPT_CHARS)}" if code else "rejected the message without a reason"
        return response_error(Refused, f"Slack {reason}", response)
    return error_from_response(response, receiver="Slack", now=call.now)
