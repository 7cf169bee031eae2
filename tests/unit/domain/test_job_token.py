"""Job tokens: derived from a key, and verified with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.clock import FrozenClock
from upshot.domain import job_token
from upshot.ids import DeliveryId, derive_job_id

KEY = bytes(range(32))
JOB_ID = derive_job_id(DeliveryId("dlv_1"), 1, FrozenClock().now())
TOKEN = job_token.make(KEY, JOB_ID)


def test_a_token_is_verified_with_its_key():
    """Its prefix identifies it to people and secret scanners, it names its job, and it is the same every time."""
    assert TOKEN.startswith(f"upj_{JOB_ID}_")
    assert job_token.make(KEY, JOB_ID) == TOKEN
    assert job_token.verify(KEY, TOKEN) == JOB_ID
    assert job_token.parse(TOKEN)[0] == JOB_ID


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("upj_", id="only the prefix"),
        pytest.param(f"upj_{JOB_ID}_", id="no mac"),
        pytest.param(TOKEN[:-1], id="too short"),
        pytest.param(f"{TOKEN}0", id="too long"),
        pytest.param(f"{TOKEN}\n", id="line break"),
        pytest.param(TOKEN.upper(), id="upper case"),
        pytest.param(TOKEN.replace(JOB_ID, f"{JOB_ID[:-1]}{'1' if JOB_ID[-1] == '0' else '0'}"), id="another job"),
        pytest.param(job_token.make(bytes(32), JOB_ID), id="another key"),
        pytest.param(TOKEN[:-64] + "0" * 64, id="a guess"),
        pytest.param(f"{TOKEN[:-1]}é", id="not ASCII"),
    ],
)
def test_other_texts_are_not_valid_tokens(token):
    """Neither a part of a token nor the token of another job or installation is valid."""
    assert job_token.verify(KEY, token) is None


@given(st.text())
def test_any_text_is_checked_without_an_error(text):
    """A text from the network is invalid at most."""
    assert job_token.verify(KEY, text) is None
    assert job_token.verify(KEY, f"upj_{text}") is None
