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
    assert {"init", "Artifact", "Api"} <= set(dir(upshot))


@pytest.mark.parametrize("name", sorted(set(upshot.__all__) - {"run"}))
def test_every_public_name_exists(name):
    """Each name in `__all__` can be used."""
    assert getattr(upshot, name) is not None


@pytest.mark.parametrize(
    "name", ["log", "log_artifact", "use_artifact", "link_artifact", "log_model", "use_model", "link_model"]
)
def test_functions_need_a_run(name):
    """Before `init`, the functions of the module say that it must be called."""
    arguments = {"link_artifact": ("a", "b"), "link_model": ("a", "b")}.get(name, ("a",))

    assert upshot.run is None
    with pytest.raises(upshot.Error, match=rf"You must call upshot.init\(\) before upshot.{name}\(\)"):
        getattr(upshot, name)(*arguments)
