"""The samples that come with Upshot: the automations, and the jobs that they run."""

from __future__ import annotations

from pathlib import Path

import upshot
from upshot.errors import ConfigError

#: The automations of the demo and of the wheel. Other files beside them, such as your own, are not samples.
SAMPLES = (
    "announce.yaml",
    "deploy.yaml",
    "drift.yaml",
    "evaluate.yaml",
    "hook.yaml",
    "quantize.yaml",
    "verify.yaml",
)


def sample_automations() -> tuple[Path, ...]:
    """
    Return the files of the sample automations.

    Raises:
        ConfigError: One of them is missing.
    """
    directory = _directory("_samples", "automations")
    files = tuple(directory / name for name in SAMPLES)
    if missing := next((file for file in files if not file.is_file()), None):
        raise ConfigError(f"{missing}: this sample is missing; restore it, or install Upshot again")
    return files


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
