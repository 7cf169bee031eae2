"""A run: one execution of a program, with the artifacts that it uses and logs."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from upshot.client.addresses import ApiError, api_path
from upshot.domain.reference import check_name
from upshot.errors import InvalidInput
from upshot.sdk.artifact import Artifact
from upshot.sdk.connection import check_entity, client, read_settings, say_once
from upshot.sdk.json_values import to_json_object
from upshot.sdk.names import to_names
from upshot.sdk.references import read_reference
from upshot.sdk.sdk_errors import InvalidArgument, NoRun, NotBuilt

_NOT_FOUND = 404
DEFAULT_PROJECT = "uncategorized"
_HEARTBEAT_SECONDS = 20.0
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ID_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH = 8
_MODEL_REGISTRY = "model-registry"
_FIRST_WORDS = (  # noqa: SIM905 - one word a line would be 80 lines
    "amber bold brave bright brisk calm clear clever cool copper crisp deep eager early fair fast fine fresh gentle "
    "glad golden grand green happy honest jolly keen kind light lively lucky mellow mild neat noble open plain proud "
    "quick quiet rapid ready red sharp silent silver smooth soft solid steady still sunny sweet swift tidy true vivid "
    "warm wide wild wise young"
).split()
_SECOND_WORDS = (  # noqa: SIM905 - one word a line would be 80 lines
    "acorn arch badger bay beach birch bird brook canyon cedar cliff cloud coral crane creek dawn deer delta dune "
    "eagle elm ember falcon fern field finch fjord flame flower fog forest fox garden glacier grove harbor hawk heron "
    "hill island lake lark leaf lily lynx maple meadow mist moon moss oak ocean otter owl pebble pine pond quail rain "
    "reef ridge river robin rose sea shore sky snow spring star stone storm stream sun swan tide tree valley wave wind "
    "wolf wood"
).split()


class Config(dict[str, Any]):
    """The configuration of a run: a mapping that can also be read and written as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"the config has no {name!r}") from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Run:
    """
    A run. As a context manager, it finishes at the end of the block, as failed after an exception.

    Args:
        project: Name of the project.
        entity: The entity that the program gave, which is recorded.
        job_type: What kind of run this is, such as `training`.
        config: The configuration.
        tags: Tags.
        name: Two words by default.
        notes: A text for people.
        group: The group that the run belongs to.
        run_id: Letters, digits, `-` and `_`. By default, 8 random characters.
    """

    def __init__(
        self,
        *,
        project: str | None,
        entity: str | None,
        job_type: str | None,
        config: Mapping[str, Any] | None,
        tags: Iterable[str] | None,
        name: str | None,
        notes: str | None,
        group: str | None,
        run_id: str | None,
    ) -> None:
        settings = read_settings()
        check_entity(entity)
        self.project: str = project or settings.project or DEFAULT_PROJECT
        self.entity: str | None = entity or settings.entity
        try:
            check_name(self.project, "project")
        except InvalidInput as error:
            raise InvalidArgument(str(error)) from error
        self.job_type = job_type or settings.job_type
        self.id: str = run_id or settings.run_id or new_run_id()
        if not _ID.fullmatch(self.id):
            raise InvalidArgument(f"run id {self.id!r}: must be 1 to 64 letters, digits, hyphens and underscores")
        self.name = name or f"{secrets.choice(_FIRST_WORDS)} {secrets.choice(_SECOND_WORDS)}"
        self.notes = notes
        self.group = group
        self.tags: tuple[str, ...] = tuple(to_names(tags, "tags"))
        self.config = Config(to_json_object(config, "config"))
        self.url: str | None = None
        self.state = "running"
        self._sent_config: dict[str, Any] | None = None
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"<Run {self.project}/{self.id} ({self.state})>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.end(state="killed")
        else:
            self.finish(exit_code=0 if error is None or _is_success(error) else 1)

    @property
    def path(self) -> str:
        """`[ENTITY/]PROJECT/ID`."""
        return "/".join(part for part in (self.entity, self.project, self.id) if part)

    @property
    def offline(self) -> bool:
        """False: the run is recorded as it goes."""
        return False

    def start(self) -> None:
        """Record the run on the server, and keep it alive there."""
        self._send()
        threading.Thread(target=self._beat, name="upshot-heartbeat", daemon=True).start()

    def _path(self, *more: str) -> str:
        return api_path("projects", self.project, "runs", self.id, *more)

    def _send(self) -> None:
        config = to_json_object(self.config, "config")
        body: dict[str, Any] = {"name": self.name, "config": config, "tags": list(self.tags)}
        optional = {"job_type": self.job_type, "notes": self.notes, "group": self.group, "entity": self.entity}
        body.update((key, value) for key, value in optional.items() if value is not None)
        self._sent_config = config
        self.url = client().put(self._path(), body)["url"]

    def _beat(self) -> None:
        from upshot.errors import UpshotError

        while not self._ended.is_set():
            try:
                client().post(self._path("heartbeat"))
            except UpshotError as error:
                say_once(f"run {self.id}: the server does not answer ({error}); trying again")
            self._ended.wait(_HEARTBEAT_SECONDS)

    def _check_open(self, what: str) -> None:
        if self._ended.is_set():
            raise NoRun(f"run {self.id} has finished; call upshot.init() before {what}()")

    def finish(self, exit_code: int | None = None) -> None:
        """
        End the run.

        Args:
            exit_code: 0, the default, means that the run succeeded.
        """
        self.end(state="failed" if exit_code else "finished", exit_code=exit_code or 0)

    def end(self, *, state: str, exit_code: int | None = None) -> None:
        """End the run in a state: finished, failed or killed. An ended run stays as it is."""
        if self._ended.is_set():
            return
        self._ended.set()
        from upshot.sdk.session import forget_run

        forget_run(self)
        self.state = state
        if to_json_object(self.config, "config") != self._sent_config:
            self._send()
        body = {"exit_code": exit_code} if state != "killed" and exit_code is not None else {"state": state}
        client().post(self._path("finish"), body)

    # --- artifacts --------------------------------------------------------------------------------

    def log_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,
        aliases: Iterable[str] | str | None = None,
        tags: Iterable[str] | str | None = None,
    ) -> Artifact:
        """
        Log an artifact as an output of the run. Returns when the server has its files.

        Args:
            artifact_or_path: An artifact, or a file, a directory or an address to make one of.
            name: Of an artifact made of a path. By default, `run-ID-NAME`.
            type: Of an artifact made of a path. By default, `unspecified`.
            aliases: Aliases in the project, in addition to `latest`.
            tags: Tags of the version.

        Returns:
            The same artifact, with its version.

        Raises:
            ValueError: The artifact is invalid, or a file has changed since it was added.
        """
        self._check_open("log_artifact")
        artifact = self._as_artifact(artifact_or_path, name, type)
        artifact.log_into(
            self.project, aliases=to_names(aliases, "aliases"), tags=to_names(tags, "tags"), run_id=self.id
        )
        return artifact

    def use_artifact(
        self,
        artifact_or_name: Artifact | str,
        type: str | None = None,
        aliases: Iterable[str] | None = None,
        use_as: str | None = None,
    ) -> Artifact:
        """
        Return an artifact and record it as an input of the run.

        Args:
            artifact_or_name: A reference, such as `nature:v3` or `model-registry/Name:staging`, or an artifact. A
                draft is logged first.
            type: The type that it must have.
            aliases: Has no effect.
            use_as: Has no effect.

        Raises:
            ValueError: The reference is invalid, or the artifact has another type.
        """
        self._check_open("use_artifact")
        if isinstance(artifact_or_name, Artifact):
            artifact = artifact_or_name
            if artifact.is_draft():
                artifact.log_into(self.project, run_id=self.id)
        else:
            artifact = find_artifact(artifact_or_name, self.project)
        check_type(artifact, type)
        client().post(self._path("inputs"), {"artifact": artifact.version_json()["artifact"]})
        return artifact

    def link_artifact(
        self, artifact: Artifact, target_path: str, aliases: Iterable[str] | str | None = None
    ) -> Artifact:
        """
        Link an artifact into a collection, and return the link. A draft is logged first, into the run's project.

        Args:
            artifact: The artifact.
            target_path: `model-registry/NAME`, `wandb-registry-R/NAME` or `REGISTRY/COLLECTION`.
            aliases: Aliases of the link in the collection, in addition to `latest`.

        Raises:
            ValueError: The target is invalid.
        """
        self._check_open("link_artifact")
        if not isinstance(artifact, Artifact):
            raise TypeError(f"link_artifact: pass an upshot.Artifact, not a {artifact.__class__.__name__}")
        from upshot.sdk.references import read_target

        read_target(target_path)  # before anything is uploaded
        if artifact.is_draft():
            artifact.log_into(self.project, run_id=self.id)
        return artifact.link(target_path, aliases)

    def log_model(
        self, path: str | os.PathLike[str], name: str | None = None, aliases: Iterable[str] | str | None = None
    ) -> None:
        """
        Log a file or a directory as an artifact of type `model`.

        Args:
            path: The file or the directory.
            name: By default, `run-ID-NAME`.
            aliases: Aliases in the project, in addition to `latest`.
        """
        self.log_artifact(path, name=name, type="model", aliases=aliases)

    def use_model(self, name: str) -> str:
        """
        Download a model, and return the path of its only file, or of its directory.

        Args:
            name: A reference, such as `my-model:latest`.

        Raises:
            ValueError: The artifact is not a model.
        """
        artifact = self.use_artifact(name)
        _check_model(artifact.type, artifact.name)
        folder = artifact.download()
        entries = artifact.files()
        return str(Path(folder, *entries[0].path.split("/"))) if len(entries) == 1 else folder

    def link_model(
        self,
        path: str | os.PathLike[str],
        registered_model_name: str,
        name: str | None = None,
        aliases: Iterable[str] | str | None = None,
    ) -> Artifact:
        """
        Log a file or a directory as a model, and link it into the registry `model`.

        Args:
            path: The file or the directory.
            registered_model_name: Name of the registered model, without a registry.
            name: Name of the artifact. By default, `run-ID-NAME`.
            aliases: Aliases of the link in the registry.

        Raises:
            ValueError: The name has a registry or a version.
        """
        if "/" in registered_model_name or ":" in registered_model_name:
            raise InvalidArgument(
                f"registered model name {registered_model_name!r}: write the name alone, without registry and version"
            )
        artifact = self.log_artifact(path, name=name, type="model")
        return self.link_artifact(artifact, f"{_MODEL_REGISTRY}/{registered_model_name}", aliases)

    def _as_artifact(
        self, artifact_or_path: Artifact | str | os.PathLike[str], name: str | None, type: str | None
    ) -> Artifact:
        if isinstance(artifact_or_path, Artifact):
            return artifact_or_path
        if not isinstance(artifact_or_path, str | os.PathLike):
            raise TypeError(
                f"log_artifact: pass an upshot.Artifact or a path, not a {artifact_or_path.__class__.__name__}"
            )
        path = os.fspath(artifact_or_path)
        artifact = Artifact(name or f"run-{self.id}-{_artifact_name(path)}", type or "unspecified")
        if Path(path).is_file():
            artifact.add_file(path)
        elif Path(path).is_dir():
            artifact.add_dir(path)
        elif "://" in path:
            artifact.add_reference(path)
        else:
            raise InvalidArgument(f"{path}: this is neither a file nor a directory nor an address such as s3://…")
        return artifact

    # --- what this release does not have ----------------------------------------------------------

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> NoReturn:
        """Refuse: metrics are not recorded yet."""
        self._check_open("log")
        raise not_built("log")

    @property
    def summary(self) -> NoReturn:
        """Refuse: summaries are not recorded yet."""
        raise not_built("summary")


