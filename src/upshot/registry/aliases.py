"""Add, move and remove aliases. In each collection and each artifact, an alias belongs to at most one version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from upshot.clock import format_time
from upshot.domain.event import ASKED_AT, EventKind, Origin
from upshot.domain.pending_version import EarlierRequest
from upshot.domain.reference import LATEST, check_alias
from upshot.domain.registry import ArtifactVersion, Change, Collection, Series, Version
from upshot.errors import InvalidInput
from upshot.registry.inputs import MAX_ALIASES
from upshot.registry.lookup import (
    find_alias,
    find_artifact,
    find_collection,
    find_in_project,
    find_registry,
    find_version,
)
from upshot.registry.mutation import Mutation
from upshot.registry.protection import require_alias_permission
from upshot.registry.snapshots import version_context
from upshot.registry.transaction import RegistryTransactions, artifact_lock, collection_lock
from upshot.resources.version import version_json

SeriesT = TypeVar("SeriesT", bound=Series)
VersionT = TypeVar("VersionT", bound=Version | ArtifactVersion)


class Aliases(RegistryTransactions):
    """Methods for aliases."""

    def add_alias(self, registry: str, collection: str, alias: str, version: str, *, origin: Origin) -> Change[Version]:
        """
        Add an alias to a version of a collection. Another version that holds the alias loses it.

        Args:
            registry: Name of the registry.
            collection: Name of the collection.
            alias: The alias to add.
            version: Name (`v3`) or alias of the version.
            origin: Who makes the change.

        Raises:
            Forbidden: The alias is protected, and the actor is not an admin.
        """
        alias = check_alias(alias)

        def work(mutation: Mutation) -> Version:
            found = find_collection(mutation.tx, registry, collection)
            named = find_version(mutation.tx, found, version)
            return move_aliases(mutation, found, named, [alias], automatic=frozenset())

        return self._change(work, locks=[collection_lock(registry, collection)], origin=origin)

    def add_artifact_alias(
        self, project: str, name: str, alias: str, version: str, *, origin: Origin
    ) -> Change[ArtifactVersion]:
        """Add an alias to an artifact version in its project. Another version that holds the alias loses it."""
        alias = check_alias(alias)

        def work(mutation: Mutation) -> ArtifactVersion:
            artifact = find_artifact(mutation.tx, project, name)
            named = find_in_project(mutation.tx, artifact, version)
            return move_aliases(mutation, artifact, named, [alias], automatic=frozenset())

        return self._change(work, locks=[artifact_lock(project, name)], origin=origin)

    def remove_alias(self, registry: str, collection: str, alias: str, *, origin: Origin) -> Change[None]:
        """
        Remove an alias from its version in a collection.

        Raises:
            Forbidden: The alias is protected, and the actor is not an admin.
        """

        def work(mutation: Mutation) -> None:
            _remove_alias(mutation, find_collection(mutation.tx, registry, collection), alias)

        return self._change(work, locks=[collection_lock(registry, collection)], origin=origin)

    def remove_artifact_alias(self, project: str, name: str, alias: str, *, origin: Origin) -> Change[None]:
        """Remove an alias from its artifact version in the project."""

        def work(mutation: Mutation) -> None:
            _remove_alias(mutation, find_artifact(mutation.tx, project, name), alias)

        return self._change(work, locks=[artifact_lock(project, name)], origin=origin)


def assign_aliases(series: SeriesT, version_name: str, aliases: Iterable[str]) -> tuple[SeriesT, dict[str, str | None]]:
    """
    Compute the aliases of a collection or artifact after a version gets some of them.

    Returns:
        The collection or artifact after the change, and the previous holder of each alias that moves (None for a
        new alias). Aliases that the version already holds do not move.

    Raises:
        InvalidInput: The collection or artifact would have too many aliases.
    """
    moved = {alias: series.aliases.get(alias) for alias in aliases if series.aliases.get(alias) != version_name}
    after = dict(sorted({**series.aliases, **dict.fromkeys(moved, version_name)}.items()))
    if len(after) > MAX_ALIASES:
        raise InvalidInput(
            f"{series.reference} would have {len(after):,} aliases; at most {MAX_ALIASES:,} are allowed; "
            "remove some aliases first"
        )
    return replace(series, aliases=after), moved


def move_aliases(
    mutation: Mutation,
    series: Series,
    version: VersionT,
    aliases: Sequence[str],
    *,
    is_new: bool = False,
    automatic: frozenset[str] = frozenset({LATEST}),
    earlier: EarlierRequest | None = None,
) -> VersionT:
    """
    Move aliases to a version as part of a mutation. A new version also gets `latest`.

    Args:
        mutation: The mutation that moves the aliases.
        series: The collection or artifact.
        version: The version that gets the aliases.
        aliases: The requested aliases.
        is_new: Whether the mutation adds the version.
        automatic: Aliases whose move is marked as automatic. Linking and logging always move `latest`, so a request for
            it (W&B's SDK always sends one) is not the decision of a person.
        earlier: When aliases were asked for, if that was not now. Those that somebody has moved or removed since then
            stay where they are.

    Returns:
        The version with all aliases that it has after the change.

    Raises:
        Forbidden: An alias is protected, and the actor is not an admin.
    """
    if isinstance(series, Collection):
        settings = find_registry(mutation.tx, series.registry)
        require_alias_permission(settings, aliases, mutation.actor, "add or move it")
        # A link moves `latest` automatically. Only a rule for `latest` itself forbids that; a pattern such as `*`
        # does not.
        if is_new and LATEST in settings.protected_aliases:
            require_alias_permission(settings, [LATEST], mutation.actor, "link, which moves it")
    if earlier is not None:
        aliases = _without_later_moves(mutation, series, version.name, aliases, earlier)
    after, moved = assign_aliases(series, version.name, dict.fromkeys([LATEST, *aliases] if is_new else aliases))
    version = replace(version, aliases=after.aliases_of(version.name))
    if is_new:
        kind = EventKind.VERSION_LINKED if isinstance(version, Version) else EventKind.ARTIFACT_CREATED
        mutation.add_event(kind, version.reference, version_context(after, version, mutation.base_url))
    if not moved:
        return version
    mutation.tx.move_aliases(series, dict.fromkeys(moved, version.number))
    asked_at = min(earlier.happened_at, mutation.now) if earlier else None
    add_alias_moved_events(mutation, after, version, moved, automatic=automatic, asked_at=asked_at)
    values = {"digest": version.artifact_version.digest, "aliases": dict.fromkeys(moved, version.name)}
    if isinstance(version, Version):
        values["artifact"] = version.artifact_version.reference
    creation = "link" if isinstance(version, Version) else "log-artifact"
    mutation.add_history(
        creation if is_new else "add-alias", version.reference, series, before={"aliases": moved}, after=values
    )
    return version


def _without_later_moves(
    mutation: Mutation, series: Series, version_name: str, aliases: Sequence[str], earlier: EarlierRequest
) -> Sequence[str]:
    """Leave out the aliases that somebody else has moved or removed since then, and note them in the mutation."""
    kept = [
        alias
        for alias in aliases
        if alias != LATEST
        and series.aliases.get(alias) != version_name
        and (changed_at := mutation.tx.alias_changed_at(series, alias)) is not None
        and changed_at > earlier.happened_at
    ]
    mutation.kept_aliases = tuple(kept)
    return [alias for alias in aliases if alias not in kept]


def add_alias_moved_events(
    mutation: Mutation,
    series: Series,
    new_holder: Version | ArtifactVersion,
    moved: Mapping[str, str | None],
    *,
    automatic: frozenset[str],
    asked_at: datetime | None = None,
) -> None:
    """
    Add the events of moved aliases. For each alias, the event of the previous holder comes first.

    Args:
        mutation: The mutation that moves the aliases.
        series: The collection or artifact after the change.
        new_holder: The version that holds the aliases after the change.
        moved: Name of the previous holder by alias, as `assign_aliases` returns it.
        automatic: Aliases that nobody asked to move.
        asked_at: When a program without a connection asked for it.
    """
    previous_holders = _versions_by_name(mutation, series, [name for name in moved.values() if name])
    context = version_context(series, new_holder, mutation.base_url)
    for alias, name in moved.items():
        previous_holder = previous_holders[name] if name else None
        is_automatic = alias in automatic
        if previous_holder:
            add_alias_removed_event(
                mutation, series, previous_holder, alias, moved_to=new_holder.name, automatic=is_automatic
            )
        previous = version_json(previous_holder, mutation.base_url) if previous_holder else None
        data = {**context, "alias": alias, "previous": previous, "automatic": is_automatic}
        if asked_at is not None:
            data[ASKED_AT] = format_time(asked_at)
        mutation.add_event(EventKind.ALIAS_ADDED, new_holder.reference, data)


def add_alias_removed_event(
    mutation: Mutation,
    series: Series,
    previous_holder: Version | ArtifactVersion,
    alias: str,
    *,
    moved_to: str | None = None,
    automatic: bool = False,
) -> None:
    """Add the event of an alias that a version no longer holds; `series` and version are as after the change."""
    context = version_context(series, previous_holder, mutation.base_url)
    data = {**context, "alias": alias, "moved_to": moved_to, "automatic": automatic}
    mutation.add_event(EventKind.ALIAS_REMOVED, previous_holder.reference, data)


def pass_on_latest(
    mutation: Mutation, series: SeriesT, removed: Version | ArtifactVersion
) -> tuple[SeriesT, Version | ArtifactVersion | None]:
    """
    Move `latest` from a version that was just removed to the newest version that remains.

    Returns:
        The collection or artifact without the aliases of the removed version, and the version that has `latest` now;
        None if it does not move.
    """
    others = {alias: holder for alias, holder in series.aliases.items() if holder != removed.name}
    after = replace(series, aliases=others)
    if LATEST not in removed.aliases:
        return after, None
    newest: tuple[Version | ArtifactVersion, ...]
    if isinstance(after, Collection):
        newest = mutation.tx.page_versions(after, cursor=None, limit=1).items
    else:
        newest = mutation.tx.page_artifact_versions(after, cursor=None, limit=1).items
    if not newest:
        return after, None
    heir = newest[0]
    mutation.tx.move_aliases(after, {LATEST: heir.number})
    after = replace(after, aliases=dict(sorted({**others, LATEST: heir.name}.items())))
    return after, replace(heir, aliases=after.aliases_of(heir.name))


def add_latest_added_event(
    mutation: Mutation, series: Series, heir: Version | ArtifactVersion, removed: Version | ArtifactVersion
) -> None:
    """Add the event and the history entry of `latest`, which `pass_on_latest` moved."""
    data = {
        **version_context(series, heir, mutation.base_url),
        "alias": LATEST,
        "previous": version_json(removed, mutation.base_url),
        "automatic": True,
    }
    mutation.add_event(EventKind.ALIAS_ADDED, heir.reference, data)
    mutation.add_history(
        "add-alias",
        heir.reference,
        series,
        before={"aliases": {LATEST: removed.name}},
        after={"digest": heir.artifact_version.digest, "aliases": {LATEST: heir.name}},
    )


def _remove_alias(mutation: Mutation, before: Series, alias: str) -> None:
    alias = find_alias(before, alias)
    if isinstance(before, Collection):
        settings = find_registry(mutation.tx, before.registry)
        require_alias_permission(settings, [alias], mutation.actor, "remove it")
    mutation.tx.remove_alias(before, alias)
    after = replace(before, aliases={name: holder for name, holder in before.aliases.items() if name != alias})
    (holder,) = _versions_by_name(mutation, after, [before.aliases[alias]]).values()
    add_alias_removed_event(mutation, after, holder, alias)
    mutation.add_history(
        "remove-alias",
        holder.reference,
        after,
        before={"alias": alias, "version": holder.name},
        after={"alias": alias, "version": None},
    )


def _versions_by_name(
    mutation: Mutation, series: Series, names: Iterable[str]
) -> dict[str, Version] | dict[str, ArtifactVersion]:
    numbers = {int(name.removeprefix("v")) for name in names}
    if isinstance(series, Collection):
        return {version.name: version for version in mutation.tx.versions(series, numbers).values()}
    return {version.name: version for version in mutation.tx.artifact_versions(series, numbers).values()}
