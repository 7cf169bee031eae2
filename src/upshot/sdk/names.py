"""Names of artifacts, aliases and tags."""

from __future__ import annotations

import re
from collections.abc import Iterable

from upshot.sdk.sdk_errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def is_artifact_name(name: object) -> bool:
    """Return whether an artifact may have this name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name not in {".", ".."}


def to_names(names: Iterable[str] | str | None, what: str) -> list[str]:
    """
    Return aliases or tags as a list: None, one text and any iterable are accepted.

    Raises:
        InvalidArgument: One is not a text.
    """
    found = [] if names is None else [names] if isinstance(names, str) else list(names)
    for name in found:
        if not isinstance(name, str) or not name:  # type: ignore[redundant-expr]
            raise InvalidArgument(f"{what}: {name!r} is not a name; write it as a text")
    return list(dict.fromkeys(found))
