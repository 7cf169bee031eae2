"""The structure of the code: layers, module names, docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points

from tests.project.repository import ROOT, tracked_files

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc"}
MODULES = [path for path in tracked_files() if path.suffix == ".py"]


def test_imports_flow_one_way():
    """Every module belongs to a layer and imports only from the layers below."""
    program = sys.executable.replace("python", "lint-imports")

    done = subprocess.run([program, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_modules_are_named_after_their_subject():
    """No module is called utils, helpers, common, manager or base."""
    assert MODULES
    assert not [path for path in MODULES if path.stem in VAGUE_NAMES or path.parent.name in VAGUE_NAMES]


def test_every_package_has_an_init_file():
    """import-linter does not see a directory of modules without `__init__.py`."""
    directories = {path.parent for path in MODULES if ROOT / "src" in path.parents}
    exempt = {"migrations", "versions"}  # Alembic loads these files by their path

    assert not [
        directory
        for directory in directories
        if not (directory / "__init__.py").exists() and directory.name not in exempt
    ]


def test_every_module_has_a_docstring():
    """The first statement of a module in src says what the module is for."""
    missing = [
        path for path in MODULES if ROOT / "src" in path.parents and not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert not missing


def test_every_test_states_its_promise():
    """Each test function has a docstring."""
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in MODULES
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if not ast.get_docstring(node)
    ]

    assert not missing


def test_the_upshot_command_can_be_imported():
    """The console script that the package declares exists."""
    (command,) = [point for point in entry_points(group="console_scripts") if point.name == "upshot"]

    assert callable(command.load())
