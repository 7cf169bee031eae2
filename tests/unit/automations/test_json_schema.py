"""The JSON Schema for editors agrees with the parser."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator

import jsonschema
import pytest
from _pytest.mark import ParameterSet

from tests.project.repository import ROOT, blocks
from tests.unit.automations.factories import CATALOG
from upshot.automations.json_schema import json_schema
from upshot.automations.loader import load_text
from upshot.automations.parser.document import parse_documents

SCHEMA = json_schema(CATALOG)
FOLDERS = ("tests/unit/automations", "tests/unit/schema", "tests/flow", "tests/flow/actions")
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

#: What `upshot validate` refuses and the schema accepts: each kind with the reason and the words of its messages.
#: `docs/automation-language.md` lists these kinds.
BEYOND_A_SCHEMA = {
    "content of templates and expressions": (
        "they are a language inside of strings, with names that depend on the place",
        (
            r"is unknown|has no|no earlier step|has not run yet|can be used in|where something more|ends too early"
            r"|unknown filter|calls are not allowed|cannot be used in Upshot|is read as a calculation|begins a comment"
            r"|begins a tag|not true or false|this number is too large|cannot be part of a text|this would be a text"
            r"|already an expression|sends nothing to a receiver|would be sent unchanged"
        ),
    ),
    "rules about several values": (
        "a schema cannot compare the values of a file with one another",
        (
            r"is shorter than the first wait|already has the id|already has the name|is not needed: |move the step to"
            r"|so that it also runs|no step runs after|more than 500 templates"
        ),
    ),
    "JSON in a string": (
        "a schema cannot parse a string",
        r"one string that contains JSON; write it without quotes",
    ),
    "other files": (
        "a schema knows neither the other files of the folder nor the jobs file",
        r"there is no file|the file is|cannot be read, because|limits of queue",
    ),
}


def is_beyond_a_schema(reason):
    return any(re.search(words, reason) for _, words in BEYOND_A_SCHEMA.values())


def documents(text):
    problems = []
    found = parse_documents(text, lambda _line, reason: problems.append(reason))
    return [] if problems else [json.loads(json.dumps(document.value)) for document in found if document.value]


def mistakes_of_schema(text):
    return [error for document in documents(text) for error in VALIDATOR.iter_errors(document)]


def cases() -> Iterator[tuple[str, str]]:
    """Yield the texts of automations in the parametrized tests and constants of the tests of automations."""
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("test_*.py")):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name, value in list(vars(module).items()):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield f"{module.__name__}.{name}", text
            for mark in getattr(value, "pytestmark", ()):
                rows = mark.args[1] if mark.name == "parametrize" else ()
                for row in list(rows):
                    values = row.values if isinstance(row, ParameterSet) else row
                    texts = values if isinstance(values, tuple) else (values,)
                    yield from ((f"{module.__name__}.{name}", text) for text in texts if isinstance(text, str))


CASES = [
    (name, text) for name, text in cases() if "\n" in text and "name:" in text and "{}" not in text and documents(text)
]


def test_it_is_a_schema_of_draft_7():
    """Newer drafts are not supported by yaml-language-server. Nothing of pydantic's or our own is left in it."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)

    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert '"x-' not in json.dumps(SCHEMA)
    references = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(SCHEMA)))
    assert references <= SCHEMA["$defs"].keys()


def test_the_parser_and_the_schema_agree_on_every_case_of_the_tests():
    """The schema never reports a valid file. It misses only what no schema can express."""
    assert len(CASES) > 200
    wrong = []
    missed = []
    for name, text in CASES:
        errors = load_text(text, "a.yaml", CATALOG).errors
        found = mistakes_of_schema(text)
        if found and not errors:
            wrong.append(f"{name}: only the schema reports {found[0].message[:200]}: {text}")
        elif errors and not found:
            missed += [error.reason for error in errors]
            if not all(is_beyond_a_schema(error.reason) for error in errors):
                wrong.append(f"{name}: the schema misses {errors[0].reason}: {text}")

    assert not wrong, "\n\n".join(wrong)
    for kind, (_, words) in BEYOND_A_SCHEMA.items():
        assert any(re.search(words, reason) for reason in missed), f"no case is an example of {kind}"


def test_the_documentation_lists_what_the_schema_accepts():
    """A user who sees no mark in the editor knows what `upshot validate` may still report."""
    page = (ROOT / "docs" / "automation-language.md").read_text()

    assert not [kind for kind in BEYOND_A_SCHEMA if kind not in page]


