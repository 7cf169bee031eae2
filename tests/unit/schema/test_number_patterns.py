"""The patterns of amounts for editors accept what `upshot validate` accepts."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upshot.schema.number_patterns import number_pattern
from upshot.schema.quantities import (
    CPUS_SCHEMA,
    InvalidQuantity,
    duration_schema,
    read_bytes,
    read_cpus,
    read_duration,
    size_schema,
)

NUMBERS = st.one_of(
    st.from_regex(r"\A[0-9]{1,6}(\.[0-9]{1,9})?\Z"),
    st.decimals(0, 100_000, allow_nan=False, places=9).map(lambda number: f"{number:f}"),
)
LIMITS = st.fractions(0, 50_000)


@given(NUMBERS, LIMITS, LIMITS)
@example("0.100", Fraction(1, 10), Fraction(1))
@example("0.001666667", Fraction(1, 600), Fraction(1))
@example("0.001666666", Fraction(1, 600), Fraction(1))
@example("007.000", Fraction(0), Fraction(7))
@example("7.001", Fraction(0), Fraction(7))
def test_a_pattern_accepts_the_numbers_within_the_limits(number, first, second):
    """Leading and trailing zeros make no difference."""
    minimum, maximum = sorted((first, second))

    is_accepted = re.fullmatch(number_pattern(minimum, maximum), number) is not None

    assert is_accepted == (minimum <= Fraction(number) <= maximum)


def is_valid(read, text, minimum=None, maximum=None):
    try:
        amount = read(text)
    except InvalidQuantity:
        return False
    return minimum is None or minimum <= amount <= maximum


@pytest.mark.parametrize("limits", [(0.1, 3600.0), (0.001, 7 * 86_400.0)])
@given(number=NUMBERS, unit=st.sampled_from(["ms", "s", "m", "h", "d", "", "x"]))
@example(number="100", unit="ms")
@example(number="99.9", unit="ms")
@example(number="1.0", unit="h")
@example(number="8", unit="d")
@example(number="0", unit="s")
def test_durations_have_their_limits(limits, number, unit):
    """A duration outside the limits is marked in an editor."""
    pattern = duration_schema(*limits)["pattern"]

    assert bool(re.search(pattern, number + unit)) == is_valid(read_duration, number + unit, *limits)


@given(number=NUMBERS, unit=st.sampled_from(["", "B", "KiB", "MiB", "GiB", "TiB", "kB", "GB", "TB", "G", "gib"]))
@example(number="1024", unit="TiB")
@example(number="1025", unit="TiB")
@example(number="0", unit="GiB")
def test_sizes_have_their_limits(number, unit):
    """More bytes than a machine can have, or none, are marked in an editor."""
    assert bool(re.search(size_schema()["pattern"], number + unit)) == is_valid(read_bytes, number + unit)


@given(number=NUMBERS)
@example(number="4096")
@example(number="4096.000001")
@example(number="0.000000")
def test_numbers_of_processors_have_their_limits(number):
    """No processor, or more than a machine can have, are marked in an editor."""
    pattern = CPUS_SCHEMA["anyOf"][1]["pattern"]

    assert bool(re.search(pattern, number)) == is_valid(read_cpus, number)
