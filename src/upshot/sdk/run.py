"""A run: one execution of a program, with the artifacts that it uses and logs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from typing_extensions import override

from upshot.client.addresses import ApiError, api_path
from upshot.domain.reference import Reference
from upshot.sdk.artifact import Artifact
from upshot.sdk.background import Upload
from upshot.sdk.connection import client, say
from upshot.sdk.names import to_names
from upshot.sdk.offline import find_cached_artifact
from upshot.sdk.program_end import to_exit_code
from upshot.sdk.recording import PATIENCE_SECONDS, RecordedRun
from upshot.sdk.references import read_reference
from upshot.sdk.sdk_errors import InvalidArgument

_NOT_FOUND = 404
_MODEL_REGISTRY = "model-registry"
#: What W&B's runs have and these do not, with the remedy.
_MISSING = {
    "config_static": "use run.config",
    "dir": "write the file where you like, and keep it with run.save(path)",
    "display": "the run shows its address in a notebook",
    "finish_artifact": "use run.log_artifact()",
    "log_code": "use init(save_code=True) or run.save()",
    "mark_preempting": "use init(resume=…) to continue the run",
    "project_name": "use run.project",
    "restore": "use upshot.Api().run(path).file(name).download()",
    "sweep_id": "start the runs of a sweep yourself, with group= in init()",
    "to_html": "the run shows its address in a notebook",
    "upsert_artifact": "use run.log_artifact()",
}


class Run(RecordedRun):
    """
    A run. As a context manager, it finishes at the end of the block, as failed after an exception.

    Args:
        project: Name of the project.
        entity: The entity that the program gave, which is recorded.
        job_type: What kind of run this is, such as `training`.
        config: The configuration: a mapping or a namespace.
        tags: Tags.
        name: Two words by default.
        notes: A text for people.
        group: The group that the run belongs to.
        run_id: Letters, digits, `-` and `_`. By default, 8 random characters.
        resume: `allow` or `must` to continue the run of this id.
        allow_val_change: Whether values of the config may be changed.
        folder: The directory of the folder for what could not be sent yet.
        save_code: Whether to keep the file of the program.
    """

    if not TYPE_CHECKING:  # a type checker knows what there is

        def __getattr__(self, name: str) -> NoReturn:
            remedy = _MISSING.get(name)
            raise AttributeError(f"a run has no {name!r}{f'; {remedy}' if remedy else ''}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.end(state="killed")
        else:
            exit_code = to_exit_code(error) if isinstance(error, SystemExit) else 1
            self.end(state="failed" if exit_code else "finished", exit_code=exit_code)

    @override
    def finish(self, exit_code: int | None = None) -> None:
        """
        End the run, and wait until everything has been sent.

        Args:
            exit_code: 0, the default, means that the run succeeded.

        Raises:
            UpshotError: An artifact could not be uploaded, and its `wait` has not raised that. The run has failed.
        """
        failed = self._uploads.finish() if self._is_open else []
        super().finish(exit_code or (1 if failed else 0))
        for upload in failed[1:]:
            _say_failure(upload)
        if failed and failed[0].error:
            raise failed[0].error

    @override
    def end(self, *, state: str, exit_code: int | None = None, patience_seconds: float = PATIENCE_SECONDS) -> None:
        if self._is_open:
            from upshot.sdk.session import was_terminated

            if state == "killed" or self._was_stopped or was_terminated():
                for name in self._uploads.cancel():
                    say(f"artifact {name} is not uploaded completely; log it again, which sends the rest")
            else:
                for upload in self._uploads.finish():
                    _say_failure(upload)
                    state, exit_code = "failed", exit_code or 1
        super().end(state=state, exit_code=exit_code, patience_seconds=patience_seconds)

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
        Log an artifact as an output of the run. The upload goes on in the background.

        The files are copied before this method returns, unless they were added with `policy="immutable"`, so the
        program may change them. `wait()` of the artifact and the end of the run wait for the upload, and raise its
        error.

        Args:
            artifact_or_path: An artifact, or a file, a directory or an address to make one of.
            name: Of an artifact made of a path. By default, `run-ID-NAME`.
            type: Of an artifact made of a path. By default, `unspecified`.
            aliases: Aliases in the project, in addition to `latest`.
            tags: Tags of the version.

        Returns:
            The same artifact. Call its `wait()` before you use its version.

        Raises:
            ValueError: The artifact is invalid.
        """
        self._require_open("log_artifact")
        artifact = self._as_artifact(artifact_or_path, name, type)
        self._log(artifact, to_names(aliases, "aliases"), to_names(tags, "tags"))
        return artifact

    def _log(self, artifact: Artifact, aliases: Sequence[str] = (), tags: Sequence[str] = ()) -> None:
        if self.offline:
            artifact.keep_offline(self._kept, self.project, aliases=aliases, tags=tags, run_id=self.id)
        else:
            artifact.log_into(self.project, aliases=aliases, tags=tags, run_id=self.id, uploads=self._uploads)

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
        self._require_open("use_artifact")
        if isinstance(artifact_or_name, Artifact):
            artifact = artifact_or_name
            self._log_draft(artifact)
        elif self.offline:
            artifact = find_cached_artifact(artifact_or_name, self.project)
        else:
            self._uploads.wait_for(artifact_or_name.rpartition("/")[2].partition(":")[0])
            artifact = find_artifact(artifact_or_name, self.project)
        check_type(artifact, type)
        if self.offline:
            self._kept.use(artifact.kept_id())
        else:
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
        self._require_open("link_artifact")
        if not isinstance(artifact, Artifact):
            raise TypeError(f"link_artifact: pass an upshot.Artifact, not a {artifact.__class__.__name__}")
        from upshot.sdk.references import read_target

        target = read_target(target_path)  # before anything is uploaded
        self._log_draft(artifact)
        if self.offline:
            self._kept.link(artifact.kept_id(), target.registry, target.collection, to_names(aliases, "aliases"))
            return artifact
        return artifact.link(target_path, aliases)

    def _log_draft(self, artifact: Artifact) -> None:
        """Log an artifact that was not logged yet, after those that were logged before, and wait for it."""
        if artifact.is_new():
            self._log(artifact)
        artifact.wait()

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


