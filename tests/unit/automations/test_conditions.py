"""Conditions are true or false. Texts, numbers, null, lists and mappings are errors that say what to write."""

from __future__ import annotations

import pytest

from upshot.automations.template import compile_condition, compile_text, compile_tree
from upshot.errors import TemplateInvalid

CONTEXT = {
    "event": {
        "data": {
            "approved": "False",
            "flag": True,
            "no": "no",
            "digit": "0",
            "empty": "",
            "zero": 0,
            "one": 1,
            "score": "0.93",
            "list": [False],
            "mapping": {"a": 1},
            "nothing": None,
            "cafe": "cafe\u0301",
            "loss": "NaN",
            "huge": 1e308,
        }
    }
}


def holds(condition):
    return compile_condition(condition, path="a.yaml", line=3).evaluate(CONTEXT)


def error(condition):
    with pytest.raises(TemplateInvalid) as caught:
        holds(condition)
    return str(caught.value)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("event.data.approved", "`event.data.approved` is a string, not true or false; write `event.data.approved == "),
        ("event.data['approved']", '`event.data.approved == "true"`'),
        ("event.data.no", "is a string, not true or false"),
        ("event.data.digit", "is a string"),
        ("event.data.empty", "is a string"),
        ("event.data.zero", "`event.data.zero` is a number, not true or false; write `event.data.zero != 0`"),
        ("event.data.one", "is a number"),
        ("event.data.list", "is a list, not true or false; write `event.data.list | length > 0`"),
        ("event.data.mapping", "is a mapping, not true or false; write `event.data.mapping | length > 0`"),
        ("event.data.nothing", "is null, not true or false; write `event.data.nothing is not none` or"),
        ("not event.data.approved", "`event.data.approved` is a string"),
        ("not (event.data.approved)", "is a string"),
        ("event.data.approved and event.data.flag", "`event.data.approved` is a string"),
        ("event.data.flag and event.data.approved", "`event.data.approved` is a string"),
        ("event.data.empty or event.data.flag", "`event.data.empty` is a string"),
        ("not (event.data.nothing or false)", "`event.data.nothing` is null"),
        ("true if event.data.approved else false", "`event.data.approved` is a string"),
        ("event.data.approved if event.data.flag else false", "`event.data.approved` is a string"),
        ("true if not event.data.flag", "is null, not true or false"),
        ("event.data.missing | default('no')", "the condition is a string"),
        ("event.data.list | first or event.data.one", "`event.data.one` is a number"),
        ("(event.data.list | selectattr('a') | length) > 0", "an element of the list has no 'a'"),
        ("([event.data] | selectattr('approved') | length) > 0", "`approved` is a string, not true or false"),
    ],
)
def test_only_true_and_false_decide(condition, says):
    """A text such as "False" is an error, plain or negated, alone or joined. The message says what to write."""
    message = error(condition)

    assert message.startswith("a.yaml:3: ")
    assert says in message


@pytest.mark.parametrize(
    "condition",
    ["1", "'False'", "[true]", "{'a': 1}", "'a' ~ 'b'", "event.data.score | float", "event.data.list | length", "-1"],
)
def test_what_can_never_be_a_condition_is_found_at_load(condition):
    """Numbers, texts, lists and the results of most filters are refused before there is an event."""
    with pytest.raises(TemplateInvalid, match="is neither true nor false; write a comparison"):
        compile_condition(condition, path="a.yaml", line=3)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("event.data.flag", True),
        ("not event.data.flag", False),
        ("event.data.missing | default(false)", False),
        ("event.data.approved == 'False'", True),
        ("event.data.nothing is none and event.data.list | length > 0", True),
        ("event.data.nothing == 1 or event.data.one == 1.0", True),
        ("event.data.score | float > 0.9", True),
        ("0 < event.data.one <= 1", True),
        ("1 < event.data.one <= 1", False),
        ("event.data.cafe == 'caf\u00e9'", True),
        ("event.data.cafe in ['caf\u00e9']", True),
        ("true in event.data.list", False),
        ("1 in [1, 'a']", True),
        ("2 in ['1', 1]", False),
        ("1 in [none, '1']", False),
        ("1 in []", False),
        ("'a' in event.data.mapping", True),
        ("'b' in event.data.mapping", False),
        ("event.data.mapping == {'a': 1}", True),
    ],
)
def test_a_condition_holds_or_not(condition, expected):
    """Comparisons, tests and real booleans decide. Both Unicode forms of a text are equal, and 1 is not true."""
    assert holds(condition) is expected


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("event.data.approved != false", 'a string and true or false are never equal; `== "true"`'),
        ("event.data.digit != 0", "a string and a number are never equal; `| float` converts a string"),
        ("event.data.one == true", "a number and true or false are never equal"),
        ("event.data.score >= 0.9", "`>=` cannot compare a string with a number; `| float` converts a string"),
        ("0.1 < event.data.score < 1", "`<` cannot compare a number with a string"),
        ("event.data.flag > 0.5", "`>` cannot compare true or false with a number"),
        ("event.data.nothing < 1", "`<` cannot compare null with a number; `| default(0)`"),
        ("([event.data] | selectattr('digit', 'ne', 0) | length) > 0", "are never equal"),
        ("event.data.one not in ['1', '2']", "a number and a string are never equal; `| float` converts"),
        ("event.data.digit in [1, 2]", "a string and a number are never equal"),
        ("event.data.one in [true]", "a number and true or false are never equal"),
        ("1 in event.data.mapping", "a number and a string are never equal"),
        ("event.data.one in '123'", "a number is never in a string; `| float` converts"),
        ("1 in none", "`in` needs a list, a mapping or a string after it, not null"),
        ("([event.data] | selectattr('digit', 'in', [0]) | length) > 0", "are never equal"),
    ],
)
def test_values_of_different_kinds_are_not_compared(condition, says):
    """A comparison whose result would not depend on the value is an error, such as a text compared with `!= false`."""
    assert says in error(condition)


