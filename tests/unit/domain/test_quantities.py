"""Quantities: as people write them, and as messages show them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.schema.quantities import (
    MAX_BYTES,
    InvalidQuantity,
    read_bytes,
    read_cpus,
    read_duration,
    show_bytes,
    show_duration,
)


@pytest.mark.parametrize(
    ("read", "written", "amount"),
    [
        pytest.param(read_duration, "500ms", 0.5, id="milliseconds"),
        pytest.param(read_duration, "1.5h", 5400.0, id="part of an hour"),
        pytest.param(read_duration, "7d", 604_800.0, id="days"),
        pytest.param(read_bytes, "4GiB", 4 * 2**30, id="gibibytes"),
        pytest.param(read_bytes, "512MiB", 512 * 2**20, id="mebibytes"),
        pytest.param(read_bytes, "2GB", 2 * 10**9, id="gigabytes"),
        pytest.param(read_bytes, "1.5GiB", 3 * 2**29, id="part of a gibibyte"),
        pytest.param(read_bytes, "64kB", 64_000, id="kilobytes"),
        pytest.param(read_bytes, "1048576", 2**20, id="bytes, as a template gives them"),
        pytest.param(read_cpus, 2, 2.0, id="processors"),
        pytest.param(read_cpus, 0.5, 0.5, id="part of a processor"),
        pytest.param(read_cpus, "0.5", 0.5, id="processors, as a template gives them"),
    ],
)
def test_what_people_write_is_read(read, written, amount):
    """Every documented form."""
    assert read(written) == amount


@pytest.mark.parametrize(
    ("read", "written", "says"),
    [
        pytest.param(read_duration, 30, "is not a duration; write 30s", id="number as a time"),
        pytest.param(read_duration, "30 s", "write 500ms, 30s", id="space in a time"),
        pytest.param(read_duration, "-5s", "is not a duration", id="time that ends before it begins"),
        pytest.param(read_duration, True, "is not a duration", id="true as a time"),
        pytest.param(read_bytes, "4Gi", "write 4GiB", id="as Kubernetes has it"),
        pytest.param(read_bytes, "4g", "write 4GiB", id="as Docker has it"),
        pytest.param(read_bytes, "4gb", "write 4GB", id="small letters"),
        pytest.param(read_bytes, 4 * 2**30, "write 4GiB", id="number of bytes"),
        pytest.param(read_bytes, "4 parsecs", "write 512MiB, 4GiB or 2GB", id="another unit"),
        pytest.param(read_bytes, "0GiB", "a machine has", id="nothing"),
        pytest.param(read_bytes, "9999999TiB", "a machine has", id="more than there is"),
        pytest.param(read_bytes, None, "is not a size", id="null"),
        pytest.param(read_cpus, "500m", "write 0.5", id="thousandths"),
        pytest.param(read_cpus, "many", "write 2 or 0.5", id="a word"),
        pytest.param(read_cpus, 0, "write one up to", id="none"),
        pytest.param(read_cpus, float("nan"), "write one up to", id="no number"),
        pytest.param(read_cpus, 10**400, "write one up to", id="more than a float holds"),
        pytest.param(read_cpus, True, "is not a number of processors", id="true"),
    ],
)
def test_what_is_no_quantity_is_met_with_what_to_write(read, written, says):
    """The finding says what would be right, as near to what was written as can be."""
    with pytest.raises(InvalidQuantity) as raised:
        read(written)

    assert says in str(raised.value)


@given(st.integers(1, MAX_BYTES))
def test_a_size_that_is_shown_can_be_read_again(size):
    """What a message says about a limit is the limit, to the byte."""
    assert read_bytes(show_bytes(size)) == size


@given(st.integers(1, 7 * 86_400))
def test_a_duration_that_is_shown_can_be_read_again(seconds):
    """To the second."""
    assert read_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (show_bytes(4 * 2**30), "4GiB"),
        (show_bytes(3 * 2**29), "1.5GiB"),
        (show_bytes(10**9), "1GB"),
        (show_duration(5400), "90m"),
        (show_duration(86_400), "1d"),
        (show_duration(0.5), "0.5s"),
    ],
)
def test_amounts_are_shown_as_people_write_them(shown, text):
    """In the unit that says it shortest."""
    assert shown == text
