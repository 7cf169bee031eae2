"""A cluster that is played, and a backend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from tests.kubernetes.hand import Hand
from tests.kubernetes.stand_in import StandIn


class Connect(Protocol):
    """Makes backends."""

    def __call__(self, **options: Any) -> Hand: ...


@pytest.fixture
def cluster() -> Iterator[StandIn]:
    """A new one."""
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def connect(cluster: StandIn, tmp_path) -> Iterator[Connect]:
    """Makes backends on it; options are written with underscores."""
    with ExitStack() as stack:

        def connect(**options: Any) -> Hand:
            written = {key.replace("_", "-"): value for key, value in options.items()}
            return stack.enter_context(Hand(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path), **written}))

        yield connect


@pytest.fixture
def hand(connect: Connect) -> Hand:
    """A backend on it, as it is without options."""
    return connect()
