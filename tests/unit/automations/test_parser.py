"""The language of automation files: what it means, and how mistakes are reported."""

from __future__ import annotations

import pytest

from tests.unit.automations.factories import CATALOG, automation
from upshot.actions.catalog import load_catalog
from upshot.automations.loader import load_revision, load_text
from upshot.domain.automation import Pattern, RetryPolicy
from upshot.errors import AutomationInvalid, ConfigError
from upshot.schema.queues import JobsConfig, QueueConfig

WHOLE = """\
# a comment
name: promote
description: Ship what beats the bar.
on:
  alias-added:
    registry: model
    collection: [review-*, {not: review-old}]
    alias: {not: [tmp, "tmp-*"]}
  version-linked:
if: version.metadata.format == "onnx"
vars: {bar: 0.9, where: [eu, us]}
steps:
  - id: gate
    uses: require
    with: {that: version.metadata.accuracy >= vars.bar, otherwise: "below {{ vars.bar }}"}
  - uses: webhook
    if: steps.gate.outputs.value
    with:
      url: https://hooks.example.com/models
      json:
        text: |
          {{ actor.name }}
          promoted {{ version.reference }}
    retry: {attempts: 3, first: 500ms, cap: 2m}
    timeout: 1.5s
    continue-on-error: true
on-failure:
  - uses: slack
    with: {webhook: "{{ secrets.SLACK }}", text: "{{ failure.step }}: {{ failure.reason }}, {{ steps.gate.state }}"}
"""


def test_a_complete_automation_is_parsed():
    """Every key of the language arrives in the automation that the executor uses."""
    parsed = automation(WHOLE)

    assert (parsed.name, parsed.path, parsed.line, parsed.enabled) == ("promote", "a.yaml", 2, True)
    assert parsed.description == "Ship what beats the bar."
    assert [trigger.kind for trigger in parsed.triggers] == ["alias-added", "version-linked"]
    assert parsed.triggers[0].filters == {
        "registry": Pattern(("model",)),
        "collection": Pattern(("review-*",), ("review-old",)),
        "alias": Pattern((), ("tmp", "tmp-*")),
    }
    assert parsed.condition == 'version.metadata.format == "onnx"'
    assert parsed.vars == {"bar": 0.9, "where": ["eu", "us"]}
    gate, hook = parsed.steps
    assert (gate.id, gate.uses, gate.line, gate.retry, gate.timeout_seconds) == (
        "gate",
        "require",
        13,
        RetryPolicy(),
        30,
    )
    assert (hook.id, hook.condition, hook.continue_on_error) == ("step-2", "steps.gate.outputs.value", True)
    assert hook.retry == RetryPolicy(3, 0.5, 120)
    assert hook.timeout_seconds == 1.5
    assert hook.lines == {"url": 19, "json.text": 22}
    assert [step.id for step in parsed.on_failure] == ["on-failure-1"]


@pytest.mark.parametrize(
    ("on", "kinds"),
    [
        ("version-linked", ["version-linked"]),
        ("[version-linked, alias-added]", ["version-linked", "alias-added"]),
        ("{version-linked: , alias-added: {alias: x}}", ["version-linked", "alias-added"]),
        ("[version-linked, {alias-added: {alias: x}}]", ["version-linked", "alias-added"]),
        ("{custom: {name: drift}}", ["custom"]),
    ],
)
def test_on_has_several_forms(on, kinds):
    """`on` is a kind of event, a mapping of kinds to filters, or a list of both."""
    parsed = automation(f"name: a\non: {on}\nsteps: [{{uses: emit, with: {{name: x}}}}]")

    assert [trigger.kind for trigger in parsed.triggers] == kinds


def test_a_revision_identifies_the_content():
    """Comments and the order of keys do not change the revision. A changed value or body file does."""
    base = "name: a\non: custom\nsteps: [{uses: emit, with: {name: x}}]\n"
    again = "# twice\non: custom\nname: a\nsteps:\n  - with: {name: x}\n    uses: emit\n"
    other = base.replace("name: x", "name: y")
    hook = "name: a\non: custom\nsteps: [{uses: webhook, with: {url: 'https://x.example', body-file: b.j2}}]\n"
    bodies = [load_text(hook, "a.yaml", CATALOG, {"b.j2": text}.__getitem__).automations[0] for text in ("1", "2")]

    assert automation(base).revision_id == automation(again).revision_id != automation(other).revision_id
    assert bodies[0].revision_id != bodies[1].revision_id
    assert bodies[0].body_files == {"b.j2": "1"}


