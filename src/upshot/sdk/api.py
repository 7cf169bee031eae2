"""The API for programs that look at artifacts and registries without a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from upshot.client.addresses import ApiError, api_path
from upshot.sdk.artifact import Artifact
from upshot.sdk.connection import client, read_settings
from upshot.sdk.public_run import PublicRun
from upshot.sdk.recording import DEFAULT_PROJECT
from upshot.sdk.references import read_reference
from upshot.sdk.run import check_type, find_artifact
from upshot.sdk.sdk_errors import InvalidArgument, NotBuilt

_NOT_FOUND = 404
_DEFAULT_ENTITY = "upshot"


class Api:
    """
    The artifacts, collections and registries of a server.

    Args:
        overrides: `{"project": …}` is the project of names without one.
        timeout: Has no effect.
        api_key: Has no effect: see `upshot.login`.
    """

    def __init__(
        self, overrides: Mapping[str, Any] | None = None, timeout: int | None = None, api_key: str | None = None
    ) -> None:
        self._project: str = (overrides or {}).get("project") or read_settings().project or DEFAULT_PROJECT

    @property
    def default_entity(self) -> str:
        """UPSHOT_ENTITY, or `upshot`, which is accepted as any other name is where UPSHOT_ENTITY is not set."""
        return read_settings().entity or _DEFAULT_ENTITY

    def artifact(self, name: str, type: str | None = None) -> Artifact:
        """
        Return an artifact, or a link.

        Args:
            name: A reference, such as `project/nature:v3` or `model-registry/Name:staging`.
            type: The type that it must have.

        Raises:
            ValueError: The reference is invalid, or the artifact has another type.
            ApiError: There is none.
        """
        artifact = find_artifact(name, self._project)
        check_type(artifact, type)
        return artifact

    def artifact_exists(self, name: str, type: str | None = None) -> bool:
        """Return whether there is such an artifact, of this type if it is given."""
        try:
            artifact = find_artifact(name, self._project)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            return False
        return type is None or artifact.type == type

    def artifacts(
        self,
        type_name: str,
        name: str,
        order: str | None = None,
        per_page: int = 50,
        tags: list[str] | None = None,
        start: str | None = None,
    ) -> list[Artifact]:
        """
        Return the versions of an artifact or a collection, newest first.

        Args:
            type_name: The type that they must have.
            name: Such as `project/nature` or `model-registry/Name`.
            order: Has no effect.
            per_page: Has no effect.
            tags: Only versions with all these tags.
            start: Has no effect.
        """
        found = self.artifact_collection(type_name, name).artifacts()
        return [artifact for artifact in found if set(tags or ()) <= set(artifact.tags)]

    def artifact_collection(self, type_name: str, name: str) -> ArtifactCollection:
        """
        Return an artifact of a project, or a collection of a registry, with its versions.

        Args:
            type_name: The type that it must have.
            name: Such as `project/nature` or `model-registry/Name`.

        Raises:
            ValueError: It has another type.
            ApiError: There is none.
        """
        reference = read_reference(name.partition(":")[0], self._project)
        in_project = api_path("projects", reference.scope, "artifacts", reference.name)
        in_registry = api_path("registries", reference.scope, "collections", reference.name)
        paths = [in_registry] if reference.is_registry else [in_project, in_registry]
        for path in paths:
            try:
                collection = ArtifactCollection(path, client().get(path))
            except ApiError as error:
                if error.status != _NOT_FOUND or path == paths[-1]:
                    raise
            else:
                break
        if type_name and collection.type != type_name:
            raise InvalidArgument(f"{name} has the type {collection.type!r}, not {type_name!r}; correct the type")
        return collection

    def artifact_collection_exists(self, name: str, type: str) -> bool:
        """Return whether there is such an artifact or collection, of this type."""
        try:
            self.artifact_collection(type, name)
        except InvalidArgument:
            return False
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            return False
        return True

    def registries(
        self,
        organization: str | None = None,
        filter: Mapping[str, Any] | None = None,
        order: str | None = None,
        per_page: int = 100,
        start: str | None = None,
    ) -> Registries:
        """
        Return the registries.

        Args:
            organization: Has no effect: an installation is one organization.
            filter: `{"name": NAME}` or `{"name": {"$regex": TEXT}}`.
            order: Has no effect.
            per_page: Has no effect.
            start: Has no effect.
        """
        names = [registry["name"] for registry in client().get("/registries")["items"]]
        return Registries([Registry(name) for name in names if _matches(name, filter)])

    def registry(self, name: str, organization: str | None = None) -> Registry:
        """
        Return a registry.

        Args:
            name: Its name.
            organization: Has no effect.

        Raises:
            ApiError: There is none.
        """
        name = "model" if name == "model-registry" else name.removeprefix("wandb-registry-")
        client().get(api_path("registries", name))
        return Registry(name)

    def run(self, path: str = "") -> PublicRun:
        """
        Return a run.

        Args:
            path: `[ENTITY/]PROJECT/ID`, `[ENTITY/]PROJECT/runs/ID`, or the id of a run of the project.

        Raises:
            ApiError: There is none.
        """
        parts = path.strip("/").split("/")
        if len(parts) > 2 and parts[-2] == "runs":  # noqa: PLR2004 - as addresses of W&B have it
            del parts[-2]
        *_, project, run_id = [self._project, *parts]
        return PublicRun(client().get(api_path("projects", project, "runs", run_id)))

    def runs(
        self,
        path: str | None = None,
        filters: Mapping[str, Any] | None = None,
        order: str = "+created_at",
        per_page: int = 50,
        include_sweeps: bool = False,
        lazy: bool = True,
    ) -> list[PublicRun]:
        """
        Return the runs of a project.

        Args:
            path: `[ENTITY/]PROJECT`. By default, the project of the Api.
            filters: A filter in the form of MongoDB, such as `{"state": "finished", "config.lr": {"$lt": 0.1}}`.
            order: `+created_at`, `-created_at`, or such as `-summary_metrics.accuracy`.
            per_page: Has no effect.
            include_sweeps: Has no effect.
            lazy: Has no effect.

        Raises:
            ApiError: There is no such project, or the server rejects the filter or the order.
        """
        project = (path or self._project).rstrip("/").rpartition("/")[2]
        query = {"order": order, "filters": json.dumps(filters) if filters else None}
        return [PublicRun(run) for run in client().every_item(api_path("projects", project, "runs"), **query)]


class ArtifactCollection:
    """An artifact of a project, or a collection of a registry, with its versions."""

    def __init__(self, path: str, collection: Mapping[str, Any]) -> None:
        self._path = path
        self.id = str(collection["id"])
        self.name = str(collection["name"])
        self.type = str(collection["artifact_type"])
        self.project = str(collection.get("registry") or collection.get("project"))
        self.description: str = collection.get("description", "")
        self.aliases: list[str] = sorted(collection["aliases"])
        self.tags: list[str] = list(collection.get("tags", ()))

    def __repr__(self) -> str:
        return f"<ArtifactCollection {self.project}/{self.name} ({self.type})>"

    def artifacts(self, per_page: int = 50) -> list[Artifact]:
        """Return the versions, newest first."""
        return [Artifact.from_version(version) for version in client().every_item(f"{self._path}/versions")]

    def versions(self) -> list[Artifact]:
        """Return the versions, newest first."""
        return self.artifacts()


class Collections(list[ArtifactCollection]):
    """Collections of registries."""

    def versions(self, filter: Mapping[str, Any] | None = None, per_page: int = 100) -> list[Artifact]:
        """
        Return the versions of all of them.

        Args:
            filter: `{"tag": NAME}` or `{"alias": NAME}`.
            per_page: Has no effect.
        """
        wanted = dict(filter or {})
        tag, alias = wanted.pop("tag", None), wanted.pop("alias", None)
        if wanted:
            raise NotBuilt(f"versions(filter=…): {', '.join(wanted)} is not supported; use tag or alias")
        return [
            version
            for collection in self
            for version in collection.versions()
            if (tag is None or tag in version.tags) and (alias is None or alias in version.aliases)
        ]


class Registry:
    """A registry."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Registry {self.name}>"

    def collections(self, filter: Mapping[str, Any] | None = None, per_page: int = 100) -> Collections:
        """
        Return the collections.

        Args:
            filter: `{"name": NAME}` or `{"name": {"$regex": TEXT}}`.
            per_page: Has no effect.
        """
        path = api_path("registries", self.name, "collections")
        return Collections(
            ArtifactCollection(f"{path}{api_path(item['name'])}", item)
            for item in client().every_item(path)
            if _matches(item["name"], filter)
        )

    def versions(self, filter: Mapping[str, Any] | None = None, per_page: int = 100) -> list[Artifact]:
        """Return the versions of all collections. See `Collections.versions`."""
        return self.collections().versions(filter)


class Registries(list[Registry]):
    """Registries."""

    def collections(self, filter: Mapping[str, Any] | None = None, per_page: int = 100) -> Collections:
        """Return the collections of all of them. See `Registry.collections`."""
        return Collections(collection for registry in self for collection in registry.collections(filter))

    def versions(self, filter: Mapping[str, Any] | None = None, per_page: int = 100) -> list[Artifact]:
        """Return the versions of all of them. See `Collections.versions`."""
        return self.collections().versions(filter)


def _matches(name: str, filter: Mapping[str, Any] | None) -> bool:
    """Return whether a name fulfils `{"name": NAME}` or `{"name": {"$regex": TEXT}}`."""
    for key, wanted in (filter or {}).items():
        pattern = wanted.get("$regex") if isinstance(wanted, Mapping) and set(wanted) == {"$regex"} else None
        if key != "name" or (pattern is None and not isinstance(wanted, str)):
            raise NotBuilt('filter: this release supports {"name": NAME} and {"name": {"$regex": TEXT}}')
        if not (re.search(pattern, name) if pattern is not None else name == wanted):
            return False
    return True
