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
    from upshot.sdk.alerts import AlertLevel
    from upshot.sdk.api import Api
    from upshot.sdk.artifact import Artifact
    from upshot.sdk.config import Config
    from upshot.sdk.connection import login
    from upshot.sdk.evaluation import Evaluation, evaluate
    from upshot.sdk.media import plot
    from upshot.sdk.media.image import Image
    from upshot.sdk.media.table import Table
    from upshot.sdk.run import Run
    from upshot.sdk.session import (
        alert,
        define_metric,
        finish,
        init,
        link_artifact,
        link_model,
        log,
        log_artifact,
        log_model,
        save,
        unwatch,
        use_artifact,
        use_model,
        watch,
    )
    from upshot.sdk.summary import Summary
    from upshot.sdk.ttl import ArtifactTTL

    api: Api
    run: Run | None
    config: Config
    summary: Summary

__version__ = "0.1.0"

__all__ = [
    "AlertLevel",
    "Api",
    "Artifact",
    "ArtifactTTL",
    "Error",
    "Evaluation",
    "Image",
    "Run",
    "Table",
    "__version__",
    "alert",
    "api",
    "define_metric",
    "evaluate",
    "finish",
    "init",
    "link_artifact",
    "link_model",
    "log",
    "log_artifact",
    "log_model",
    "login",
    "plot",
    "run",
    "save",
    "unwatch",
    "use_artifact",
    "use_model",
    "watch",
]

_SESSION = "upshot.sdk.session"
_HOMES = {
    "AlertLevel": "upshot.sdk.alerts",
    "Api": "upshot.sdk.api",
    "Artifact": "upshot.sdk.artifact",
    "ArtifactTTL": "upshot.sdk.ttl",
    "Error": "upshot.errors",
    "Evaluation": "upshot.sdk.evaluation",
    "Image": "upshot.sdk.media.image",
    "Run": "upshot.sdk.run",
    "Table": "upshot.sdk.media.table",
    "alert": _SESSION,
    "define_metric": _SESSION,
    "evaluate": "upshot.sdk.evaluation",
    "finish": _SESSION,
    "init": _SESSION,
    "link_artifact": _SESSION,
    "link_model": _SESSION,
    "log": _SESSION,
    "log_artifact": _SESSION,
    "log_model": _SESSION,
    "login": "upshot.sdk.connection",
    "save": _SESSION,
    "unwatch": _SESSION,
    "use_artifact": _SESSION,
    "use_model": _SESSION,
    "watch": _SESSION,
}
#: What W&B's SDK has and this one does not, with the remedy.
_CALLBACK = "log the metrics in a callback of the framework"
_FILE = "add the file to an artifact, or keep it with save()"
_FIGURE = "log a figure of matplotlib, or the numbers as a Table"
_SWEEP = "start the runs of a sweep yourself, with group= in init()"
_MISSING = {
    "Audio": _FILE,
    "EvalTable": "log a Table",
    "Graph": _FILE,
    "Histogram": _FIGURE,
    "Html": _FILE,
    "Molecule": _FILE,
    "Object3D": _FILE,
    "Plotly": _FIGURE,
    "Settings": "leave settings= out of init()",
    "Video": _FILE,
    "agent": _SWEEP,
    "box3d": _FILE,
    "controller": _SWEEP,
    "integration": _CALLBACK,
    "join": "use finish()",
    "keras": _CALLBACK,
    "lightgbm": _CALLBACK,
    "log_code": "use init(save_code=True) or save()",
    "plot_table": _FIGURE,
    "restore": "use Api().run(path).file(name).download()",
    "sacred": _CALLBACK,
    "setup": "leave it out: init() is enough",
    "sklearn": _CALLBACK,
    "sweep": _SWEEP,
    "teardown": "use finish()",
    "xgboost": _CALLBACK,
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "run":
        return import_module(_SESSION).current_run()
    if name in {"config", "summary"}:
        run = import_module(_SESSION).current_run()
        if run is None:
            raise import_module("upshot.sdk.sdk_errors").NoRunValue(f"You must call upshot.init() before upshot.{name}")
        return getattr(run, name)
    if name == "api":
        return import_module(_HOMES["Api"]).Api()
    if name == "plot":
        return import_module("upshot.sdk.media.plot")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), "UpshotError" if name == "Error" else name)
        globals()[name] = value
        return value
    remedy = f"; {_MISSING[name]}" if name in _MISSING else ""
    raise AttributeError(f"upshot has no {name!r}{remedy}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "config", "summary"})
