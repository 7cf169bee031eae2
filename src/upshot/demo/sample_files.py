"""The samples that come with Upshot: the automations, and the jobs that they run."""

from __future__ import annotations

from pathlib import Path

import upshot
from upshot.errors import ConfigError


def sample_automations() -> Path:
    """Return the directory of the sample automations."""
    return _directory("_samples", "automations")


def examples() -> Path:
    """Return the directory of the sample jobs, their models and their receivers."""
    return _directory("_examples", "examples")


def _directory(in_package: str, in_checkout: str) -> Path:
    """
    Find a directory in the installed package or in the checkout.

    Raises:
        ConfigError: Neither has it.
    """
    package = Path(upshot.__file__).parent
    for directory in (package / in_package, package.parents[1] / in_checkout):
        if directory.is_dir():
            return directory
    raise ConfigError(f"the samples are missing from {package}; install Upshot again")