def test_a_stored_revision_is_the_same_automation():
    """A stored revision contains everything that is needed to execute it. Only the lines are missing."""
    parsed = automation(WHOLE)

    again = load_revision(parsed.name, parsed.source, parsed.body_files, parsed.path, CATALOG)

    assert again.revision_id == parsed.revision_id
    assert again.triggers[0].filters == parsed.triggers[0].filters
    assert [(step.id, step.with_, step.retry) for step in again.steps] == [
        (step.id, step.with_, step.retry) for step in parsed.steps
    ]


def test_a_stored_revision_without_its_action_is_reported():
    """If an action is not installed any more, loading the revision fails with the reason."""
    parsed = automation(WHOLE)

    with pytest.raises(ConfigError, match=r"automation 'promote' is not valid any more: .*unknown action 'slack'"):
        load_revision(
            parsed.name, parsed.source, {}, "a.yaml", {name: CATALOG[name] for name in CATALOG if name != "slack"}
        )


def test_a_stored_revision_is_not_checked_against_new_limits():
    """Limits that an operator has tightened apply to new jobs. An execution that waits for a job can continue."""
    text = "name: a\non: custom\nsteps: [{uses: launch, with: {image: a, queue: gpu}}]\n"
    then = load_catalog(JobsConfig(queues={"gpu": QueueConfig("gpu")}))
    (parsed,) = load_text(text, "a.yaml", then).automations

    assert load_revision(parsed.name, parsed.source, {}, "a.yaml", CATALOG).revision_id == parsed.revision_id


# --- mistakes -------------------------------------------------------------------------------------

