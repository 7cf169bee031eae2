"""Notebooks: whether the program runs in one, and the cells in the order in which they were run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

_NOTEBOOK_SHELLS = frozenset({"ZMQInteractiveShell", "Shell"})  # Jupyter's kernel, and Colab's


def _shell() -> Any:
    """Return the shell of the notebook, or None. IPython is not imported: in a notebook it is loaded already."""
    ipython = sys.modules.get("IPython")
    get_ipython = getattr(ipython, "get_ipython", None)
    shell = get_ipython() if get_ipython is not None else None
    return shell if type(shell).__name__ in _NOTEBOOK_SHELLS else None


def in_notebook() -> bool:
    """Return whether the program runs in a notebook."""
    return _shell() is not None


def read_cells() -> list[str]:
    """Return the source of the cells that were run, in that order."""
    shell = _shell()
    return [str(cell) for cell in shell.user_ns.get("In", ())[1:]] if shell is not None else []


def cells_as_notebook(cells: list[str]) -> str:
    """Return a notebook file with these cells."""
    return json.dumps(
        {
            "cells": [
                {
                    "cell_type": "code",
                    "execution_count": number,
                    "metadata": {},
                    "outputs": [],
                    "source": cell.splitlines(keepends=True),
                }
                for number, cell in enumerate(cells, 1)
            ],
            "metadata": {"language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 4,
        },
        indent=1,
    )


def after_each_cell(work: Callable[[], None]) -> None:
    """Call a function after each cell of the notebook, if there is one."""
    shell = _shell()
    if shell is not None:
        shell.events.register("post_run_cell", lambda *_: work())
