"""Check the names that a template uses when its file is loaded. Which names are valid depends on its position."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from upshot.automations.context import EVENT_NAMES, STEP_NAMES
from upshot.automations.expressions.budget import RenderError
from upshot.automations.expressions.comparisons import check_condition
from upshot.automations.expressions.values import describe
from upshot.automations.sandbox import PathReference
from upshot.automations.template import CompiledLeaf
from upshot.resources.artifact import ArtifactJson
from upshot.resources.collection import CollectionJson
from upshot.resources.comment import CommentJson
from upshot.resources.event import ActorJson, EventJson
from upshot.resources.job import JobJson
from upshot.resources.registry import RegistryJson
from upshot.resources.version import VersionJson
from upshot.suggestions import did_you_mean

_FAILURE = "failure"
NOT_A_TEXT = "which cannot be part of a text"  #: in the reason of a mapping or a list that is written into a text

_RESOURCES: Mapping[str, Any] = {
    "registry": RegistryJson,
    "collection": CollectionJson,
    "version": VersionJson,
    "previous": VersionJson,
    "artifact": ArtifactJson,
    "job": JobJson,
    "comment": CommentJson,
    "actor": ActorJson,
    "event": EventJson,
}

#: The fields of names whose fields are the same for every event that has them.
CONTEXT_FIELDS: Mapping[str, Collection[str]] = {
    **{root: resource.__annotations__ for root, resource in _RESOURCES.items()},
    "stage": ("from", "to"),
    "project": ("name",),
    "automation": ("name",),
    "delivery": ("id", "attempt"),
    _FAILURE: ("reason", "step"),
}
_STEP_FIELDS = ("outputs", "state")
_WITH_LENGTH = frozenset({"alias", "aliases", "tag"})  #: texts and lists

#: Names from other systems that have no equivalent here, and what to use instead.
_FOREIGN_NAMES: Mapping[str, str] = {
    "github": "use `event`, `actor`, `collection` and `version`",
    "matrix": "there is no matrix; write one step for each case",
    "runner": "a `launch` step runs in a container, whose machine has no name here",
    "jobs": "the outputs of earlier steps are `steps.ID.outputs`",
    "artifact_type": "write `artifact.artifact_type`",
    "model": "write `collection.name`, or `version.reference`",
    "this": "write the name itself, such as `version.name`",
    "payload": "the data of a custom event is `event.data`",
    "data": "the data of a custom event is `event.data`",
    "metadata": "write `version.metadata`",
    "outputs": "the outputs of earlier steps are `steps.ID.outputs`",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that a template can use."""

    names: Collection[str]
    variables: Collection[str]
    earlier_steps: Collection[str] = ()
    later_steps: Collection[str] = ()

    def problems(self, leaf: CompiledLeaf) -> Iterator[tuple[int, str]]:
        """Yield what is wrong with the names that a template uses: the line within it, from 1, and the reason."""
        found = dict.fromkeys(
            (reference.line, self._problem(reference) or _kind_problem(reference)) for reference in leaf.paths
        )
        for line, reason in found:
            if reason is not None:
                yield line, reason

    def _problem(self, reference: PathReference) -> str | None:
        root, *fields = reference.parts
        if root not in self.names:
            if root == _FAILURE:
                return "`failure` can be used in `on-failure` steps only"
            if root in STEP_NAMES:
                return f"`{root}` can be used in steps only; the `if` of an automation sees the event"
            if root in _FOREIGN_NAMES:
                return f"{root!r} is unknown; {_FOREIGN_NAMES[root]}"
            return f"{root!r} is unknown{did_you_mean(root, self.names, list_known=False)}"
        if not fields:
            return None
        if fields[-1] == "length" and (root in _WITH_LENGTH or fields[-2:-1] in (["aliases"], ["tags"])):
            path = ".".join(reference.parts[:-1])
            return f"{path!r} has no 'length'; write `{path} | length`"
        if root == "vars":
            return _unknown_field("vars", fields[0], self.variables)
        if root == "steps":
            return self._step_problem(fields)
        return _unknown_field(root, fields[0], CONTEXT_FIELDS[root]) if root in CONTEXT_FIELDS else None

    def _step_problem(self, fields: list[str]) -> str | None:
        step, *below = fields
        if step in self.later_steps:
            return f"step {step!r} has not run yet at this point; move it up"
        if step not in self.earlier_steps:
            suggestion = did_you_mean(step, self.earlier_steps, list_known=False)
            return f"there is no earlier step {step!r}{suggestion or '; give the step an `id`'}"
        return _unknown_field(f"steps.{step}", below[0], _STEP_FIELDS) if below else None


def _kind_problem(reference: PathReference) -> str | None:
    """Return what is wrong if a path can be used, but its value is of the wrong kind for every event."""
    value = _EXAMPLES.get(reference.parts) if reference.use else None
    if value is None:
        return None
    path = ".".join(reference.parts)
    try:
        if reference.use == "condition":
            check_condition(value, path)
    except RenderError as error:
        return str(error)
    if reference.use == "text" and isinstance(value, dict | list):
        remedy = f"`{{{{ {path} | tojson }}}}` to write it as JSON, or a string that is only `{{{{= {path} }}}}`"
        return f"`{path}` is {describe(value)}, {NOT_A_TEXT}; write {remedy}"
    return None


def _examples() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the paths whose kind of value is the same for every event, each with an example."""
    yield from ((("alias",), ""), (("tag",), ""), (("aliases",), []), (("event", "data"), {}), (("vars",), {}))
    for root, resource in _RESOURCES.items():
        yield (root,), {}
        for field, hint in get_type_hints(resource).items():
            options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
            kind = next(option for option in options if option is not type(None))
            kind = get_origin(kind) or kind
            if is_typeddict(kind):
                yield (root, field), {}
            elif kind is not bool:
                yield (root, field), kind()


_EXAMPLES: Mapping[tuple[str, ...], Any] = dict(_examples())


def scope_of_condition(variables: Collection[str]) -> Scope:
    """Return the scope of an automation's `if`."""
    return Scope(EVENT_NAMES, variables)


def scope_of_step(
    variables: Collection[str], earlier: Collection[str], later: Collection[str], *, on_failure: bool
) -> Scope:
    """Return the scope of a step."""
    return Scope(STEP_NAMES | {_FAILURE} if on_failure else STEP_NAMES, variables, earlier, later)


def _unknown_field(name: str, field: str, known: Collection[str]) -> str | None:
    return None if field in known else f"{name!r} has no {field!r}{did_you_mean(field, known)}"
