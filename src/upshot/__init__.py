"""
Upshot: when a model changes in the registry, make the rest happen.

Programs use this module in place of W&B's: `import upshot as wandb`. A name loads its module when it is first used, so
that `import upshot` takes no time.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, without importing it

if TYPE_CHECKING:
    from typing import Any

    from upshot.errors import UpshotError as Error
    from upshot.sdk.api import Api
    from upshot.sdk.artifact import Artifact
    from upshot.sdk.connection import login
    from upshot.sdk.run import Run
    from upshot.sdk.session import (
        finish,
        init,
        link_artifact,
        link_model,
        log,
        log_artifact,
        log_model,
        use_artifact,
        use_model,
    )

    run: Run | None

__version__ = "0.1.0"

__all__ = [
    "Api",
    "Artifact",
    "Error",
    "Run",
    "__version__",
    "finish",
    "init",
    "link_artifact",
    "link_model",
    "log",
    "log_artifact",
    "log_model",
    "login",
    "run",
    "use_artifact",
    "use_model",
]

_SESSION = "upshot.sdk.session"
_HOMES = {
    "Api": "upshot.sdk.api",
    "Artifact": "upshot.sdk.artifact",
    "Error": "upshot.errors",
    "Run": "upshot.sdk.run",
    "finish": _SESSION,
    "init": _SESSION,
    "link_artifact": _SESSION,
    "link_model": _SESSION,
    "log": _SESSION,
    "log_artifact": _SESSION,
    "log_model": _SESSION,
    "login": "upshot.sdk.connection",
    "use_artifact": _SESSION,
    "use_model": _SESSION,
}
#: What W&B's SDK has and this one does not, with the remedy.
_MISSING = {
    "Audio": "add the file to an artifact",
    "Html": "add the file to an artifact",
    "Image": "add the file to an artifact",
    "Molecule": "add the file to an artifact",
    "Object3D": "add the file to an artifact",
    "Table": "write the rows to a file, and add it to an artifact",
    "Video": "add the file to an artifact",
    "agent": "start the runs of a sweep yourself, with group= in init()",
    "controller": "start the runs of a sweep yourself, with group= in init()",
    "summary": "put values into the metadata of an artifact",
    "sweep": "start the runs of a sweep yourself, with group= in init()",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "run":
        return import_module(_SESSION).current_run()
    if name == "config":
        run = import_module(_SESSION).current_run()
        if run is None:
            raise AttributeError("You must call upshot.init() before upshot.config")
        return run.config
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), "UpshotError" if name == "Error" else name)
        globals()[name] = value
        return value
    remedy = f"; {_MISSING[name]}" if name in _MISSING else ""
    raise AttributeError(f"upshot has no {name!r}{remedy}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
