"""Durations, sizes and numbers of processors: how they are parsed and formatted."""

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
        pytest.param(read_duration, "1.5h", 5400.0, id="fraction of an hour"),
        pytest.param(read_duration, "7d", 604_800.0, id="days"),
        pytest.param(read_bytes, "4GiB", 4 * 2**30, id="gibibytes"),
        pytest.param(read_bytes, "512MiB", 512 * 2**20, id="mebibytes"),
        pytest.param(read_bytes, "2GB", 2 * 10**9, id="gigabytes"),
        pytest.param(read_bytes, "1.5GiB", 3 * 2**29, id="fraction of a gibibyte"),
        pytest.param(read_bytes, "64kB", 64_000, id="kilobytes"),
        pytest.param(read_bytes, "1048576", 2**20, id="bytes, from a template"),
        pytest.param(read_cpus, 2, 2.0, id="processors"),
        pytest.param(read_cpus, 0.5, 0.5, id="fraction of a processor"),
        pytest.param(read_cpus, "0.5", 0.5, id="processors, from a template"),
    ],
)
def test_a_quantity_is_parsed(read, written, amount):
    """Every documented notation is accepted."""
    assert read(written) == amount


@pytest.mark.parametrize(
    ("read", "written", "message"),
    [
        pytest.param(read_duration, 30, "is not a duration; write 30s", id="number as a time"),
        pytest.param(read_duration, "30 s", "write 500ms, 30s", id="space in a time"),
        pytest.param(read_duration, "-5s", "is not a duration", id="negative time"),
        pytest.param(read_duration, True, "is not a duration", id="true as a time"),
        pytest.param(read_bytes, "4Gi", "write 4GiB", id="unit of Kubernetes"),
        pytest.param(read_bytes, "4g", "write 4GiB", id="unit of Docker"),
        pytest.param(read_bytes, "4gb", "write 4GB", id="lower case"),
        pytest.param(read_bytes, 4 * 2**30, "write 4GiB", id="number of bytes"),
        pytest.param(read_bytes, "4 parsecs", "write 512MiB, 4GiB or 2GB", id="unknown unit"),
        pytest.param(read_bytes, "0GiB", "a machine has", id="zero"),
        pytest.param(read_bytes, "9999999TiB", "a machine has", id="too large"),
        pytest.param(read_bytes, None, "is not a size", id="null"),
        pytest.param(read_cpus, "500m", "write 0.5", id="millicpus"),
        pytest.param(read_cpus, "many", "write 2 or 0.5", id="a word"),
        pytest.param(read_cpus, 0, "write a number up to", id="zero"),
        pytest.param(read_cpus, float("nan"), "write a number up to", id="NaN"),
        pytest.param(read_cpus, 10**400, "write a number up to", id="too large for a float"),
        pytest.param(read_cpus, True, "is not a number of processors", id="true"),
    ],
)
def test_an_invalid_quantity_is_refused_with_a_remedy(read, written, message):
    """The message suggests a valid notation that is close to what was written."""
    with pytest.raises(InvalidQuantity) as raised:
        read(written)

    assert message in str(raised.value)


@given(st.integers(1, MAX_BYTES))
def test_a_formatted_size_can_be_parsed(size):
    """A message shows a limit exactly, to the byte."""
    assert read_bytes(show_bytes(size)) == size


@given(st.integers(1, 7 * 86_400))
def test_a_formatted_duration_can_be_parsed(seconds):
    """The result is exact to the second."""
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
def test_amounts_are_formatted_as_people_write_them(shown, text):
    """The unit is the one that gives the shortest text."""
    assert shown == text
