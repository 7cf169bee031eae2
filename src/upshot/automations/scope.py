"""Which names a template may use at its place in the file; a wrong one is found when the file is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from upshot.automations.context import EVENT_NAMES, STEP_NAMES
from upshot.automations.sandbox import PathReference, nearest
from upshot.automations.template import Leaf

_FAILURE = "failure"

_FIELDS_OF_VERSION = (
    *("name", "number", "reference", "aliases", "digest", "metadata", "description", "tags"),
    *("artifact", "artifact_version", "project", "created_at", "created_by", "linked_at", "linked_by", "url"),
)

#: Names whose fields are the same for every event that has them; `registry.snapshots` makes those of the registry,
#: `launch.job_events` those of jobs.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "registry": ("name",),
    "collection": (
        *("name", "type", "reference", "registry", "description", "tags", "aliases"),
        *("created_at", "created_by", "url"),
    ),
    "version": _FIELDS_OF_VERSION,
    "previous": _FIELDS_OF_VERSION,
    "project": ("name",),
    "artifact": ("name", "type", "reference", "version", "project", "url"),
    "job": (
        *("id", "name", "automation", "step", "execution", "queue", "backend", "image", "image_digest", "machine"),
        *("try", "state", "cause", "reason", "exit_code", "outputs", "started_at", "finished_at"),
    ),
    "actor": ("name", "kind"),
    "automation": ("name",),
    "delivery": ("id", "attempt"),
    _FAILURE: ("reason", "step"),
    "event": ("id", "kind", "name", "time", "subject", "actor", "mutation_id", "sequence", "chain", "data"),
}
_FIELDS_OF_STEP = ("outputs", "state")


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that are known at one place."""

    names: Collection[str]
    variables: Collection[str]
    steps_before: Collection[str] = ()
    steps_later: Collection[str] = ()

    def findings(self, leaf: Leaf) -> Iterator[tuple[int, str]]:
        """What is wrong with the names that a template uses: lines within it, counted from 1, and reasons."""
        for line, reason in {(used.line, self._finding(used)): None for used in leaf.paths}:
            if reason is not None:
                yield line, reason

    def _finding(self, used: PathReference) -> str | None:
        root, *fields = used.parts
        if root not in self.names:
            return self._unknown_root(root)
        if not fields:
            return None
        if root == "vars":
            return _unknown_field("vars", fields[0], self.variables)
        if root == "steps":
            return self._step_finding(fields)
        return _unknown_field(root, fields[0], FIELDS[root]) if root in FIELDS else None

    def _unknown_root(self, root: str) -> str:
        if root == _FAILURE:
            return "`failure` is known in `on-failure` steps only"
        if root in STEP_NAMES:
            return f"`{root}` is known in steps only; an automation's `if` looks at the event"
        return f"{root!r} is unknown{nearest(root, self.names)}"

    def _step_finding(self, fields: list[str]) -> str | None:
        step, *below = fields
        if step in self.steps_later:
            return f"step {step!r} has not run yet at this point; move it up"
        if step not in self.steps_before:
            guess = nearest(step, self.steps_before)
            return f"there is no earlier step {step!r}{guess or '; give the step that is meant an `id`'}"
        return _unknown_field(f"steps.{step}", below[0], _FIELDS_OF_STEP) if below else None


def scope_of_condition(variables: Collection[str]) -> Scope:
    """What an automation's `if` knows."""
    return Scope(EVENT_NAMES, variables)


def scope_of_step(
    variables: Collection[str], before: Collection[str], later: Collection[str], *, on_failure: bool
) -> Scope:
    """What a step knows."""
    return Scope(STEP_NAMES | {_FAILURE} if on_failure else STEP_NAMES, variables, before, later)


def _unknown_field(holder: str, field: str, known: Collection[str]) -> str | None:
    if field in known:
        return None
    return f"{holder!r} has no {field!r}{nearest(field, known) or '; it has ' + (', '.join(known) or 'nothing')}"
