"""What automations watch metrics for, as plain data, which every database can store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from upshot.domain.automation import ActiveWatch

_WATCHES: TypeAdapter[tuple[ActiveWatch, ...]] = TypeAdapter(tuple[ActiveWatch, ...])


def watches_to_data(watches: Sequence[ActiveWatch]) -> Any:
    """Return plain data."""
    return _WATCHES.dump_python(tuple(watches), mode="json")


def watches_from_data(data: Any) -> tuple[ActiveWatch, ...]:
    """Return the watches of data that `watches_to_data` returned."""
    return _WATCHES.validate_python(data)
