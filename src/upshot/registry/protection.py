"""Protected aliases: only an admin may add, move or remove them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from upshot.domain.event import Actor, Role
from upshot.domain.registry import RegistrySettings
from upshot.errors import Forbidden


def is_protected(registry: RegistrySettings, alias: str) -> bool:
    """Return whether only an admin may add, move or remove the alias."""
    return any(fnmatchcase(alias, pattern) for pattern in registry.protected_aliases)


def require_alias_permission(registry: RegistrySettings, aliases: Iterable[str], actor: Actor, action: str) -> None:
    """
    Raise an error if the actor may not add, move or remove one of the aliases.

    Args:
        registry: The registry whose rules apply.
        aliases: The aliases that the actor is about to change.
        actor: Who makes the change.
        action: What the actor is about to do, for the message: "remove it", …

    Raises:
        Forbidden: An alias is protected, and the actor is not an admin.
    """
    if actor.role is Role.ADMIN:
        return
    for alias in aliases:
        if is_protected(registry, alias):
            raise Forbidden(
                f"alias {alias!r} is protected in registry {registry.name!r}: only an admin may {action}; "
                f"{actor.name} is a {actor.role}"
            )
