"""
Identifiers: sortable by time where they are new, derived where the same thing must get the same name.

A new id is a prefix, ten characters of time (milliseconds) and sixteen of chance, in
Crockford's base 32 as ULID uses it, in lower case: `evt_01jd3v9k2m8q4z6w0x5y7a1b2c`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, as in the ULID specification
_TIME_CHARS = 10  # 48 bits of milliseconds, ULID specification
_CHANCE_CHARS = 16  # 80 bits, ULID specification


# Two characters at a time: several ids are made for every delivery.
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_SHIFTS = {chars: tuple(range(5 * chars - 10, -1, -10)) for chars in (_TIME_CHARS, _CHANCE_CHARS)}


def _base32(number: int, chars: int) -> str:
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS[chars]])


class _Chance:
    """Counts on from the chance part of the last id within one millisecond, as ULID's monotonic factory does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moment = (0, 0)
        self._last = 0

    def next(self, milliseconds: int) -> int:
        moment = (os.getpid(), milliseconds)  # a forked child does not count on with its parent's numbers
        with self._lock:
            if moment == self._moment:
                self._last += 1
            else:
                self._moment = moment
                self._last = secrets.randbits(5 * _CHANCE_CHARS - 1)  # the upper half is left for counting
            return self._last


_chance = _Chance()


def new_id(prefix: str, now: datetime) -> str:
    """Make an id that nobody has yet and that sorts after those this process made earlier."""
    milliseconds = int(now.timestamp() * 1000)
    return f"{prefix}_{_base32(milliseconds, _TIME_CHARS)}{_base32(_chance.next(milliseconds), _CHANCE_CHARS)}"


def new_nonce() -> str:
    """Make a word that nobody can guess, of letters in both cases and digits."""
    return f"Nx{secrets.token_hex(16)}"


def new_key() -> bytes:
    """Make 32 bytes that nobody can guess, to sign with."""
    return secrets.token_bytes(32)


def _digest(*parts: str) -> int:
    joined = "\x1f".join(parts).encode()
    return int.from_bytes(hashlib.sha256(joined).digest()[:10], "big")


def execution_id(event_id: str, automation: str, replay: str = "") -> str:
    """
    Name the execution of an automation for an event: the same pair always gets the same id.

    It keeps the event's time, so that executions sort in the order of their events.

    Args:
        event_id: The event that is answered.
        automation: Name of the automation.
        replay: Empty for the first answer; a fresh word for each replay, which is a new execution.
    """
    time_part = event_id.partition("_")[2][:_TIME_CHARS].ljust(_TIME_CHARS, "0")
    return f"exe_{time_part}{_base32(_digest(event_id, automation, replay), _CHANCE_CHARS)}"


def delivery_id(execution: str, step: str) -> str:
    """Name what a step of an execution sends to the outside world: the same over all retries."""
    return f"dlv_{_base32(_digest(execution, step), _CHANCE_CHARS)}"


def job_id(delivery: str, attempt: int, moment: datetime) -> str:
    """
    Name the job of a step's attempt: the same attempt always gets the same id.

    Args:
        delivery: The step's delivery id.
        attempt: Number of the attempt, counted from 1.
        moment: When the execution was made, so that jobs sort by time.
    """
    milliseconds = int(moment.timestamp() * 1000)
    return f"job_{_base32(milliseconds, _TIME_CHARS)}{_base32(_digest(delivery, str(attempt)), _CHANCE_CHARS)}"


def derived_event_id(cause: str, delivery: str, moment: datetime) -> str:
    """
    Name an event that a step emits, so that a step that is repeated after a crash emits it once.

    Args:
        cause: Id of the execution that emits.
        delivery: The step's delivery id.
        moment: A time that is the same at every repetition, such as when the execution was made.
    """
    milliseconds = int(moment.timestamp() * 1000)
    return f"evt_{_base32(milliseconds, _TIME_CHARS)}{_base32(_digest(cause, delivery), _CHANCE_CHARS)}"
