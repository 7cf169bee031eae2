"""Stages of versions, as the MLflow Model Registry has them."""

from __future__ import annotations

from enum import StrEnum

from upshot.errors import InvalidInput
from upshot.suggestions import did_you_mean


class Stage(StrEnum):
    """Stage of a version in its collection. The values are MLflow's words."""

    NONE = "None"  #: in development
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"


_BY_NAME = {
    **{stage.value.lower(): stage for stage in Stage},
    "development": Stage.NONE,
    "retired": Stage.ARCHIVED,
}


def parse_stage(text: str) -> Stage:
    """
    Return the stage with this name in any case; `development` means `None`, and `retired` means `Archived`.

    Raises:
        InvalidInput: There is no such stage.
    """
    if found := _BY_NAME.get(text.lower()):
        return found
    raise InvalidInput(f"there is no stage {text!r}{did_you_mean(text.lower(), _BY_NAME)}")


def describe_stage(stage: Stage) -> str:
    """Return the name of a stage for people, because `None` would read as a missing value."""
    return "None (development)" if stage is Stage.NONE else stage.value
