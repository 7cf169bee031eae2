"""
What a run records besides artifacts: its values, config, summary, files, environment and end.

`start` sends the run itself and waits for the answer. Everything later is put into a journal, as records in the order
in which it happened, and sent in the background: see `upshot.sdk.journal` and `upshot.sdk.sender`.
"""

from __future__ import annotations

import html
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from upshot.client.addresses import ApiError, api_path
from upshot.client.login import NoServer
from upshot.clock import SystemClock, format_time, stopwatch
from upshot.domain.reference import check_name
from upshot.errors import InvalidInput, Unavailable, UpshotError
from upshot.ids import new_id
from upshot.sdk.alerts import Alerts, read_level
from upshot.sdk.background import Uploads
from upshot.sdk.config import Config
from upshot.sdk.connection import check_entity, client, read_settings, say, say_once
from upshot.sdk.environment import Environment
from upshot.sdk.journal import Journal, Record
from upshot.sdk.json_values import to_json_object
from upshot.sdk.metrics import Metric, read_metric
from upshot.sdk.names import to_names
from upshot.sdk.notebook import in_notebook
from upshot.sdk.offline import OfflineArtifacts
from upshot.sdk.program_end import interrupt_program
from upshot.sdk.run_files import RunFiles, find_files_to_save
from upshot.sdk.run_names import new_run_id, new_run_name, new_session
from upshot.sdk.sdk_errors import InvalidArgument, NoRun
from upshot.sdk.sender import Sender
from upshot.sdk.steps import Steps
from upshot.sdk.summary import Summary
from upshot.sdk.transport import is_unavailable

DEFAULT_PROJECT = "uncategorized"
RUNS_FOLDER = ".upshot-runs"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_FOUND = 404
ONLINE, OFFLINE = "online", "offline"
PATIENCE_SECONDS = 30.0
_START_SECONDS = 10.0  # how long `init` waits for a server
_START_PAUSE_SECONDS = 0.5
_ENVIRONMENT_SECONDS = 30.0  # how long the end of a run waits until packages and code are known


