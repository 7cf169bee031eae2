"""Slow down addresses that send wrong tokens: ten failures in a minute, then none is checked for the rest of it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from upshot.clock import stopwatch
from upshot.web.problems import Problem

MAX_FAILURES = 10
WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 10_000  #: the addresses that failed longest ago are forgotten
_IPV6_PREFIX_BITS = 64  # the smallest network that one customer of a provider has


@dataclass(slots=True)
class _Failures:
    since: float
    count: int = 0


class FailedAttempts:
    """
    Counts failed attempts to authenticate by address. Each web process counts for itself.

    Args:
        seconds: A monotonic clock.
    """

    def __init__(self, seconds: Callable[[], float] = stopwatch) -> None:
        self._seconds = seconds
        self._by_address: OrderedDict[str, _Failures] = OrderedDict()

    def add(self, address: str) -> bool:
        """Count a failure. Return whether it is the one from which on the address has to wait."""
        key = _network(address)
        now = self._seconds()
        failures = self._by_address.get(key)
        if failures is None or now - failures.since >= WINDOW_SECONDS:
            failures = self._by_address[key] = _Failures(now)
        failures.count += 1
        self._by_address.move_to_end(key)
        while len(self._by_address) > MAX_ADDRESSES:
            self._by_address.popitem(last=False)
        return failures.count == MAX_FAILURES

    def wait_seconds(self, address: str) -> int:
        """Return how long the address has to wait; 0 if it need not."""
        failures = self._by_address.get(_network(address))
        if failures is None or failures.count < MAX_FAILURES:
            return 0
        return max(0, math.ceil(failures.since + WINDOW_SECONDS - self._seconds()))


def _network(address: str) -> str:
    """Return what an address is counted as: one host has a whole network of IPv6 addresses."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(int(parsed) >> (128 - _IPV6_PREFIX_BITS))
    return str(parsed)


def too_many_failures(wait_seconds: int) -> Problem:
    """Return the problem of a request from an address that has to wait."""
    return Problem(
        429,
        "too-many-failures",
        f"header.authorization: {MAX_FAILURES} wrong tokens came from your address within a minute; try again in "
        f"{wait_seconds} s",
        headers={"Retry-After": str(wait_seconds)},
    )
