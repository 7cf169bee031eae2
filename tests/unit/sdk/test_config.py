import argparse
import sys
from types import SimpleNamespace

import pytest

from upshot.sdk.config import Config


def test_a_mapping_and_attributes():
    """The config is read and written by item and by attribute, and is a mapping in all other ways."""
    config = Config({"lr": 0.1, "model": {"layers": 3}})
    config.batch = 32
    config["seed"] = 7

    assert config.lr == config["lr"] == 0.1
    assert config.get("batch") == 32
    assert config.get("nothing", 5) == 5
    assert list(config.keys()) == ["lr", "model", "batch", "seed"]
    assert dict(config.items()) == dict(config) == config.as_dict() == {**config}
    assert "seed" in config
    assert "nothing" not in config
    assert len(config) == 4
    with pytest.raises(AttributeError, match="nothing"):
        _ = config.nothing
    with pytest.raises(KeyError):
        _ = config["nothing"]


def test_another_value_is_refused():
    """A key that has another value stays as it is, and nothing else of that call is set."""
    config = Config({"lr": 0.1})

    config.lr = 0.1
    config.update({"lr": 0.1})
    for change in (
        lambda: setattr(config, "lr", 0.2),
        lambda: config.update({"new": 1, "lr": 0.2}),
        lambda: config.update({"lr": 0.2}, allow_val_change=False),
    ):
        with pytest.raises(ValueError, match=r"config.lr: it is 0.1, and cannot become 0.2.*allow_val_change=True"):
            change()

    assert config.as_dict() == {"lr": 0.1}


def test_a_change_that_is_allowed():
    """`allow_val_change` of `update`, or of `init`, allows it."""
    config = Config({"lr": 0.1})
    config.update({"lr": 0.2}, allow_val_change=True)
    assert config.lr == 0.2

    lenient = Config({"lr": 0.1}, allow_val_change=True)
    lenient.lr = 0.3
    assert lenient.lr == 0.3
    with pytest.raises(ValueError, match="cannot become"):
        lenient.update({"lr": 1}, allow_val_change=False)


def test_a_change_in_a_notebook(monkeypatch):
    """In a notebook a value may be changed, unless `allow_val_change=False`."""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    config = Config({"lr": 0.1})

    config.lr = 0.2

    assert config.lr == 0.2
    with pytest.raises(ValueError, match="cannot become"):
        config.update({"lr": 1}, allow_val_change=False)


def test_setdefaults():
    """`setdefaults` sets what is missing."""
    config = Config({"lr": 0.1})

    config.setdefaults({"lr": 1, "batch": 2})

    assert config.as_dict() == {"lr": 0.1, "batch": 2}


def test_what_update_takes():
    """Mappings, namespaces, absl's flags and the config of another run are accepted as they are."""
    config = Config(argparse.Namespace(lr=0.1, path=None))
    config.update(Config({"other": [1, 2]}))
    config.update(SimpleNamespace(flag_values_dict=lambda: {"flag": True}))
    config.update({"--dashes": 1, 3: "three"})

    assert config.as_dict() == {
        "lr": 0.1,
        "path": None,
        "other": [1, 2],
        "flag": True,
        "dashes": 1,
        "3": "three",
    }
    with pytest.raises(ValueError, match="not a list"):
        config.update([("a", 1)])


def test_values_become_json():
    """Tuples are lists, NaN is null, objects are texts, and infinity is refused."""

    class Optimizer:
        def __str__(self):
            return "Optimizer(lr=1)"

    config = Config({"t": (1, 2), "nan": float("nan"), "optimizer": Optimizer(), "deep": {1: {"x": {2, 1}}}})

    assert config.as_dict() == {
        "t": [1, 2],
        "nan": None,
        "optimizer": "Optimizer(lr=1)",
        "deep": {"1": {"x": [1, 2]}},
    }
    with pytest.raises(ValueError, match=r"config.lr: inf"):
        config.lr = float("inf")
    with pytest.raises(ValueError, match="bytes of JSON"):
        config.text = "x" * 300_000


def test_changes_are_reported():
    """The run gets the values that were set, as JSON."""
    seen: list[dict[str, object]] = []
    config = Config(on_change=seen.append)

    config.lr = 0.1
    config.update({"a": (1,)})
    config.setdefaults({"a": 2})

    assert seen == [{"lr": 0.1}, {"a": [1]}]