def _say_failure(upload: Upload) -> None:
    say(f"artifact {upload.name} was not logged: {upload.error}")


def find_artifact(text: str, project: str | None) -> Artifact:
    """
    Return the artifact, or the link, that a reference names.

    Raises:
        InvalidArgument: The reference is invalid.
        ApiError: There is none.
    """
    reference = read_reference(text, project)
    found = _find(text, reference)
    found.asked_for = f"{reference.scope}/{reference.name}:{reference.version}"
    return found


def _find(text: str, reference: Reference) -> Artifact:
    in_registry = api_path("registries", reference.scope, "collections", reference.name, "versions", reference.version)
    in_project = api_path("projects", reference.scope, "artifacts", reference.name, "versions", reference.version)
    if "/" not in text.partition(":")[0]:
        try:
            return Artifact.from_version(client().get(in_project))
        except ApiError as error:
            if error.status == _NOT_FOUND and _is_collection(reference.name):
                in_model_registry = f"{_MODEL_REGISTRY}/{text}"
                raise ApiError(error.status, f"{error}; for the registry write {in_model_registry!r}") from error
            raise
    try:  # a project and a registry never have the same name
        return Artifact.from_version(client().get(in_registry))
    except ApiError as error:
        if error.status != _NOT_FOUND or reference.is_registry or _is_registry(reference.scope):
            raise
    return Artifact.from_version(client().get(in_project))


def _is_registry(name: str) -> bool:
    return any(registry["name"] == name for registry in client().get("/registries")["items"])


def _is_collection(name: str) -> bool:
    """Return whether the registry `model` has a collection of this name."""
    try:
        client().get(api_path("registries", "model", "collections", name))
    except ApiError:
        return False
    return True


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
