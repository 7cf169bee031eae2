"""The repository itself: what is written in it, what a release is made of."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml

from tests.project.repository import PAGES, ROOT, tracked_files

TEXTS = [path for path in tracked_files() if path.suffix not in {".lock", ".png"} and path.name != "LICENSE"]
FRAGMENT_KINDS = {
    kind["directory"] for kind in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
}


def test_no_path_of_a_machine():
    """Nothing here names a folder that only its author has."""
    machine_path = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/\w+")
    exempt = {"Dockerfile", "test_repository.py"}

    found = {
        f"{path.relative_to(ROOT)}: {hit.group()}"
        for path in TEXTS
        if path.name not in exempt
        for hit in machine_path.finditer(path.read_text())
    }

    assert not found


def test_links_between_pages_lead_somewhere():
    """A relative link of a page names a file that exists."""
    link = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")

    dead = [
        (page.name, target)
        for page in PAGES
        for target in link.findall(page.read_text())
        if not (page.parent / target).exists()
    ]

    assert not dead


def test_changelog_fragments_are_well_formed():
    """Each fragment is `+word.kind.md` or `number.kind.md`, of a known kind, and says something in whole sentences."""
    fragments = [path for path in (ROOT / "changelog.d").iterdir() if not path.name.startswith(".")]

    assert fragments
    for path in fragments:
        name = re.fullmatch(r"(?:\+[a-z0-9-]+|\d+)\.([a-z]+)\.md", path.name)
        assert name, f"{path.name}: call it +word.kind.md"
        assert name[1] in FRAGMENT_KINDS, f"{path.name}: {name[1]} is none of {sorted(FRAGMENT_KINDS)}"
        assert path.read_text().strip().endswith((".", "`", ")")), path.name


def test_the_changelog_can_be_made():
    """A release can be described from the fragments."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "0.0.1"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "Added" in done.stdout


def test_pre_commit_runs_what_make_check_runs():
    """Every tool of `make check` is a hook, by the same command."""
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^check:.*?\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe
    tools = {line.strip().removeprefix("@$(BIN)/") for line in recipe[1].splitlines()}
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())

    hooks = {
        hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude")
        for repo in config["repos"]
        for hook in repo["hooks"]
    }

    assert hooks == tools


def test_the_lock_files_hold_no_address():
    """Locks name versions, not a package index; and the runtime's are the developer's."""
    versions = {}
    for name in ("upshot", "dev"):
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        assert "://" not in text
        versions[name] = dict(re.findall(r"^([\w.\[\]-]+)==(\S+)", text, re.MULTILINE))

    assert versions["upshot"].items() <= versions["dev"].items()


def test_every_dependency_is_locked():
    """Whatever pyproject.toml asks for has a line in the lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = {"upshot": project["project"]["dependencies"]}
    asked["dev"] = asked["upshot"] + project["dependency-groups"]["dev"]

    for name, requirements in asked.items():
        lock = (ROOT / "requirements" / f"{name}.lock").read_text()
        for requirement in requirements:
            package = re.match(r"[\w.-]+", requirement)
            assert package
            assert re.search(rf"^{re.escape(package.group())}==", lock, re.MULTILINE), f"{package.group()}: make lock"


@pytest.mark.slow
def test_the_wheel_holds_what_upshot_needs(tmp_path):
    """A wheel has the migrations, the samples of the demo and the marker for type checkers, and no tests."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--disable-pip-version-check", "-w", str(tmp_path), "."], cwd=ROOT, check=True)

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    assert any("/migrations/versions/" in name and name.endswith(".py") for name in names)
    assert any(name.startswith("upshot/") and name.endswith(".yaml") for name in names)
    assert "upshot/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]
