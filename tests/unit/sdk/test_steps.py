import json
import math
import threading

import pytest

from upshot.sdk.media.image import Image
from upshot.sdk.media.plot import confusion_matrix
from upshot.sdk.media.table import Table
from upshot.sdk.metrics import read_metric
from upshot.sdk.steps import MAX_REQUEST_VALUES, Steps


class Scalar:
    """A number as a tensor that requires a gradient: `numpy()` fails, and so does everything but `item()`."""

    shape: tuple[int, ...] = ()

    def __init__(self, value):
        self._value = value

    def item(self):
        return self._value

    def numpy(self):
        raise RuntimeError("call detach() first")

    __array__ = __float__ = numpy


class Logged:
    """Steps, and what was taken of them."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.full = 0
        self.steps = Steps(add_file=self.files.__setitem__, on_full=self._on_full)

    def _on_full(self):
        self.full += 1

    def bodies(self):
        return [json.loads(f"{{{body}}}") for body in self.steps.take(age_seconds=0)]

    def rows(self):
        return [(row["step"], row["values"]) for body in self.bodies() for row in body.get("rows", ())]


@pytest.fixture
def logged():
    return Logged()


def test_each_call_is_a_step(logged):
    """Without arguments each call is a step; `commit=False` adds to the next one."""
    logged.steps.log({"a": 1})
    logged.steps.log({"a": 2}, commit=False)
    logged.steps.log({"b": 3})
    logged.steps.log({"a": 4})

    assert logged.rows() == [(0, {"a": 1}), (1, {"a": 2, "b": 3}), (2, {"a": 4})]
    assert logged.steps.step == 3


def test_calls_of_one_step_merge(logged):
    """With `step`, calls of the same step add to it, and the last value of a key counts."""
    logged.steps.log({"a": 1}, step=5)
    logged.steps.log({"b": 2, "a": 3}, step=5)
    logged.steps.log({"a": 4}, step=Scalar(6.0))
    logged.steps.log({"c": 5}, step=6, commit=True)
    logged.steps.log({"a": 6})

    assert logged.rows() == [(5, {"a": 3, "b": 2}), (6, {"a": 4, "c": 5}), (7, {"a": 6})]


def test_an_earlier_step_is_dropped_with_one_warning(logged, capsys):
    """Values of a step that is over are dropped. One note says so."""
    logged.steps.log({"a": 1}, step=5)
    logged.steps.log({"a": 2}, step=4)
    logged.steps.log({"a": 3}, step=3)
    logged.steps.log({"a": 4}, step=-1)

    assert logged.rows() == [(5, {"a": 1})]
    assert capsys.readouterr().err.count("log(step=") == 1


@pytest.mark.parametrize("step", ["1", 1.5, True, math.inf, [1], 2**60], ids=repr)
def test_a_step_of_another_kind(logged, step):
    """A step must be a whole number."""
    with pytest.raises(TypeError, match="step"):
        logged.steps.log({"a": 1}, step=step)


def test_a_step_that_is_not_complete_is_sent_when_it_is_old(logged):
    """The values of a step that takes long are not kept back until it ends."""
    logged.steps.log({"a": 1}, step=0)
    assert logged.steps.take(age_seconds=60) == []

    assert logged.rows() == [(0, {"a": 1})]
    logged.steps.log({"b": 2}, step=0)
    assert logged.rows() == [(0, {"b": 2})]


def test_values(logged):
    """Plain values, nested mappings, lists and tensors without dimensions are kept; keys may contain slashes."""
    value = 0.1 + 0.2
    logged.steps.log(
        {
            "train/loss": value,
            "int": 3,
            "text": "ok",
            "flag": True,
            "none": None,
            "nested": {"a": 1, "b": {"c": 2}},
            "empty": {},
            "list": [1, [2.5, "x"]],
            "tuple": (1, 2),
            "scalar": Scalar(2.5),
            "nul": "a\x00b",
        }
    )

    ((_, values),) = logged.rows()
    assert values == {
        "train/loss": value,
        "int": 3,
        "text": "ok",
        "flag": True,
        "none": None,
        "nested.a": 1,
        "nested.b.c": 2,
        "empty": {},
        "list": [1, [2.5, "x"]],
        "tuple": [1, 2],
        "scalar": 2.5,
        "nul": "a\ufffdb",
    }
    assert values["flag"] is True


def test_numbers_that_json_lacks(logged):
    """NaN and the infinities are sent as texts, and the summary of the program has the numbers."""
    logged.steps.log({"a": math.nan, "b": math.inf, "c": -math.inf, "d": [math.nan], "e": Scalar(math.inf)})

    ((_, values),) = logged.rows()
    assert values == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": ["NaN"], "e": "Infinity"}
    assert math.isnan(logged.steps.summary["a"])


class Vector(Scalar):
    shape = (2,)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", lambda: 1, Vector(1), 1j], ids=lambda value: type(value).__name__
)
def test_what_cannot_be_logged(logged, value):
    """Any other object raises TypeError with its key, and nothing of the call is logged."""
    with pytest.raises(TypeError, match="bad"):
        logged.steps.log({"good": 1, "bad": value})
    with pytest.raises(TypeError, match=r"nested\.bad"):
        logged.steps.log({"nested": {"bad": value}})

    assert logged.rows() == []


@pytest.mark.parametrize("data", [{1: 2}, {None: 1}, [("a", 1)], "a", None, {"": 1}], ids=repr)
def test_other_data_than_a_mapping(logged, data):
    """`log` takes a mapping whose keys are texts."""
    with pytest.raises(TypeError):
        logged.steps.log(data)


def test_a_value_that_is_too_large(logged, capsys):
    """A text of 10 MB is left out with a note that names its key; the rest is kept."""
    logged.steps.log({"large": "x" * 10_000_000, "a": 1})
    logged.steps.log({"_step": 7, "a": 2})

    assert logged.rows() == [(0, {"a": 1}), (1, {"a": 2})]
    assert "'large' has" in capsys.readouterr().err


def test_many_keys(logged):
    """A step with more values than a request may have is sent in parts, and none is missing."""
    logged.steps.log({f"key-{number}": number for number in range(12_000)})

    bodies = logged.bodies()
    rows = [row for body in bodies for row in body.get("rows", ())]
    assert {row["step"] for row in rows} == {0}
    assert sum(len(row["values"]) for row in rows) == 12_000
    assert sum(len(body.get("summary", ())) for body in bodies) == 12_000
    for body in bodies:
        assert sum(len(row["values"]) for row in body.get("rows", ())) <= MAX_REQUEST_VALUES
        assert len(body.get("summary", ())) <= MAX_REQUEST_VALUES


def test_large_numbers_of_rows_are_cut(logged):
    """Many steps become several requests of a size that the server takes."""
    for number in range(10_000):
        logged.steps.log({"a": number, "b": 0.5})

    bodies = logged.bodies()
    assert logged.full
    assert max(len(body["rows"]) for body in bodies) <= MAX_REQUEST_VALUES
    assert [row["step"] for body in bodies for row in body["rows"]] == list(range(10_000))


def test_threads(logged):
    """Calls of several threads are steps of their own, and none is lost."""

    def work():
        for _ in range(500):
            logged.steps.log({"a": 1})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [step for step, _ in logged.rows()] == list(range(2_000))


# --- summary --------------------------------------------------------------------------------------


def test_the_summary_has_the_last_values(logged):
    """The summary is read by item and attribute, and nested values as a mapping."""
    logged.steps.log({"loss": 2, "test": {"acc": 0.5}})
    logged.steps.log({"loss": 1})
    summary = logged.steps.summary

    assert summary["loss"] == summary.loss == summary.get("loss") == 1
    assert summary["test"]["acc"] == summary["test.acc"] == 0.5
    assert dict(summary) == {"loss": 1, "test.acc": 0.5}
    assert "test" in summary
    assert "nothing" not in summary
    assert logged.bodies()[-1]["summary"] == {"loss": 1, "test.acc": 0.5}


def test_what_was_set_by_hand_wins(logged):
    """A value that was set by hand stays, whatever is logged later."""
    summary = logged.steps.summary
    summary["best"] = 3
    summary.acc = Scalar(0.9)
    summary.update({"test": {"f1": 0.8}})
    logged.steps.log({"best": 1, "acc": 0.1, "other": 5})

    assert dict(summary) == {"best": 3, "acc": 0.9, "test.f1": 0.8, "other": 5}
    assert logged.bodies()[-1]["summary"] == dict(summary)
    with pytest.raises(TypeError, match="bad"):
        summary["bad"] = object()
    del summary["best"]
    assert "best" not in summary


# --- define_metric --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ("min", {"loss": 1}),
        ("max", {"loss": 3}),
        ("mean", {"loss": 2.0}),
        ("last", {"loss": 2}),
        ("first", {"loss": 3}),
        ("none", {}),
        ("min,max", {"loss.min": 1, "loss.max": 3}),
    ],
)
def test_summary_of_a_metric(logged, operations, expected):
    """`define_metric(summary=…)` says which value the summary has. NaN does not count."""
    logged.steps.define(read_metric("loss", None, None, None, operations, None))

    for value in (3, math.nan, 1, 2):
        logged.steps.log({"loss": value})

    assert dict(logged.steps.summary) == expected
    assert logged.bodies()[-1].get("summary", {}) == expected


def test_names_with_a_star_and_axes(logged):
    """`*` defines all metrics that begin alike; the more precise name wins; the axis is added to a step."""
    logged.steps.define(read_metric("epoch", None, None, None, None, None))
    logged.steps.define(read_metric("val/*", "epoch", None, None, "min", None))
    found = logged.steps.define(read_metric("val/acc", None, None, None, "max", None))

    logged.steps.log({"epoch": 1})
    logged.steps.log({"val/loss": 2, "val/acc": 0.5})
    logged.steps.log({"val/loss": 3, "val/acc": 0.4, "epoch": 2})

    assert dict(logged.steps.summary) == {"epoch": 2, "val/loss": 2, "val/acc": 0.5}
    assert logged.rows()[1] == (1, {"val/loss": 2, "val/acc": 0.5, "epoch": 1})
    assert found["val/*"] == {"step_metric": "epoch", "summary": "min"}


@pytest.mark.parametrize(
    "arguments",
    [("", None), ("a*b", None), (1, None), ("a", "median"), ("a", 5)],
    ids=repr,
)
def test_definitions_that_are_wrong(arguments):
    """A wrong argument of `define_metric` is an error."""
    name, summary = arguments
    with pytest.raises(ValueError, match="define_metric"):
        read_metric(name, None, None, None, summary, None)


# --- media ----------------------------------------------------------------------------------------


def test_media_are_files(logged):
    """Tables, images, figures and confusion matrices become files, and the values name them."""

    class Figure:
        def savefig(self, file, format):  # noqa: A002 - as matplotlib's
            file.write(f"figure as {format}".encode())

    logged.steps.log(
        {
            "t/able": Table(columns=["a", "image"], data=[[1, Image([[0, 255]])]]),
            "image": Image([[0, 255]], caption="two"),
            "images": [Image([[0]]), Image([[255]])],
            "figure": Figure(),
            "matrix": confusion_matrix(y_true=[0, 1, 1], preds=[0, 1, 0]),
        }
    )

    ((_, values),) = logged.rows()
    assert [values[key]["_type"] for key in ("t/able", "image", "figure", "matrix")] == [
        "table",
        "image",
        "image",
        "confusion-matrix",
    ]
    table = json.loads(logged.files[values["t/able"]["path"]])
    assert table["columns"] == ["a", "image"]
    assert table["data"][0][1]["path"] in logged.files
    assert (values["image"]["width"], values["image"]["height"], values["image"]["caption"]) == (2, 1, "two")
    assert [value["_type"] for value in values["images"]] == ["image", "image"]
    assert logged.files[values["figure"]["path"]] == b"figure as png"
    assert json.loads(logged.files[values["matrix"]["path"]])["counts"] == [[1, 0], [1, 1]]
    assert all(path.startswith("media/") for path in logged.files)
