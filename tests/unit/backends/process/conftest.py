"""Fixtures for the tests of the process backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from upshot.backends.process.safe_files import open_dir


@pytest.fixture
def dir_fd(tmp_path) -> Iterator[int]:
    """Open the test's temporary directory."""
    with open_dir(str(tmp_path)) as fd:
        yield fd
