"""Jobs as rows: whatever a job contains, it can be stored and read again."""

from dataclasses import replace
from datetime import UTC, date, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.job_records import make_job
from upshot.adapters.serialization.jobs import job_from_row, job_to_row
from upshot.domain.job import FailureKind, ImagePullCredentials, JobRetryPolicy, JobSpec, MemoryGrowth, Mount
from upshot.storable import to_storable
from upshot.unicode_text import to_storable_text

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = make_job(
    "job_1",
    NOW,
    spec=JobSpec(mounts=(Mount("/a", "/b"),), registry_auth=ImagePullCredentials("a", "b")),
    retry=JobRetryPolicy(memory_growth=MemoryGrowth()),
)


def test_the_row_of_a_later_version_can_be_read():
    """While workers are upgraded one after the other, the older ones ignore what they do not know."""
    row = job_to_row(JOB)
    details = row["details"]
    for record in (details, details["spec"], details["spec"]["mounts"][0], details["spec"]["registry_auth"]):
        record["of_tomorrow"] = {"some": "thing"}
    details["retry"]["of_tomorrow"] = details["retry"]["memory_growth"]["of_tomorrow"] = 1

    assert job_from_row(row | {"column_of_tomorrow": 1}) == JOB


def test_the_row_of_an_earlier_version_can_be_read():
    """An option that did not exist when the job was stored has its default."""
    row = job_to_row(replace(JOB, spec=replace(JOB.spec, read_only=True)))
    del row["details"]["spec"]["read_only"]

    assert job_from_row(row) == JOB


def test_a_limit_that_is_too_large_becomes_the_largest_integer():
    """An author who writes 10^30 means any number."""
    row = job_to_row(replace(JOB, concurrency=10**30))

    assert row["concurrency"] == 2**31 - 1


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        pytest.param("ü\U0001f600", "ü\U0001f600", id="characters"),
        pytest.param("\ud83d\ude00", "\U0001f600", id="two halves of a character"),
        pytest.param("a\ud800b", "a\ufffdb", id="half a character"),
        pytest.param("\x00\x01\x7f", "\ufffd\x01\x7f", id="NUL"),
        pytest.param(True, True, id="true"),
        pytest.param(-(2**63), -(2**63), id="smallest integer"),
        pytest.param(2**64, "18446744073709551616", id="too large for 64 bits"),
        pytest.param(-(10**5000), f"{-(10**5000):#x}", id="too large for decimal digits"),
        pytest.param({1: (2, [3])}, {"1": [2, [3]]}, id="key that is not a string"),
        pytest.param(date(2026, 1, 1), "2026-01-01", id="another object"),
        pytest.param(NOW, "2026-01-01T00:00:00.000000Z", id="time"),
        pytest.param(FailureKind.TIMED_OUT, "timed-out", id="enum"),
    ],
)
def test_a_value_that_cannot_be_stored_is_replaced(value, stored):
    """A value that can be stored stays as it is."""
    assert to_storable(value) == stored


TEXTS = st.text(st.characters(exclude_categories=()))  # including halves of characters
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS | st.integers(), inner),
)


@given(PLAIN)
def test_a_storable_value_survives_a_round_trip_through_json(value):
    """Making it storable again changes nothing either."""
    stored = to_storable(value)
    assert orjson.loads(orjson.dumps(stored)) == stored
    assert to_storable(stored) == stored


@given(TEXTS)
def test_every_text_can_be_made_storable(text):
    """The result is valid UTF-8 without NUL."""
    stored = to_storable_text(text)
    assert "\x00" not in stored
    assert stored.encode().decode() == stored
