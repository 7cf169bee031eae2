"""Job tokens: made from a key, and known again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.clock import FrozenClock
from upshot.domain import job_token
from upshot.ids import job_id

KEY = bytes(range(32))
JOB = job_id("dlv_1", 1, FrozenClock().now())
TOKEN = job_token.make(KEY, JOB)


def test_a_token_is_known_again_by_its_key():
    """It begins so that people and scanners recognise it, names its job, and is the same every time."""
    assert TOKEN.startswith(f"upj_{JOB}_")
    assert job_token.make(KEY, JOB) == TOKEN
    assert job_token.verify(KEY, TOKEN) == JOB
    assert job_token.read(TOKEN)[0] == JOB


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="nothing"),
        pytest.param("upj_", id="the beginning alone"),
        pytest.param(f"upj_{JOB}_", id="no mac"),
        pytest.param(TOKEN[:-1], id="shorter"),
        pytest.param(f"{TOKEN}0", id="longer"),
        pytest.param(f"{TOKEN}\n", id="a line end behind it"),
        pytest.param(TOKEN.upper(), id="capitals"),
        pytest.param(TOKEN.replace(JOB, f"{JOB[:-1]}{'1' if JOB[-1] == '0' else '0'}"), id="another job's"),
        pytest.param(job_token.make(bytes(32), JOB), id="another key's"),
        pytest.param(TOKEN[:-64] + "0" * 64, id="a guess"),
        pytest.param(f"{TOKEN[:-1]}é", id="not ASCII"),
    ],
)
def test_anything_else_is_no_token(token):
    """Neither a piece of one nor one of another job or another installation."""
    assert job_token.verify(KEY, token) is None


@given(st.text())
def test_whatever_comes_is_read_without_an_error(text):
    """What strangers send is never more than wrong."""
    assert job_token.verify(KEY, text) is None
    assert job_token.verify(KEY, f"upj_{text}") is None
