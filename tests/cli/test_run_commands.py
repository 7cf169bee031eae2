"""The commands about runs, against a web server."""

from __future__ import annotations

import csv
import io
import json

import pytest
from click.testing import CliRunner, Result

from tests.web.conftest import API, Stores, ok_json
from upshot.cli import main


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


@pytest.fixture
def run(web):
    """Return a function that runs a command, and checks its exit code."""

    def run(*words: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["runs", *words], prog_name="upshot", env={"UPSHOT_URL": str(web.base_url)})
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture(autouse=True)
def two_runs(web):
    """Make a run with metrics that has ended, and one that runs."""
    first = f"{API}/projects/nature/runs/ab12cd34"
    ok_json(
        web.put(
            first,
            json={"session": "s", "name": "calm lake", "job_type": "training", "config": {"lr": 0.1, "net": {"d": 2}}},
        )
    )
    rows = [{"step": step, "time": step, "values": {"loss": 1 / (step + 1), "=acc": step}} for step in range(3)]
    body = {"session": "s", "sequence": 0, "rows": rows, "summary": {"loss": 0.25}}
    ok_json(web.post(f"{first}/log", json=body))
    ok_json(web.post(f"{first}/finish", json={"exit_code": 0}))
    ok_json(web.put(f"{API}/projects/nature/runs/r2", json={"name": "wild owl", "config": {"lr": 0.2}, "tags": ["x"]}))


def rows_of(result: Result) -> list[list[str]]:
    return list(csv.reader(io.StringIO(result.output)))


def test_runs_are_listed_with_columns_of_their_own(run):
    """Columns come from the config or the summary."""
    table = rows_of(run("list", "nature", "--column", "config.lr", "--column", "summary.loss", "--csv"))

    assert [row[:6] for row in table] == [
        ["id", "name", "state", "job type", "config.lr", "summary.loss"],
        ["r2", "wild owl", "running", "", "0.2", ""],
        ["ab12cd34", "calm lake", "finished", "training", "0.1", "0.25"],
    ]
    assert "config.net.d" in run("list", "nature", "--column", "config.net.d").output
    assert "write config.KEY or summary.KEY" in run("list", "nature", "--column", "loss", exit_code=2).output


def test_a_run_is_shown(run):
    """What it was started with and what came of it."""
    shown = run("show", "nature/ab12cd34").output

    assert "calm lake" in shown
    assert "finished" in shown
    assert "lr" in shown
    assert json.loads(run("show", "team/nature/ab12cd34", "--json").output)["summary"] == {"loss": 0.25}


def test_the_history_is_exact(run):
    """`--all` prints every row; a key that looks like a formula is marked in CSV."""
    assert rows_of(run("history", "nature/ab12cd34", "--all", "--csv")) == [
        ["_step", "_timestamp", "'=acc", "loss"],
        ["0", "0.0", "0", "1.0"],
        ["1", "1.0", "1", "0.5"],
        ["2", "2.0", "2", repr(1 / 3)],
    ]
    assert "0.5" in run("history", "nature/ab12cd34", "--key", "loss").output
    assert "exclude each other" in run("history", "nature/ab12cd34", "--all", "--samples", "3", exit_code=2).output


def test_the_history_of_several_metrics(run, web):
    """Only rows that have all of them, whatever they are called; numbers that JSON does not have are numbers in CSV."""
    rows = [{"step": 0, "time": 0, "values": {"step": 7, "a,b": "-Infinity", "list": ["ö"]}}]
    rows.append({"step": 1, "time": 1, "values": {"step": 8}})
    body = {"session": "s", "sequence": 0, "rows": rows}
    ok_json(web.put(f"{API}/projects/nature/runs/r3", json={"session": "s"}))
    ok_json(web.post(f"{API}/projects/nature/runs/r3/log", json=body))

    assert rows_of(run("history", "nature/r3", "--key", "step", "--key", "a,b", "--csv")) == [
        ["_step", "_timestamp", "step", "a,b"],
        ["0", "0.0", "7", "-inf"],
    ]
    assert rows_of(run("history", "nature/r3", "--key", "list", "--csv"))[1][2] == '["ö"]'
    assert "no row with these metrics" in run("history", "nature/r3", "--key", "step", "--key", "none").output
    assert "--samples" in run("history", "nature/r3", "--samples", "10001", exit_code=2).output
    for words in (["history", "nature/r3"], ["list", "nature"], ["compare", "nature/r3", "nature/r2"]):
        assert "exclude each other" in run(*words, "--csv", "--json", exit_code=2).output


def test_many_metrics_are_cut_in_the_table(run, web):
    """A table has 40 of them, and says how many more there are; CSV has all."""
    values = {f"k{number}": number for number in range(1_000)}
    ok_json(web.put(f"{API}/projects/nature/runs/r3", json={"session": "s"}))
    body = {"session": "s", "sequence": 0, "rows": [{"step": 0, "time": 0, "values": values}]}
    ok_json(web.post(f"{API}/projects/nature/runs/r3/log", json=body))

    assert "and 960 more metrics" in run("history", "nature/r3").output
    assert len(rows_of(run("history", "nature/r3", "--csv"))[0]) == 1_002


def test_texts_of_several_lines(run, web):
    """The lines of a value stand below each other; a value that is null is not an empty text."""
    ok_json(web.put(f"{API}/projects/nature/runs/r3", json={"config": {"größe 大": "one\ntwo", "nothing": None}}))

    assert "  größe 大  one\n            two\n  nothing   null\n" in run("show", "nature/r3").output


def test_runs_are_compared(run):
    """Only what differs is shown."""
    table = rows_of(run("compare", "nature/ab12cd34", "nature/r2", "--csv"))

    assert table == [
        ["key", "nature/ab12cd34", "nature/r2"],
        ["config.lr", "0.1", "0.2"],
        ["config.net", '{"d": 2}', ""],
        ["summary.loss", "0.25", ""],
    ]
    assert "name the runs to compare" in run("compare", "nature/r2", exit_code=2).output
    assert rows_of(run("compare", "nature/r2", "--all", "--csv")) == [["key", "nature/r2"], ["config.lr", "0.2"]]


def test_a_run_is_tagged_and_stopped(run):
    """The program learns of the stop when it next sends something."""
    assert "a, x" in run("tag", "nature/r2", "a").output
    assert "has the tags: a" in run("tag", "nature/r2", "x", "--remove").output
    assert "the name is empty" in run("tag", "nature/r2", "b", "", exit_code=1).output
    assert "b" not in json.loads(run("show", "nature/r2", "--json").output)["tags"]
    assert "is asked to stop" in run("stop", "nature/r2").output
    assert "has ended already" in run("stop", "nature/ab12cd34").output


def test_a_run_is_deleted_after_a_question(run):
    """Without an answer, nothing is deleted."""
    assert "Its artifacts stay" in run("delete", "nature/r2", exit_code=1).output
    assert "deleted nature/r2" in run("delete", "nature/r2", "--yes").output
    assert "has no run 'r2'" in run("show", "nature/r2", exit_code=1).output


def test_what_is_no_run_is_refused(run):
    """The message shows the form."""
    assert "write PROJECT/RUN" in run("show", "ab12cd34", exit_code=2).output
    assert "write its name" in run("list", "team/nature/ab12cd34", exit_code=2).output
    assert "calm lake" in run("list", "team/nature").output