class RecordedRun:
    """A run of this program, without its artifacts. See `Run`."""

    def __init__(
        self,
        *,
        project: str | None,
        entity: str | None,
        job_type: str | None,
        config: object,
        tags: Iterable[str] | None,
        name: str | None,
        notes: str | None,
        group: str | None,
        run_id: str | None,
        resume: str | None = None,
        allow_val_change: bool | None = None,
        folder: str | os.PathLike[str] | None = None,
        save_code: bool | None = None,
        mode: str | None = None,
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
        self._name = name
        self._notes = notes
        self._group = group
        self._tags: tuple[str, ...] = tuple(to_names(tags, "tags"))
        self._given_config = config
        self._allow_val_change = allow_val_change
        self._resume = resume
        self._is_open = False
        self.config = Config(config, allow_val_change=allow_val_change, on_change=self._on_config)
        self.url: str | None = None
        self.state, self.resumed = "running", False
        self.start_time = SystemClock().now().timestamp()
        self.session = new_session()
        self._is_ending = False  # SIGTERM ends it, while the program still runs
        self._was_stopped = False
        self._is_foreign = False  # this process was forked from the one that called init()
        self._end_lock = threading.RLock()
        self._uploads = Uploads()
        self._sent_config: dict[str, Any] = {}
        self._alerts = Alerts()
        self._offline = read_mode(mode or settings.mode) == OFFLINE
        base = settings.dir if folder is None else Path(folder) / RUNS_FOLDER
        journal = self._journal = Journal(self._new_folder(base), self._describe(), at_once=self._offline)
        self._kept, self._files = OfflineArtifacts(journal, self._path()), RunFiles(self._path(), journal)
        self._environment = Environment(self._files.add, lambda info: self._change(info=info), save_code=save_code)
        self._sender = Sender(
            run_path=self._path(),
            session=self.session,
            journal=journal,
            on_stop=self._on_stop,
            on_heartbeat=self._environment.record_cells,
        )
        self._steps = Steps(add_file=self._files.add, on_full=self._sender.wake)

    def __repr__(self) -> str:
        return f"<Run {self.project}/{self.id} ({self.state})>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a run cannot be sent to another process; call its functions in the process that called upshot.init()"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        label = f"{html.escape(self.name)} ({html.escape(self.path)})"
        if self.url:
            label = f'<a href="{html.escape(self.url)}" target="_blank">{label}</a>'
        return f"Run {label}: {self.state}"

    # --- what it is -------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """`[ENTITY/]PROJECT/ID`."""
        return "/".join(part for part in (self.entity, self.project, self.id) if part)

    @property
    def offline(self) -> bool:
        """Whether the run is kept in a folder, which `upshot sync` brings in."""
        return self._offline

    @property
    def disabled(self) -> bool:
        """False: the run is recorded."""
        return False

    @property
    def step(self) -> int:
        """The step of the next call of `log`."""
        return self._steps.step

    @property
    def summary(self) -> Summary:
        """One value for each metric: the last one, unless it was set by hand or `define_metric` says otherwise."""
        return self._steps.summary

    @property
    def name(self) -> str:
        """The name. It can be changed."""
        return self._name or self.id

    @name.setter
    def name(self, name: str) -> None:
        self._name = str(name)
        self._change(name=self._name)

    @property
    def notes(self) -> str | None:
        """A text for people. It can be changed."""
        return self._notes

    @notes.setter
    def notes(self, notes: str | None) -> None:
        self._notes = notes
        self._change(notes=notes or "")

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags. They can be changed: `run.tags += ("best",)`."""
        return self._tags

    @tags.setter
    def tags(self, tags: Iterable[str] | None) -> None:
        self._tags = tuple(to_names(tags, "tags"))
        self._change(tags=list(self._tags))

    @property
    def group(self) -> str | None:
        """The group that the run belongs to."""
        return self._group

    # --- start ------------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Record the run on the server, and begin to send what it logs. If no server answers, the run is offline.

        Raises:
            ApiError: The server rejected the run, such as an id that exists.
            UpshotError: The folder of a run that is to be offline cannot be written.
        """
        body: dict[str, Any] = {}
        found: Any = {}
        was_chosen = self._offline
        if not self._offline:
            try:
                body, found = self._start_online()
            except (ApiError, NoServer, Unavailable) as error:
                if isinstance(error, ApiError) and not is_unavailable(error):
                    raise
                say(f"{error}. The run is offline: it is kept in {self._journal.folder}; `upshot sync` brings it in")
                self._offline = self._journal.at_once = True
        if self._offline:
            try:
                self._journal.make_folder()
            except OSError as error:
                if was_chosen:
                    raise UpshotError(
                        f"{self._journal.folder}: cannot be written ({error.strerror or error}); set UPSHOT_DIR to a "
                        "directory that can be written"
                    ) from error
                # Otherwise the program goes on, and the journal says it.
            body = self._start_body(None)
            body["created_at"] = format_time(SystemClock().now())
            self._journal.append(Record("start", "PUT", self._path(), json.dumps(body)))
        self._sent_config = body["config"]
        self.url = found.get("url")
        self._steps.step = int(found.get("next_step") or 0)
        self._is_open = True
        self._sender.start(self._steps)
        self._environment.start()

    def _start_online(self) -> tuple[dict[str, Any], Any]:
        """
        Record the run on the server. A server that does not answer has 10 seconds to do so.

        Raises:
            ApiError: The server rejected the run, or cannot store it now (`is_unavailable`).
            NoServer: Nothing says where the server is.
            Unavailable: No server answers.
        """
        import upshot.client.uploads  # noqa: F401 - not when the program ends: it cannot be loaded then

        started = stopwatch()
        while True:
            try:
                before = self._find_earlier() if self._resume in {"allow", "must"} else None
                body = self._start_body(before)
                return body, client().send_json(
                    "PUT", self._path(), json.dumps(body), timeout=max(1.0, _START_SECONDS - (stopwatch() - started))
                )
            except (ApiError, Unavailable) as error:
                is_final = isinstance(error, ApiError) and not is_unavailable(error)
                if is_final or stopwatch() - started > _START_SECONDS:
                    raise
                time.sleep(_START_PAUSE_SECONDS)

    def _start_body(self, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the request that starts the run. `before` is what the server has of a run that is continued."""
        body: dict[str, Any] = {"session": self.session, "info": self._environment.info}
        if self._resume is not None:
            body["resume"] = self._resume
        if before is None:
            self._name = self._name or new_run_name()
        else:
            self._continue(before)
        optional = {
            "name": self._name if before is None or self._name != before["name"] else None,
            "job_type": self.job_type,
            "notes": self._notes,
            "group": self._group,
            "entity": self.entity,
            "tags": list(self._tags) or None,
        }
        body.update((key, value) for key, value in optional.items() if value is not None)
        body["config"] = to_json_object(self.config, "config")
        return body

    def _find_earlier(self) -> Any:
        try:
            return client().get(self._path())
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            if self._resume == "must":
                raise InvalidArgument(
                    f'run {self.project}/{self.id} does not exist, so it cannot be continued; use resume="allow" to '
                    "start it"
                ) from error
            return None

    def _continue(self, before: Mapping[str, Any]) -> None:
        """Take over what the server has of a run that is continued."""
        self.resumed = True
        self._name = self._name or before["name"]
        self._notes = self._notes or before["notes"] or None
        self._tags = self._tags or tuple(before["tags"])
        self.job_type = self.job_type or before["job_type"]
        self._group = self._group or before["group"]
        self.config = Config(before["config"], allow_val_change=self._allow_val_change, on_change=self._on_config)
        self.config.update(self._given_config, allow_val_change=True)
        self._steps.summary.restore(before["summary"] or {})

    def _new_folder(self, base: str | os.PathLike[str] | None) -> Path:
        """Return the path of the folder for what could not be sent yet."""
        started = SystemClock().now().strftime("%Y%m%d_%H%M%S")
        return Path(base or RUNS_FOLDER).absolute() / f"run-{started}-{self.id}-{self.session[:6]}"

    def _describe(self) -> dict[str, Any]:
        return {"project": self.project, "id": self.id, "session": self.session, "entity": self.entity}

    def _path(self, *more: str) -> str:
        return api_path("projects", self.project, "runs", self.id, *more)

    # --- log --------------------------------------------------------------------------------------

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        """
        Log values. Returns at once: they are sent in the background.

        Args:
            data: Numbers, texts, nested mappings, lists, tensors without dimensions, a Table, an Image, a figure of
                matplotlib, a confusion matrix.
            step: The step. Calls with the same step add to it. By default, each call is a step of its own.
            commit: Whether the step is complete. By default, it is if `step` is not given.

        Raises:
            TypeError: A value cannot be logged. The message names its key.
            UpshotError: The run has finished.
        """
        if not self._is_open:
            self._check_open("log")
            return
        self._steps.log(data, step, commit)

    def define_metric(
        self,
        name: str,
        step_metric: str | Metric | None = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: str | None = None,
        overwrite: bool | None = None,
    ) -> Metric:
        """
        Set the axis of a metric, and which of its values the summary has.

        Args:
            name: Name of the metric. `*` at its end means all metrics whose name begins with the rest.
            step_metric: The metric that is its axis. Its last value is added to a step that does not have it.
            step_sync: False to leave it out.
            hidden: Recorded only.
            summary: `min`, `max`, `mean`, `last`, `first` or `none`. With several, such as `min,max`, the summary has
                `NAME.min` and `NAME.max`.
            overwrite: Forget what an earlier call said.

        Raises:
            ValueError: An argument is invalid.
        """
        metric = read_metric(name, step_metric, step_sync, hidden, summary, overwrite)
        if self._check_open("define_metric"):
            self._environment.add(metrics=self._steps.define(metric))
        return metric

    def watch(
        self,
        models: Any,
        criterion: Any = None,
        log: str | None = "gradients",
        log_freq: int = 1000,
        idx: int | None = None,
        log_graph: bool = False,
    ) -> None:
        """
        Say once that gradients are not kept.

        Args:
            models: Has no effect, as the arguments after it.
            criterion: Has no effect.
            log: Has no effect.
            log_freq: Has no effect.
            idx: Has no effect.
            log_graph: Has no effect.
        """
        if self._check_open("watch"):
            say_once("watch(): gradients and parameters are not kept; log what you need of them with log()")

    def unwatch(self, models: Any = None) -> None:
        """Do nothing: see `watch`."""
        self._check_open("unwatch")

    def alert(
        self,
        title: str,
        text: str,
        level: str | None = None,
        wait_duration: float | timedelta | None = None,
    ) -> None:
        """
        Make a custom event named `alert`, which automations can answer.

        Args:
            title: The title.
            text: The text.
            level: `INFO`, the default, `WARN` or `ERROR`.
            wait_duration: Seconds in which a further alert with this title is left out; 60 by default.

        Raises:
            ValueError: The level is invalid.
        """
        level = read_level(level)
        if self._check_open("alert") and self._alerts.may_send(title, wait_duration):
            run = {"id": self.id, "name": self.name, "url": self.url}
            data = {"title": str(title), "text": str(text), "level": level, "project": self.project, "run": run}
            key = new_id("key", SystemClock().now())
            self._sender.add(Record("event", "POST", "/events", json.dumps({"name": "alert", "data": data}), key))

    # --- files ------------------------------------------------------------------------------------

    def keep_file(self, source: Path, digest: str) -> Path:
        """
        Return a copy of a file in the folder of an offline run, or the file itself if there is no room for a copy.

        Raises:
            InvalidArgument: The file has changed since its digest was computed.
            OSError: It cannot be read.
        """
        return self._kept.keep_file(source, digest)

    def save(
        self,
        glob_str: str | os.PathLike[str],
        base_path: str | os.PathLike[str] | None = None,
        policy: str = "live",
        glob: bool = True,
    ) -> list[str]:
        """
        Copy files into the run.

        Args:
            glob_str: A path, or a pattern such as `logs/*.txt`.
            base_path: The directory that the paths in the run are relative to. By default, the working directory.
            policy: `now`: as they are now; `live` and `end`: once more at the end of the run, if they have changed.
            glob: Whether `*`, `?` and `[` are a pattern.

        Returns:
            The paths in the run of the files that were copied.

        Raises:
            ValueError: The policy is unknown, or a path is not below `base_path`.
        """
        files = find_files_to_save(glob_str, base_path, policy=policy, glob=glob)
        if not self._check_open("save"):
            return []
        return self._files.save(files, policy=policy)

    # --- changes ----------------------------------------------------------------------------------

    def _on_config(self, values: dict[str, Any]) -> None:
        if self._is_open:
            self._sent_config = {**self._sent_config, **to_json_object(values, "config")}
            self._steps.change_config(values)
            self._sender.wake()

    def _change(self, **values: Any) -> None:
        if self._is_open:
            body = json.dumps({"session": self.session, **values})
            self._sender.add(Record("change", "PUT", self._path(), body))

    def _on_stop(self) -> None:
        self._was_stopped = True
        say(f"run {self.path}: somebody asked it to stop")
        interrupt_program()
        if in_notebook():  # only a cell was interrupted, and the program goes on
            threading.Thread(target=self.end, kwargs={"state": "killed"}, name="upshot-end", daemon=True).start()

    # --- end --------------------------------------------------------------------------------------

    def _check_open(self, what: str) -> bool:
        """
        Return whether this process may record something.

        Raises:
            NoRun: The run has finished.
        """
        if self._is_open:
            return True
        if self._is_ending:
            return False
        if self._is_foreign:
            say_once(
                f"{what}() has no effect in a forked process; call it in the process that called upshot.init(), or "
                "call upshot.init() here"
            )
            return False
        raise NoRun(f"run {self.id} has finished; call upshot.init() before {what}()")

    def _require_open(self, what: str) -> None:
        """
        Check that this process may log and use artifacts.

        Raises:
            NoRun: The run has finished, or belongs to the process that this one was forked from.
        """
        if not self._is_open:
            where = "belongs to the process that this one was forked from" if self._is_foreign else "has finished"
            raise NoRun(f"run {self.id} {where}; call upshot.init() before {what}()")

    def become_foreign(self) -> None:
        """Record nothing more in this process: it was forked from the one that has the run."""
        self._is_foreign, self._is_open = self._is_open or self._is_foreign, False
        self._journal.release()
        self._steps.renew_lock()

    def finish(self, exit_code: int | None = None) -> None:
        """
        End the run, and wait until everything has been sent.

        Args:
            exit_code: 0, the default, means that the run succeeded.
        """
        self.end(state="failed" if exit_code else "finished", exit_code=exit_code or 0)

    def end(
        self,
        *,
        state: str,
        exit_code: int | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """
        End the run in a state: finished, failed or killed. An ended run stays as it is.

        Args:
            state: The state.
            exit_code: The exit code of the program.
            patience_seconds: How long to wait for a server that does not answer.
        """
        with self._end_lock:
            if not self._is_open:
                return
            from upshot.sdk.session import forget_run, run_has_ended, was_terminated

            forget_run(self)
            if self._was_stopped or was_terminated():
                state, exit_code = "killed", None
                self._is_ending = True
            try:
                self._record_the_rest(_ENVIRONMENT_SECONDS if state != "killed" else 1.0)
            except Exception as error:  # noqa: BLE001 - the program ends, and must not fail because of this
                say(f"run {self.path}: {error!r}")
            self._is_open = False
            self.state = state
            body: dict[str, Any] = {"session": self.session, "finished_at": format_time(SystemClock().now())}
            body |= {"state": state} if state == "killed" or exit_code is None else {"exit_code": exit_code}
            record = Record("finish", "POST", self._path("finish"), json.dumps(body))
            try:
                has_sent = self._sender.finish(record, patience_seconds=patience_seconds)
            except KeyboardInterrupt:
                self._say_kept()
                raise
            if not has_sent:
                self._say_kept()
            run_has_ended(self)

    def _say_kept(self) -> None:
        self._journal.release()
        what = "it" if self._offline else "what no server has received"
        if self._journal.has_unwritten:
            say(f"run {self.path}: the rest of what it logged is lost: {self._journal.folder} could not be written")
            what = "what there was room for"
        say(f"run {self.path}: {what} is kept in {self._journal.folder}; `upshot sync` brings it in")

    def _record_the_rest(self, seconds: float) -> None:
        """Record what is known only at the end of the run."""
        self._environment.finish(seconds)
        self._files.save_changed()
        config = to_json_object(self.config, "config")
        if config != self._sent_config:  # a list in it was changed in place
            self._change(config=config)

    def wait_for_end(self, seconds: float) -> None:
        """Wait until another thread has ended the run, but not longer. What was not sent is in the folder then."""
        self._sender.keep()
        if self._end_lock.acquire(timeout=seconds):
            self._end_lock.release()


def read_mode(mode: str) -> str:
    """
    Return the mode of a run.

    Raises:
        InvalidArgument: It is unknown.
    """
    if mode not in (ONLINE, OFFLINE):
        raise InvalidArgument(f"mode {mode!r}: write {ONLINE} or {OFFLINE}")
    return mode