@pytest.mark.parametrize("path", sorted((ROOT / "automations").glob("*.yaml")), ids=lambda path: path.name)
def test_samples_name_the_schema_and_follow_it(path):
    """The first line of each sample leads an editor to the schema beside it."""
    text = path.read_text()

    assert text.startswith("# yaml-language-server: $schema=automation.schema.json\n")
    assert not mistakes_of_schema(text)


def test_the_schema_in_the_repository_is_current():
    """It is what `upshot schema` prints: `upshot schema > automations/automation.schema.json`."""
    stored = json.loads((ROOT / "automations" / "automation.schema.json").read_text())

    assert stored == json.loads(json.dumps(SCHEMA)), "run: upshot schema > automations/automation.schema.json"


def test_examples_in_the_documentation_follow_the_schema():
    """Complete automations on the pages are valid for the schema, too."""
    complete = [block for block in blocks("yaml") if re.search(r"^name: ", block.text) and "\nsteps:" in block.text]

    assert complete
    assert not [(str(block), error.message) for block in complete for error in mistakes_of_schema(block.text)]


WITH = "name: a\non: custom\nsteps:\n  - uses: {}\n    with: {}\n"


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        (WITH.format("webhook", "{url: 'https://x.example', json: {a: 1}}"), True),
        (WITH.format("webhook", "{url: 'https://x.example', jsno: {a: 1}}"), False),
        (WITH.format("webhook", "{url: '{{ secrets.URL }}', method: patch}"), True),
        (WITH.format("webhook", "{url: 'https://x.example', method: POSTT}"), False),
        (WITH.format("webhook", "{}"), False),
        (WITH.format("slack", "{token: '{{ secrets.T }}', channel: c, blocks: '{{= event.data.blocks }}'}"), True),
        (WITH.format("slack", "{token: xoxb-1, channel: c, text: x}"), False),
        (WITH.format("launch", "{image: a, resources: {memory: 4GiB, cpus: 0.5, gpus: all}, timeout: 30m}"), True),
        (WITH.format("launch", "{image: a, resources: {memory: 4G}}"), False),
        (WITH.format("launch", "{image: a, resources: {memory: '{{ vars.m }}', gpus: '{{ vars.g }}'}}"), True),
        (WITH.format("launch", "{image: a, command: '{{= event.data.command }}', save-metrics: '{{= alias }}'}"), True),
        (WITH.format("launch", "{image: a, command: run it}"), False),
        (WITH.format("launch", "{image: a, mounts: [{source: /a, target: /b, read-only: true}]}"), True),  # in a queue
        (WITH.format("launch", "{image: a, mounts: [{source: /a}]}"), False),
        (WITH.format("find-version", "{version: production, optional: true}"), True),
        ("name: a\non: custom\nsteps:\n  - {uses: launch, timeout: 1m, with: {image: a}}\n", False),
        ("name: a\non: [version-linked, {alias-added: {alias: [a, {not: b}]}}]\nsteps: [{uses: find-version}]\n", True),
        ("name: a\non: {alias-added: {tag: x}}\nsteps: [{uses: find-version}]\n", False),
        ("name: a\non: custom\nsteps:\n  - {name: Say it, uses: emit, with: {name: x}, retry: {attempts: 3}}\n", True),
        ("name: a\non: custom\nsteps:\n  - {uses: emit, with: {name: x}, retry: {attempts: 0}}\n", False),
        ("name: a\non: custom\nsteps:\n  - {uses: emit, with: {name: x}, timeout: 30}\n", False),
        ("name: a\non: custom\nsteps:\n  - {uses: emit, with: {name: x}, timeout: 2d}\n", False),
        ("name: a\non: custom\nsteps:\n  - {uses: emit, with: {name: x}, timeout: 60m}\n", True),
        ("name: a\non: custom\nsteps:\n  - {uses: emit, with: {name: x}, retry: {cap: 8d}}\n", False),
        (WITH.format("launch", "{image: a, resources: {memory: 4096TiB}}"), False),
        (WITH.format("launch", "{image: a, resources: {cpus: '9999'}}"), False),
        ("name: a\non: custom\nvars: {a: [1, {b: '{{ x }}'}]}\nsteps: [{uses: find-version}]\n", False),
        ("name: a\non: custom\nvars: {a: [1, {b: x}]}\nsteps: [{uses: find-version}]\n", True),
    ],
)
def test_the_schema_knows_the_inputs_of_each_action(text, is_valid):
    """Keys, types, amounts and words are checked in an editor as `upshot validate` checks them."""
    assert (not mistakes_of_schema(text)) == is_valid