@pytest.mark.parametrize(
    "text",
    [
        "{% if event.data.approved %}yes{% endif %}",
        "{% if false %}{% elif event.data.approved %}yes{% endif %}",
        "{{ 'yes' if event.data.approved else 'no' }}",
        "{% for x in event.data.list if event.data.approved %}yes{% endfor %}",
        "{{ event.data.approved and 'yes' }}",
    ],
)
def test_conditions_within_a_text_are_checked(text):
    """A condition inside a text obeys the same rules: the string "False" is an error."""
    with pytest.raises(TemplateInvalid, match=r"`event\.data\.approved` is a string, not true or false"):
        compile_text(text, path="a.yaml").render(CONTEXT)


def test_or_replaces_an_empty_value():
    """Where a value is written, `or` takes the first one that is not empty, as in Jinja."""
    render = compile_text("{{ event.data.empty or event.data.nothing or 'x' }}", path="a.yaml").render

    assert render(CONTEXT) == "x"


def test_require_takes_a_condition():
    """The input `that` of `require` obeys the same rules."""
    tree = compile_tree({"that": "event.data.approved"}, path="a.yaml", line_of=lambda _: 7, expressions={"that"})

    with pytest.raises(TemplateInvalid, match=r"a\.yaml:7: with\.that: `event\.data\.approved` is a string"):
        tree.render(CONTEXT)


@pytest.mark.parametrize(
    "text", ["NaN", "nan", "inf", "-Infinity", "1_000", "١٢", "²", "1e999", "0x10", "", "True", "1,5"]
)
@pytest.mark.parametrize("name", ["int", "float"])
def test_numbers_are_read_strictly(name, text):
    """A text is a number only if it has ASCII digits and is finite. Anything else needs a value for that case."""
    data = {"event": {"data": text}}
    with pytest.raises(TemplateInvalid, match=rf"this is not a number; give a value for that case: `\| {name}\(0\)`"):
        compile_text(f"{{{{ event.data | {name} }}}}", path="").render(data)

    assert compile_text(f"{{{{ event.data | {name}(7) }}}}", path="").render(data) == "7"


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("' 12 ' | int", 12),
        ("'-3' | int", -3),
        ("'1e3' | float", 1000.0),
        ("'.5' | float", 0.5),
        ("2.9 | int", 2),
        ("'abc' | int(none)", None),
        ("true | int(5)", 5),
    ],
)
def test_numbers_are_converted(expression, result):
    """Digits with a sign, a fraction or an exponent are numbers. A boolean is none."""
    tree = compile_tree({"x": f"{{{{= {expression} }}}}"}, path="", line_of=lambda _: None)

    assert tree.render({})["x"] == result


@pytest.mark.parametrize(
    "expression", ["event.data.huge * 10", "event.data.huge + event.data.huge", "[1e308, 1e308] | sum"]
)
def test_results_are_finite(expression):
    """A computation never returns infinity, which would be sent as null."""
    with pytest.raises(TemplateInvalid, match="too large"):
        compile_text(f"{{{{ {expression} }}}}", path="").render(CONTEXT)
