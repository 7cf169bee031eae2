"""What authors bring from W&B, GitHub Actions and JavaScript is reported at load, with Upshot's form of the line."""

from __future__ import annotations

import json

import pytest

from tests.unit.automations.factories import CATALOG, automation, make_context, make_event
from upshot.automations.foreign_expressions import regex_as_globs, rewrite_expression
from upshot.automations.loader import load_revision, load_text
from upshot.automations.template import compile_expression
from upshot.automations.yaml_lines import yaml_line
from upshot.errors import ConfigError

STEP = "name: a\non: alias-added\nvars: {{bar: 1}}\nsteps:\n  - uses: emit\n    with: {{name: x}}\n    {}\n"
WITH = "name: a\non: alias-added\nsteps:\n  - uses: {}\n    with:\n      {}\n"
HOOK = WITH.format("webhook", "url: https://x.example\n      {}")
TOP = "name: a\non: alias-added\nsteps:\n  - uses: emit\n    with: {{name: x}}\n{}\n"
ON = "name: a\nsteps: [{{uses: emit, with: {{name: x}}}}]\non:\n  {}\n"


def messages(text):
    return [f"{error.line}: {error.reason}" for error in load_text(text, "a.yaml", CATALOG).errors]


def only_message(text):
    (message,) = messages(text)
    return message


@pytest.mark.parametrize(
    ("step", "shows"),
    [
        ('json: {m: "${artifact_collection_name}"}', 'm: "{{ artifact_collection_name }}"'),
        ('json: {a: [{b: "at ${project_name}"}]}', 'b: "at {{ project_name }}"'),
        ('json: {m: "${ alias }"}', 'm: "{{ alias }}"'),
        ('json: {m: "${version.name}"}', 'm: "{{ version.name }}"'),
        ('json: {m: "${artifact_versoin}"}', 'm: "{{ artifact_version }}"'),
        ('json: \'{"m": "${artifact_version}"}\'', 'json: {"m": "{{ artifact_version }}"}'),
        ('headers: {Authorization: "Bearer ${ACCESS_TOKEN}"}', 'Authorization: "Bearer {{ secrets.ACCESS_TOKEN }}"'),
        ("headers: {X: '${{ secrets.X }}'}", 'X: "{{ secrets.X }}"'),
        ('json: {m: "${{ github.actor }}"}', 'm: "{{ actor.name }}"'),
        ('json: {m: "${{ github.event.client_payload.model }}"}', 'm: "{{ event.data.model }}"'),
        ("json: {m: \"${{ contains(version.tags, 'x') && alias }}\"}", """m: '{{ "x" in version.tags and alias }}'"""),
        ("json:\n        m: |\n          one\n          two ${alias}", "write `two {{ alias }}`"),
        ('json: {m: "${foo}"}', '{{ "${foo}" }}'),
    ],
)
def test_placeholders_of_wandb_and_github_are_not_sent_as_they_are(step, shows):
    """A `${name}` or `${{ expression }}` is an error once, and the message shows the line as Upshot has it."""
    message = only_message(HOOK.format(step))

    assert shows in message
    assert "would be sent" in message


@pytest.mark.parametrize(
    "step",
    [
        """json: {m: '{{ "$" }}{{ version.metadata.price }}'}""",
        """json: {m: '{{ "${foo}" }}'}""",
        "json: {m: '{% raw %}${foo} ${{ bar }}{% endraw %}'}",
        "json: {m: 'costs $5, {n}'}",
        "json: {m: '{# ${foo} #}'}",
    ],
)
def test_a_dollar_sign_can_be_sent(step):
    """The remedies that messages name are valid."""
    assert messages(HOOK.format(step)) == []


def test_a_url_that_is_a_placeholder_is_reported_once():
    """A value whose placeholder is reported gets no second error about its URL or its secret."""
    url = only_message(WITH.format("webhook", "url: ${HOOK_URL}"))
    token = only_message(
        WITH.format("github-dispatch", "repository: a/b\n      token: ${{ secrets.T }}\n      event-type: x")
    )

    assert 'write `url: "{{ secrets.HOOK_URL }}"`' in url
    assert 'write `token: "{{ secrets.T }}"`' in token