TOP = "name: a\non: alias-added\nsteps:\n  - uses: emit\n    with: {name: x}\n"
STEP = "name: a\non: alias-added\nsteps:\n  - uses: webhook\n    with: {{url: 'https://x.example'}}\n    {}\n"
WITH = "name: a\non: alias-added\nvars: {{bar: 1}}\nsteps:\n  - id: one\n    uses: {}\n    with:\n      {}\n"
ON = "name: a\nsteps: [{{uses: emit, with: {{name: x}}}}]\non:\n  {}\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        # the document
        pytest.param("", None, "the file is empty", id="empty"),
        pytest.param(
            "- a\n- b", 1, "an automation must be a mapping with `name`, `on` and `steps`, not a list", id="a list"
        ),
        pytest.param("hello", 1, "not the string 'hello'", id="a word"),
        pytest.param("{}", 1, "name: this field is required", id="nothing in it"),
        pytest.param(
            "on: custom\nsteps: [{uses: emit, with: {name: x}}]", 1, "name: this field is required", id="no name"
        ),
        pytest.param(TOP.replace("on: alias-added\n", ""), 1, "on: this field is required", id="no on"),
        pytest.param("name: a\non: custom\n", 1, "steps: this field is required", id="no steps"),
        pytest.param(
            "name: a\non: custom\nsteps:\n", 3, "steps: must be a list of steps, not null", id="steps without a value"
        ),
        pytest.param(
            "name: a\non: custom\nsteps: []",
            3,
            "must be a list of steps, not an empty list; write `- uses: …`",
            id="empty steps",
        ),
        pytest.param(
            "name: a\non: custom\nsteps: {uses: x}",
            3,
            "must be a list of steps, not a mapping",
            id="steps as a mapping",
        ),
        pytest.param(
            "name: a\non: custom\nsteps: [emit]",
            3,
            "steps.0: a step must be a mapping with `uses`",
            id="step as a word",
        ),
        pytest.param(TOP + "descripton: x\n", 6, "descripton: unknown key; did you mean 'description'?", id="near key"),
        pytest.param(TOP + "zzz: x\n", 6, "zzz: unknown key; choose from 'description', 'enabled'", id="far key"),
        pytest.param(TOP + "on_failure: []\n", 6, "did you mean 'on-failure'?", id="snake case"),
        pytest.param(
            TOP + "concurrency: {group: x}\n", 6, "concurrency: this key is not supported yet", id="concurrency"
        ),
        pytest.param(TOP + "cooldown: 10m\n", 6, "cooldown: this key is not supported yet", id="cooldown"),
        pytest.param(TOP + "debounce: 30s\n", 6, "debounce: this key is not supported yet", id="debounce"),
        pytest.param(
            TOP + "enabled: no\n", 6, "enabled: must be true or false, not the string 'no'", id="no is a word"
        ),
        pytest.param(
            TOP + "description: 1\n", 6, "must be a string, not the number 1; put it in quotes", id="a number"
        ),
        pytest.param(
            TOP.replace("name: a", "name: my automation"),
            1,
            "name: 'my automation' is not a valid name; write at most",
            id="space in the name",
        ),
        pytest.param(
            TOP.replace("name: a", "name: 2026"), 1, "name: must be a string, not the number 2026", id="number as name"
        ),
        pytest.param(TOP.replace("name: a", f"name: {'a' * 129}"), 1, "at most 128 letters", id="long name"),
        pytest.param(TOP + "vars: [1]\n", 6, "vars: must be a mapping, not a list", id="vars as a list"),
        pytest.param(
            TOP + "vars: {my-bar: 1}\n",
            6,
            "vars.my-bar: this name cannot be used as vars.NAME",
            id="name of a variable",
        ),
        pytest.param(TOP + "vars: {a: '{{ alias }}'}\n", 6, "vars.a: a variable is plain data", id="template in vars"),
        pytest.param(TOP + "if: [a]\n", 6, "if: must be an expression such as", id="if as a list"),
        pytest.param(TOP + "if: ''\n", 6, "if: must be an expression", id="empty if"),
        pytest.param(TOP + "if: '{{ alias }}'\n", 6, "without braces; write `if: alias`", id="if in braces"),
        pytest.param(TOP + "if: alias ==\n", 6, "this ends where something more was expected", id="unfinished if"),
        pytest.param(TOP + "if: aliaz == 'x'\n", 6, "if: 'aliaz' is unknown; did you mean 'alias'?", id="name in if"),
        pytest.param(TOP + "if: steps.a.outputs\n", 6, "`steps` can be used in steps only", id="steps in if"),
        pytest.param(TOP + "if: secrets.A == 'x'\n", 6, "`secrets` can be used in steps only", id="secrets in if"),
        pytest.param(TOP + "if: vars.bar > 1\n", 6, "'vars' has no 'bar'", id="vars in if"),
        pytest.param(TOP + "if: event.knd == 'x'\n", 6, "'event' has no 'knd'; did you mean 'kind'?", id="field in if"),
        pytest.param(
            TOP + "if: version.nmae == 'x'\n", 6, "'version' has no 'nmae'; did you mean 'name'?", id="version in if"
        ),
        pytest.param(
            TOP + "if: collection.zzz\n", 6, "'collection' has no 'zzz'; choose from 'aliases'", id="far field"
        ),
        pytest.param(TOP + "if: previous.verison\n", 6, "'previous' has no 'verison'", id="previous in if"),
        pytest.param(TOP + "if: |\n  alias == 'a' and\n  vars.x\n", 8, "'vars' has no 'x'", id="line in a long if"),
        pytest.param(
            "name: a\non: custom\nsteps:\n" + "  - {uses: emit, with: {name: x}}\n" * 51,
            3,
            "more than 50 steps",
            id="too many steps",
        ),
        # on
        pytest.param(
            ON.format("alias-addd"),
            4,
            "unknown event kind 'alias-addd'; did you mean 'alias-added'?",
            id="misspelled kind",
        ),
        pytest.param(ON.format("zzz"), 4, "unknown event kind 'zzz'; choose from 'alias-added'", id="far kind"),
        pytest.param(
            ON.format("approval-granted"), 4, "event kind 'approval-granted' is not supported yet", id="planned kind"
        ),
        pytest.param(ON.format("[]"), 4, "`on` is an empty list, so nothing triggers this automation", id="empty on"),
        pytest.param(ON.format("{}"), 4, "`on` cannot be a mapping; write a kind of event", id="empty mapping"),
        pytest.param(ON.format("7"), 4, "`on` cannot be the number 7", id="number as a kind"),
        pytest.param(ON.format("[[alias-added]]"), 4, "`on` cannot be a list", id="list in a list"),
        pytest.param(
            ON.format("alias-added: production"),
            4,
            "alias-added: must be a mapping of filters such as",
            id="no mapping",
        ),
        pytest.param(
            ON.format("alias-added:\n    allias: x"),
            5,
            "alias-added.allias: unknown key; did you mean 'alias'?",
            id="misspelled filter",
        ),
        pytest.param(
            ON.format("version-linked: {alias: x}"),
            4,
            "version-linked.alias: unknown key; choose from 'actor'",
            id="filter of another kind",
        ),
        pytest.param(
            ON.format("alias-added: {alias: 1.0}"),
            4,
            "alias-added.alias: must be a string, not the number 1.0; put it in quotes",
            id="number filter",
        ),
        pytest.param(
            ON.format("alias-added: {alias: true}"),
            4,
            "alias-added.alias: must be a string, not true; put it in quotes",
            id="boolean filter",
        ),
        pytest.param(
            ON.format("alias-added: {alias: }"),
            4,
            "alias-added.alias: must be a string, not null",
            id="null as a filter",
        ),
        pytest.param(ON.format("alias-added: {alias: ''}"), 4, "must have 1 to 256 characters", id="empty filter"),
        pytest.param(
            ON.format("alias-added: {alias: []}"), 4, "is an empty list, which nothing matches", id="no names"
        ),
        pytest.param(
            ON.format("alias-added: {alias: [[a]]}"),
            4,
            "alias-added.alias.0: must be a string, not a list",
            id="nested",
        ),
        pytest.param(
            ON.format("alias-added: {alias: {nt: a}}"),
            4,
            "alias-added.alias.nt: unknown key; did you mean 'not'?",
            id="misspelled not",
        ),
        pytest.param(
            ON.format("alias-added: {alias: {not: 1}}"),
            4,
            "alias-added.alias.not: must be a string, not the number 1; put it in quotes",
            id="not a number",
        ),
        pytest.param(
            ON.format("alias-added: {alias: {}}"),
            4,
            "alias-added.alias.not: this field is required",
            id="empty mapping as a filter",
        ),
        pytest.param(
            ON.format("alias-added: {alias: '{{ x }}'}"),
            4,
            "is a pattern, not a template; use `if`",
            id="template as a filter",
        ),
        # steps
        pytest.param(
            "name: a\non: custom\nsteps:\n  - id: x\n",
            4,
            "uses: this field is required; choose from 'add-alias'",
            id="no uses",
        ),
        pytest.param(
            "name: a\non: custom\nsteps:\n  - uses: slak\n",
            4,
            "unknown action 'slak'; did you mean 'slack'?",
            id="misspelled action",
        ),
        pytest.param(
            "name: a\non: custom\nsteps:\n  - uses: wait\n",
            4,
            "action 'wait' is not supported yet",
            id="planned action",
        ),
        pytest.param(
            "name: a\non: custom\nsteps:\n  - uses: [slack]\n",
            4,
            "uses: must be a string, not a list",
            id="list as uses",
        ),
        pytest.param(STEP.format("wiht: {}"), 6, "wiht: unknown key; did you mean 'with'?", id="step key"),
        pytest.param(STEP.format("continue_on_error: true"), 6, "did you mean 'continue-on-error'?", id="step snake"),
        pytest.param(
            STEP.format("concurrency: 1"), 6, "concurrency: this key is not supported yet", id="planned step key"
        ),
        pytest.param(STEP.format("id: my-step"), 6, "id: 'my-step' cannot be used as steps.ID", id="hyphen"),
        pytest.param(STEP.format("id: My Step"), 6, "beginning with a letter; write my_step", id="space in id"),
        pytest.param(STEP.format("id: 1"), 6, "id: must be a string, not the number 1", id="number as id"),
        pytest.param(STEP.format("id: _x"), 6, "id: '_x' cannot be used", id="underscore first"),
        pytest.param(
            STEP.format("continue-on-error: yes"),
            6,
            "continue-on-error: must be true or false, not the string 'yes'",
            id="yes is a string",
        ),
        pytest.param(
            STEP.format("timeout: 30"), 6, "timeout: the number 30 is not a duration; write 30s", id="no unit"
        ),
        pytest.param(
            STEP.format("timeout: soon"),
            6,
            "the string 'soon' is not a duration; write 500ms, 30s, 5m, 1h or 2d",
            id="no time",
        ),
        pytest.param(STEP.format("timeout: 2d"), 6, "timeout: must be from 0.1s to 1h, not 2d", id="long timeout"),
        pytest.param(STEP.format("timeout: 0s"), 6, "timeout: must be from 0.1s to 1h, not 0s", id="no timeout"),
        pytest.param(STEP.format("timeout: -1s"), 6, "is not a duration", id="negative"),
        pytest.param(STEP.format("retry: 3"), 6, "retry: must be a mapping, not the number 3", id="retry as a number"),
        pytest.param(
            STEP.format("retry: {attempts: 0}"),
            6,
            "retry.attempts: must be a whole number from 1 (no retry)",
            id="no attempts",
        ),
        pytest.param(STEP.format("retry: {attempts: 1000}"), 6, "to 100, not the number 1000", id="many attempts"),
        pytest.param(
            STEP.format("retry: {attempts: '3'}"),
            6,
            "retry.attempts: must be a whole number from 1 (no retry) to 100, not the string '3'",
            id="attempts as text",
        ),
        pytest.param(STEP.format("retry: {attempts: true}"), 6, "to 100, not true", id="attempts as a boolean"),
        pytest.param(
            STEP.format("retry: {atempts: 3}"),
            6,
            "retry.atempts: unknown key; did you mean 'attempts'?",
            id="misspelled attempts",
        ),
        pytest.param(STEP.format("retry: {first: 0s}"), 6, "retry.first: must be longer than 0s", id="no wait"),
        pytest.param(STEP.format("retry: {cap: 8d}"), 6, "retry.cap: must be from 0s to 7d, not 8d", id="long cap"),
        pytest.param(
            STEP.format("retry: {first: 2m, cap: 1m}"),
            6,
            "retry: `cap` is shorter than the first wait",
            id="cap shorter than first",
        ),
        pytest.param(
            STEP.format("url: x"),
            6,
            "url: unknown key; write it under `with`, because it is an input of webhook",
            id="input beside with",
        ),
        pytest.param(
            STEP.format("launch: {image: x}"), 6, "launch: unknown key; write `uses: launch`", id="action as a key"
        ),
        pytest.param(
            "name: a\non: custom\nsteps:\n  - uses: launch\n    with: {image: a}\n    timeout: 2h\n",
            6,
            "timeout: this step waits until its job ends; limit the job with `timeout` under `with`",
            id="timeout of a job",
        ),
        pytest.param(STEP.format("if: steps.later.outputs"), 6, "there is no earlier step 'later'", id="no such step"),
        # with
        pytest.param(
            WITH.format("webhook", "url: 'https://x.example'\n      headers: [a]"),
            9,
            "with.headers: must be a mapping, not a list",
            id="no headers",
        ),
        pytest.param(
            WITH.format("add-tag", "tag: a\n      on: artifact"),
            9,
            "with.on: must be 'version' or 'collection', not the string 'artifact'",
            id="choice",
        ),
        pytest.param(WITH.format("add-alias", "alias: v3"), 8, "v3 always refers to the version itself", id="v3"),
        pytest.param(
            WITH.format("add-tag", "tag: a/b"), 8, "with.tag: tag 'a/b': '/' is not allowed", id="tag with a slash"
        ),
        pytest.param(WITH.format("webhook", "method: POST"), 7, "with.url: this field is required", id="no url"),
        pytest.param(
            WITH.format("webhook", "urll: x"), 8, "with.urll: unknown key; did you mean 'url'?", id="misspelled url"
        ),
        pytest.param(
            WITH.format("slack", "webhook: '{{ secrets.A }}'\n      text: x\n      txt: '{{ alias }}'"),
            10,
            "with.txt: unknown key; did you mean 'text'?",
            id="unknown key of a template",
        ),
        pytest.param(
            WITH.format("launch", "image: a\n      resources: {memry: 4GiB}"),
            9,
            "with.resources.memry: unknown key; did you mean 'memory'?",
            id="key of a block below",
        ),
        pytest.param(
            WITH.format("launch", "image: a\n      memory: 4GiB"),
            9,
            "with.memory: unknown key; write it under `resources`",
            id="key that belongs below",
        ),
        pytest.param(
            WITH.format("launch", "image: a\n      resources: {timeout: 1h}"),
            9,
            "with.resources.timeout: unknown key; write it beside `resources`, not under it",
            id="key that belongs above",
        ),
        pytest.param(
            WITH.format("launch", "image: a\n      mounts:\n        - source: /a\n          targt: /b"),
            11,
            "with.mounts.0.targt: unknown key; did you mean 'target'?",
            id="key of an item",
        ),
        pytest.param(
            WITH.format("webhook", "url: 1"), 8, "with.url: must be a string, not the number 1", id="number as url"
        ),
        pytest.param(WITH.format("webhook", "url: []"), 8, "with.url: must be a string, not a list", id="list as url"),
        pytest.param(WITH.format("webhook", "- url"), 7, "with: must be a mapping, not a list", id="list as with"),
        pytest.param(WITH.format("webhook", "url: ftp://x.example"), 8, "with.url: ", id="unsupported scheme"),
        pytest.param(
            WITH.format("github-dispatch", "repository: acme"),
            8,
            "is not a repository; write owner/name",
            id="repository without an owner",
        ),
        pytest.param(
            WITH.format("slack", "text: x"),
            7,
            "with: give either `webhook`, or `token` and `channel`",
            id="neither webhook nor token",
        ),
        pytest.param(
            WITH.format("slack", "webhook: '{{ secrets.A }}'\n      txt: x"),
            9,
            "did you mean 'text'?",
            id="misspelled text",
        ),
        pytest.param(
            WITH.format("slack", "webhook: '{{ secrets.A }}'\n      text: '{{ alas }}'"),
            9,
            "'alas' is unknown",
            id="unknown name",
        ),
        pytest.param(
            WITH.format("emit", "name: x\n      data:\n        a: ['{{ vars.br }}']"),
            10,
            "did you mean 'bar'?",
            id="misspelled variable",
        ),
        pytest.param(WITH.format("emit", "name: '{{ alias'"), 8, "with.name: this ends too early", id="open template"),
        pytest.param(
            WITH.format("emit", "name: '{{ alias | uper }}'"), 8, "unknown filter 'uper'", id="unknown filter"
        ),
        pytest.param(WITH.format("emit", "name: '{{ alias() }}'"), 8, "calls are not allowed", id="a call"),
        pytest.param(
            WITH.format("emit", "name: '{{ steps.one.outputs.x }}'"),
            8,
            "'one' has not run yet at this point",
            id="output of the same step",
        ),
        pytest.param(
            WITH.format("emit", "name: '{{ failure.reason }}'"),
            8,
            "`failure` can be used in `on-failure` steps only",
            id="failure outside of on-failure",
        ),
        pytest.param(
            WITH.format("emit", "name: '{{ delivery.ID }}'"),
            8,
            "'delivery' has no 'ID'",
            id="unknown field of delivery",
        ),
        pytest.param(
            WITH.format("emit", "name: |\n        a\n        {{ alas }}"), 10, "did you mean 'alias'?", id="deep line"
        ),
        pytest.param(
            WITH.format("require", "that: steps.x >= 1"),
            8,
            "with.that: there is no earlier step 'x'",
            id="unknown step in that",
        ),
        pytest.param(
            WITH.format("require", "that: 1 +"),
            8,
            "with.that: this ends where something more",
            id="unfinished expression",
        ),
        pytest.param(WITH.format("webhook", "url: {{ secrets.U }}"), 8, 'must be in quotes: "{{ … }}"', id="no quotes"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_a_remedy(text, line, says):
    """Each mistake is reported once, with the file, the line, the reason and a remedy."""
    errors = load_text(text, "dir/a.yaml", CATALOG).errors

    assert [(error.path, error.line) for error in errors if says in str(error)] == [("dir/a.yaml", line)], [
        *map(str, errors)
    ]
    assert load_text(text, "dir/a.yaml", CATALOG).automations == ()


def test_an_unreadable_value_is_reported_once():
    """A value that is invalid YAML is not also reported for having the wrong type."""
    errors = load_text(WITH.format("webhook", "url: {{ secrets.U }}\n      method: *x"), "a.yaml", CATALOG).errors

    assert len(errors) == 2


def test_all_mistakes_are_reported_at_once():
    """All mistakes of all documents are reported, in the order of lines."""
    text = "name: a b\non: nope\nsteps:\n  - uses: slak\n    timeout: 1\n---\nname: c\non: custom\nsteps: []\nfoo: 1\n"

    errors = load_text(text, "a.yaml", CATALOG).errors

    assert [error.line for error in errors] == [1, 2, 4, 5, 9, 10]
    assert all(isinstance(error, AutomationInvalid) for error in errors)


def test_at_most_a_hundred_mistakes_are_reported():
    """The first hundred mistakes are reported, and the others are counted."""
    errors = load_text("- a\n---\n" * 500, "a.yaml", CATALOG).errors

    assert len(errors) == 101
    assert str(errors[-1]) == (
        "a.yaml: and at least 400 more errors (what follows the first error of another document was not checked); "
        "fix those above first"
    )


def test_the_number_of_templates_in_a_step_is_limited():
    """A step has at most 500 templates, because each one is compiled when it is first rendered."""
    leaves = "".join(f"\n        k{number}: '{{{{ alias | upper }}}}'" for number in range(501))

    (error,) = load_text(WITH.format("emit", f"name: x\n      data:{leaves}"), "a.yaml", CATALOG).errors

    assert str(error) == "a.yaml:510: the step has more than 500 templates; use a body-file, or a loop in one template"


def test_step_ids_are_unique():
    """Two steps in `steps` and `on-failure` cannot have the same id. The message names both lines."""
    text = "name: a\non: custom\nsteps:\n  - {id: x, uses: emit, with: {name: a}}\non-failure:\n"
    text += "  - {id: x, uses: emit, with: {name: a}}\n"

    (error,) = load_text(text, "a.yaml", CATALOG).errors

    assert str(error) == "a.yaml:6: the step on line 4 already has the id 'x'; choose another"


def test_names_are_unique_in_a_file():
    """Two automations in a file cannot have the same name. The message names both lines."""
    (error,) = load_text(f"{TOP}---\n{TOP}", "a.yaml", CATALOG).errors

    assert str(error) == "a.yaml:7: a.yaml:1 already has the name 'a'; names must be unique in the folder"


def test_templates_are_checked_when_they_are_rendered():
    """A rule does not apply to a value that is still a template. It applies to the values beside it."""
    text = WITH.format(
        "github-dispatch", "repository: '{{ vars.bar }}'\n      token: '{{ secrets.A }}'\n      event-type: ''"
    )

    (error,) = load_text(text, "a.yaml", CATALOG).errors

    assert error.line == 10


def test_an_action_that_fails_to_check_its_inputs_is_reported():
    """An installed action can raise any exception. It is reported at its step, and parsing continues."""

    class Failing:
        uses = "failing"
        inputs_model = CATALOG["emit"].inputs_model
        expressions: frozenset[str] = frozenset()

        def check(self, with_):
            raise ZeroDivisionError("oh")

    (error,) = load_text(WITH.format("failing", "name: x"), "a.yaml", {"failing": Failing()}).errors

    assert str(error) == "a.yaml:7: with: action 'failing' failed to check this: ZeroDivisionError: oh"


@pytest.mark.parametrize("condition", ["true", "false"])
def test_if_can_be_true_or_false(condition):
    """A boolean is a valid expression."""
    assert automation(TOP + f"if: {condition}\n").condition == condition
