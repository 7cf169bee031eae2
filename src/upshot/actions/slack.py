"""`slack`: a message, through an incoming webhook or as a bot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from upshot.actions.http_responses import excerpt, failure, is_success, refusal, retry_after_seconds, status_words
from upshot.actions.inputs import Finding, UrlCheck, encode_json, read_with, written_secrets, written_url
from upshot.actions.protocol import ActionCall, ActionContext, HttpResponse, Outcome
from upshot.errors import ActionError, Refused, Unreachable
from upshot.schema.action_inputs import SlackInputs

#: of `chat.postMessage`: these pass; all others are final
_PASSING = frozenset({"ratelimited", "rate_limited", "internal_error", "service_unavailable", "request_timeout"})
_REMEDIES = {
    # chat.postMessage
    "channel_not_found": "channel names no channel that the bot can see: write its id, or invite the bot",
    "not_in_channel": "the bot is not in the channel: invite it with /invite, or give it the scope chat:write.public",
    "is_archived": "the channel is archived: choose another one in channel",
    "invalid_auth": "token is wrong: it must be a bot token (xoxb-…) of this workspace",
    "not_authed": "token is empty",
    "account_inactive": "token belongs to a bot or workspace that was removed",
    "token_revoked": "token was revoked: install the app again and replace it",
    "token_expired": "token has expired: replace it",
    "missing_scope": "token lacks a scope: give the app chat:write and install it again",
    "invalid_blocks": "blocks are not as Slack wants them: try them in its Block Kit Builder",
    "msg_too_long": "text is too long: shorten it",
    "no_text": "the message is empty: give text",
    "restricted_action": "a rule of the workspace forbids the bot to post in this channel",
    # incoming webhooks
    "invalid_payload": "Slack cannot read the message: look at text and blocks",
    "action_prohibited": "a rule of the workspace forbids this webhook to post",
    "channel_is_archived": "the webhook's channel is archived: make a new webhook",
    "no_service": "the webhook was removed or disabled: make a new one and replace the URL",
    "no_active_hooks": "the webhook was disabled: make a new one and replace the URL",
    "invalid_token": "the webhook's URL is wrong or was revoked: make a new one and replace it",
    "team_disabled": "the workspace was disabled",
}


class Slack:
    """
    Post a message to Slack.

    Values that others choose (a model's name, a description) belong through the filter `slack`,
    which keeps them from mentioning a channel. Outputs: `status`; with a token also `ts` and
    `channel`, so that a later step can answer in the thread (`thread-ts`).
    """

    uses = "slack"
    with_record = SlackInputs
    expressions: frozenset[str] = frozenset()

    def __init__(self, check_url: UrlCheck) -> None:
        self._check_url = check_url

    def check(self, with_: Mapping[str, Any]) -> Iterable[Finding]:
        """Findings on the webhook's URL and on a token that stands in the file."""
        yield from written_url(with_, "webhook", self._check_url)
        yield from written_secrets(with_, "token")

    async def perform(self, call: ActionCall, tools: ActionContext) -> Outcome:
        """Post it."""
        given = read_with(SlackInputs, call)
        message: dict[str, Any] = {"text": given.text, "blocks": given.blocks}
        headers = {"Content-Type": "application/json; charset=utf-8", "webhook-id": call.delivery_id}
        if given.webhook is not None:
            url, read_answer = given.webhook, _read_webhook_answer
        else:
            url, read_answer = f"{tools.slack_api_url.rstrip('/')}/chat.postMessage", _read_api_answer
            headers["Authorization"] = f"Bearer {given.token}"
            # Slack knows no idempotency key; metadata lets a person, or a later program, find the delivery again.
            metadata = {"event_type": "upshot_delivery", "event_payload": {"delivery_id": call.delivery_id}}
            message |= {"channel": given.channel, "thread_ts": given.thread_ts, "metadata": metadata}
        body = encode_json({key: value for key, value in message.items() if value is not None}, key="blocks")
        answer = await tools.egress.send("POST", url, headers=headers, body=body, timeout_seconds=call.timeout_seconds)
        return Outcome(
            outputs={"status": answer.status, **read_answer(answer, call)},
            request=answer.request,
            response=answer.as_response(),
            timings=answer.timings,
        )


def _read_webhook_answer(answer: HttpResponse, call: ActionCall) -> dict[str, Any]:
    """Nothing to keep; raises what the plain text of an incoming webhook's answer stands for."""
    if not is_success(answer):
        raise _error(answer, answer.text.strip(), call)
    return {}


def _read_api_answer(answer: HttpResponse, call: ActionCall) -> dict[str, Any]:
    """Where the message stands; `chat.postMessage` answers 200 also when it says no."""
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict) or "ok" not in said:
        if is_success(answer):
            found = f"{status_words(answer.status)}{excerpt(answer)}"
            raise refusal(
                Refused, f"this is not Slack's API: it answered {found}; look at UPSHOT_SLACK_API_URL", answer
            )
        raise failure(answer, receiver="Slack", now=call.now)
    if said["ok"] is not True or not is_success(answer):
        raise _error(answer, str(said.get("error", "")), call, needed=said.get("needed"))
    return {"ts": said.get("ts"), "channel": said.get("channel")}


def _error(answer: HttpResponse, code: str, call: ActionCall, *, needed: Any = None) -> ActionError:
    """The error that Slack's word for it stands for; by the status where the word says nothing."""
    if code in _PASSING:
        wait = retry_after_seconds(answer, call.now)
        return refusal(Unreachable, f"Slack answered {code}", answer, retry_after_seconds=wait)
    if remedy := _REMEDIES.get(code):
        scope = f" (needed: {needed})" if needed else ""
        return refusal(Refused, f"Slack answered {code}: {remedy}{scope}", answer)
    if is_success(answer):
        return refusal(Refused, f"Slack answered {code[:200] or 'no, and not why'}", answer)
    return failure(answer, receiver="Slack", now=call.now)
