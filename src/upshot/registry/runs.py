"""Runs: programs that use artifact versions and log others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from upshot.domain.event import Origin
from upshot.domain.reference import check_name
from upshot.domain.registry import ArtifactVersion, Change, Version
from upshot.domain.run import Edge, EdgeKind, Run, RunState, RunSummary
from upshot.errors import Conflict, InvalidInput, NotFound
from upshot.ids import new_id
from upshot.ports.paging import Page
from upshot.ports.registry import RegistryTransaction, RegistryView
from upshot.registry.inputs import check_description, check_metadata, check_tags, check_text_of_run
from upshot.registry.lookup import find_artifact, find_in_project, find_project, find_version_anywhere, project_or_none
from upshot.registry.mutation import Mutation
from upshot.registry.scopes import make_project
from upshot.registry.transaction import RegistryTransactions, artifact_lock, run_lock
from upshot.suggestions import did_you_mean
from upshot.unicode_text import to_nfc

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
        """
        run_id = check_name(run_id, "run")
        values = _checked(change)

        def work(mutation: Mutation) -> Run:
            tx = mutation.tx
            holder = project_or_none(tx, project) or check_name(project, "project")
            before = tx.run(holder, run_id)
            if before is None:
                make_project(mutation, holder)
                mutation.created = True
                summary = RunSummary(
                    new_id("run", mutation.now), holder, run_id, run_id, None, RunState.RUNNING, mutation.now
                )
                before = Run(summary, created_by=origin.actor.name)
            after = _apply(before, values)
            if mutation.created or after != before:
                tx.save_run(after)
            return after

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin)

    def finish_run(self, project: str, run_id: str, state: RunState, *, origin: Origin) -> Change[Run]:
        """
        End a run. A run that has ended stays as it is.

        Raises:
            NotFound: The run does not exist.
        """

        def work(mutation: Mutation) -> Run:
            run = find_run(mutation.tx, project, run_id)
            if run.summary.state.is_final:
                return run
            ended = replace(run, summary=replace(run.summary, state=state), finished_at=mutation.now)
            mutation.tx.save_run(ended)
            return ended

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin)

    def record_heartbeat(self, project: str, run_id: str, *, origin: Origin) -> Change[Run]:
        """
        Record that a run is alive. After its first heartbeat, a run has failed when they stop for 60 seconds.

        Raises:
            NotFound: The run does not exist.
        """

        def work(mutation: Mutation) -> Run:
            run = find_run(mutation.tx, project, run_id)
            if run.summary.state.is_final:
                return run
            alive = replace(run, summary=replace(run.summary, heartbeat_at=mutation.now))
            mutation.tx.save_run(alive)
            return alive

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

    def runs(self, project: str, *, cursor: str | None, limit: int) -> Page[Run]:
        """Return the runs of a project, newest first."""
        return self._store.read(lambda view: view.page_runs(find_project(view, project), cursor=cursor, limit=limit))

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


def find_run(view: RegistryView, project: str, run_id: str) -> Run:
    """
    Return a run.

    Raises:
        InvalidInput: A name is invalid.
        NotFound: The project or the run does not exist.
    """
    holder = find_project(view, project)
    if run := view.run(holder, to_nfc(run_id)):
        return run
    newest = view.page_runs(holder, cursor=None, limit=200).items
    suggestion = did_you_mean(run_id, [run.summary.run_id for run in newest])
    raise NotFound(f"project {holder!r} has no run {run_id[:128]!r}{suggestion}")


def add_output(tx: RegistryTransaction, run: RunSummary | None, version: ArtifactVersion) -> None:
    """Record that a run logged an artifact version, or content that the version has."""
    if run is not None:
        tx.add_edge(Edge(EdgeKind.LOGGED, run.id, version.id))


def run_of_request(view: RegistryView, project: str, run_id: str | None) -> RunSummary | None:
    """
    Return the run that logs an artifact version; None if no run does.

    Raises:
        NotFound: The run does not exist.
    """
    return None if run_id is None else find_run(view, project, run_id).summary


def state_of_exit(exit_code: int | None, state: str | None) -> RunState:
    """
    Return the state in which a run ends.

    Args:
        exit_code: Of the program; None counts as 0.
        state: `finished`, `failed` or `killed`, instead of an exit code.

    Raises:
        InvalidInput: The state is not one of these, or both are given.
    """
    if state is None:
        return RunState.FINISHED if not exit_code else RunState.FAILED
    if exit_code is not None:
        raise InvalidInput("state and exit_code: give one of them")
    final = [each.value for each in RunState if each.is_final]
    if state not in final:
        raise InvalidInput(f"state {state[:40]!r}: must be {', '.join(final)}{did_you_mean(state, final)}")
    return RunState(state)


def _checked(change: RunChange) -> RunChange:
    if change.notes is not None:
        check_description(change.notes, "run")
    for what in ("name", "job_type", "group", "entity"):
        if (text := getattr(change, what)) is not None:
            check_text_of_run(text, what)
    checked: dict[str, Any] = {
        what: check_metadata(value, what)
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
