"""Find records of the registry by name or reference. Errors suggest a similar name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

from upshot.domain.manifest import ManifestEntry
from upshot.domain.reference import parse_reference, spellings, version_number
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, RegistrySettings, Series, Version
from upshot.errors import NotFound
from upshot.ports.registry import RegistryView
from upshot.suggestions import did_you_mean

_READ_FILES = 5_000  # at a time
_ID = re.compile(r"(ver|lnk)_[0-9a-z]{10,36}")


def find_registry(view: RegistryView, name: str) -> RegistrySettings:
    """
    Return a registry with its rules.

    Raises:
        InvalidInput: The name is invalid.
        NotFound: The registry does not exist.
    """
    for spelling in spellings(name, "registry"):
        if found := view.registry(spelling):
            return found
    raise NotFound(f"there is no registry {name!r}{did_you_mean(name, view.names('registry'))}")


def find_collection(view: RegistryView, registry: str, name: str) -> Collection:
    """
    Return a collection.

    Raises:
        InvalidInput: A name is invalid.
        NotFound: The registry or the collection does not exist.
    """
    if found := collection_or_none(view, registry, name):
        return found
    find_registry(view, registry)
    suggestion = did_you_mean(name, view.names("collection", registry))
    raise NotFound(f"registry {registry!r} has no collection {name!r}{suggestion}")


def collection_or_none(view: RegistryView, registry: str, name: str) -> Collection | None:
    """Return a collection, or None if it does not exist. Raises InvalidInput if a name is invalid."""
    for stored_registry, stored_name in product(spellings(registry, "registry"), spellings(name, "collection")):
        if found := view.collection(stored_registry, stored_name):
            return found
    return None


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


def project_or_none(view: RegistryView, project: str) -> str | None:
    """Return the name of a project as it is stored, or None. Raises InvalidInput if the name is invalid."""
    return next((spelling for spelling in spellings(project, "project") if view.has_project(spelling)), None)


def find_project(view: RegistryView, project: str) -> str:
    """
    Return the name of a project as it is stored.

    Raises:
        InvalidInput: The name is invalid.
        NotFound: The project does not exist.
    """
    if found := project_or_none(view, project):
        return found
    raise NotFound(f"there is no project {project!r}{did_you_mean(project, view.names('project'))}")


def find_artifact(view: RegistryView, project: str, name: str) -> Artifact:
    """
    Return an artifact.

    Raises:
        InvalidInput: A name is invalid.
        NotFound: The project or the artifact does not exist.
    """
    if found := artifact_or_none(view, project, name):
        return found
    find_project(view, project)
    raise NotFound(f"project {project!r} has no artifact {name!r}{did_you_mean(name, view.names('artifact', project))}")


def artifact_or_none(view: RegistryView, project: str, name: str) -> Artifact | None:
    """Return an artifact, or None if it does not exist. Raises InvalidInput if a name is invalid."""
    for stored_project, stored_name in product(spellings(project, "project"), spellings(name, "artifact")):
        if found := view.artifact(stored_project, stored_name):
            return found
    return None


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
    return find_version_anywhere(view, reference).artifact_version


def read_files(view: RegistryView, manifest_id: str) -> Iterator[ManifestEntry]:
    """Yield the entries of a manifest by path, reading a part of them at a time."""
    cursor = None
    while True:
        page = view.page_files(manifest_id, cursor=cursor, limit=_READ_FILES)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return


def find_version_anywhere(
    view: RegistryView, reference: str, *, default_scope: str | None = None
) -> Version | ArtifactVersion:
    """
    Return the version that a reference or an id names: the link, if it is one.

    Args:
        view: Reads the registry.
        reference: See `find_artifact_version`; or the id of an artifact version (`ver_…`) or of a link (`lnk_…`).
        default_scope: The project of a name without a scope. None refuses such a name.

    Raises:
        InvalidInput: The reference is invalid.
        NotFound: The artifact, the collection, the version or the alias does not exist.
    """
    if is_version_id(reference):
        is_link = reference.startswith("lnk_")
        by_id = view.version_by_id(reference) if is_link else view.artifact_version_by_id(reference)
        if by_id is not None:
            return by_id
        if default_scope is None:
            raise NotFound(f"there is no version with the id {reference!r}")
    if default_scope is not None and "/" not in reference.partition(":")[0]:
        reference = f"{default_scope}/{reference}"
    parsed = parse_reference(reference)
    artifact = None if parsed.is_registry else artifact_or_none(view, parsed.scope, parsed.name)
    is_registry = parsed.is_registry or any(map(view.registry, spellings(parsed.scope, "registry")))
    if artifact is None and is_registry:
        collection = find_collection(view, parsed.scope, parsed.name)
        return find_version(view, collection, parsed.version)
    return find_in_project(view, artifact or find_artifact(view, parsed.scope, parsed.name), parsed.version)


def is_version_id(text: str) -> bool:
    """Return whether a text has the form of the id of an artifact version or of a link."""
    return _ID.fullmatch(text) is not None


def alias_not_found(series: Series, alias: str) -> NotFound:
    """Return the error for an alias that does not exist."""
    return NotFound(f"{series.reference} has no alias {alias!r}{did_you_mean(alias, series.aliases)}")


def find_alias(series: Series, alias: str) -> str:
    """
    Return an alias in the Unicode form in which the collection or artifact has it.

    Raises:
        InvalidInput: The name is invalid.
        NotFound: No version has the alias.
    """
    for spelling in spellings(alias, "version or alias"):
        if spelling in series.aliases:
            return spelling
    raise alias_not_found(series, alias)


def _number_of(series: Series, version: str) -> int:
    number = version_number(version)
    if number is None:
        number = version_number(series.aliases[find_alias(series, version)])
    if number is None:
        raise alias_not_found(series, version)
    return number


def _version_not_found(series: Series, version: str, newest: tuple[Version | ArtifactVersion, ...]) -> NotFound:
    existing = f"its newest version is {newest[0].name}" if newest else "it has no versions"
    return NotFound(f"{series.reference} has no version {version!r}; {existing}")