def test_a_command_can_use_the_variables_of_its_shell():
    """`${HOME}` in a command is for the shell. W&B's names and GitHub's expressions are not."""
    step = 'image: a\n      command: [sh, -c, "{}"]\n      env: {{run_name: x}}'

    assert messages(WITH.format("launch", step.format("echo ${HOME} ${version} ${run_name}"))) == []
    wandb = only_message(WITH.format("launch", step.format("echo ${HOME} ${artifact_version}")))
    assert "echo ${HOME} {{ artifact_version }}" in wandb
    assert "GitHub's form" in only_message(WITH.format("launch", step.format("echo ${{ alias }}")))
    assert "W&B's form" in only_message(WITH.format("launch", "image: 'a:${artifact_version_index}'"))


def test_a_body_file_is_checked_for_placeholders(tmp_path):
    """A payload that was copied from W&B into a file is reported at the line of the file."""
    text = WITH.format("webhook", "url: https://x.example\n      body-file: b.json")
    body = '{\n  "model": "${artifact_collection_name}"\n}\n'

    (error,) = load_text(text, "a.yaml", CATALOG, {"b.json": body}.__getitem__).errors

    assert (error.path, error.line) == ("b.json", 2)
    assert '"model": "{{ artifact_collection_name }}"' in error.reason


def test_keys_are_not_templates():
    """A key is sent as it is written, so a template in it is an error."""
    assert "the key `{{ alias }}` is sent as it is written" in only_message(HOOK.format('json: {"{{ alias }}": 1}'))


def test_a_stored_revision_with_a_placeholder_can_continue():
    """An execution that began before these rules finishes with the automation that it began with."""
    parsed = automation(HOOK.format("json: {m: x}"))
    source = {**parsed.source, "steps": [{"uses": "webhook", "with": {"url": "https://x.example", "json": "${alias}"}}]}

    assert load_revision("a", source, {}, "a.yaml", CATALOG).steps[0].with_["json"] == "${alias}"
    with pytest.raises(ConfigError):
        load_revision("a", {**source, "steps": [{"uses": "webhook"}]}, {}, "a.yaml", CATALOG)


EXPRESSIONS = [
    ("version.name == 'v3' && alias == 'production'", 'version.name == "v3" and alias == "production"', True),
    ("alias == 'x' || !event.data.automatic", 'alias == "x" or not event.data.automatic', True),
    ("!event.data.automatic == true", "(not event.data.automatic) == true", True),
    ("event.data.automatic ? 'a' : 'b'", '"a" if event.data.automatic else "b"', "b"),
    ("alias === 'production'", 'alias == "production"', True),
    ("version.name !== 'v3'", 'version.name != "v3"', False),
    ("contains(version.aliases, 'production')", '"production" in version.aliases', True),
    ("!contains(version.aliases, 'production')", 'not ("production" in version.aliases)', False),
    ("startsWith(alias, 'prod')", 'alias is startingwith("prod")', True),
    ("endsWith(alias, 'x')", 'alias is endingwith("x")', False),
    ("alias.includes('rod')", '"rod" in alias', True),
    ("version.metadata.get('missing', 4) == 4", 'version.metadata["missing"] | default(4) == 4', True),
    ("version.metadata.missing ?? 'none'", 'version.metadata.missing | default("none")', "none"),
    ("previous != null", "previous != none", False),
    ("version.metadata.x !== undefined", "version.metadata.x is defined", False),
    ("${{ success() && alias == 'production' }}", 'alias == "production"', True),
    ("${alias} == 'production'", 'alias == "production"', True),
    ("'{{ alias }}' == 'production'", 'alias == "production"', True),
    ("{{ alias }} == 'production'", 'alias == "production"', True),
    ("alias =~ '^prod.*$'", 'alias is matching("prod*")', True),
    ("github.actor == 'ann'", 'actor.name == "ann"', True),
    ("format('{0} of {1}', alias, version.name)", 'alias ~ " of " ~ version.name', "production of v3"),
    ("contains(fromJSON('[\"production\"]'), alias)", 'alias in ["production"]', True),
    ("previous is null && alias == 'production'", 'previous is none and alias == "production"', True),
    ("toJSON(version.aliases)", "version.aliases | tojson", '["latest","production"]'),
    ("len(version.aliases) > 1", "version.aliases | length > 1", True),
    ("Math.max(1, version.number) == 3", "[1, version.number] | max == 3", True),
    ("now() == event.time", "event.time == event.time", True),
]


