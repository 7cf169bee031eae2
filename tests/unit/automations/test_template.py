"""What templates render."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.automations.factories import custom_event, make_context, make_event, version_data
from upshot.automations.expressions.filters import FILTERS
from upshot.automations.expressions.template_tests import TESTS
from upshot.automations.template import compile_expression, compile_text, compile_tree
from upshot.errors import TemplateInvalid


def render(text, context=None):
    return compile_tree({"x": text}, path="a.yaml", line_of=lambda leaf: 7).render(context or make_context())["x"]


def error(text, context=None):
    with pytest.raises(TemplateInvalid) as caught:
        render(text, context)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain", "plain", id="a text without templates"),
        pytest.param("{{ version.name }}", "v3", id="a path"),
        pytest.param("{{version.name}}!", "v3!", id="without spaces, in a text"),
        pytest.param("{{ version['name'] }}", "v3", id="a key in brackets"),
        pytest.param("{{ version.metadata.items }}", "7", id="a key named like a method"),
        pytest.param("{{ version.metadata.classes[1] }}", "no", id="an index of a list"),
        pytest.param("{{ version.metadata.classes.1 }}", "no", id="an index of a list, with a dot"),
        pytest.param("{{ version.digest[7:13] }}", "012345", id="a slice of a string"),
        pytest.param("{{ version.metadata.accuracy }}", "0.94", id="a number"),
        pytest.param("{{ version.metadata.accuracy > 0.9 }}", "true", id="true is written as in JSON"),
        pytest.param("{{= version.metadata.accuracy }}", 0.94, id="a number keeps its type"),
        pytest.param("  {{= version.metadata.classes }}\n", ["yes", "no"], id="a list keeps its type"),
        pytest.param("{{= previous }}", None, id="null keeps its type"),
        pytest.param("{{= true }}", True, id="a constant keeps its type"),
        pytest.param("{{= '1.10' }}", "1.10", id="a string that looks like a number stays a string"),
        pytest.param("{{= {'a': [1, 'b']} }}", {"a": [1, "b"]}, id="a mapping built in the template"),
        pytest.param("from {{ previous.name }}.", "from .", id="null and paths below null are empty in a text"),
        pytest.param("{{ previous.name | default('nothing') }}", "nothing", id="default of null"),
        pytest.param("{{ version.metadata.loss | default(1) }}", "1", id="default of a missing key"),
        pytest.param("{{ version.a.b.c | default(1) }}", "1", id="default of a path below a missing key"),
        pytest.param("{{ '' | default('x', true) }}", "x", id="default of an empty string"),
        pytest.param("{{ version.metadata.loss is defined }}", "false", id="is defined"),
        pytest.param("{{ 'yes' if alias == 'production' else 'no' }}", "yes", id="inline if"),
        pytest.param("{{ 'yes' if alias == 'x' }}|", "|", id="inline if without else is null"),
        pytest.param("{{ 1 + 2 * 3 - 4 / 2 }}", "5.0", id="numbers"),
        pytest.param("{{ 7 // 2 }}{{ 7 % 2 }}{{ -1 }}", "31-1", id="more numbers"),
        pytest.param("{{ 'a' ~ 1 ~ none ~ true }}", "a1true", id="joined with ~"),
        pytest.param("{{ 'a' + 'b' }}", "ab", id="strings joined with +"),
        pytest.param("{{= [1] + [2] }}", [1, 2], id="lists joined"),
        pytest.param(
            "{% for c in version.metadata.classes %}{{ loop.index }}{{ c }}{% endfor %}", "1yes2no", id="a loop"
        ),
        pytest.param("{% for k, v in {'a': 1} | items %}{{ k }}={{ v }}{% endfor %}", "a=1", id="a loop over items"),
        pytest.param("{% for k in {'a': 1} %}{{ k }}{% endfor %}", "a", id="a loop over keys"),
        pytest.param("{% set x = alias | upper %}{{ x }}", "PRODUCTION", id="set"),
        pytest.param("{% if alias in ['production'] %}a{% else %}b{% endif %}", "a", id="if"),
        pytest.param("a{# no #}b", "ab", id="a comment"),
        pytest.param(
            "{{ version.metadata | tojson }}",
            '{"accuracy":0.94,"format":"onnx","items":7,"classes":["yes","no"]}',
            id="tojson writes compact JSON",
        ),
        pytest.param("{{ '<a & \"b\">' | tojson }}", '"<a & \\"b\\">"', id="tojson escapes nothing for HTML"),
        pytest.param("{{ '<!channel> & co' | slack }}", "&lt;!channel&gt; &amp; co", id="slack"),
        pytest.param("{{ 'a b/c?d' | urlencode }}", "a%20b%2Fc%3Fd", id="urlencode"),
        pytest.param("{{ ' Ab c ' | trim | lower | title }}", "Ab C", id="trim, lower, title"),
        pytest.param("{{ 'a-b-c' | replace('-', '+') }}", "a+b+c", id="replace"),
        pytest.param("{{ 'a/b/c' | split('/') | last }}", "c", id="split and last"),
        pytest.param("{{ 'abcdef' | truncate(4) }}", "abc…", id="truncate"),
        pytest.param("{{ 3.14159 | round(2) }} {{ 2.6 | round }}", "3.14 3", id="round"),
        pytest.param("{{ '3' | int + 1 }} {{ '1.5' | float }} {{ 'x' | int(0) }}", "4 1.5 0", id="int and float"),
        pytest.param("{{ [3, 1, 2] | sort | join(',') }}", "1,2,3", id="sort and join"),
        pytest.param("{{ [3, 1, 2] | sort(reverse=true) | first }}", "3", id="sort in reverse"),
        pytest.param("{{ [1, 1, 2] | unique | length }}", "2", id="unique and length"),
        pytest.param("{{ [1, 5] | max - [1, 5] | min }} {{ [1, 2] | sum }}", "4 3", id="max, min, sum"),
        pytest.param("{{ [{'n': 'a', 'v': 1}, {'n': 'b', 'v': 2}] | map('n') | join }}", "ab", id="map"),
        pytest.param(
            "{{ [{'n': 'a', 'v': 1}, {'n': 'b', 'v': 2}] | selectattr('v', 'ge', 2) | map('n') | join }}",
            "b",
            id="selectattr",
        ),
        pytest.param("{{ [{'v': false}, {'v': true}] | rejectattr('v') | length }}", "1", id="rejectattr"),
        pytest.param(
            "{{ [{'v': 2}, {'v': 1}] | sort(attribute='v') | tojson }}", '[{"v":1},{"v":2}]', id="sort by field"
        ),
        pytest.param("{{ 'v1.2' is matching('v1.*') and 'ab' is startingwith('a') }}", "true", id="tests"),
        pytest.param(
            "{{ delivery.id }} {{ delivery.attempt }} {{ automation.name }}", "dlv_1 2 promote", id="delivery"
        ),
        pytest.param("{{ secrets.TOKEN }}", "hunter2", id="a secret"),
        pytest.param("{{ vars.bar }}", "0.9", id="a variable"),
    ],
)
def test_a_template_is_rendered(text, expected):
    """A template renders its text, or the value of a typed expression."""
    assert render(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("{{ vrsion.name }}", "a.yaml:7: with.x: 'vrsion' is unknown; did you mean 'version'?", id="name"),
        pytest.param("{{ version.nmae }}", "'version' has no 'nmae'; did you mean 'name'?", id="field"),
        pytest.param(
            "{{ version.metadata.acuracy }}", "'version.metadata' has no 'acuracy'; did you mean 'accuracy'?", id="deep"
        ),
        pytest.param("{{ version.metadata.zzz }}", "if it can be missing, write `| default(…)`", id="nothing near"),
        pytest.param("{{ version.metadata.acuracy | round }}", "has no 'acuracy'", id="a filter of the unknown"),
        pytest.param("{{ version.metadata.acuracy + 1 }}", "has no 'acuracy'", id="a sum of the unknown"),
        pytest.param("{{ version.metadata.acuracy > 1 }}", "has no 'acuracy'", id="a comparison of the unknown"),
        pytest.param("{{ 1 > version.metadata.acuracy }}", "has no 'acuracy'", id="compared with the unknown"),
        pytest.param("{% if version.metadata.acuracy %}a{% endif %}", "has no 'acuracy'", id="an if of the unknown"),
        pytest.param("{% for x in version.acuracy %}a{% endfor %}", "has no 'acuracy'", id="a loop over the unknown"),
        pytest.param("{{ 'a' ~ version.acuracy }}", "has no 'acuracy'", id="~ with the unknown"),
        pytest.param("{{= version.acuracy }}", "has no 'acuracy'", id="typed"),
        pytest.param("{{= [version.acuracy] }}", "only plain data", id="in a list"),
        pytest.param("{{ version[alias] }}", "'version[…]' is unknown", id="computed key"),
        pytest.param("{{ version.metadata.classes[9] }}", "is a list and has no '9'", id="place out of range"),
        pytest.param("{{ alias.upper }}", "'alias' is a string and has no 'upper'; write `| upper`", id="a method"),
        pytest.param("{{ alias.upper() }}", "calls are not allowed; write `| upper` instead", id="a call"),
        pytest.param(
            "{{ version }}", "a mapping cannot be part of a text; write `| tojson`, or use one", id="a mapping"
        ),
        pytest.param("{{ version.metadata.classes }}", "a list cannot be part of a text", id="a list"),
        pytest.param("{{ alias", "this ends too early, expected '}}'", id="not closed"),
        pytest.param("{{ alias | uper }}", "unknown filter 'uper'; did you mean 'upper'?", id="filter"),
        pytest.param("{{ alias | replace('a') }}", "filter 'replace': missing a required argument: 'new'", id="arity"),
        pytest.param("{{ alias is defned }}", "unknown test 'defned'; did you mean 'defined'?", id="test"),
        pytest.param("x {{= alias }}", "keeps the type of a value, so it must be the whole value", id="typed text"),
        pytest.param("{{= alias }}{{= alias }}", "must be the whole value", id="typed twice"),
        pytest.param("{{ alias * 3 }}", "`*` does not work with a string and a number", id="string times number"),
        pytest.param(
            "{{ previous.n >= 1 }}", "`>=` cannot compare null with a number; `| default(0)`", id="null compared"
        ),
        pytest.param("{{ 1 / 0 }}", "`/` divides by zero", id="division by zero"),
        pytest.param("{{ 'abc' | int }}", "this is not a number; give a value", id="not a number"),
        pytest.param("{{ [1, 'a'] | sort }}", "of different kinds and cannot be ordered", id="no order"),
        pytest.param(
            "{{ secrets.NOPE }}", "no secret 'NOPE'; set the environment variable UPSHOT_SECRET_NOPE", id="secret"
        ),
    ],
)
def test_a_wrong_template_is_reported(text, says):
    """The message contains the place, the reason, and the nearest name or another remedy."""
    assert says in error(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("a\nb {{ nope }}", 8, id="an unknown name"),
        pytest.param("a\nb {{ version.nope }}", 8, id="a plain path"),
        pytest.param("{{ alias }}\n\n{% if alias != '' %}\n{{ version.nope }}{% endif %}", 10, id="within blocks"),
        pytest.param("a\n\n{{ alias | nope }}", 9, id="not allowed"),
        pytest.param("a\n{{ alias", 8, id="not closed"),
    ],
)
def test_an_error_has_the_line_of_the_file(text, line):
    """An error in a text of several lines is reported at the line of the file that contains it."""
    assert error(text).startswith(f"a.yaml:{line}: with.x: ")


def test_keys_are_not_templates():
    """Only values are rendered. Keys stay as they are."""
    tree = compile_tree({"{{ alias }}": ["{{ alias }}", 1, None]}, path="", line_of=lambda leaf: None)

    assert tree.render(make_context()) == {"{{ alias }}": ["production", 1, None]}


def test_a_tree_without_templates_is_returned_unchanged():
    """A tree without templates is not copied."""
    tree = {"a": [1, "b"], "c": {"d": None}}

    assert compile_tree(tree, path="", line_of=lambda leaf: None).render({}) is tree


def test_expressions_at_the_top_level_are_evaluated():
    """A top-level key can be declared as an expression. A nested key with the same name is not affected."""
    compiled = compile_tree(
        {"that": "version.metadata.accuracy >= vars.bar", "more": {"that": "1 + 1"}},
        path="",
        line_of=lambda leaf: None,
        expressions=frozenset({"that"}),
    )

    assert compiled.render(make_context()) == {"that": True, "more": {"that": "1 + 1"}}


def test_an_expression_needs_no_braces():
    """An expression in braces, or with words after it, is reported."""
    with pytest.raises(TemplateInvalid, match="write it without the braces"):
        compile_expression("{{ alias }}", path="a.yaml", line=3)
    with pytest.raises(TemplateInvalid, match=r"a\.yaml:3: 'beta' was not expected here"):
        compile_expression("alias beta", path="a.yaml", line=3)


def test_a_rendered_value_is_a_copy():
    """Changing a rendered value does not change the context."""
    context = make_context()
    rendered = render("{{= version.metadata }}", context)

    rendered["accuracy"] = 0

    assert context["version"]["metadata"]["accuracy"] == 0.94


@given(st.text(max_size=50))
def test_a_value_cannot_change_a_payload(name):
    """A value arrives unchanged and in its place, whatever characters it contains."""
    context = make_context(make_event(version=version_data(description=name)))

    assert render("{{ version.description }}", context) == name
    assert render("a {{ version.description }}", context) == f"a {name}"
    assert render("{{= version.description }}", context) == name
    assert render("{{ version.description | trim | string }}", context) == name.strip()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda leaves: st.lists(leaves, max_size=3) | st.dictionaries(st.text(max_size=5), leaves, max_size=3),
        max_leaves=10,
    )
)
def test_data_keeps_its_type(data):
    """`{{= … }}` returns the data of a custom event unchanged."""
    assert render("{{= event.data.it }}", make_context(custom_event(it=data))) == data


@given(st.text(alphabet="{}%#= .|ax'\"()[]1+~-_\n", max_size=40))
def test_no_text_breaks_the_compiler(text):
    """Any text either renders or raises TemplateInvalid."""
    with contextlib.suppress(TemplateInvalid):
        render(text, make_context(a={"x": 1}, x="y"))


def test_a_body_file_is_rendered_as_a_text():
    """A body file is rendered as one text. `tojson` keeps it valid JSON."""
    compiled = compile_text('{"m": {{ collection.name | tojson }},\n "n": {{ version.number }}}\n', path="p.j2")

    assert compiled.render(make_context(make_event(collection='a"b'))) == '{"m": "a\\"b",\n "n": 3}\n'


def test_the_table_of_filters_is_complete():
    """The docstring of the module describes every filter and every test."""
    from upshot.automations.expressions import filters, template_tests

    documented = f"{filters.__doc__}{template_tests.__doc__}"
    assert [name for name in (*FILTERS, *TESTS) if f"`{name}" not in documented] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("one\r\n{{ version.name | upper }}\r\n", "one\r\nV3\r\n", id="Windows"),
        pytest.param("one\r{{ version.name | upper }}\r\ntwo\n\r", "one\rV3\r\ntwo\n\r", id="mixed"),
        pytest.param("{% if true %}\r\na\r\n{% endif %}\r\n", "\r\na\r\n\r\n", id="around blocks"),
        pytest.param("a \r\n{{- version.name | upper -}}\r\n b", "aV3b", id="a dash removes them"),
        pytest.param("{{\r\n version.name\r\n| upper }}\r\n", "V3\r\n", id="inside braces"),
        pytest.param("{{ 'a\r\nb' | upper }}", "A\r\nB", id="inside a string"),
        pytest.param("{# a\r\nb #}\x1f\r\n{{ version.name | upper }}", "\x1f\r\nV3", id="beside control characters"),
        pytest.param("{% raw %}{{ a }}\r\n{% endraw %}{{ 1 + 1 }}", "{{ a }}\r\n2", id="raw"),
    ],
)
def test_line_ends_are_kept(text, expected):
    """What surrounds a template is sent byte for byte, also the line ends of Windows."""
    assert render(text) == expected


@given(st.text(alphabet="ab\r\n\t \x1e\x1f\u2028\ufeff", max_size=40))
def test_any_text_around_a_template_is_kept(text):
    """The result is the same as if the template had been cut out of the text."""
    assert render(f"{text}{{{{ 1 + 1 }}}}{text}") == f"{text}2{text}"
