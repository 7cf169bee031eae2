"""The run of this program: `upshot.init()`, `upshot.finish()`, and the functions of the module that act on it."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from upshot.errors import UpshotError
from upshot.sdk.artifact import Artifact
from upshot.sdk.connection import read_settings, say_once
from upshot.sdk.run import DEFAULT_PROJECT, Run
from upshot.sdk.sdk_errors import InvalidArgument, NoRun, NotBuilt

_current: list[Run] = []  # the run of the program, last
_failure: list[str] = []  # the state that an uncaught exception gives the run
_hooked: list[bool] = []


def current_run() -> Run | None:
    """Return the run of the program, or None before `init` and after `finish`."""
    return _current[-1] if _current else None


def require_run(name: str) -> Run:
    """
    Return the run of the program.

    Raises:
        NoRun: There is none.
    """
    run = current_run()
    if run is None:
        raise NoRun(f"You must call upshot.init() before upshot.{name}()")
    return run


def forget_run(run: Run) -> None:
    """Remove a run that has ended."""
    if run in _current:
        _current.remove(run)


def init(
    entity: str | None = None,
    project: str | None = None,
    dir: str | os.PathLike[str] | None = None,
    id: str | None = None,
    name: str | None = None,
    notes: str | None = None,
    tags: Sequence[str] | None = None,
    config: Mapping[str, Any] | str | None = None,
    config_exclude_keys: list[str] | None = None,
    config_include_keys: list[str] | None = None,
    allow_val_change: bool | None = None,
    group: str | None = None,
    job_type: str | None = None,
    mode: str | None = None,
    force: bool | None = None,
    reinit: bool | str | None = None,
    resume: bool | str | None = None,
    resume_from: str | None = None,
    fork_from: str | None = None,
    save_code: bool | None = None,
    tensorboard: bool | None = None,
    sync_tensorboard: bool | None = None,
    monitor_gym: bool | None = None,
    settings: object = None,
    **ignored: Any,
) -> Run:
    """
    Start a run. It is also a context manager.

    Args:
        entity: Recorded with the run. If UPSHOT_ENTITY is set, another entity is refused.
        project: Name of the project. By default, UPSHOT_PROJECT, or `uncategorized`.
        dir: Has no effect.
        id: Id of the run. By default, UPSHOT_RUN_ID, or 8 random characters.
        name: Name of the run. By default, two words.
        notes: A text for people.
        tags: Tags of the run.
        config: The configuration: a mapping.
        config_exclude_keys: Keys of the configuration to leave out.
        config_include_keys: Keys of the configuration to keep.
        allow_val_change: Has no effect.
        group: The group that the run belongs to.
        job_type: What kind of run this is, such as `training`. By default, UPSHOT_JOB_TYPE.
        mode: `online`, the default.
        force: Has no effect.
        reinit: What happens to a run that has not finished: it is finished, or returned if this is
            `return_previous`, or left running if this is `create_new`.
        resume: Not supported.
        resume_from: Not supported.
        fork_from: Not supported.
        save_code: Has no effect.
        tensorboard: Has no effect, but a note says so.
        sync_tensorboard: Has no effect, but a note says so.
        monitor_gym: Has no effect, but a note says so.
        settings: Has no effect.
        ignored: Have no effect, but a note says so.

    Raises:
        ValueError: An argument is invalid.
        UpshotError: No server answers, or the server rejected the run.
    """
    _refuse_unsupported(mode=mode, resume=resume, resume_from=resume_from, fork_from=fork_from)
    notes_for = {"tensorboard": tensorboard, "sync_tensorboard": sync_tensorboard, "monitor_gym": monitor_gym}
    for argument in [*(key for key, value in notes_for.items() if value), *ignored]:
        say_once(f"init({argument}=…) has no effect here")
    previous = current_run()
    if previous is not None and reinit != "create_new":
        if reinit == "return_previous":
            return previous
        previous.finish()
    if config is not None and not isinstance(config, Mapping):
        config = vars(config) if hasattr(config, "__dict__") else config  # an argparse.Namespace
    if isinstance(config, Mapping):
        config = {
            key: value
            for key, value in config.items()
            if key not in (config_exclude_keys or ()) and (not config_include_keys or key in config_include_keys)
        }
    elif config is not None:
        raise InvalidArgument(f"config: must be a mapping, not a {config.__class__.__name__}")
    run = Run(
        project=project,
        entity=entity,
        job_type=job_type,
        config=config,
        tags=tags,
        name=name,
        notes=notes,
        group=group,
        run_id=id,
    )
    run.start()
    _current.append(run)
    _install_hooks()
    print(f"upshot: run {run.name} ({run.path}){f': {run.url}' if run.url else ''}", file=sys.stderr)  # noqa: T201
    return run


def _refuse_unsupported(*, mode: str | None, resume: object, resume_from: object, fork_from: object) -> None:
    if mode not in (None, "online"):
        raise NotBuilt(f"init(mode={mode!r}) is not available in this release; leave it out, and start a server first")
    for name, value in {"resume": resume, "resume_from": resume_from, "fork_from": fork_from}.items():
        if value not in (None, False, "never"):
            raise NotBuilt(f"init({name}={value!r}) is not available in this release; leave it out to start a new run")


def finish(exit_code: int | None = None, quiet: bool | None = None) -> None:
    """
    End the run of the program, if there is one.

    Args:
        exit_code: 0, the default, means that the run succeeded.
        quiet: Has no effect.
    """
    run = current_run()
    if run is not None:
        run.finish(exit_code)


def log_artifact(
    artifact_or_path: Artifact | str | os.PathLike[str],
    name: str | None = None,
    type: str | None = None,
    aliases: Iterable[str] | str | None = None,
    tags: Iterable[str] | str | None = None,
) -> Artifact:
    """Log an artifact as an output of the run. See `Run.log_artifact`."""
    return require_run("log_artifact").log_artifact(artifact_or_path, name, type, aliases, tags)


def use_artifact(
    artifact_or_name: Artifact | str,
    type: str | None = None,
    aliases: Iterable[str] | None = None,
    use_as: str | None = None,
) -> Artifact:
    """Return an artifact and record it as an input of the run. See `Run.use_artifact`."""
    return require_run("use_artifact").use_artifact(artifact_or_name, type, aliases, use_as)


def link_artifact(artifact: Artifact, target_path: str, aliases: Iterable[str] | str | None = None) -> Artifact:
    """Link an artifact into a collection. See `Run.link_artifact`."""
    return require_run("link_artifact").link_artifact(artifact, target_path, aliases)


def log_model(
    path: str | os.PathLike[str], name: str | None = None, aliases: Iterable[str] | str | None = None
) -> None:
    """Log a file or a directory as a model. See `Run.log_model`."""
    require_run("log_model").log_model(path, name, aliases)


def use_model(name: str) -> str:
    """Download a model, and return its path. See `Run.use_model`."""
    return require_run("use_model").use_model(name)


def link_model(
    path: str | os.PathLike[str],
    registered_model_name: str,
    name: str | None = None,
    aliases: Iterable[str] | str | None = None,
) -> Artifact:
    """Log a model and link it into the registry `model`. See `Run.link_model`."""
    return require_run("link_model").link_model(path, registered_model_name, name, aliases)


def log(data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:
    """Refuse: metrics are not recorded yet."""
    require_run("log").log(data, step, commit)


def log_draft(artifact: Artifact, project: str | None) -> None:
    """Log a draft with the run of the program, or without a run."""
    run = current_run()
    if run is not None and project in (None, run.project):
        run.log_artifact(artifact)
    else:
        artifact.log_into(project or read_settings().project or DEFAULT_PROJECT)


# --- the end of the program --------------------------------------------------------------------------


def _install_hooks() -> None:
    """Notice how the program ends."""
    if _hooked:
        return
    _hooked.append(True)
    atexit.register(_end_runs)
    sys.excepthook = _noticing(sys.excepthook)


def _noticing(hook: Callable[..., Any]) -> Callable[..., Any]:
    def notice(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        _failure.append("killed" if issubclass(kind, KeyboardInterrupt) else "failed")
        hook(kind, error, traceback)

    return notice


def _end_runs() -> None:
    for run in tuple(_current):
        try:
            run.end(state=_failure[-1] if _failure else "finished", exit_code=1 if _failure else 0)
        except UpshotError as error:
            print(f"upshot: run {run.path}: its end was not recorded: {error}", file=sys.stderr)  # noqa: T201
