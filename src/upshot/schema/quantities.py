"""Durations, sizes and numbers of processors: how people write them in YAML, and how messages show them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from upshot.domain.job import ALL_GPUS
from upshot.domain.job_options import Option, ValueKind
from upshot.schema.number_patterns import number_pattern

MAX_BYTES = 2**50  # a pebibyte: more is a mistake
MAX_CPUS = 4096

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_UNIT_SECONDS: Mapping[str, float] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)([A-Za-z]*)")
_UNIT_BYTES: Mapping[str, int] = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)},
}
#: Units that Kubernetes and Docker use, or that people write in a hurry, by the unit that they stand for.
_OTHER_UNITS: Mapping[str, str] = {
    **{f"{letter}i": f"{letter}iB" for letter in "KMGT"},
    **{letter: f"{letter}iB" for letter in "KMGT"},
    **{letter.lower(): f"{letter}iB" for letter in "KMGT"},
}

_CPUS = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,6})?")
_CPUS_LIMITS = number_pattern(Fraction(1, 1_000_000), Fraction(MAX_CPUS))
CPUS_SCHEMA: Mapping[str, Any] = {  #: for editors
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_CPUS},
        {"type": "string", "pattern": f"^(?={_CPUS_LIMITS}$){_CPUS.pattern}$"},
    ]
}
_MILLICPUS = re.compile(r"([0-9]{1,7})m")


class InvalidQuantity(ValueError):
    """
    A value is not a quantity. The message follows the value: "is not a size; write 4GiB".

    Args:
        problem: Such as "is not a size".
        remedy: What to write instead.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.remedy = remedy


def read_duration(value: Any) -> float:
    """
    Read `500ms`, `30s`, `5m`, `1h` or `2d`.

    Returns:
        Seconds.

    Raises:
        InvalidQuantity: The value is not a duration.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        remedy = f"write {value}s" if _is_whole(value) else "write 500ms, 30s, 5m, 1h or 2d"
        raise InvalidQuantity("is not a duration", remedy)
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def duration_schema(minimum_seconds: float, maximum_seconds: float) -> dict[str, Any]:
    """Return the JSON Schema of a duration within limits, for editors."""
    limits = Fraction(str(minimum_seconds)), Fraction(str(maximum_seconds))
    units = {unit: Fraction(str(seconds)) for unit, seconds in _UNIT_SECONDS.items()}
    return {"type": "string", "pattern": rf"^(?={_with_units(*limits, units)}$){_DURATION.pattern}$"}


def size_schema() -> dict[str, Any]:
    """Return the JSON Schema of what `read_bytes` accepts, for editors."""
    units = {unit: Fraction(size) for unit, size in {**_UNIT_BYTES, "": 1}.items()}
    amount = _with_units(Fraction(1), Fraction(MAX_BYTES), units)
    return {"type": "string", "pattern": rf"^\s*(?={amount}\s*$)[0-9]{{1,16}}(?:\.[0-9]{{1,9}})?[A-Za-z]*\s*$"}


def _with_units(minimum: Fraction, maximum: Fraction, units: Mapping[str, Fraction]) -> str:
    """Return the pattern of an amount with a unit, whose limits are in the unit 1."""
    return f"(?:{'|'.join(number_pattern(minimum / size, maximum / size) + unit for unit, size in units.items())})"


def read_bytes(value: Any) -> int:
    """
    Read `4GiB`, `512MiB` or `2GB`. A string without a unit is a number of bytes.

    Raises:
        InvalidQuantity: The value is not a size.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        remedy = f"write {show_bytes(value)}" if _is_whole(value) and value > 0 else "write 512MiB, 4GiB or 2GB"
        raise InvalidQuantity("is not a size", remedy)
    number, unit = match[1], match[2] or "B"
    if unit not in _UNIT_BYTES:
        similar = _OTHER_UNITS.get(unit) or next((u for u in _UNIT_BYTES if u.casefold() == unit.casefold()), None)
        raise InvalidQuantity("is not a size", f"write {number}{similar}" if similar else "write 512MiB, 4GiB or 2GB")
    size = float(number) * _UNIT_BYTES[unit] if "." in number else int(number) * _UNIT_BYTES[unit]
    if not 1 <= size <= MAX_BYTES:
        raise InvalidQuantity("is not a size that a machine has", "write a size such as 512MiB or 4GiB")
    return round(size)


def read_cpus(value: Any) -> float:
    """
    Read a number of processors: `2` or `0.5`, as a number or as a string.

    Raises:
        InvalidQuantity: The value is not a number of processors.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _CPUS.fullmatch(value)):
        millicpus = _MILLICPUS.fullmatch(value) if isinstance(value, str) else None
        remedy = f"write {int(millicpus[1]) / 1000:g}" if millicpus else "write 2 or 0.5"
        raise InvalidQuantity("is not a number of processors", remedy)
    if isinstance(value, str):
        value = float(value)
    if not 0 < value <= MAX_CPUS:  # NaN fails this comparison too
        raise InvalidQuantity("is not a number of processors that a machine has", f"write a number up to {MAX_CPUS}")
    return float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def show_duration(seconds: float) -> str:
    """Format a duration in the largest unit that gives a whole number: `90m`, `36h`, `1.5s`."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / _UNIT_SECONDS[unit]
        if count >= 1 and count.is_integer():
            return f"{int(count)}{unit}"
    return f"{seconds:g}s"


def show_bytes(size: int) -> str:
    """Format a size in the shortest way that is exact: `4GiB`, `1.5GiB`, `2GB`."""
    exact = [(size, unit, name) for name, unit in _UNIT_BYTES.items() if (size * 100) % unit == 0]
    return min((f"{size // unit if size % unit == 0 else size / unit}{name}" for size, unit, name in exact), key=len)


def show_amount(option: Option, amount: float) -> str:
    """Format the value of an option that is an amount, for messages."""
    match option.kind:
        case ValueKind.BYTES:
            return show_bytes(int(amount))
        case ValueKind.SECONDS:
            return show_duration(amount)
        case ValueKind.GPUS:
            return "all GPUs" if amount == ALL_GPUS else f"{amount} GPUs"
        case ValueKind.CPUS:
            return f"{amount:g} processors"
        case _:
            return f"{amount} {option.unit}"
