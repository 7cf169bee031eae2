"""`upshot lineage`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from upshot.cli.api_commands import api_command
from upshot.cli.whole_number import WholeNumber
from upshot.client.http import Client
from upshot.console import Output
from upshot.domain.reference import LATEST

_MAX_DEPTH = 50  # the server's limit

Node = Mapping[str, Any]


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--up", is_flag=True, help="Only what REF was made from.")
@click.option("--down", is_flag=True, help="Only what was made from REF.")
@click.option("--both", is_flag=True, help="What it was made from, and what from it: the default.")
@click.option(
    "--depth",
    default=10,
    show_default=True,
    type=WholeNumber(1, _MAX_DEPTH),
    help="Maximum distance in edges. A version and the run that logged it are one edge apart.",
)
@click.option(
    "--format", "form", default="tree", show_default=True, type=click.Choice(["tree", "dot", "json"]), help="Form."
)
@click.option(
    "--aliased",
    is_flag=True,
    help="Only what leads to a version that is in use: that has an alias other than `latest` in a collection.",
)
@api_command
def lineage(
    client: Client,
    output: Output,
    reference: str,
    *,
    up: bool,
    down: bool,
    both: bool,
    depth: int,
    form: str,
    aliased: bool,
) -> None:
    """
    Show the runs and artifact versions that REF was made from, and that were made from it.

    REF is project/artifact:v3, registry/collection:production, or the id of a version. For example, `--down --aliased`
    answers what in use was made from it.
    """
    direction = "both" if both or up == down else "up" if up else "down"
    found = client.get("/lineage", reference=reference, direction=direction, depth=depth)
    graph = _Graph(found)
    kept = graph.leading_to(_is_in_use) if aliased else set(graph.nodes)
    nodes = [node for node in found["nodes"] if node["id"] in kept]
    edges = [edge for edge in found["edges"] if edge["source"] in kept and edge["target"] in kept]
    if output.as_json or form == "json":
        output.json({**found, "nodes": nodes, "edges": edges})
    elif form == "dot":
        for line in _dot(nodes, edges):
            click.echo(line)
    else:
        for line in graph.tree(kept):
            output.line(line)
    if found["truncated"]:
        click.echo("note: there is more; only the nearest 1,000 nodes are shown; use --depth, --up or --down", err=True)


class _Graph:
    """
    The nodes and edges of an answer.

    Args:
        found: The answer.
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.nodes: dict[str, Node] = {node["id"]: node for node in found["nodes"]}
        self._root = found["root"]
        sources: defaultdict[str, list[str]] = defaultdict(list)
        targets: defaultdict[str, list[str]] = defaultdict(list)
        for edge in found["edges"]:
            sources[edge["target"]].append(edge["source"])
            targets[edge["source"]].append(edge["target"])
        self._neighbors = {"up": sources, "down": targets}

    def leading_to(self, is_wanted: Callable[[Node], bool]) -> set[str]:
        """Return the root, the nodes that are wanted, and those between."""
        kept = {self._root}
        for direction, opposite in (("up", "down"), ("down", "up")):
            reached = self._reach({self._root}, direction)
            wanted = {node for node in reached if node != self._root and is_wanted(self.nodes[node])}
            kept |= reached & self._reach(wanted, opposite) if wanted else set()
        return kept

    def _reach(self, start: set[str], direction: str) -> set[str]:
        reached, rest = set(start), list(start)
        while rest:
            new = [node for node in self._neighbors[direction].get(rest.pop(), ()) if node not in reached]
            reached.update(new)
            rest += new
        return reached

    def tree(self, kept: set[str]) -> Iterator[str]:
        """Yield the lines of a tree. A node that is shown twice has its branches at the first place only."""
        yield _label(self.nodes[self._root])
        branches = [
            (direction, node)
            for direction in ("up", "down")
            for node in self._neighbors[direction].get(self._root, ())
            if node in kept
        ]
        shown = {("up", self._root), ("down", self._root)}
        # A stack of lines to come, because a lineage may be deeper than Python's recursion.
        rest = [(direction, node, "", index == 0) for index, (direction, node) in enumerate(reversed(branches))]
        while rest:
            direction, node, indent, is_last = rest.pop()
            is_repeated = (direction, node) in shown
            shown.add((direction, node))
            below = [] if is_repeated else [each for each in self._neighbors[direction].get(node, ()) if each in kept]
            is_cut = is_repeated and any(each in kept for each in self._neighbors[direction].get(node, ()))
            word = _RELATIONS[direction, self.nodes[node]["kind"]]
            yield f"{indent}{'└─' if is_last else '├─'} {word} {_label(self.nodes[node])}{' …' if is_cut else ''}"
            deeper = indent + ("   " if is_last else "│  ")
            rest += [(direction, each, deeper, index == 0) for index, each in enumerate(reversed(below))]


_RELATIONS = {
    ("up", "run"): "logged by",
    ("up", "version"): "which used",
    ("down", "run"): "used by",
    ("down", "version"): "which logged",
}


def _is_in_use(node: Node) -> bool:
    return any(alias != LATEST for link in node["links"] for alias in link["aliases"])


def _label(node: Node) -> str:
    if node["kind"] == "run":
        details = [text for text in (node["job_type"], node["state"]) if text]
        name = "" if node["name"] == node["reference"].partition("/")[2] else f" {node['name']}"
        return f"run {node['reference']}{name} ({', '.join(details)})"
    return "  ".join([node["reference"], *_links(node)])


def _links(node: Node) -> list[str]:
    return [
        f"{link['reference']} [{', '.join(link['aliases'])}]" if link["aliases"] else link["reference"]
        for link in node["links"]
    ]


def _dot(nodes: list[Node], edges: list[Mapping[str, Any]]) -> Iterator[str]:
    yield "digraph lineage {"
    yield "  rankdir=LR;"
    for node in nodes:
        shape = "ellipse" if node["kind"] == "run" else "box"
        yield f"  {_quoted(node['id'])} [shape={shape}, label={_quoted(_label(node))}];"
    for edge in edges:
        yield f"  {_quoted(edge['source'])} -> {_quoted(edge['target'])} [label={edge['kind']}];"
    yield "}"


def _quoted(text: str) -> str:
    safe = "".join(character if character.isprintable() else " " for character in text)
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'
