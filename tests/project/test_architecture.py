"""docs/architecture.md names files and functions that exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.project.repository import ROOT, tracked_files

PAGE = (ROOT / "docs" / "architecture.md").read_text()
MENTION = re.compile(r"`((?:src|tests|docs)/[\w./-]*)`(?:: ((?:`\w+`(?:, )?)+))?")


def definitions(path):
    """Return the names of all functions and classes in a module."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("path", "names"), sorted(set(MENTION.findall(PAGE))))
def test_files_and_functions_exist(path, names):
    """Each path exists, and the functions and classes named after it are defined in that file."""
    assert (ROOT / path).exists(), path
    if names:
        assert set(re.findall(r"\w+", names)) <= definitions(ROOT / path)


def test_every_package_is_in_the_table_of_layers():
    """The table of layers lists every package of src/upshot."""
    section = PAGE[PAGE.index("## Layers") : PAGE.index("Each third-party library")]
    packages = {
        path.relative_to(ROOT).parts[2]
        for path in tracked_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[:2] == ("src", "upshot") and path.parts[-2] != "upshot"
    }

    assert packages <= set(re.findall(r"`(\w+)`", section))
