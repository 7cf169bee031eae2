"""The repository itself: paths, links, changelog, hooks, lock files, the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml

from tests.project.repository import PAGES, ROOT, tracked_files, tracked_texts

FRAGMENT_KINDS = {
    kind["directory"] for kind in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
}


def test_no_file_names_a_path_of_one_machine():
    """No file names a directory that exists only on its author's machine."""
    machine_path = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/\w+")
    exempt = {"Dockerfile", "test_repository.py"}

    found = {
        f"{path}: {match.group()}"
        for path, text in tracked_texts()
        if path.name not in exempt
        for match in machine_path.finditer(text)
    }

    assert not found


def test_links_between_pages_lead_to_files():
    """Every relative link on a page names a file that exists."""
    link = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")

    dead = [
        (page.name, target)
        for page in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")
        for target in link.findall(page.read_text())
        if not (page.parent / target).exists()
    ]

    assert not dead


def test_contributing_maps_every_directory():
    """The map in CONTRIBUTING.md lists every directory of the repository, and no other."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    mapped = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`*]+/)`", row)}

    directories = {path.relative_to(ROOT).parent for path in tracked_files()}
    packages = {
        "/".join(directory.parts[: 3 if directory.parts[0] == "src" else 2 if directory.parts[0] == "tests" else 1])
        for directory in directories
        if directory.parts and not directory.parts[0].startswith(".")
    }

    assert mapped == packages - {"src/upshot", "tests"}


def test_changelog_fragments_are_well_formed():
    """Each fragment is named `+word.kind.md` or `number.kind.md` with a known kind, and holds whole sentences."""
    fragments = [path for path in (ROOT / "changelog.d").iterdir() if not path.name.startswith(".")]

    assert fragments
    for path in fragments:
        name = re.fullmatch(r"(?:\+[a-z0-9-]+|\d+)\.([a-z]+)\.md", path.name)
        assert name, f"{path.name}: call it +word.kind.md"
        assert name[1] in FRAGMENT_KINDS, f"{path.name}: {name[1]} is none of {sorted(FRAGMENT_KINDS)}"
        assert path.read_text().strip().endswith((".", "`", ")")), path.name


def test_the_changelog_can_be_built():
    """Towncrier builds the changelog of a release from the fragments."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "0.0.1"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "Added" in done.stdout


def test_pre_commit_runs_what_make_check_runs():
    """Every tool of `make check` is a pre-commit hook with the same command."""
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


def test_lock_files_name_no_package_index():
    """Lock files contain versions and no URLs, and the runtime versions are also the development versions."""
    versions = {}
    for name in ("upshot", "dev"):
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        assert "://" not in text
        versions[name] = dict(re.findall(r"^([\w.\[\]-]+)==(\S+)", text, re.MULTILINE))

    assert versions["upshot"].items() <= versions["dev"].items()


def test_every_dependency_is_locked():
    """Every dependency in pyproject.toml has a line in the lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {"upshot": project["project"]["dependencies"]}
    wanted["dev"] = wanted["upshot"] + project["dependency-groups"]["dev"]

    for name, requirements in wanted.items():
        lock = (ROOT / "requirements" / f"{name}.lock").read_text()
        for requirement in requirements:
            package = re.match(r"[\w.-]+", requirement)
            assert package
            assert re.search(rf"^{re.escape(package.group())}==", lock, re.MULTILINE), f"{package.group()}: make lock"


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path):
    """A wheel contains the migrations, the pages, the demo's samples and the type marker, and no tests."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--disable-pip-version-check", "-w", str(tmp_path), "."], cwd=ROOT, check=True)

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    assert any("/migrations/versions/" in name and name.endswith(".py") for name in names)
    assert any(name.startswith("upshot/") and name.endswith(".yaml") for name in names)
    assert {"upshot/py.typed", "upshot/web/pages/static/pages.css", "upshot/web/pages/templates/home.html"} <= set(
        names
    )
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]
