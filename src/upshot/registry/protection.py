"""Protected aliases: only an admin, and automations that the registry names, may add, move or remove them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from upshot.domain.event import Actor, ActorKind, Role
from upshot.domain.registry import RegistrySettings
from upshot.errors import Forbidden
from upshot.unicode_text import to_nfc


def is_protected(registry: RegistrySettings, alias: str) -> bool:
    """Return whether the registry restricts who may add, move or remove the alias."""
    name = to_nfc(alias)
    patterns = map(to_nfc, registry.protected_aliases)
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def require_admin(actor: Actor, action: str) -> None:
    """
    Raise an error if the actor is not an admin.

    Raises:
        Forbidden: The actor is not an admin.
    """
    if actor.role is not Role.ADMIN:
        raise Forbidden(f"only an admin may {action}; {actor.name} is a {actor.role}")


def require_alias_permission(registry: RegistrySettings, aliases: Iterable[str], actor: Actor, action: str) -> None:
    """
    Raise an error if the actor may not add, move or remove one of the aliases.

    Args:
        registry: The registry whose rules apply.
        aliases: The aliases that the actor is about to change.
        actor: Who makes the change.
        action: What the actor is about to do, for the message: "remove it", …

    Raises:
        Forbidden: An alias is protected, and the actor is neither an admin nor an allowed automation.
    """
    if actor.role is Role.ADMIN:
        return
    is_automation = actor.kind is ActorKind.AUTOMATION
    if is_automation and actor.name in registry.allowed_automations:
        return
    for alias in aliases:
        if is_protected(registry, alias):
            who = f"the automation {actor.name}" if is_automation else f"{actor.name} is a {actor.role}"
            reason = (
                f"{who} is not one of its allowed automations ({', '.join(registry.allowed_automations) or 'none'})"
                if is_automation
                else who
            )
            raise Forbidden(
                f"alias {alias!r} is protected in registry {registry.name!r}: only an admin may {action}; {reason}"
            )


def require_ttl_permission(actor: Actor, before: int | None, after: int | None, *, unlimited: int | None) -> None:
    """
    Raise an error if the change of a time to live can delete versions earlier, and the actor is not an admin.

    Args:
        actor: Who makes the change.
        before: The earlier value of `ttl_seconds`.
        after: The new value.
        unlimited: The value that means without limit.

    Raises:
        Forbidden: The actor is not an admin.
    """
    if after in (before, unlimited):
        return
    if not before or not after or after < before:
        require_admin(actor, "set a ttl that can delete versions earlier")
