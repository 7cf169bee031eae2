"""Aliases: one holder each in a collection, or in a project; who may move them, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from upshot.domain.event import Actor, EventKind
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, RegistrySettings, Version
from upshot.errors import Forbidden, InvalidInput
from upshot.registry.inputs import MAX_ALIASES
from upshot.registry.mutation import Mutation
from upshot.registry.snapshots import artifact_context, logged_version_form, version_context, version_form

HolderOf = TypeVar("HolderOf", Collection, Artifact)


@dataclass(frozen=True, slots=True)
class Holder:
    """A version, linked or logged, as events about its aliases show it."""

    name: str
    reference: str
    form: Mapping[str, Any]
    context: Mapping[str, Any]


def linked_holder(collection: Collection, version: Version, base_url: str | None) -> Holder:
    """A version in its collection."""
    return Holder(
        version.name,
        version.reference,
        version_form(version, base_url),
        version_context(collection, version, base_url),
    )


def logged_holder(artifact: ArtifactVersion, base_url: str | None) -> Holder:
    """An artifact version in its project."""
    return Holder(
        artifact.version,
        artifact.reference,
        logged_version_form(artifact, base_url),
        artifact_context(artifact, base_url),
    )


def give(of: HolderOf, version: str, aliases: Iterable[str]) -> tuple[HolderOf, dict[str, str | None]]:
    """
    Tell what becomes of the aliases when the version (`v3`) gets these.

    Returns:
        The collection or artifact as it is then, and who held each alias that moves, or None; an
        alias that the version has already does not move.

    Raises:
        InvalidInput: There would be too many aliases.
    """
    moved = {alias: of.aliases.get(alias) for alias in aliases if of.aliases.get(alias) != version}
    after = dict(sorted({**of.aliases, **dict.fromkeys(moved, version)}.items()))
    if len(after) > MAX_ALIASES:
        raise InvalidInput(f"{of.reference} would have {len(after):,} aliases; at most {MAX_ALIASES:,} are allowed")
    return replace(of, aliases=after), moved


def numbers_of(versions: Iterable[str | None]) -> frozenset[int]:
    """The numbers in `v1`, `v2`, …; None is left out."""
    return frozenset(int(name[1:]) for name in versions if name)


def say_moves(
    mutation: Mutation,
    gainer: Holder,
    moved: Mapping[str, str | None],
    losers: Mapping[str, Holder],
    *,
    automatic: frozenset[str],
) -> None:
    """
    Add the events of aliases that moved: for each the loser's, if there is one, then the gainer's.

    Args:
        mutation: To which they belong.
        gainer: The version that has them now.
        moved: Who held each alias before, as `give` tells.
        losers: Those versions, by name.
        automatic: Aliases that move by themselves here.
    """
    for alias, before in moved.items():
        by_itself = alias in automatic
        loser = losers[before] if before else None
        if loser:
            say_removed(mutation, loser, alias, moved_to=gainer.name, automatic=by_itself)
        data = {**gainer.context, "alias": alias, "previous": loser and loser.form, "automatic": by_itself}
        mutation.say(EventKind.ALIAS_ADDED, gainer.reference, data)


def say_removed(
    mutation: Mutation, loser: Holder, alias: str, *, moved_to: str | None = None, automatic: bool = False
) -> None:
    """Add the event of an alias that its holder has no more."""
    data = {**loser.context, "alias": alias, "moved_to": moved_to, "automatic": automatic}
    mutation.say(EventKind.ALIAS_REMOVED, loser.reference, data)


def is_protected(registry: RegistrySettings, alias: str) -> bool:
    """Whether only an admin may add, move or remove the alias."""
    return any(fnmatchcase(alias, pattern) for pattern in registry.protected_aliases)


def check_may_touch(registry: RegistrySettings, aliases: Iterable[str], actor: Actor, what: str) -> None:
    """
    Let an actor through who may add, move and remove these aliases.

    Args:
        registry: Whose rules hold.
        aliases: What is touched.
        actor: Who does it.
        what: What the actor is about to do, for the message: "move it", …

    Raises:
        Forbidden: One of them is protected and the actor is no admin.
    """
    if actor.role == "admin":
        return
    for alias in aliases:
        if is_protected(registry, alias):
            raise Forbidden(
                f"alias {alias!r} is protected in registry {registry.name!r}: only an admin may {what}; "
                f"{actor.name} is a {actor.role}"
            )


def check_may_move_by_itself(registry: RegistrySettings, alias: str, actor: Actor) -> None:
    """
    Let a link through that moves an alias by itself; a pattern such as `*` does not mean that, its exact name does.

    Raises:
        Forbidden: The alias is protected by its name and the actor is no admin.
    """
    if alias in registry.protected_aliases:
        check_may_touch(registry, [alias], actor, "link, which moves it")
