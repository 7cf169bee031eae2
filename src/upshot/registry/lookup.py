"""Find records of the registry by name or reference. Errors suggest a similar name."""

from __future__ import annotations

from upshot.domain.reference import check_name, parse_reference, version_number
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, RegistrySettings, Series, Version
from upshot.errors import NotFound
from upshot.ports.registry import RegistryView
from upshot.suggestions import did_you_mean


def find_registry(view: RegistryView, name: str) -> RegistrySettings:
    """
    Return a registry with its rules.

    Raises:
        InvalidInput: The name is invalid.
        NotFound: The registry does not exist.
    """
    if found := view.registry(check_name(name, "registry")):
        return found
    raise NotFound(f"there is no registry {name!r}{did_you_mean(name, view.names('registry'))}")


def find_collection(view: RegistryView, registry: str, name: str) -> Collection:
    """
    Return a collection.

    Raises:
        InvalidInput: A name is invalid.
        NotFound: The registry or the collection does not exist.
    """
    check_name(registry, "registry")
    check_name(name, "collection")
    if found := view.collection(registry, name):
        return found
    find_registry(view, registry)
    suggestion = did_you_mean(name, view.names("collection", registry))
    raise NotFound(f"registry {registry!r} has no collection {name!r}{suggestion}")


def find_version(view: RegistryView, collection: Collection, version: str) -> Version:
    """
    Return a version of a collection by name (`v3`) or alias.

    Raises:
        InvalidInput: The name is invalid.
        NotFound: The version or the alias does not exist.
    """
    number = _number_of(collection, version)
    if found := view.versions(collection, [number]).get(number):
        return found
    newest = view.page_versions(collection, cursor=None, limit=1).items
    raise _version_not_found(collection, version, newest)


def find_artifact(view: RegistryView, project: str, name: str) -> Artifact:
    """
    Return an artifact.

    Raises:
        InvalidInput: A name is invalid.
        NotFound: The project or the artifact does not exist.
    """
    check_name(project, "project")
    check_name(name, "artifact")
    if found := view.artifact(project, name):
        return found
    if not view.has_project(project):
        raise NotFound(f"there is no project {project!r}{did_you_mean(project, view.names('project'))}")
    raise NotFound(f"project {project!r} has no artifact {name!r}{did_you_mean(name, view.names('artifact', project))}")


def find_in_project(view: RegistryView, artifact: Artifact, version: str) -> ArtifactVersion:
    """
    Return a version of an artifact by name (`v3`) or alias in its project.

    Raises:
        InvalidInput: The name is invalid.
        NotFound: The version or the alias does not exist.
    """
    number = _number_of(artifact, version)
    if found := view.artifact_versions(artifact, [number]).get(number):
        return found
    newest = view.page_artifact_versions(artifact, cursor=None, limit=1).items
    raise _version_not_found(artifact, version, newest)


def find_artifact_version(view: RegistryView, reference: str) -> ArtifactVersion:
    """
    Return the artifact version that a reference points to, in a project or through a link.

    `x/y:v` refers to artifact `y` of project `x` if that exists, and otherwise to the link in collection `y` of
    registry `x`. W&B's forms for registries, such as `entity/model-registry/Name:alias`, always refer to a registry.

    Raises:
        InvalidInput: The reference is invalid.
        NotFound: The artifact, the collection, the version or the alias does not exist.
    """
    parsed = parse_reference(reference)
    artifact = None if parsed.is_registry else view.artifact(parsed.scope, parsed.name)
    if artifact is None and (parsed.is_registry or view.registry(parsed.scope)):
        collection = find_collection(view, parsed.scope, parsed.name)
        return find_version(view, collection, parsed.version).artifact_version
    return find_in_project(view, artifact or find_artifact(view, parsed.scope, parsed.name), parsed.version)


def alias_not_found(series: Series, alias: str) -> NotFound:
    """Return the error for an alias that does not exist."""
    return NotFound(f"{series.reference} has no alias {alias!r}{did_you_mean(alias, series.aliases)}")


def _number_of(series: Series, version: str) -> int:
    number = version_number(check_name(version, "version or alias"))
    if number is None:
        number = version_number(series.aliases.get(version, ""))
    if number is None:
        raise alias_not_found(series, version)
    return number


def _version_not_found(series: Series, version: str, newest: tuple[Version | ArtifactVersion, ...]) -> NotFound:
    existing = f"its newest version is {newest[0].name}" if newest else "it has no versions"
    return NotFound(f"{series.reference} has no version {version!r}; {existing}")
