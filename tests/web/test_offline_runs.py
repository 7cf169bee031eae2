"""Offline runs and their syncs in any order, interrupted anywhere: the server ends with what was logged."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.web.conftest import API, make_deps, ok_json
from upshot.client.http import Client
from upshot.client.login import Server
from upshot.clock import SystemClock
from upshot.errors import Unavailable
from upshot.sdk import connection, recording
from upshot.sdk import sync as sync_module
from upshot.sdk.artifact import Artifact
from upshot.sdk.run import Run
from upshot.sdk.sync import find_folders, sync_folder

_numbers = itertools.count()


class Killed(BaseException):
    """The process of a sync ends here."""


class Faults:
    """Interrupts a sync at its k-th request or its k-th note of how far it is."""

    def __init__(self) -> None:
        self.error: type[BaseException] | None = None
        self.countdown = 0
        self.before = False  # the server does its work, unless it is interrupted before
        self._lock = Lock()

    def wrap(self, work: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            with self._lock:
                error = self.error if self.countdown == 0 else None
                self.countdown -= 1
            if error and self.before:
                raise error("interrupted")
            result = work(*args, **options)
            if error:
                raise error("interrupted")
            return result

        return wrapped


@dataclass
class Kept:
    """An offline run, and what it has logged."""

    run: Run
    folder: Path
    points: list[float] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of the artifacts
    asked: set[tuple[str, str]] = field(default_factory=set)  # artifact and alias
    linked: set[str] = field(default_factory=set)
    state: str = "running"


class OfflineRuns(RuleBasedStateMachine):
    """Programs that log without a server, and people who sync and move aliases meanwhile."""

    web: Any
    folder: Path
    faults: Faults

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_numbers)
        self.base = self.folder / f"{self.number}" / recording.RUNS_FOLDER
        self.copies = self.folder / f"{self.number}-copies"
        self.copies.mkdir()
        self.project = f"offline-{self.number}"
        self.series = {
            "best": f"{API}/projects/{self.project}/artifacts/net",
            "staging": f"{API}/registries/model/collections/{self.project}",
        }
        self.holders: dict[str, str | None] = {"best": None, "staging": None}  # who was asked for last
        self.runs: list[Kept] = []

    # --- programs ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.runs) < 4)
    @rule()
    def start(self) -> None:
        run = Run(
            project=self.project,
            entity=None,
            job_type="training",
            config={"lr": 0.1},
            tags=None,
            name=None,
            notes=None,
            group=None,
            run_id=f"run{len(self.runs)}",
            folder=self.base.parent,
            mode="offline",
        )
        run.start()
        self.runs.append(Kept(run, run._journal.folder))

    @property
    def running(self) -> list[Kept]:
        return [kept for kept in self.runs if kept.state == "running"]

    def pick(self, index: int) -> Kept:
        return self.running[index % len(self.running)]

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 3), values=st.lists(st.floats(allow_nan=False), min_size=1, max_size=3))
    def log(self, index: int, values: list[float]) -> None:
        kept = self.pick(index)
        for value in values:
            kept.run.log({"loss": value})
        kept.points += values

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 3), again=st.booleans(), best=st.booleans())
    def log_artifact(self, index: int, again: bool, best: bool) -> None:
        kept = self.pick(index)
        name = kept.names[-1] if again and kept.names else f"{kept.run.id}-{len(kept.names)}"
        artifact = Artifact("net", "model", metadata={"name": name})
        with artifact.new_file("weights.txt") as file:
            file.write(name)
        aliases = ["best"] if best and (name, "best") not in kept.asked else []
        kept.run.log_artifact(artifact, aliases=aliases)
        self.note_asked(kept, name, aliases)
        if name not in kept.names:
            kept.names.append(name)
            kept.artifacts.append(artifact)

    @precondition(lambda self: self.running and self.running[0].names)
    @rule(which=st.integers(0, 3), staging=st.booleans())
    def link(self, which: int, staging: bool) -> None:
        kept = self.pick(0)
        name = kept.names[which % len(kept.names)]
        aliases = ["staging"] if staging and (name, "staging") not in kept.asked else []
        artifact = kept.artifacts[which % len(kept.names)]
        kept.run.link_artifact(artifact, f"wandb-registry-model/{self.project}", aliases=aliases)
        kept.linked.add(name)
        self.note_asked(kept, name, aliases)

    def note_asked(self, kept: Kept, name: str, aliases: list[str]) -> None:
        for alias in aliases:
            kept.asked.add((name, alias))
            self.holders[alias] = name

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 3), crashes=st.booleans(), copies=st.booleans())
    def end(self, index: int, crashes: bool, copies: bool) -> None:
        kept = self.pick(index)
        if crashes:
            self.crash(kept)
        else:
            kept.run.finish()
            kept.state = "finished"
        if copies:
            shutil.copytree(kept.folder, self.copies / kept.folder.name)

    def crash(self, kept: Kept) -> None:
        kept.run._sender.keep()
        kept.run._is_open = False
        kept.run._sender._ended.set()
        kept.run._journal.release()
        with (kept.folder / "journal.jsonl").open("a") as journal:
            journal.write('{"kind": "log", "torn')
        kept.state = "failed"

    # --- people -----------------------------------------------------------------------------------

    @rule(
        error=st.sampled_from([None, Killed, Unavailable]),
        countdown=st.integers(0, 25),
        before=st.booleans(),
        copies=st.booleans(),
    )
    def sync(self, error: type[BaseException] | None, countdown: int, before: bool, copies: bool) -> None:
        self.faults.error, self.faults.countdown, self.faults.before = error, countdown, before
        try:
            self.sync_all([self.copies if copies else self.base])
        except (Killed, Unavailable):
            return
        finally:
            self.faults.error = None
        self.check()

    def sync_all(self, paths: list[Path]) -> None:
        for folder in find_folders([path for path in paths if path.exists()]):
            if folder.parent == self.copies or not any(k.folder == folder and k.state == "running" for k in self.runs):
                report = sync_folder(folder)
                assert report is None or report.rejected == []

    @rule(alias=st.sampled_from(["best", "staging"]), index=st.integers(0, 5), removes=st.booleans())
    def move_alias(self, alias: str, index: int, removes: bool) -> None:
        versions = self.versions(alias)
        holder = next((version for version in versions if alias in version["aliases"]), None)
        path = f"{self.series[alias]}/aliases/{alias}"
        if removes and holder:
            assert self.web.delete(path).is_success
            self.holders[alias] = None
        elif others := [version for version in versions if version is not holder]:
            other = others[index % len(others)]
            ok_json(self.web.put(path, json={"version": other["name"]}))
            self.holders[alias] = other["metadata"]["name"]

    # --- what the server has ----------------------------------------------------------------------

    def versions(self, alias: str) -> list[dict[str, Any]]:
        answer = self.web.get(f"{self.series[alias]}/versions?limit=100")
        return [] if answer.status_code == 404 else ok_json(answer)["items"]

    def check(self) -> None:
        """Check the runs that were brought in completely, and all if every run was."""
        arrived = [kept for kept in self.runs if kept.state != "running" and not kept.folder.exists()]
        for kept in arrived:
            path = f"{API}/projects/{self.project}/runs/{kept.run.id}"
            run = ok_json(self.web.get(path))
            assert (run["state"], run["config"], run["name"]) == (kept.state, {"lr": 0.1}, kept.run.name)
            series = ok_json(self.web.get(f"{path}/series?key=loss&limit=1000")) if kept.points else {"values": []}
            assert [to_float(value) for value in series["values"]] == kept.points
        if len(arrived) < len(self.runs):
            return
        logged = sorted(name for kept in self.runs for name in kept.names)
        versions = {alias: self.versions(alias) for alias in self.series}
        assert sorted(version["metadata"]["name"] for version in versions["best"]) == logged
        linked = sorted(name for kept in self.runs for name in kept.linked)
        assert sorted(version["metadata"]["name"] for version in versions["staging"]) == linked
        for alias, found in versions.items():
            holders = [version["metadata"]["name"] for version in found if alias in version["aliases"]]
            assert holders == [name for name in [self.holders[alias]] if name], alias
        assert self.count("artifact-created", f"{self.project}/") == len(logged)
        assert self.count("version-linked", f"model/{self.project}:") == len(linked)
        assert self.count("run-started", f"{self.project}/") == len(self.runs)

    def count(self, kind: str, prefix: str) -> int:
        events = ok_json(self.web.get(f"{API}/events?limit=200&kind={kind}"))["items"]
        return sum(event["subject"].startswith(prefix) for event in events)

    def teardown(self) -> None:
        for kept in self.runs:
            if kept.state == "running":
                self.crash(kept)
        for _ in range(2):
            self.sync_all([self.base, self.copies])
            self.check()
        assert not list(self.base.glob("run-*"))


def to_float(value: Any) -> float:
    """Return a value of a series. What JSON has no number for is a text."""
    return float(value)


def test_the_server_ends_with_what_was_logged(server, sqlite_stores, automations, tmp_path, monkeypatch):
    """Nothing is lost and nothing is there twice; an alias has who was asked for last, offline or on the server."""
    faults = Faults()
    nothing = SimpleNamespace(info={}, start=lambda: None, finish=lambda _: None, add=lambda **_: None)
    nothing.record_cells = lambda: None
    monkeypatch.setattr(recording, "Environment", lambda *_, **__: nothing)
    monkeypatch.setattr(Client, "_send", faults.wrap(Client._send))
    monkeypatch.setattr(sync_module._State, "save", faults.wrap(sync_module._State.save))
    with server.serving(make_deps(sqlite_stores, SystemClock(), automations)) as web:
        url = str(web.base_url)
        for name, value in {"web": web, "folder": tmp_path, "faults": faults}.items():
            monkeypatch.setattr(OfflineRuns, name, value, raising=False)
        monkeypatch.setitem(connection._given, "login", Server(url, None, is_local=True))
        run_state_machine_as_test(
            OfflineRuns,
            settings=settings(
                max_examples=6,
                stateful_step_count=20,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
