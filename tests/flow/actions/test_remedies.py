"""What Slack and GitHub say is wrong, answered by a server over a real socket, leads to a remedy."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.flow.actions.raw_http import listening, open_egress, read_request
from tests.unit.actions.action_calls import RecordingRegistry, make_call
from upshot.actions.catalog import load_catalog
from upshot.actions.protocol import ActionContext
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.errors import Refused, TemplateInvalid

CATALOG = load_catalog()
DISPATCH = {"repository": "acme/deploy", "token": "ghp_token", "event-type": "promoted"}


async def perform(uses: str, with_: dict[str, Any], *, status: str, headers: str = "", body: bytes) -> Any:
    """Perform an action against a server that gives this answer, and return its error and the requests."""
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async with listening(answer) as url, open_egress() as egress:
        jobs = MemoryJobs(MemoryExecutions(MemoryEvents()))
        context = ActionContext(egress, RecordingRegistry(), url, url, jobs)
        made = {key: value.replace("SERVER", url) if isinstance(value, str) else value for key, value in with_.items()}
        call = make_call(made, now=datetime.now(UTC))
        (error,) = await asyncio.gather(CATALOG[uses].perform(call, context), return_exceptions=True)
    return error, requests


@pytest.mark.parametrize(
    ("status", "headers", "message", "remedy"),
    [
        ("403 Forbidden", "", "Repository was archived so is read-only.", "unarchive it, or disable the automation"),
        (
            "403 Forbidden",
            "X-GitHub-SSO: required; url=https://github.com/orgs/acme/sso?authorization_request=A1\r\n",
            "Resource protected by organization SAML enforcement.",
            "under Configure SSO, at https://github.com/orgs/acme/sso?authorization_request=A1",
        ),
        ("404 Not Found", "", "Not Found", "there is no such repository"),
    ],
)
async def test_githubs_reasons(status, headers, message, remedy):
    """An archived repository, single sign-on and a missing repository have different remedies. None is retried."""
    body = json.dumps({"message": message}).encode()
    error, (request,) = await perform("github-dispatch", DISPATCH, status=status, headers=headers, body=body)

    assert request.startswith(b"POST /repos/acme/deploy/dispatches HTTP/1.1\r\n")
    assert isinstance(error, Refused)
    assert remedy in str(error)
    assert error.response["status"] == int(status[:3])


LONG = "[ERROR] must be less than 3001 characters [json-pointer:/blocks/0/text/text]"


@pytest.mark.parametrize(
    ("with_", "status", "body", "remedy"),
    [
        (
            {"token": "xoxb-1", "channel": "C1", "text": "x"},
            "200 OK",
            json.dumps({"ok": False, "error": "invalid_blocks", "response_metadata": {"messages": [LONG]}}).encode(),
            "/blocks/0/text/text can have at most 3,000 characters; shorten what it contains",
        ),
        (
            {"token": "xoxb-1", "channel": "C1", "text": "x"},
            "200 OK",
            b'{"ok": false, "error": "msg_blocks_too_long"}',
            "shorten their texts",
        ),
        ({"webhook": "SERVER/T/B/X", "text": "x"}, "400 Bad Request", b"invalid_blocks", "Block Kit Builder"),
        ({"webhook": "SERVER/T/B/X", "text": "x"}, "404 Not Found", b"no_service", ""),
    ],
)
async def test_slacks_reasons(with_, status, body, remedy):
    """Slack's code alone does not say what to do. The message has the place, the limit and what to write."""
    error, (_request,) = await perform("slack", with_, status=status, body=body)

    assert isinstance(error, Refused)
    assert remedy in str(error)
    assert "Slack" in str(error)


async def test_a_section_above_slacks_limit_is_not_sent():
    """Slack takes 3,000 characters in a section. A longer one fails before it is sent, with the same remedy."""
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}]
    with_ = {"webhook": "SERVER/T/B/X", "blocks": blocks}
    error, requests = await perform("slack", with_, status="200 OK", body=b"ok")

    assert isinstance(error, TemplateInvalid)
    assert "3,000" in str(error)
    assert requests == []