@pytest.mark.parametrize(("written", "form", "value"), EXPRESSIONS, ids=[written for written, _, _ in EXPRESSIONS])
def test_an_expression_is_shown_in_upshots_form(written, form, value):
    """The form that the message shows compiles, and it has the value that the author meant."""
    shown = rewrite_expression(written).text
    context = make_context(make_event())

    assert shown == form
    assert compile_expression(shown, path="a.yaml").evaluate(context) == value
    if isinstance(value, bool):
        assert f"write `{yaml_line('if', form)}`" in only_message(STEP.format(yaml_line("if", written)))
    else:
        text = WITH.format("emit", f"name: x\n      data:\n        {yaml_line('a', f'{{{{= {written} }}}}')}")
        assert f"write `{yaml_line('a', f'{{{{= {form} }}}}')}`" in only_message(text)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("success()", "a step runs only if the steps before it have succeeded"),
        ("failure()", "move the step to `on-failure`"),
        ("always()", "write it under `on-failure`, too"),
        ("cancelled()", "no step runs after an execution is cancelled"),
        ("now()", "templates have no clock"),
        ("event.data.ok && foo", "write `if: event.data.ok and foo`; 'foo' is unknown"),
        ("github.ref == 'x'", "'github' is unknown; use `event`, `actor`, `collection` and `version`"),
        ("needs.build.outputs.x", "write `if: steps.build.outputs.x`"),
        ("env.BAR == '1'", 'write `if: vars.BAR == "1"`'),
        ("steps.a.outcome == 'success'", 'write `if: steps.a.state == "succeeded"`'),
        ("!alias", "in an expression write `not alias`"),
        ("version.tags.length > 0", "write `version.tags | length`"),
        ("alias.length > 3", "write `alias | length`"),
        ("!contains(version.tags, 'x')", 'write `if: not ("x" in version.tags)`'),
        ("alias ? tag : alias", "write `if: tag if alias else alias`"),
        ("!alias && tag", "write `if: not alias and tag`"),
    ],
)
def test_a_condition_leads_to_upshots_form(written, says):
    """If an expression cannot contain something, the message says where to write it. YAML's errors do the same."""
    message = only_message(STEP.format(f"if: {written}"))

    assert message.startswith("7: ")
    assert says in message


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ('name: "{{ alias && tag }}"', 'name: "{{ alias and tag }}"'),
        ('name: "x {{ alias ? tag : alias }}"', 'name: "x {{ tag if alias else alias }}"'),
        ("name: \"{% if alias === 'x' %}y{% endif %}\"", """{% if alias == "x" %}y{% endif %}"""),
        ('name: "{{= alias || tag }}"', 'name: "{{= alias or tag }}"'),
        (
            "name: x\n      data:\n        t: |\n          a\n          {{ alias && tag }}",
            "write `{{ alias and tag }}`",
        ),
    ],
)
def test_templates_in_texts_are_shown_in_upshots_form(text, shows):
    """The message shows the whole value, or the line of it."""
    assert shows in only_message(WITH.format("emit", text))


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("version.metadata.f1-score >= 0.9", 'version.metadata["f1-score"] >= 0.9'),
        ("event.data.val/loss < 1", 'event.data["val/loss"] < 1'),
        ("event.data.top-5-accuracy > 0", 'event.data["top-5-accuracy"] > 0'),
        ("event.data.best-alias == 1", 'event.data["best-alias"] == 1'),
        ("event.data.my-key.sub == 1", 'event.data["my-key"].sub == 1'),
        ("event.data.my-key.sub-key == 1", 'event.data["my-key"]["sub-key"] == 1'),
        ("vars.my-bar > 1", "vars.my_bar > 1"),
    ],
)
def test_a_key_with_a_hyphen_is_not_a_subtraction(written, form):
    """A key that templates read as a calculation is shown in brackets, whether the other name exists or not."""
    assert f"write `if: {form}`" in only_message(STEP.format(f"if: {written}"))