def not_built(name: str) -> NotBuilt:
    """Return the error for a part of W&B's SDK that this release does not have."""
    return NotBuilt(
        f"upshot.{name} is not available in this release: it records runs, their config and their artifacts, but no "
        "metrics; put values into the artifact's metadata"
    )


def new_run_id() -> str:
    """Make the id of a run: 8 letters and digits."""
    return "".join(secrets.choice(_ID_CHARS) for _ in range(_ID_LENGTH))


def find_artifact(text: str, project: str | None) -> Artifact:
    """
    Return the artifact, or the link, that a reference names.

    Raises:
        InvalidArgument: The reference is invalid.
        ApiError: There is none.
    """
    reference = read_reference(text, project)
    in_registry = api_path("registries", reference.scope, "collections", reference.name, "versions", reference.version)
    in_project = api_path("projects", reference.scope, "artifacts", reference.name, "versions", reference.version)
    if "/" not in text.partition(":")[0]:
        return Artifact.from_version(client().get(in_project))
    try:  # a project and a registry never have the same name
        return Artifact.from_version(client().get(in_registry))
    except ApiError as error:
        if error.status != _NOT_FOUND or reference.is_registry or _is_registry(reference.scope):
            raise
    return Artifact.from_version(client().get(in_project))


def _is_registry(name: str) -> bool:
    return any(registry["name"] == name for registry in client().get("/registries")["items"])


def check_type(artifact: Artifact, type: str | None) -> None:
    """
    Check that an artifact has the type that the program expects.

    Raises:
        InvalidArgument: It has another type.
    """
    if type is not None and artifact.type != type:
        raise InvalidArgument(f"{artifact.name} has the type {artifact.type!r}, not {type!r}; correct the type")


def _check_model(type: str, name: str) -> None:
    if "model" not in type.lower():
        raise InvalidArgument(f"{name} has the type {type!r}, which is not a model; use use_artifact() and download()")


def _artifact_name(path: str) -> str:
    """Return a valid name for the artifact of a path."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", Path(path).name or "files")


def _is_success(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)
