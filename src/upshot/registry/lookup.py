"""Finds what a name or a reference means, or says what is there instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from upshot.domain.reference import check_name, parse_reference, version_number
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, RegistrySettings, Version
from upshot.errors import NotFound
from upshot.ports.registry import RegistryView

_SHOWN = 5  # names listed where none is near


def find_registry(view: RegistryView, name: str) -> RegistrySettings:
    """
    The registry of this name, with its rules.

    Raises:
        InvalidInput: No name of a registry.
        NotFound: There is none; the message says which name is near.
    """
    if found := view.registry(check_name(name, "registry")):
        return found
    raise NotFound(f"there is no registry {name!r}{hint(name, view.names('registry'))}")


def find_collection(view: RegistryView, registry: str, name: str) -> Collection:
    """
    The collection of this name.

    Raises:
        InvalidInput: No name of a registry or collection.
        NotFound: There is none; the message says which name is near.
    """
    check_name(registry, "registry")
    check_name(name, "collection")
    if found := view.collection(registry, name):
        return found
    find_registry(view, registry)
    raise NotFound(f"registry {registry!r} has no collection {name!r}{hint(name, view.names('collection', registry))}")


def find_version(view: RegistryView, collection: Collection, word: str) -> Version:
    """
    The version that `vN` or an alias means in the collection.

    Raises:
        InvalidInput: Neither `vN` nor a good alias.
        NotFound: No such version or alias; the message says which is near.
    """
    number = _number_meant(collection, word)
    if found := view.versions(collection, [number]).get(number):
        return found
    raise NotFound(f"{collection.reference} has no version {word!r}{_newest(view, collection)}")


def find_artifact(view: RegistryView, project: str, name: str) -> Artifact:
    """
    The artifact of this name.

    Raises:
        InvalidInput: No name of a project or artifact.
        NotFound: There is none; the message says which name is near.
    """
    check_name(project, "project")
    check_name(name, "artifact")
    if found := view.artifact(project, name):
        return found
    projects = view.names("project")
    if project not in projects:
        raise NotFound(f"there is no project {project!r}{hint(project, projects)}")
    raise NotFound(f"project {project!r} has no artifact {name!r}{hint(name, view.names('artifact', project))}")


def find_artifact_version(view: RegistryView, text: str) -> ArtifactVersion:
    """
    The artifact version that a reference means, in a project or through a link.

    A project and a registry may share a name. `x/y:v` means the artifact `y` of project `x` where
    there is one, and else what collection `y` of registry `x` links; W&B's form
    `entity/model-registry/Name:alias` always means the registry.

    Raises:
        InvalidInput: No reference.
        NotFound: It means nothing; the message says what is near.
    """
    reference = parse_reference(text)
    scope, name, word = reference.scope, reference.name, reference.version
    in_registry = text.count("/") > 1
    artifact = None if in_registry else view.artifact(scope, name)
    if artifact is None and (in_registry or view.registry(scope)):
        return find_version(view, find_collection(view, scope, name), word).artifact
    return find_logged(view, artifact or find_artifact(view, scope, name), word)


def find_logged(view: RegistryView, artifact: Artifact, word: str) -> ArtifactVersion:
    """
    The artifact version that `vN` or an alias means in the project.

    Raises:
        InvalidInput: Neither `vN` nor a good alias.
        NotFound: No such version or alias; the message says which is near.
    """
    number = _number_meant(artifact, word)
    if found := view.artifact_versions(artifact, [number]).get(number):
        return found
    raise NotFound(f"{artifact.reference} has no version {word!r}{_newest(view, artifact)}")


def _number_meant(of: Collection | Artifact, word: str) -> int:
    """The number in `vN`, or of the version that holds the alias."""
    number = version_number(check_name(word, "version or alias"))
    if number is None:
        number = version_number(of.aliases.get(word, ""))
    if number is None:
        raise missing_alias(of, word)
    return number


def missing_alias(of: Collection | Artifact, alias: str) -> NotFound:
    """The error that says so, with the nearest alias that there is."""
    return NotFound(f"{of.reference} has no alias {alias!r}{hint(alias, of.aliases)}")


def _newest(view: RegistryView, of: Collection | Artifact) -> str:
    if isinstance(of, Collection):
        newest = [version.name for version in view.page_versions(of, cursor=None, limit=1).items]
    else:
        newest = [version.version for version in view.page_artifact_versions(of, cursor=None, limit=1).items]
    return f"; its newest is {newest[0]}" if newest else "; it has none"


def hint(name: str, names: Iterable[str]) -> str:
    """The nearest right name, or a few that exist."""
    known = sorted(names)
    folded = {candidate.casefold(): candidate for candidate in reversed(known)}
    if near := get_close_matches(name.casefold(), folded, n=1):
        return f"; did you mean {folded[near[0]]!r}?"
    if not known:
        return "; there is none yet"
    more = ", …" if len(known) > _SHOWN else ""
    return f"; there is {', '.join(repr(candidate) for candidate in known[:_SHOWN])}{more}"
