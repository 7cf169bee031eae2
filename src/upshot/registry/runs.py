"""Runs: programs that use artifact versions and log others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from upshot.domain.event import Origin
from upshot.domain.reference import check_name
from upshot.domain.registry import ArtifactVersion, Change, Version
from upshot.domain.run import Edge, EdgeKind, Run, RunProgress, RunState, RunSummary
from upshot.errors import Conflict, InvalidInput, NotFound
from upshot.ids import new_id
from upshot.ports.registry import RegistryTransaction, RegistryView
from upshot.registry.inputs import (
    MAX_RUN_JSON_BYTES,
    check_description,
    check_json,
    check_tags,
    check_text_of_run,
)
from upshot.registry.lookup import find_artifact, find_in_project, find_version_anywhere, project_or_none
from upshot.registry.mutation import Mutation
from upshot.registry.run_lookup import find_run
from upshot.registry.run_states import continue_run, record_state
from upshot.registry.scopes import make_project
from upshot.registry.transaction import RegistryTransactions, artifact_lock, run_lock
from upshot.suggestions import did_you_mean
from upshot.unicode_text import to_nfc

_RESUME = ("allow", "must", "never")
MAX_EDGES = 1_000  #: inputs or outputs of a run, or runs of a version, that one answer lists


@dataclass(frozen=True, slots=True)
class RunChange:
    """What a client sets of a run. None leaves a value as it is."""

    name: str | None = None
    job_type: str | None = None
    config: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] | None = None
    tags: Sequence[str] | None = None
    notes: str | None = None
    group: str | None = None
    entity: str | None = None
    info: Mapping[str, Any] | None = None
    session: str | None = None  #: made by the process that starts the run; not set by other clients
    resume: str | None = None  #: `allow`, `must` or `never`: whether the run may exist already, with another session
    created_at: datetime | None = None  #: of a new run that began earlier


class Runs(RegistryTransactions):
    """Methods for runs."""

    def save_run(self, project: str, run_id: str, change: RunChange, *, origin: Origin) -> Change[Run]:
        """
        Create a run, or change it. Repeating it changes nothing.

        Args:
            project: Name of the project, which is created if it does not exist.
            run_id: Id of the run, made by the client and unique in the project.
            change: The values to set.
            origin: Who makes the change.

        Raises:
            Conflict: The run has another session and is not to be resumed, or it was deleted.
            NotFound: The run does not exist, and `resume` is `must`.
        """
        run_id = check_name(run_id, "run")
        values = _checked(change)

        def work(mutation: Mutation) -> Run:
            tx = mutation.tx
            holder = project_or_none(tx, project) or check_name(project, "project")
            before = tx.run(holder, run_id)
            if before is None:
                return _start(mutation, holder, run_id, values)
            after = _apply(before, values)
            if values.session is None or values.session == before.progress.session:
                if after != before:
                    tx.save_run(after)
                return after
            return _resume(mutation, before, after, values)

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin)

    def tag_run(self, project: str, run_id: str, tag: str, *, present: bool, origin: Origin) -> Change[Run]:
        """
        Add a tag to a run, or remove it.

        Raises:
            NotFound: The run does not exist, or a tag that is to be removed.
        """

        def work(mutation: Mutation) -> Run:
            run = find_run(mutation.tx, project, run_id)
            name = to_nfc(tag)
            if not present and name not in run.tags:
                raise NotFound(f"run {run.summary.reference} has no tag {tag[:128]!r}{did_you_mean(tag, run.tags)}")
            tags = check_tags([*run.tags, tag] if present else [each for each in run.tags if each != name])
            changed = replace(run, tags=tags)
            if changed != run:
                mutation.tx.save_run(changed)
            return changed

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin)

    def use_artifact(
        self, project: str, run_id: str, artifact: str, *, artifact_type: str | None = None, origin: Origin
    ) -> Change[Version | ArtifactVersion]:
        """
        Record that a run uses an artifact version, and return the version. Repeating it changes nothing.

        Args:
            project: Name of the run's project.
            run_id: Id of the run.
            artifact: A reference, through a link or not, or the id of an artifact version or a link. A name without a
                scope is an artifact of the run's project.
            artifact_type: The expected type, or None.
            origin: Who makes the change.

        Raises:
            Conflict: The artifact has another type.
            NotFound: The run or the version does not exist.
        """

        def work(mutation: Mutation) -> Version | ArtifactVersion:
            run = find_run(mutation.tx, project, run_id)
            scope = run.summary.project
            found = find_version_anywhere(mutation.tx, artifact, default_scope=scope).artifact_version
            mutation.tx.lock([artifact_lock(found.project, found.artifact_name)])
            version = find_version_anywhere(mutation.tx, artifact, default_scope=scope)  # it may be deleted meanwhile
            source = version.artifact_version
            if artifact_type not in (None, source.artifact_type):
                raise Conflict(f"{source.reference} is of type {source.artifact_type!r}, not {artifact_type!r}")
            mutation.tx.add_edge(Edge(EdgeKind.USED, run.summary.id, source.id))
            return version

        return self._change(work, origin=origin)

    def run(self, project: str, run_id: str) -> Run:
        """
        Return a run.

        Raises:
            NotFound: The project or the run does not exist.
        """
        return self._store.read(lambda view: find_run(view, project, run_id))

    def run_artifacts(self, project: str, run_id: str, kind: EdgeKind) -> tuple[ArtifactVersion, ...]:
        """Return up to 1,000 artifact versions that a run used or logged, sorted by artifact and number."""

        def work(view: RegistryView) -> tuple[ArtifactVersion, ...]:
            run = find_run(view, project, run_id)
            edges = view.edges(kind, run_ids=[run.summary.id], limit=MAX_EDGES)
            found = view.artifact_versions_by_id(edge.version_id for edge in edges)
            return tuple(
                sorted(found.values(), key=lambda version: (version.project, version.artifact_name, version.number))
            )

        return self._store.read(work)

    def runs_of_version(self, project: str, name: str, version: str) -> tuple[Run | None, tuple[Run, ...]]:
        """Return the run that logged an artifact version, and up to 1,000 runs that used it, the oldest first."""

        def work(view: RegistryView) -> tuple[Run | None, tuple[Run, ...]]:
            found = find_in_project(view, find_artifact(view, project, name), version)
            edges = view.edges(EdgeKind.USED, version_ids=[found.id], limit=MAX_EDGES)
            runs = view.runs([edge.run_id for edge in edges] + ([found.run.id] if found.run else []))
            return runs[found.run.id] if found.run else None, tuple(runs[edge.run_id] for edge in edges)

        return self._store.read(work)


def add_output(tx: RegistryTransaction, run: RunSummary | None, version: ArtifactVersion) -> None:
    """Record that a run logged an artifact version, or content that the version has."""
    if run is not None:
        tx.add_edge(Edge(EdgeKind.LOGGED, run.id, version.id))


def _start(mutation: Mutation, project: str, run_id: str, values: RunChange) -> Run:
    tx = mutation.tx
    if values.resume == "must":
        raise NotFound(f"project {project!r} has no run {run_id!r} to resume; start it without resume")
    if tx.is_deleted_run(project, run_id):
        raise Conflict(f"run {project}/{run_id} was deleted; start a run with another id")
    make_project(mutation, project)
    mutation.created = True
    created_at = min(values.created_at or mutation.now, mutation.now)
    is_alive = values.session is not None and values.created_at is None  # otherwise it ran without a connection
    summary = RunSummary(
        new_id("run", created_at),
        project,
        run_id,
        run_id,
        None,
        RunState.RUNNING,
        created_at,
        mutation.now if is_alive else None,
    )
    run = Run(summary, created_by=mutation.actor.name, progress=RunProgress(values.session))
    return record_state(mutation, None, _apply(run, values))


def _resume(mutation: Mutation, before: Run, run: Run, values: RunChange) -> Run:
    """Let another process continue a run."""
    if values.resume not in ("allow", "must"):
        raise Conflict(
            f'run {run.summary.reference} exists already; continue it with resume="allow", or start a run with '
            "another id"
        )
    resumed = replace(
        run,
        summary=replace(run.summary, heartbeat_at=mutation.now),
        progress=replace(run.progress, session=values.session, next_sequence=0),
    )
    return continue_run(mutation, before, resumed)


def _checked(change: RunChange) -> RunChange:
    if change.notes is not None:
        check_description(change.notes, "run")
    for what in ("name", "job_type", "group", "entity"):
        if (text := getattr(change, what)) is not None:
            check_text_of_run(text, what)
    if change.session is not None:
        check_text_of_run(change.session, "session")
    if change.resume not in (None, *_RESUME):
        raise InvalidInput(f"resume {change.resume[:40]!r}: must be {', '.join(_RESUME)}")
    checked: dict[str, Any] = {
        what: check_json(value, what, max_bytes=MAX_RUN_JSON_BYTES)
        for what in ("config", "summary", "info")
        if (value := getattr(change, what)) is not None
    }
    return replace(change, tags=None if change.tags is None else check_tags(change.tags), **checked)


def _apply(run: Run, change: RunChange) -> Run:
    def pick(new: Any, old: Any) -> Any:
        return old if new is None else new

    summary = replace(
        run.summary, name=pick(change.name, run.summary.name), job_type=pick(change.job_type, run.summary.job_type)
    )
    return replace(
        run,
        summary=summary,
        config=pick(change.config, run.config),
        results=pick(change.summary, run.results),
        tags=tuple(pick(change.tags, run.tags)),
        notes=pick(change.notes, run.notes),
        group=pick(change.group, run.group),
        entity=pick(change.entity, run.entity),
        info=pick(change.info, run.info),
    )
