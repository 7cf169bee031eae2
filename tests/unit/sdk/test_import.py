import subprocess
import sys

import pytest

import upshot


def test_importing_loads_nothing():
    """`import upshot` loads neither the SDK nor an HTTP library, and `init` and `Artifact` load no HTTP library."""
    program = (
        "import sys, upshot\n"
        "assert not [name for name in sys.modules if name.startswith('upshot.')]\n"
        "upshot.init, upshot.Artifact('a', 'model')\n"
        "assert not {'httpx', 'fastapi', 'sqlalchemy', 'celery'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_missing_says_so():
    """`hasattr` is honest for what W&B has and Upshot does not, and the error has a remedy."""
    assert not hasattr(upshot, "sweep")
    with pytest.raises(AttributeError, match="group= in init"):
        _ = upshot.sweep
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = upshot.nothing
    for name in ("Video", "Html", "Histogram", "agent", "controller", "integration", "Settings"):
        with pytest.raises(AttributeError, match=f"upshot has no '{name}'; "):
            getattr(upshot, name)
    assert {"init", "Artifact", "Api", "config", "summary"} <= set(dir(upshot))


@pytest.mark.parametrize("name", sorted(set(upshot.__all__) - {"run"}))
def test_every_public_name_exists(name):
    """Each name in `__all__` can be used."""
    assert getattr(upshot, name) is not None


@pytest.mark.parametrize(
    "name",
    [
        *("log", "define_metric", "save", "watch", "unwatch", "alert"),
        *("log_artifact", "use_artifact", "link_artifact", "log_model", "use_model", "link_model"),
    ],
)
def test_functions_need_a_run(name):
    """Before `init`, the functions of the module say that it must be called."""
    two = {"link_artifact", "link_model", "alert"}
    arguments = ("a", "b") if name in two else ("a",)

    assert upshot.run is None
    with pytest.raises(upshot.Error, match=rf"You must call upshot.init\(\) before upshot.{name}\(\)"):
        getattr(upshot, name)(*arguments)


@pytest.mark.parametrize("name", ["config", "summary"])
def test_values_need_a_run(name):
    """Before `init`, `upshot.config` and `upshot.summary` say that it must be called, and `hasattr` is honest."""
    with pytest.raises(upshot.Error, match=rf"You must call upshot.init\(\) before upshot.{name}"):
        getattr(upshot, name)
    assert not hasattr(upshot, name)
