"""Templates reach every key of plain data. A key with a sign in it gets a hint."""

from __future__ import annotations

import pytest

from upshot.automations.template import compile_text, compile_tree
from upshot.errors import TemplateInvalid

DATA = {
    "f1-score": 0.9,
    "val/loss": 0.1,
    "_step": 7,
    "__class__": "text",
    "a.b": {"c d": 1},
    "if": 2,
    "größe": 3,
    "n": 4,
}
CONTEXT = {"event": {"data": DATA}, "vars": {"key": "f1-score"}}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("event.data['f1-score']", 0.9),
        ("event['data']['val/loss']", 0.1),
        ("event.data._step", 7),
        ("event.data['_step']", 7),
        ("event.data.__class__", "text"),
        ("event.data['a.b']['c d']", 1),
        ("event.data.if", 2),
        ("event.data.größe", 3),
        ("event.data[vars.key]", 0.9),
        ("([event.data] | map('_step') | first)", 7),
        ("([event.data] | map('f1-score') | first)", 0.9),
    ],
)
def test_every_key_of_plain_data_can_be_reached(expression, value):
    """Keys with `_`, `-`, `/`, dots and spaces are plain data. Keys that Python uses, too, because nothing else is."""
    assert compile_tree({"x": f"{{{{= {expression} }}}}"}, path="", line_of=lambda _: 1).render(CONTEXT) == {"x": value}


@pytest.mark.parametrize(
    "expression", ["''.__class__", "event.data.n.__class__", "[1].__len__", "event.data.f.__class__"]
)
def test_python_objects_have_no_keys(expression):
    """Attributes of Python objects stay out of reach."""
    with pytest.raises(TemplateInvalid, match="has no"):
        compile_text(f"{{{{ {expression} }}}}", path="").render(CONTEXT)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("event.data.f1 - 1", "'event.data' has no 'f1'; write event.data[\"f1-score\"]"),
        ("event.data.f1_score", "'event.data' has no 'f1_score'; write event.data[\"f1-score\"]"),
        ("event.data.val", 'write event.data["val/loss"]'),
        ("event.data['a.b']['x.y']", """'event.data["a.b"]' has no 'x.y'"""),
        ("event.data['f2-score']", "'event.data' has no 'f2-score'; did you mean 'f1-score'?"),
    ],
)
def test_a_missing_key_names_the_key_with_a_sign(expression, says):
    """When a template is rendered, the message shows how to write the key that exists."""
    with pytest.raises(TemplateInvalid) as caught:
        compile_text(f"{{{{ {expression} }}}}", path="").render(CONTEXT)

    assert says in str(caught.value)