def test_calculations_are_no_keys():
    """Numbers and paths can be subtracted and divided without spaces."""
    for expression in ("version.number-1 > 1", "version.number-previous.number > 1", "version.number/2 > 1"):
        assert messages(STEP.format(f"if: {expression}")) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TOP.format("jobs: {build: {steps: [{uses: webhook}]}}"), "write their `steps` directly under the automation"),
        (TOP.format("runs-on: gpu"), "`with: {queue: gpu, …}`"),
        (TOP.format("env: {A: b}"), "write `vars: {A: b}`"),
        (TOP.format("run: make"), "command: [sh, -c, make]"),
        (TOP.format("needs: [a]"), "steps run in order"),
        (TOP.format("strategy: {matrix: {x: [1]}}"), "write one step for each case"),
        (TOP.format("permissions: {contents: read}"), "a step names its own token"),
        (STEP.format("run: make all"), "uses: launch"),
        (STEP.format("env: {A: b}"), "write `vars: {A: b}` at the top"),
        (STEP.format("needs: x"), "steps run in order"),
        (STEP.format('env: {A: "${{ secrets.B }}"}'), "as `{{ secrets.B }}`"),
        (STEP.format("strategy: {}"), "write one step for each case"),
        (STEP.format("timeout-minutes: 10"), "write `timeout: 10m`"),
        (STEP.format("when: alias == 'x'"), "write `if: alias == 'x'`"),
        (STEP.format("working-directory: /x"), "write `workdir: /x`"),
        (ON.format("schedule: [{cron: '0 4 * * *'}]"), "`0 4 * * * upshot events emit a`"),
        (ON.format("workflow_dispatch"), "write `on: {custom: {name: a}}`"),
        (ON.format("repository_dispatch: {types: [retrain]}"), "write `on: {custom: {name: retrain}}`"),
        (ON.format("push: {branches: [main]}"), "write `on: version-linked`"),
        (ON.format("LINK_ARTIFACT"), "write `on: version-linked`"),
        (ON.format("OnAddArtifactAlias"), "write `on: alias-added`"),
        (ON.format("model_version.created"), "write `on: version-linked`"),
        ("name: a\non: custom\nsteps:\n  - uses: actions/checkout@v4\n", "uses: github-dispatch"),
        ("name: a\non: custom\nsteps:\n  - uses: docker://alpine:3\n", "{image: alpine:3}"),
        (ON.format("alias-added: {collection: /fraud-.*/}"), "write `collection: fraud-*`"),
        (ON.format("alias-added: {collection: '^(a|b)-x$'}"), "write `collection: [a-x, b-x]`"),
        (ON.format("alias-added: {collection: 'x-.*'}"), "write `collection: x-*`"),
        (ON.format("alias-added: {registry: '!model'}"), "write `registry: {not: model}`"),
        (ON.format("alias-added:\n    registry: !model"), "in a filter `{not: model}`"),
        (ON.format("alias-added: {alias: *}"), "put it in quotes"),
        (ON.format("alias-added: {alias: *-prod}"), '"*-prod" in quotes if it is a glob'),
        (HOOK.format("method: POSTT"), "did you mean 'POST'?"),
        (HOOK.format('json: "{{ event | tojson }}"'), 'write `json: "{{= event }}"`'),
        (HOOK.format('json: \'{"a": "{{ alias }}"}\''), 'json: {"a": "{{ alias }}"}'),
        (HOOK.format('json: {colour: "{#fff}"}'), 'write `{{ "{#" }}fff}`'),
        (HOOK.format('json: {colour: "a{#fff} b {# c #}"}'), 'write `{{ "{#" }}fff}`'),
        (HOOK.format('json: {a: "100{%"}'), 'write `{{ "{%" }}'),
        (HOOK.format('headers: "{{ event.data }}"'), "write `{{= event.data }}`"),
        (HOOK.format("body: {a: b}"), "write `json: {a: b}`"),
        (HOOK.format('token: "{{ secrets.X }}"'), 'write `headers: {Authorization: "Bearer {{ secrets.X }}"}`'),
        (HOOK.format("timeout: 5s"), "write it beside `with`"),
        (HOOK.format("headers:\n        A: >\n          b {{ alias }}"), 'write it in one line: "b {{ alias }}"'),
        (WITH.format("webhook", "url: >\n        https://x.example/{{ alias }}"), '"https://x.example/{{ alias }}"'),
        (WITH.format("webhook", "url: |\n        https://x.example/"), 'write it in one line: "https://x.example/"'),
        (WITH.format("emit", 'name: x\n      data: "{{ event.data | tojson }}"'), "write `{{= event.data }}`"),
        (WITH.format("launch", 'image: a\n      save-metrics: "{{ alias }}"'), "write `{{= alias }}`"),
        (WITH.format("find-version", 'optional: "{{ alias }}"'), "write `{{= alias }}`"),
    ],
)
def test_a_habit_leads_to_upshots_form(text, says):
    """Keys, events, filters and values of other systems are reported once, with what to write."""
    found = messages(text)

    assert [says in message for message in found].count(True) == 1, found
    assert len(found) == 1, found


