"""Jobs as plain data: read again whole, whoever wrote it."""

from datetime import UTC, date, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.adapters.serialization.jobs import job_from_row, job_to_row
from upshot.domain.job import FailureKind, ImagePullCredentials, Job, JobRetryPolicy, JobSpec, MemoryGrowth, Mount
from upshot.storable import to_storable, to_storable_text

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = Job(
    id="job_1",
    name="evaluate",
    automation="promote",
    execution_id="exe_1",
    step_id="evaluate",
    event_id="evt_1",
    delivery_id="dlv_1",
    queue="default",
    backend="docker",
    spec=JobSpec(mounts=(Mount("/a", "/b"),), registry_auth=ImagePullCredentials("a", "b")),
    retry=JobRetryPolicy(memory_growth=MemoryGrowth()),
    created_at=NOW,
)


def test_what_a_later_upshot_has_written_can_be_read():
    """While workers are brought up to date one after the other, those of before go on with what they know."""
    row = job_to_row(JOB)
    form = row["details"]
    for record in (form, form["spec"], form["spec"]["mounts"][0], form["spec"]["registry_auth"], form["retry"]):
        record["of_tomorrow"] = {"some": "thing"}
    form["retry"]["memory_growth"]["of_tomorrow"] = 1
    assert job_from_row(row | {"column_of_tomorrow": 1}) == JOB


def test_a_limit_beyond_every_number_is_the_largest_that_is_kept():
    """An author's 10^30 means: any number."""
    row = job_to_row(Job(**{name: getattr(JOB, name) for name in JOB.__slots__} | {"concurrency": 10**30}))
    assert row["concurrency"] == 2**31 - 1


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        pytest.param("ü\U0001f600", "ü\U0001f600", id="whole characters stay"),
        pytest.param("\ud83d\ude00", "\U0001f600", id="two halves of one become it"),
        pytest.param("a\ud800b", "a\ufffdb", id="a half alone is replaced"),
        pytest.param("\x00\x01\x7f", "\ufffd\x01\x7f", id="NUL alone is replaced"),
        pytest.param(True, True, id="true is no number"),
        pytest.param(-(2**63), -(2**63), id="the smallest number"),
        pytest.param(2**64, 1.8446744073709552e19, id="beyond the largest"),
        pytest.param(-(10**400), f"{-(10**400):#x}", id="beyond all fractions"),
        pytest.param({1: (2, [3])}, {"1": [2, [3]]}, id="keys are texts"),
        pytest.param(date(2026, 1, 1), "2026-01-01", id="what is no data"),
        pytest.param(NOW, "2026-01-01T00:00:00.000000Z", id="a time"),
        pytest.param(FailureKind.TIMED_OUT, "timed-out", id="a word"),
    ],
)
def test_what_cannot_be_kept_becomes_what_can(value, kept):
    """And what can be kept stays as it is."""
    assert to_storable(value) == kept


TEXTS = st.text(st.characters(exclude_categories=()))  # halves of characters, too
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS | st.integers(), inner),
)


@given(PLAIN)
def test_whatever_it_was_it_is_read_as_it_was_kept(value):
    """Through JSON and back, and a second time."""
    kept = to_storable(value)
    assert orjson.loads(orjson.dumps(kept)) == kept
    assert to_storable(kept) == kept


@given(TEXTS)
def test_any_text_can_be_kept(text):
    """In UTF-8, without NUL."""
    kept = to_storable_text(text)
    assert "\x00" not in kept
    assert kept.encode().decode() == kept
