"""Ids and times."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.clock import FrozenClock, format_time, parse_time
from upshot.ids import EventId, ExecutionId, derive_delivery_id, derive_event_id, derive_execution_id, new_id

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_a_time_is_read_as_it_was_written(moment):
    """To the microsecond."""
    assert parse_time(format_time(moment)) == moment


@given(st.lists(st.datetimes(min_value=datetime(1971, 1, 1), timezones=st.just(UTC)), min_size=2, max_size=2))
def test_times_sort_as_text(moments):
    """The earlier one comes first in any alphabet."""
    assert sorted(moments) == [parse_time(text) for text in sorted(format_time(moment) for moment in moments)]


def test_times_are_in_utc():
    """A zone is turned into UTC; a time without one is taken as UTC."""
    assert format_time(datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))) == "2026-01-01T12:00:00.000000Z"
    assert parse_time("2026-01-01T12:00:00") == NOW
    assert parse_time("2026-01-01T13:00:00+01:00") == NOW
    with pytest.raises(ValueError, match="Invalid isoformat"):
        parse_time("yesterday")


def test_a_frozen_clock_moves_only_when_it_is_moved():
    """Tests decide what time it is."""
    clock = FrozenClock(NOW)
    clock.advance(90)
    assert clock.now() == NOW + timedelta(seconds=90)


def test_new_ids_sort_in_the_order_in_which_they_were_made():
    """Also within one millisecond; a known time makes a known beginning."""
    ids = [new_id("evt", NOW) for _ in range(1000)] + [new_id("evt", NOW + timedelta(milliseconds=1))]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert {one[:14] for one in ids[:-1]} == {"evt_01kdwpvng0"}
    assert {len(one) for one in ids} == {30}


def test_derived_ids_are_the_same_for_the_same_thing():
    """And others for others; an execution sorts by its event's time."""
    event = EventId(new_id("evt", NOW))
    assert derive_execution_id(event, "promote") == derive_execution_id(event, "promote")
    names = {derive_execution_id(event, "promote"), derive_execution_id(event, "other"), derive_execution_id(event, "promote", "again")}
    assert len(names) == 3
    assert derive_execution_id(event, "promote")[4:14] == event[4:14]
    assert derive_delivery_id(ExecutionId("exe_1"), "a") == derive_delivery_id(ExecutionId("exe_1"), "a") != derive_delivery_id(ExecutionId("exe_1"), "b")
    assert derive_event_id("exe_1", "dlv_1", NOW) == derive_event_id("exe_1", "dlv_1", NOW)
    assert derive_event_id("exe_1", "dlv_1", NOW) != derive_event_id("exe_1", "dlv_2", NOW)


def test_where_two_words_meet_matters():
    """`a` + `bc` is not `ab` + `c`."""
    assert derive_delivery_id(ExecutionId("a"), "bc") != derive_delivery_id(ExecutionId("ab"), "c")
