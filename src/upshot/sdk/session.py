"""The run of this program: `upshot.init()`, `upshot.finish()`, and the functions of the module that act on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from upshot.errors import UpshotError
from upshot.sdk.artifact import Artifact
from upshot.sdk.config import read_mapping
from upshot.sdk.connection import read_settings, say, say_once
from upshot.sdk.metrics import Metric
from upshot.sdk.program_end import ProgramEnd
from upshot.sdk.recording import DEFAULT_PROJECT, RecordedRun
from upshot.sdk.run import Run
from upshot.sdk.sdk_errors import InvalidArgument, NoRun, NotBuilt

_current: list[Run] = []  # the run of the program, last
_ending: list[RecordedRun] = []  # those that are being sent
_RESUME = ("allow", "must", "never")


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


def forget_run(run: RecordedRun) -> None:
    """Remove a run that ends."""
    if run in _current:
        _ending.append(run)
    _current[:] = [other for other in _current if other is not run]


def run_has_ended(run: RecordedRun) -> None:
    """Remove a run that has ended."""
    _ending[:] = [other for other in _ending if other is not run]


def init(
    entity: str | None = None,
    project: str | None = None,
    dir: str | os.PathLike[str] | None = None,
    id: str | None = None,
    name: str | None = None,
    notes: str | None = None,
    tags: Sequence[str] | None = None,
    config: Mapping[str, Any] | object | None = None,
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
        dir: What cannot be sent at once is kept in `.upshot-runs` in this directory. By default, in UPSHOT_DIR, or in
            `.upshot-runs` in the working directory.
        id: Id of the run. By default, UPSHOT_RUN_ID, or 8 random characters.
        name: Name of the run. By default, two words.
        notes: A text for people.
        tags: Tags of the run.
        config: The configuration: a mapping or a namespace.
        config_exclude_keys: Keys of the configuration to leave out.
        config_include_keys: Keys of the configuration to keep.
        allow_val_change: Whether values of the config may be changed later.
        group: The group that the run belongs to.
        job_type: What kind of run this is, such as `training`. By default, UPSHOT_JOB_TYPE.
        mode: `offline` keeps the run in a folder, which `upshot sync` brings in. By default, UPSHOT_MODE, or `online`:
            a run for which no server answers within 10 seconds is also kept.
        force: Has no effect.
        reinit: What happens to a run that has not finished: it is finished, or returned if this is
            `return_previous`, or left running if this is `create_new`.
        resume: `allow`: continue the run of this id, or start it; `must`: continue it. Otherwise, an id that exists is
            refused.
        resume_from: Not supported.
        fork_from: Not supported.
        save_code: Whether to keep the file of the program. What Git has of it is recorded in any case.
        tensorboard: Has no effect, but a note says so.
        sync_tensorboard: Has no effect, but a note says so.
        monitor_gym: Has no effect, but a note says so.
        settings: Has no effect.
        ignored: Have no effect, but a note says so.

    Raises:
        ValueError: An argument is invalid.
        UpshotError: The server rejected the run.
    """
    _refuse_unsupported(resume_from=resume_from, fork_from=fork_from)
    continued = _read_resume(resume)
    notes_for = {"tensorboard": tensorboard, "sync_tensorboard": sync_tensorboard, "monitor_gym": monitor_gym}
    for argument in [*(key for key, value in notes_for.items() if value), *ignored]:
        say_once(f"init({argument}=…) has no effect here")
    previous = current_run()
    if previous is not None and reinit != "create_new":
        if reinit == "return_previous":
            return previous
        previous.finish()
    if config is not None:
        config = {
            key: value
            for key, value in read_mapping(config).items()
            if key not in (config_exclude_keys or ()) and (not config_include_keys or key in config_include_keys)
        }
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
        resume=continued,
        allow_val_change=allow_val_change,
        folder=dir,
        save_code=save_code,
        mode=mode,
    )
    _program_end.watch()
    run.start()
    _current.append(run)
    say(f"run {run.name} ({run.path}){f': {run.url}' if run.url else ''}")
    return run


def _refuse_unsupported(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise NotBuilt(f"init({name}={value!r}) is not supported; leave it out to start a new run")


def _read_resume(resume: bool | str | None) -> str | None:
    if resume is None or resume is False:
        return None
    if resume is True or resume == "auto":
        return "allow"
    if resume not in _RESUME:
        raise InvalidArgument(f"init(resume={resume!r}): write one of {', '.join(_RESUME)}")
    return str(resume)


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
    """Log values. See `Run.log`."""
    require_run("log").log(data, step, commit)


def define_metric(
    name: str,
    step_metric: str | Metric | None = None,
    step_sync: bool | None = None,
    hidden: bool | None = None,
    summary: str | None = None,
    overwrite: bool | None = None,
) -> Metric:
    """Set the axis of a metric, and which of its values the summary has. See `Run.define_metric`."""
    return require_run("define_metric").define_metric(name, step_metric, step_sync, hidden, summary, overwrite)


def save(
    glob_str: str | os.PathLike[str],
    base_path: str | os.PathLike[str] | None = None,
    policy: str = "live",
    glob: bool = True,
) -> list[str]:
    """Copy files into the run. See `Run.save`."""
    return require_run("save").save(glob_str, base_path, policy, glob)


def alert(title: str, text: str, level: str | None = None, wait_duration: float | timedelta | None = None) -> None:
    """Make a custom event named `alert`. See `Run.alert`."""
    require_run("alert").alert(title, text, level, wait_duration)


def watch(
    models: Any,
    criterion: Any = None,
    log: str | None = "gradients",
    log_freq: int = 1000,
    idx: int | None = None,
    log_graph: bool = False,
) -> None:
    """Say once that gradients are not kept. See `Run.watch`."""
    require_run("watch").watch(models, criterion, log, log_freq, idx, log_graph)


def unwatch(models: Any = None) -> None:
    """Do nothing: see `watch`."""
    require_run("unwatch").unwatch(models)


def log_draft(artifact: Artifact, project: str | None) -> None:
    """Log a draft with the run of the program, or without a run."""
    run = current_run()
    if run is not None and project in (None, run.project):
        run.log_artifact(artifact)
    else:
        artifact.log_into(project or read_settings().project or DEFAULT_PROJECT)


# --- the end of the program --------------------------------------------------------------------------


def _end_runs(state: str, exit_code: int | None, patience_seconds: float) -> None:
    for run in tuple(_current):
        try:
            run.end(state=state, exit_code=exit_code, patience_seconds=patience_seconds)
        except UpshotError as error:
            say(f"run {run.path}: its end was not recorded: {error}")
    for ending in tuple(_ending):
        ending.wait_for_end(patience_seconds)


def _become_foreign() -> None:
    for run in _current:
        run.become_foreign()  # it stays `upshot.run`, and says that it records nothing here


def was_terminated() -> bool:
    """Return whether the program got a SIGTERM."""
    return _program_end.was_terminated


_program_end = ProgramEnd(_end_runs, _become_foreign)
