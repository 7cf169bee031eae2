"""
Send what a run logs, in the background.

Three threads of the program take part. One collects what was logged, every 0.7 seconds or when there is enough for a
request, and puts it into the journal. One sends the journal, record by record, and tries again while no server answers.
One sends heartbeats. None of them can stop the program, and the program waits for none of them before its end.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from upshot.client.addresses import ApiError
from upshot.clock import stopwatch
from upshot.errors import UpshotError
from upshot.sdk.connection import new_client, say, say_once
from upshot.sdk.journal import Journal, Record
from upshot.sdk.steps import Steps
from upshot.sdk.transport import Transport, is_about_body, is_temporary

_COLLECT_SECONDS = 0.7  # a program that is killed loses at most this, and what is on its way
_HEARTBEAT_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_NOTE_SECONDS = 5.0  # between notes while the end of the program waits
_POLL_SECONDS = 0.2
_NAMES = {
    "log": "values that were logged",
    "change": "a change of the run",
    "files": "files",
    "event": "an alert",
    "finish": "the end of the run",
}


class Sender:
    """
    Sends what one run logs.

    Args:
        run_path: Path of the run in the API.
        session: Made once for each `init`.
        journal: What was not sent yet.
        on_stop: Called once if somebody asks the run to stop.
        on_heartbeat: Called before each heartbeat.
    """

    def __init__(
        self,
        *,
        run_path: str,
        session: str,
        journal: Journal,
        on_stop: Callable[[], None],
        on_heartbeat: Callable[[], None],
    ) -> None:
        self._run_path = run_path
        self._session = session
        self._journal = journal
        self._on_stop = on_stop
        self._on_heartbeat = on_heartbeat
        self._transport = Transport(journal.folder)
        self._steps: Steps
        self._collecting = threading.RLock()  # a signal handler may interrupt its holder, and end the run
        self._sequence = 0
        self._enough = threading.Event()  # there is enough for a request
        self._ended = threading.Event()  # nothing more will be logged
        self._sent_all = threading.Event()
        self._gave_up = threading.Event()
        self._failing_since: float | None = None
        self._was_stopped = False
        self._threads: list[threading.Thread] = []

    def start(self, steps: Steps) -> None:
        """Start the threads, which send what is logged."""
        self._steps = steps
        threads = {"collect": self._collect_often, "send": self._send_all, "heartbeat": self._beat}
        if self._journal.at_once:  # an offline run
            threads = {"collect": self._collect_often}
        for name, work in threads.items():
            thread = threading.Thread(target=work, name=f"upshot-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wake(self) -> None:
        """Collect what was logged now."""
        if not self._enough.is_set():
            self._enough.set()

    def add(self, record: Record) -> None:
        """Send a record, after what was logged before it."""
        self._collect(age_seconds=0)
        if not self._journal.append(record):
            say_once(
                f"{_NAMES.get(record.kind, 'a request')} was left out: no server answers, and there is no more room"
            )

    # --- threads ----------------------------------------------------------------------------------

    def _collect_often(self) -> None:
        while not self._ended.is_set():
            self._enough.wait(_COLLECT_SECONDS)
            self._enough.clear()
            self._collect(age_seconds=_COLLECT_SECONDS)
            self._journal.spill()

    def _collect(self, *, age_seconds: float) -> None:
        """Put what was logged into the journal."""
        with self._collecting:
            for part in self._steps.take(age_seconds=age_seconds):
                body = f'{{"session":"{self._session}","sequence":{self._sequence},{part}}}'
                if self._journal.append(Record("log", "POST", f"{self._run_path}/log", body)):
                    self._sequence += 1
                else:
                    say_once("values are being lost: no server answers, and there is no more room for them")

    def _send_all(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._gave_up.is_set():
            record = self._journal.first(_POLL_SECONDS)
            if record is None:
                if self._ended.is_set() and self._journal.is_empty():
                    self._sent_all.set()
                    return
                continue
            try:
                self._send(record)
            except (UpshotError, OSError) as error:
                self._note_failure(error)
                self._gave_up.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            except Exception as error:  # noqa: BLE001 - a mistake in this module must not stop what follows
                say_once(f"{_NAMES.get(record.kind, 'a request')} could not be sent: {error!r}")
                self._journal.remove_first()
            else:
                self._journal.remove_first()
                self._note_success()
                pause = _FIRST_PAUSE_SECONDS

    def _send(self, record: Record) -> None:
        """Send a record. What the server rejects for good is left out, with a note."""
        try:
            answer = self._transport.send(record)
        except ApiError as error:
            if is_temporary(error):
                raise
            say_once(
                f"{self._run_path.lstrip('/')}: the server rejected {_NAMES.get(record.kind, 'a request')}: {error}"
            )
            self._transport.forget_files(record)
            if is_about_body(error):
                self._transport.send_instead(record)
            return
        if record.kind == "log":
            self._read_stop(answer)

    def _beat(self) -> None:
        client = None
        while True:
            try:
                self._on_heartbeat()
                client = client or new_client()
                answer = client.send_json("POST", f"{self._run_path}/heartbeat", json.dumps({"session": self._session}))
                self._note_success()
                self._read_stop(answer)
            except (UpshotError, OSError) as error:
                if not isinstance(error, ApiError):
                    self._note_failure(error)
            except Exception as error:  # noqa: BLE001 - as above
                say_once(f"heartbeat: {error!r}")
            if self._ended.wait(_HEARTBEAT_SECONDS):
                return

    def _read_stop(self, answer: Any) -> None:
        if isinstance(answer, dict) and answer.get("stop") and not self._was_stopped and not self._ended.is_set():
            self._was_stopped = True
            self._on_stop()

    def _note_failure(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = stopwatch()
            say(f"{error}. The run goes on; what it logs is kept and sent later")

    def _note_success(self) -> None:
        if self._failing_since is not None:
            self._failing_since = None
            say("the server answers again")

    def keep(self) -> None:
        """Write what was not sent yet into the folder of the run."""
        self._collect(age_seconds=0)
        self._journal.spill(all=True)

    # --- the end ----------------------------------------------------------------------------------

    def finish(self, record: Record, *, patience_seconds: float) -> bool:
        """
        Send the end of the run and everything before it, and wait for that.

        Args:
            record: The end.
            patience_seconds: How long to wait for a server that does not answer. What was not sent is then kept in
                the folder of the run.

        Returns:
            Whether everything was sent.
        """
        self._collect(age_seconds=0)
        self._journal.append(record)
        self._ended.set()
        self._enough.set()
        if self._journal.at_once:
            self._journal.spill(all=True)
            return False
        started = note = stopwatch()
        try:
            while not self._sent_all.wait(_POLL_SECONDS / 4):
                now = stopwatch()
                self._journal.spill()
                if self._failing_since is not None and now - max(self._failing_since, started) > patience_seconds:
                    break
                if now - note > _NOTE_SECONDS:
                    note = now
                    say("waiting until what the run logged has been sent")
        finally:
            self._gave_up.set()
            if not self._sent_all.is_set():
                self._journal.spill(all=True)
        if not self._sent_all.is_set():
            return False
        self._journal.remove_folder()
        return True
