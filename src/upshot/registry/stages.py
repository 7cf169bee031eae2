"""Move versions between stages, as the MLflow Model Registry does."""

from __future__ import annotations

from dataclasses import replace

from upshot.domain.event import EventKind, Origin
from upshot.domain.registry import Change, Collection, Version
from upshot.domain.stage import Stage
from upshot.registry.lookup import find_collection, find_version
from upshot.registry.mutation import Mutation
from upshot.registry.snapshots import version_context
from upshot.registry.transaction import RegistryTransactions, collection_lock


class Stages(RegistryTransactions):
    """Methods for stages."""

    def set_stage(
        self,
        registry: str,
        collection: str,
        version: str,
        stage: Stage,
        *,
        archive_existing: bool = False,
        origin: Origin,
    ) -> Change[Version]:
        """
        Move a version to a stage.

        Args:
            registry: Name of the registry.
            collection: Name of the collection.
            version: Name (`v3`) or alias of the version.
            stage: The stage.
            archive_existing: Move the other versions of the stage to `Archived`. They change first.
            origin: Who makes the change.
        """

        def work(mutation: Mutation) -> Version:
            found = find_collection(mutation.tx, registry, collection)
            moved = find_version(mutation.tx, found, version)
            if archive_existing and stage is not Stage.ARCHIVED:
                numbers = [number for number in mutation.tx.numbers_in_stage(found, stage) if number != moved.number]
                others = mutation.tx.versions(found, numbers)
                for number in numbers:
                    _move(mutation, found, others[number], Stage.ARCHIVED)
            return _move(mutation, found, moved, stage)

        return self._change(work, locks=[collection_lock(registry, collection)], origin=origin)


def _move(mutation: Mutation, collection: Collection, before: Version, stage: Stage) -> Version:
    if before.stage is stage:
        return before
    after = replace(before, stage=stage)
    mutation.tx.update_stage(after)
    data = {
        **version_context(collection, after, mutation.base_url),
        "stage": {"from": before.stage.value, "to": stage.value},
    }
    mutation.add_event(EventKind.STAGE_CHANGED, after.reference, data)
    mutation.add_history(
        "set-stage", after.reference, collection, before={"stage": before.stage.value}, after={"stage": stage.value}
    )
    return after
