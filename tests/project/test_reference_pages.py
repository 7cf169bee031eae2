"""The reference pages list exactly what exists."""

from __future__ import annotations

import re

import click
from fastapi.routing import APIRoute

from tests.project.repository import ROOT
from upshot.actions.catalog import load_catalog
from upshot.cli import main
from upshot.domain.event import EventKind
from upshot.resources.urls import API_PREFIX
from upshot.web.app import ROUTERS


def first_cells(page, after=""):
    """Yield the code in the first column of the tables of a page."""
    text = (ROOT / page).read_text()
    for row in re.findall(r"^\| (`[^|]*`) \|", text[text.index(after) :], re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", row)


def commands(command, path, parent=None):
    """Return the full name of every command that can be called."""
    context = click.Context(command, info_name=path, parent=parent)
    if not isinstance(command, click.Group):
        return [path]
    names = command.list_commands(context)
    return [
        found for name in names for found in commands(command.get_command(context, name), f"{path} {name}", context)
    ]


def test_the_command_line_page_lists_every_command():
    """docs/cli.md lists every command and no other."""
    assert sorted(first_cells("docs/cli.md")) == sorted(commands(main, "upshot"))


def test_the_api_page_lists_every_route():
    """docs/rest-api.md lists every route and no other."""
    routes = [
        f"{method} {route.path.removeprefix(API_PREFIX)}"
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in route.methods or ()
    ]

    assert sorted(first_cells("docs/rest-api.md")) == sorted(routes)


def test_the_actions_page_has_a_section_for_each_action():
    """docs/actions.md and README list every built-in action and no other."""
    catalog = set(load_catalog())
    sections = re.findall(r"^## ([a-z, -]+)$", (ROOT / "docs/actions.md").read_text(), re.MULTILINE)

    assert {name for section in sections for name in section.split(", ")} == catalog
    assert set(first_cells("README.md", "## Actions")) == catalog


def test_readme_lists_every_kind_of_event():
    """README lists every kind of event and no other."""
    listed = set(first_cells("README.md", "## Events")) - set(first_cells("README.md", "## Actions"))

    assert listed == {kind.value for kind in EventKind}
