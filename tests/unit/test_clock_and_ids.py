"""Times and ids."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.clock import FrozenClock, format_time, parse_time
from upshot.ids import EventId, ExecutionId, derive_delivery_id, derive_event_id, derive_execution_id, new_id

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_a_formatted_time_is_parsed_unchanged(moment):
    """Formatting and parsing keep a time to the microsecond."""
    assert parse_time(format_time(moment)) == moment


@given(st.lists(st.datetimes(min_value=datetime(1971, 1, 1), timezones=st.just(UTC)), min_size=2, max_size=2))
def test_times_sort_as_text(moments):
    """Sorting formatted times as text sorts them by time."""
    assert sorted(moments) == [parse_time(text) for text in sorted(format_time(moment) for moment in moments)]


def test_times_are_in_utc():
    """A time with a time zone is converted to UTC, and a time without a time zone is in UTC."""
    assert format_time(datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))) == "2026-01-01T12:00:00.000000Z"
    assert parse_time("2026-01-01T12:00:00") == NOW
    assert parse_time("2026-01-01T13:00:00+01:00") == NOW
    with pytest.raises(ValueError, match="Invalid isoformat"):
        parse_time("yesterday")


def test_a_frozen_clock_moves_only_when_it_is_advanced():
    """A frozen clock shows its start time until it is advanced."""
    clock = FrozenClock(NOW)
    clock.advance(90)
    assert clock.now() == NOW + timedelta(seconds=90)


def test_new_ids_sort_in_the_order_of_their_creation():
    """They sort within one millisecond too, and the beginning of an id depends only on the time."""
    ids = [new_id("evt", NOW) for _ in range(1000)] + [new_id("evt", NOW + timedelta(milliseconds=1))]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert {event_id[:14] for event_id in ids[:-1]} == {"evt_01kdwpvng0"}
    assert {len(event_id) for event_id in ids} == {30}


def test_the_same_input_derives_the_same_id():
    """Other input derives another id, and an execution id has the time of its event."""
    event_id = EventId(new_id("evt", NOW))
    assert derive_execution_id(event_id, "promote") == derive_execution_id(event_id, "promote")
    ids = {
        derive_execution_id(event_id, "promote"),
        derive_execution_id(event_id, "other"),
        derive_execution_id(event_id, "promote", "again"),
    }
    assert len(ids) == 3
    assert derive_execution_id(event_id, "promote")[4:14] == event_id[4:14]
    assert (
        derive_delivery_id(ExecutionId("exe_1"), "a")
        == derive_delivery_id(ExecutionId("exe_1"), "a")
        != derive_delivery_id(ExecutionId("exe_1"), "b")
    )
    assert derive_event_id("exe_1", "dlv_1", NOW) == derive_event_id("exe_1", "dlv_1", NOW)
    assert derive_event_id("exe_1", "dlv_1", NOW) != derive_event_id("exe_1", "dlv_2", NOW)


def test_the_boundary_between_inputs_matters():
    """`a` and `bc` derive another id than `ab` and `c`."""
    assert derive_delivery_id(ExecutionId("a"), "bc") != derive_delivery_id(ExecutionId("ab"), "c")
