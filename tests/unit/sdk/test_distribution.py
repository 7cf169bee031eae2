"""`pip install upshot` without the extra `server`: the SDK and the client commands need only a few small libraries."""

import subprocess
import sys
import tomllib

from tests.project.repository import ROOT

# The dependencies of the package itself, and what these need.
_CLIENT = ("click", "httpx", "dotenv", "rich", "typing_extensions")
_NEEDED_BY_THEM = ("anyio", "certifi", "colorama", "h11", "httpcore", "idna", "markdown_it", "mdurl", "pygments")
_WITHOUT_SERVER = f"""
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {{"upshot", *{(*_CLIENT, *_NEEDED_BY_THEM)!r}}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def without_server(program):
    """Run a program as if only the package and its own dependencies were installed, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_SERVER + program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_depends_on_little():
    """The package has five dependencies. The libraries of the server are an extra, which other extras include."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [dependency.partition(">")[0] for dependency in project["dependencies"]]

    assert names == ["click", "httpx", "python-dotenv", "rich", "typing-extensions"]
    assert "upshot[server]" in project["optional-dependencies"]["kubernetes"]
    assert {"fastapi", "sqlalchemy"} <= {
        dependency.partition(">")[0] for dependency in project["optional-dependencies"]["server"]
    }


def test_the_client_needs_no_library_of_the_server():
    """Every module of the SDK and the client can be imported, and every public name can be used."""
    without_server("""
import upshot, upshot.client, upshot.sdk
for package in (upshot.client, upshot.sdk):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name != "upshot.client.buckets":  # it needs the extra s3
            importlib.import_module(module.name)
for name in upshot.__all__:
    getattr(upshot, name)
""")


def test_client_commands_need_no_library_of_the_server():
    """Every command that only talks to a server can be imported, with its help."""
    output = without_server("""
import click
from click.testing import CliRunner
from upshot.cli.root import main, _SERVER_COMMANDS

def show_help(*words):
    result = CliRunner().invoke(main, [*words, "--help"], prog_name="upshot")
    assert result.exit_code == 0, (words, result.output, result.exception)

def walk(group, *words):
    context = click.Context(group)
    for name in group.list_commands(context):
        if not words and name in _SERVER_COMMANDS:
            continue
        command = group.get_command(context, name)
        show_help(*words, name)
        if isinstance(command, click.Group):
            walk(command, *words, name)
        print(*words, name)

walk(main)
""")

    assert {"login", "artifacts log", "download", "lineage", "executions list"} <= set(output.splitlines())


def test_server_commands_name_the_extra():
    """A command that needs the server, and `upshot.testing`, end with the command that installs it."""
    output = without_server("""
from click.testing import CliRunner
from upshot.cli.root import main, _SERVER_COMMANDS

for name in sorted(_SERVER_COMMANDS):
    result = CliRunner().invoke(main, [name, "--help"], prog_name="upshot")
    assert result.exit_code == 1, result
    print(result.stderr, end="")
try:
    import upshot.testing
except ModuleNotFoundError as error:
    print(error)
""")

    lines = output.splitlines()
    for name in ("up", "serve", "worker", "migrate", "demo", "init", "receivers", "validate", "schema"):
        assert any(
            line.startswith(f'Error: `upshot {name}` needs the server: pip install "upshot[server]"') for line in lines
        )
    assert lines[-1].startswith('upshot.testing needs the server: pip install "upshot[server]"')
