"""The shape of the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from tests.project.repository import ROOT, tracked_files

SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc"}
MODULES = [path for path in tracked_files() if path.suffix == ".py"]


def test_imports_flow_one_way():
    """Every module has a place among the layers and imports only from below."""
    program = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run([program, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_modules_are_named_for_their_subject():
    """No module is called utils, helpers, common, manager or base."""
    assert MODULES
    assert not [path for path in MODULES if path.stem in SAYS_NOTHING or path.parent.name in SAYS_NOTHING]


def test_every_package_folder_is_a_package():
    """A folder of modules without `__init__.py` would be left out of the layers unseen."""
    folders = {path.parent for path in MODULES if ROOT / "src" in path.parents}
    exempt = {"migrations", "versions"}  # files that Alembic loads by their place

    assert not [folder for folder in folders if not (folder / "__init__.py").exists() and folder.name not in exempt]


def test_every_module_says_what_it_is_for():
    """The first statement of a module in src is its docstring."""
    silent = [
        path for path in MODULES if ROOT / "src" in path.parents and not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert not silent


def test_every_test_states_its_promise():
    """Each test function has a docstring."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in MODULES
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if not ast.get_docstring(node)
    ]

    assert not silent


def test_the_command_resolves():
    """The `upshot` command that the package declares can be imported."""
    (command,) = [point for point in entry_points(group="console_scripts") if point.name == "upshot"]

    assert callable(command.load())
