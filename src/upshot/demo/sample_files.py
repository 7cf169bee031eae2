"""The samples that come with Upshot, wherever it was installed to."""

from __future__ import annotations

from pathlib import Path

import upshot
from upshot.errors import ConfigError


def sample_automations() -> Path:
    """Folder of the sample automations."""
    return _folder("_samples", "automations")


def examples() -> Path:
    """Folder of what the sample automations work with: their jobs, their models, their receivers."""
    return _folder("_examples", "examples")


def _folder(in_package: str, in_checkout: str) -> Path:
    """
    Of the installed package, or of the checkout.

    Raises:
        ConfigError: It is in neither.
    """
    package = Path(upshot.__file__).parent
    for folder in (package / in_package, package.parents[1] / in_checkout):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the samples are not in {package}; install Upshot again")