def test_an_unknown_input_with_a_template_is_reported():
    """`message` is not an input of slack, whether its value has a template or not."""
    found = messages(WITH.format("slack", 'channel: "#ml"\n      message: "x {{ version.name }}"'))

    assert '7: with.message: unknown key; write `text: "x {{ version.name }}"`' in found


@pytest.mark.parametrize(
    "text",
    [
        WITH.format("webhook", "url: >-\n        https://x.example/{{ alias }}"),
        WITH.format("webhook", "url: |\n        {{- 'https://x.example/' -}}\n"),
        HOOK.format("method: post"),
        HOOK.format("method: PROPFIND"),
        HOOK.format('json: "{{= event }}"'),
        HOOK.format('json: "{{ alias }}"'),
        HOOK.format('json: "[INFO] {{ alias }} [x]"'),
        HOOK.format('json: {nested: "{{ event | tojson }}"}'),
        HOOK.format('json: {a: "x{# {{ alias }} #}y"}'),
        ON.format("alias-added: {collection: ['v1.*', '*.onnx', 'a[0-9]', 'a.b']}"),
        ON.format("alias-added: {collection: ['a[|]b', '[{]a,b}', 'a, b', '|', '{a}', 'not', 'notable']}"),
    ],
)
def test_what_is_meant_here_stays_valid(text):
    """Globs with dots, methods of other protocols, comments and single strings are not reported."""
    assert messages(text) == []


@pytest.mark.parametrize(
    ("regex", "globs"),
    [
        ("^prod", ("prod*",)),
        ("^prod.*", ("prod*",)),
        ("-v2$", ("*-v2",)),
        ("^(a|b)-", ("a-*", "b-*")),
        ("/fraud-.*/i", ("fraud-*",)),
        ("^a.b+$", ()),
        (r"a\.b", ("a.b",)),
        ("a|b", ("a", "b")),
        ("x.+", ("x?*",)),
    ],
)
def test_simple_regular_expressions_become_globs(regex, globs):
    """What a glob cannot express has no glob."""
    assert regex_as_globs(regex) == globs


def test_a_step_has_a_name():
    """A name is one line of plain text, for people. It does not replace the id."""
    parsed = automation(STEP.format("name: Tell the team")).steps[0]

    assert (parsed.id, parsed.name) == ("step-1", "Tell the team")
    assert "plain words" in only_message(STEP.format('name: "Tell {{ alias }}"'))
    assert "one line of 1 to 128 characters" in only_message(STEP.format(f"name: {'x' * 129}"))
    assert "one line" in only_message(STEP.format('name: "a\\nb"'))


