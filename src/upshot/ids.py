"""
Ids of records.

A new id is a prefix, ten characters of time (milliseconds) and sixteen random characters, in
Crockford's base 32 as ULID uses it, in lower case: `evt_01jd3v9k2m8q4z6w0x5y7a1b2c`. New ids sort
by time. Other ids are derived: the same input always gives the same id.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from datetime import datetime
from typing import NewType

ExecutionId = NewType("ExecutionId", str)
EventId = NewType("EventId", str)
JobId = NewType("JobId", str)
WorkerId = NewType("WorkerId", str)
DeliveryId = NewType("DeliveryId", str)  #: sent to the receiver with every attempt of a step; retries reuse it
RevisionId = NewType("RevisionId", str)  #: first 12 hex digits of the SHA-256 of an automation's data

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, as in the ULID specification
_TIME_CHARS = 10  # 48 bits of milliseconds, ULID specification
_RANDOM_CHARS = 16  # 80 bits, ULID specification

# Encode two characters at a time, because every delivery needs several ids.
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_SHIFTS = {chars: tuple(range(5 * chars - 10, -1, -10)) for chars in (_TIME_CHARS, _RANDOM_CHARS)}


def _base32(number: int, chars: int) -> str:
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS[chars]])


class _MonotonicRandom:
    """Random numbers that increase within one millisecond, as in ULID's monotonic factory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process_and_time = (0, 0)
        self._last = 0

    def next(self, milliseconds: int) -> int:
        # The process id is compared too, so that a forked child does not repeat its parent's numbers.
        process_and_time = (os.getpid(), milliseconds)
        with self._lock:
            if process_and_time == self._process_and_time:
                self._last += 1
            else:
                self._process_and_time = process_and_time
                self._last = secrets.randbits(5 * _RANDOM_CHARS - 1)  # the highest bit stays free for increments
            return self._last


_random = _MonotonicRandom()


def new_id(prefix: str, now: datetime) -> str:
    """Make a unique id that sorts after all earlier ids of this process."""
    milliseconds = int(now.timestamp() * 1000)
    return f"{prefix}_{_base32(milliseconds, _TIME_CHARS)}{_base32(_random.next(milliseconds), _RANDOM_CHARS)}"


def has_part(id_: str, part: str) -> bool:
    """Return whether an id begins or ends with a text."""
    return id_.startswith(part) or id_.endswith(part)


def first_id(prefix: str, time: datetime) -> str:
    """Return the id that sorts before all ids of that millisecond and later, and after all earlier ones."""
    return f"{prefix}_{_base32(int(time.timestamp() * 1000), _TIME_CHARS)}"


def new_nonce() -> str:
    """Make an unguessable word of letters and digits."""
    return f"Nx{secrets.token_hex(16)}"


def new_key() -> bytes:
    """Make an unguessable key of 32 bytes for signatures."""
    return secrets.token_bytes(32)


def _digest(*parts: str) -> int:
    joined = "\x1f".join(parts).encode()
    return int.from_bytes(hashlib.sha256(joined).digest()[:10], "big")


def _derive(prefix: str, time: datetime, *parts: str) -> str:
    milliseconds = int(time.timestamp() * 1000)
    return f"{prefix}_{_base32(milliseconds, _TIME_CHARS)}{_base32(_digest(*parts), _RANDOM_CHARS)}"


def derive_execution_id(event_id: EventId, automation: str, replay: str = "") -> ExecutionId:
    """
    Derive the id of the execution of an automation for an event.

    The id has the time of the event, so that executions sort in the order of their events.

    Args:
        event_id: Id of the event that the execution answers.
        automation: Name of the automation.
        replay: Empty for the first execution. Each replay is a new execution and passes a new random word.
    """
    time_part = event_id.partition("_")[2][:_TIME_CHARS].ljust(_TIME_CHARS, "0")
    return ExecutionId(f"exe_{time_part}{_base32(_digest(event_id, automation, replay), _RANDOM_CHARS)}")


def derive_delivery_id(execution_id: ExecutionId, step_id: str) -> DeliveryId:
    """Derive the id that a step sends to its receiver; all attempts send the same id."""
    return DeliveryId(f"dlv_{_base32(_digest(execution_id, step_id), _RANDOM_CHARS)}")


def derive_job_id(delivery_id: DeliveryId, attempt: int, created_at: datetime) -> JobId:
    """
    Derive the id of the job that an attempt of a step starts.

    Args:
        delivery_id: Delivery id of the step.
        attempt: Number of the attempt, counted from 1.
        created_at: Creation time of the execution. Jobs sort by it.
    """
    return JobId(_derive("job", created_at, delivery_id, str(attempt)))


def derive_destination_id(name: str) -> str:
    """Derive the id of a destination from its name."""
    return f"dst_{_base32(_digest(name), _RANDOM_CHARS)}"


def derive_event_id(cause_id: str, detail: str, time: datetime) -> EventId:
    """
    Derive the id of an event that a step emits, so that repeating the step emits the same event.

    Args:
        cause_id: Id of the execution, job or request that emits the event.
        detail: Distinguishes the event from other events with the same cause, such as a delivery id.
        time: A time that does not change when the step is repeated, such as the execution's creation time.
    """
    return EventId(_derive("evt", time, cause_id, detail))
