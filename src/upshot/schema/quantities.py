"""How long, how large, how much: quantities as people write them in YAML, and as they read them in messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_BYTES = 2**50  # a pebibyte: more is a slip
MAX_CPUS = 4096

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_UNIT_SECONDS: Mapping[str, float] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)([A-Za-z]*)")
_UNIT_BYTES: Mapping[str, int] = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)},
}
#: What Kubernetes, Docker and haste write, as far as one can know what was meant.
_OTHER_UNITS: Mapping[str, str] = {
    **{f"{letter}i": f"{letter}iB" for letter in "KMGT"},
    **{letter: f"{letter}iB" for letter in "KMGT"},
    **{letter.lower(): f"{letter}iB" for letter in "KMGT"},
}

_CPUS = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,6})?")
_MILLICPUS = re.compile(r"([0-9]{1,7})m")


class InvalidQuantity(ValueError):
    """
    A value that is no quantity; the text is a finding on it: "is not a size; write 4GiB".

    Args:
        what: What it is not.
        remedy: What to write.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.remedy = remedy


def read_duration(value: Any) -> float:
    """
    Read `500ms`, `30s`, `5m`, `1h` or `2d`.

    Returns:
        Seconds.

    Raises:
        NotAQuantity: It is none.
    """
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        remedy = f"write {value}s" if _is_whole(value) else "write 500ms, 30s, 5m, 1h or 2d"
        raise InvalidQuantity("is not a duration", remedy)
    return float(found[1]) * _UNIT_SECONDS[found[2]]


def read_bytes(value: Any) -> int:
    """
    Read `4GiB`, `512MiB` or `2GB`; a text that is a number alone counts bytes.

    Raises:
        NotAQuantity: It is none.
    """
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        remedy = f"write {show_bytes(value)}" if _is_whole(value) and value > 0 else "write 512MiB, 4GiB or 2GB"
        raise InvalidQuantity("is not a size", remedy)
    number, unit = found[1], found[2] or "B"
    if unit not in _UNIT_BYTES:
        near = _OTHER_UNITS.get(unit) or next((u for u in _UNIT_BYTES if u.casefold() == unit.casefold()), None)
        raise InvalidQuantity("is not a size", f"write {number}{near}" if near else "write 512MiB, 4GiB or 2GB")
    size = float(number) * _UNIT_BYTES[unit] if "." in number else int(number) * _UNIT_BYTES[unit]
    if not 1 <= size <= MAX_BYTES:
        raise InvalidQuantity("is not a size that a machine has", "write one such as 512MiB or 4GiB")
    return round(size)


def read_cpus(value: Any) -> float:
    """
    Read a number of processors: `2`, `0.5`, as a number or as its text.

    Raises:
        NotAQuantity: It is none.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _CPUS.fullmatch(value)):
        thousandths = _MILLICPUS.fullmatch(value) if isinstance(value, str) else None
        remedy = f"write {int(thousandths[1]) / 1000:g}" if thousandths else "write 2 or 0.5"
        raise InvalidQuantity("is not a number of processors", remedy)
    if isinstance(value, str):
        value = float(value)
    if not 0 < value <= MAX_CPUS:  # what is no number at all fails this, too
        raise InvalidQuantity("is not a number of processors that a machine has", f"write one up to {MAX_CPUS}")
    return float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def show_duration(seconds: float) -> str:
    """Write it in the largest unit in which it is a whole number: `90m`, `36h`, `1.5s`."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / _UNIT_SECONDS[unit]
        if count >= 1 and count.is_integer():
            return f"{int(count)}{unit}"
    return f"{seconds:g}s"


def show_bytes(size: int) -> str:
    """Write it as short as it can be written exactly: `4GiB`, `1.5GiB`, `2GB`."""
    exact = [(size, unit, name) for name, unit in _UNIT_BYTES.items() if (size * 100) % unit == 0]
    return min((f"{size // unit if size % unit == 0 else size / unit}{name}" for size, unit, name in exact), key=len)