@pytest.mark.parametrize(
    "text",
    [
        "${a} " + "{{ " * 20_000,
        "{% " * 20_000,
        "{{ alias }}" + " \n" * 20_000,
        "${a}" * 10_000,
        "{{ " + "a." * 4_900 + "b && }}",
        "{{ " + "!" * 20_000 + "a }}",
        "{{ " + "(" * 1_900 + " && }}",
    ],
    ids=["unclosed values", "unclosed tags", "white space", "placeholders", "a long path", "many operators", "nested"],
)
def test_a_strange_text_is_answered_in_time(text):
    """Looking for a form takes time in proportion to the text. Otherwise these would take minutes."""
    messages(HOOK.format(f"headers: {{A: {json.dumps(text)}}}"))
    messages(HOOK.format(f"json: {json.dumps(text)}"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ON.format("alias-added: {alias: a|b}"), "write a list, `alias: [a, b]`, or `a[|]b` if a name has these"),
        (ON.format("alias-added: {alias: 'v1*, v2* | x'}"), "`alias: ["),
        (ON.format("alias-added: {collection: '(a|b)-c'}"), "`collection: [a-c, b-c]`"),
        (ON.format("alias-added: {collection: 'x-{a,b}'}"), "`collection: [x-a, x-b]`"),
        (ON.format("alias-added: {registry: not model}"), "write `registry: {not: model}`"),
        (ON.format("alias-added: {registry: {not: not model}}"), "write `model`"),
        ("name: a\nsteps: [{uses: emit, with: {name: x}}]\non:\n  alias-added:\n  if: alias", "beside `on`, not under"),
        ("name: a\non: alias-added\nif:\nsteps: [{uses: emit, with: {name: x}}]", "if: is empty, so nothing is"),
        (STEP.format("if: ~"), "if: is empty, so nothing is decided"),
        (STEP.format("if: alias <> 'x'"), 'write `if: alias != "x"`'),
        (STEP.format("if: previous == NULL"), "write `if: previous == none`"),
        (STEP.format("if: alias =~ '^prod'"), 'write `if: alias is matching("prod*")`'),
        (STEP.format("if: 1e400 > 1"), "this number is too large"),
        (HOOK.format('json: "{{ 1 + 2e999 }}"'), "this number is too large"),
    ],
)
def test_a_pattern_or_a_condition_that_does_nothing_is_reported(text, says):
    """What would match nothing, or decide nothing, is reported once, with what to write."""
    assert says in only_message(text)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("alias", '`alias` is a string, not true or false; write `alias == "true"`'),
        ("not version.name", "`version.name` is a string"),
        ("version.stage", "`version.stage` is a string"),
        ("version.number and true", "`version.number` is a number"),
        ("aliases", "write `aliases | length > 0`"),
        ("alias == 'x' or version.metadata", "`version.metadata` is a mapping"),
        ("previous", "`previous` is a mapping"),
        ("event.actor", "`event.actor` is a mapping"),
    ],
)
def test_a_condition_that_is_never_true_or_false_is_found_at_load(condition, says):
    """The kinds of the registry's fields are known, so that nobody waits for the first event to learn it."""
    assert says in only_message(STEP.format(f"if: {condition}"))
    assert messages(STEP.format("if: version.is_stored or event.data.ok")) == []


@pytest.mark.parametrize("path", ["version", "version.metadata", "event.data", "aliases", "version.tags", "vars"])
def test_a_mapping_or_a_list_in_a_text_is_found_at_load(path):
    """It has no obvious text. The message shows how to send it as data, and as JSON."""
    message = only_message(HOOK.format(f'json: {{a: "{{{{ {path} }}}}"}}'))

    assert "which cannot be part of a text" in message
    assert f"`{{{{ {path} | tojson }}}}`" in message
    assert f"`{{{{= {path} }}}}`" in message
    assert messages(HOOK.format(f'json: {{a: "{{{{= {path} }}}}"}}')) == []
