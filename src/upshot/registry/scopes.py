"""Create registries and projects. A name belongs to a registry or to a project, so that a reference has one meaning."""

from __future__ import annotations

from upshot.domain.reference import MODEL_REGISTRY
from upshot.domain.registry import RegistrySettings
from upshot.errors import Conflict
from upshot.ids import new_id
from upshot.ports.registry import RegistryView
from upshot.registry.mutation import Mutation
from upshot.registry.transaction import scope_lock


def check_scope_is_free(view: RegistryView, name: str, what: str) -> None:
    """
    Raise an error if a new registry or project would make references ambiguous.

    Args:
        view: Reads the registry.
        name: Name of the new registry or project.
        what: `registry` or `project`.

    Raises:
        Conflict: A project or a registry has this name.
    """
    if what == "registry":
        is_taken, other = view.has_project(name), "project"
    else:  # W&B's links and MLflow's names need the registry `model`, which exists from the first link on
        is_taken, other = name == MODEL_REGISTRY or view.registry(name) is not None, "registry"
    if is_taken:
        raise Conflict(
            f"there is a {other} {name!r}, and a {what} cannot have the same name, because references such as "
            f"{name}/churn:v3 would have two meanings; choose another name"
        )


def make_registry(mutation: Mutation, name: str) -> None:
    """Create a registry, if it does not exist, as part of a mutation."""
    if mutation.tx.registry(name) is not None:
        return
    mutation.tx.lock([scope_lock(name)])
    if mutation.tx.registry(name) is None:  # another mutation may have created it with its own rules
        check_scope_is_free(mutation.tx, name, "registry")
        mutation.tx.save_registry(RegistrySettings(name))


def make_project(mutation: Mutation, name: str) -> None:
    """Create a project, if it does not exist, as part of a mutation."""
    if mutation.tx.has_project(name):
        return
    mutation.tx.lock([scope_lock(name)])
    check_scope_is_free(mutation.tx, name, "project")
    mutation.tx.add_project(new_id("prj", mutation.now), name)
